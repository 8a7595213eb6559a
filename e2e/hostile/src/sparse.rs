//! Files of which an input holds only what is not zero.
//!
//! An input of some KiB can so claim to be a file of a TiB, as a store can, and a mutation of it moves a table instead of
//! a byte.

use std::io;

use holdfast_qcow2::ReadAt;

use crate::carve::Carver;

/// Zeroes are left out where there are so many in a row.
const RUN: usize = 32;
/// Pieces lie at multiples of this.
const STEP: usize = 8;
/// Longest piece.
const PIECE: usize = (1 << 16) - STEP;

/// A file made of pieces, later ones over earlier ones, and zeroes. A read outside of it is a broken promise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sparse {
    size: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Sparse {
    /// Size in five bytes, number of pieces in two; of each its place in steps of eight bytes in four bytes, its length in
    /// two, and its bytes.
    pub(crate) fn carve(input: &mut Carver<'_>) -> Self {
        let size = input.number(5);
        let count = input.number(2);
        let mut pieces = Vec::new();
        for _ in 0..count {
            if input.is_empty() {
                break;
            }
            let at = input.number(4) * STEP as u64;
            let len = input.number(2) as usize;
            pieces.push((at, input.take(len).to_vec()));
        }
        Self { size, pieces }
    }

    /// The same bytes as a sparse file.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let is_zero = |at: usize| bytes[at..bytes.len().min(at + RUN)].iter().all(|byte| *byte == 0);
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for at in (0..bytes.len()).step_by(RUN).filter(|at| !is_zero(*at)) {
            let run = &bytes[at..bytes.len().min(at + RUN)];
            match pieces.last_mut() {
                Some((start, piece)) if *start as usize + piece.len() == at && piece.len() + RUN <= PIECE => {
                    piece.extend_from_slice(run);
                }
                _ => pieces.push((at as u64, run.to_vec())),
            }
        }
        Self {
            size: bytes.len() as u64,
            pieces,
        }
    }

    /// What [`carve`](Self::carve) takes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_le_bytes()[..5]);
        out.extend_from_slice(&(self.pieces.len() as u64).to_le_bytes()[..2]);
        for (at, piece) in &self.pieces {
            out.extend_from_slice(&(at / STEP as u64).to_le_bytes()[..4]);
            out.extend_from_slice(&(piece.len() as u64).to_le_bytes()[..2]);
            out.extend_from_slice(piece);
        }
    }

    /// Puts bytes over what is there.
    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.pieces.push((at, bytes.to_vec()));
    }

    /// These bytes, if they are inside.
    pub(crate) fn get(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        at.checked_add(len as u64).filter(|end| *end <= self.size)?;
        let mut bytes = vec![0; len];
        self.fill(at, &mut bytes);
        Some(bytes)
    }

    /// Begin and content of what is not zero, as far as it is inside.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().filter_map(|(at, piece)| {
            let inside = self.size.checked_sub(*at)?.min(piece.len() as u64);
            Some((*at, &piece[..inside as usize]))
        })
    }

    fn fill(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        for (at, piece) in &self.pieces {
            let (from, to) = (offset.max(*at), end.min(at + piece.len() as u64));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&piece[(from - at) as usize..(to - at) as usize]);
            }
        }
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.size),
            "a read of {} bytes at {offset} leaves a file of {}",
            buf.len(),
            self.size
        );
        self.fill(offset, buf);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_carved() {
        let mut bytes = vec![0; 300_000];
        bytes[7] = 1;
        bytes[70_000..200_001].fill(9);
        bytes[299_999] = 2;
        let mut encoded = Vec::new();
        Sparse::of(&bytes).encode(&mut encoded);
        assert!(encoded.len() < 131_000);
        let carved = Sparse::carve(&mut Carver::new(&encoded));
        assert_eq!(carved.get(0, 300_000).as_deref(), Some(bytes.as_slice()));
        assert_eq!(carved.get(1, 300_000), None);
    }
}
