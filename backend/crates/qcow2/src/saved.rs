//! The state of a writer as bytes: what a checkpoint of an unfinished upload holds. Only the program that wrote it reads
//! it; it is no part of the format of images.

use crate::error::WriteError;

/// Appends fields of a state.
#[derive(Debug, Default)]
pub(crate) struct Save(Vec<u8>);

impl Save {
    /// Of what, and in which form.
    pub(crate) fn new(tag: &[u8; 8]) -> Self {
        Self(tag.to_vec())
    }

    pub(crate) fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes the fields of a state again, trusting none of them.
#[derive(Debug)]
pub(crate) struct Load<'a>(&'a [u8]);

impl<'a> Load<'a> {
    pub(crate) fn new(tag: &[u8; 8], state: &'a [u8]) -> Result<Self, WriteError> {
        let rest = state.strip_prefix(tag);
        rest.map(Self)
            .ok_or(WriteError::SavedState("it is of another kind"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WriteError> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(WriteError::SavedState("it is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn number(&mut self) -> Result<u64, WriteError> {
        Ok(crate::io::be64(self.take(8)?, 0))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WriteError> {
        let len = self.number()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Bytes of a length that is known.
    pub(crate) fn exactly(&mut self, len: usize) -> Result<&'a [u8], WriteError> {
        let bytes = self.bytes()?;
        if bytes.len() == len {
            Ok(bytes)
        } else {
            Err(WriteError::SavedState("a part of it has another length"))
        }
    }

    pub(crate) fn end(self) -> Result<(), WriteError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(WriteError::SavedState("it is too long"))
        }
    }
}
