//! How bytes come in and go out: two small traits, so that this crate knows neither files nor networks.

use std::io;

/// Random access to a finished object (an image or an index).
///
/// Implementations decide about prefetching and retries; what they return as an error is final and reaches the caller
/// inside [`ReadError::Io`](crate::ReadError::Io) or [`IndexError::Io`](crate::IndexError::Io).
pub trait ReadAt {
    /// Length of the object in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`. Callers stay inside [`size`](Self::size).
    ///
    /// # Errors
    /// Whatever keeps the whole of `buf` from being filled.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| start.checked_add(buf.len()).map(|end| start..end));
        let bytes = range
            .and_then(|range| self.get(range))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_exact_at(offset, buf)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for std::sync::Arc<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }
}

/// Where a writer puts the bytes that follow its last ones.
///
/// Appending cannot fail: the sink is memory that the caller drains between calls (the part of an upload that is being
/// filled, for example). One call to a writer appends at most a few clusters.
pub trait BodySink {
    /// Takes the next bytes of the stream.
    fn append(&mut self, bytes: &[u8]);
}

impl BodySink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl<T: BodySink + ?Sized> BodySink for &mut T {
    fn append(&mut self, bytes: &[u8]) {
        (**self).append(bytes);
    }
}

/// Appends `len` zero bytes.
pub(crate) fn append_zeros(out: &mut impl BodySink, mut len: u64) {
    const ZEROS: [u8; 4096] = [0; 4096];
    while len > 0 {
        let now = len.min(ZEROS.len() as u64);
        out.append(&ZEROS[..now as usize]);
        len -= now;
    }
}

/// Copies `N` bytes out of a slice; the caller guarantees that they are there.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the slice has exactly N bytes")
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}
