//! What binds an image: the digest of its tables.
//!
//! A whole-file digest cannot exist, because the head leaves last and parts of an upload cannot be read back. The
//! tables say where every byte of payload lies, and the index holds the hash of every cluster, so the two digests
//! together cover the content. Definition in `docs/FORMAT.md`, "Digest of the tables".

use std::fmt;

/// A BLAKE3 digest of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        blake3::Hash::from_bytes(self.0).to_hex().fmt(f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

const TAG: &[u8; 24] = b"holdfast image tables 0\n";

/// Running digest over the tables of the body, in ascending file offset.
///
/// A chain of hashes instead of one long hash, so that its state is 32 bytes that a checkpoint can hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableChain([u8; 32]);

impl TableChain {
    pub(crate) const fn new() -> Self {
        Self([0; 32])
    }

    /// What a checkpoint holds.
    pub(crate) const fn state(&self) -> [u8; 32] {
        self.0
    }

    /// Goes on from a state of 32 bytes.
    pub(crate) fn resume(state: &[u8]) -> Self {
        Self(crate::io::array(state, 0))
    }

    /// Adds an L2 table or refcount block of one cluster that lies at `offset`.
    pub(crate) fn add(&mut self, offset: u64, table: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&offset.to_be_bytes()).update(table);
        self.0 = *hasher.finalize().as_bytes();
    }

    /// Closes the digest with the tables of the head: header, L1 table and refcount table with their padding.
    pub(crate) fn finish(self, file_size: u64, head_tables: &[u8]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(TAG)
            .update(&self.0)
            .update(&file_size.to_be_bytes())
            .update(head_tables);
        Digest(*hasher.finalize().as_bytes())
    }
}
