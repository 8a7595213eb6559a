//! The bytes of the merged file that are not copied, on their way out.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{MergePiece, PieceContent, Sectors};
use crate::error::{MemberError, MergeError, ReadError};
use crate::header::read_at;
use crate::io::ReadAt;
use crate::l2::Extent;
use crate::reader::Image;

/// Payload with less than this between it and the one before it is read together with that.
const READ_GAP: u64 = 64 << 10;
/// Most bytes of one read.
const MAX_READ: u64 = 4 << 20;

/// Collects literals in ascending order of their places and cuts them into pieces.
///
/// Payload is only noted at first and read when its piece is complete, sorted by where it lies: neighbours in a member
/// may be far apart on the disk.
#[derive(Debug)]
pub(super) struct Literals {
    /// Where the copies lie. Literals are counted as if these were not there, so that they are one stretch.
    copies: Range<u64>,
    piece_len: u64,
    /// Counted offset of the first byte of `bytes`.
    start: u64,
    bytes: Vec<u8>,
    wanted: Vec<Wanted>,
    scratch: Vec<u8>,
    /// What lies between the head and the copies, once it is complete.
    first: Option<Vec<u8>>,
    next_number: u32,
    /// Numbers of pieces that nobody needs.
    skipped: BTreeSet<u32>,
}

/// Payload to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    member: usize,
    offset: u64,
    len: u64,
    /// Position in `bytes`.
    at: usize,
}

impl Literals {
    /// Starts behind a head of `head` bytes; `number` is that of the first piece behind the copies.
    pub(super) const fn new(head: u64, copies: Range<u64>, piece_len: u64, number: u32) -> Self {
        Self {
            copies,
            piece_len,
            start: head,
            bytes: Vec::new(),
            wanted: Vec::new(),
            scratch: Vec::new(),
            first: None,
            next_number: number,
            skipped: BTreeSet::new(),
        }
    }

    pub(super) fn skip(&mut self, numbers: BTreeSet<u32>) {
        self.skipped = numbers;
    }

    pub(super) fn skips(&self, number: u32) -> bool {
        self.skipped.contains(&number)
    }

    /// Adds bytes at a place behind all others.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        let from = self.make_room(at, bytes.len() as u64);
        self.bytes[from..].copy_from_slice(bytes);
    }

    /// Adds payload of a member, whose first sector is at `at`.
    pub(super) fn put_later(&mut self, at: u64, member: usize, extent: Extent, sectors: Sectors) {
        let from = self.make_room(at, sectors.len());
        self.wanted.push(Wanted {
            member,
            offset: extent.offset,
            len: extent.len.into(),
            at: from + (extent.offset - sectors.start) as usize,
        });
    }

    /// Zeroes up to the place and on it; returns the position in `bytes`.
    fn make_room(&mut self, at: u64, len: u64) -> usize {
        let counted = if at < self.copies.end {
            at
        } else {
            at - (self.copies.end - self.copies.start)
        };
        let from = (counted - self.start) as usize;
        let needed = from + len as usize;
        if needed > self.bytes.capacity() {
            // Doubling as usual, but not far beyond a piece.
            let target = (2 * needed).min(self.limit() as usize + len as usize).max(needed);
            self.bytes.reserve_exact(target - self.bytes.len());
        }
        self.bytes.resize(needed, 0);
        from
    }

    /// How long the piece at the front becomes.
    const fn limit(&self) -> u64 {
        match self.first {
            None => self.copies.start - self.start,
            Some(_) => self.piece_len,
        }
    }

    /// Whether the piece at the front is complete.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() as u64 >= self.limit()
    }

    /// Reads what the piece at the front is made of and cuts it off. The one before the copies is kept back; so there
    /// is none to return for that, and for one that is skipped. A piece that is not full is the last one.
    pub(super) fn cut<R: ReadAt>(&mut self, images: &[Image<R>]) -> Result<Option<MergePiece>, MergeError> {
        if self.first.is_none() && !self.copies.is_empty() && !self.is_full() {
            // Copies follow, so their place has to be reached.
            self.bytes.resize(self.limit() as usize, 0);
        }
        let len = (self.bytes.len() as u64).min(self.limit()) as usize;
        let skip = self.first.is_some() && self.skips(self.next_number);
        if skip {
            self.wanted.retain(|wanted| wanted.at + wanted.len as usize > len);
        }
        self.fill(images)?;
        let rest = self.bytes.split_off(len);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        let counted = self.start;
        self.start += len as u64;
        if self.first.is_none() {
            self.first = Some(bytes);
            return Ok(None);
        }
        let number = self.next_number;
        self.next_number += 1;
        let piece = MergePiece {
            number,
            at: counted + (self.copies.end - self.copies.start),
            content: PieceContent::Bytes(bytes),
        };
        Ok((!skip).then_some(piece))
    }

    /// Whether nothing is left to cut.
    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_some() && self.bytes.is_empty()
    }

    /// What follows the head in its piece, and the number of pieces there are; after everything was cut.
    pub(super) fn finish(&mut self) -> (Vec<u8>, u32) {
        (self.first.take().unwrap_or_default(), self.next_number - 1)
    }

    fn fill<R: ReadAt>(&mut self, images: &[Image<R>]) -> Result<(), MergeError> {
        self.wanted.sort_unstable();
        let mut rest = self.wanted.as_slice();
        while let Some(first) = rest.first() {
            let mut end = first.offset + first.len;
            let mut count = 1;
            for next in &rest[1..] {
                let further = end.max(next.offset + next.len);
                if next.member != first.member
                    || next.offset > end + READ_GAP
                    || further - first.offset > MAX_READ
                {
                    break;
                }
                (end, count) = (further, count + 1);
            }
            let (group, others) = rest.split_at(count);
            rest = others;
            self.scratch.resize((end - first.offset) as usize, 0);
            let source = images[first.member].source();
            read_at(source, first.offset, &mut self.scratch).map_err(|source: ReadError| MemberError {
                member: first.member,
                source,
            })?;
            for wanted in group {
                let from = (wanted.offset - first.offset) as usize;
                let len = wanted.len as usize;
                self.bytes[wanted.at..wanted.at + len].copy_from_slice(&self.scratch[from..from + len]);
            }
        }
        self.wanted.clear();
        Ok(())
    }
}
