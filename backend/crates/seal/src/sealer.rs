//! Sealing a stream: one segment at a time for callers with many cores, or as a whole.
//!
//! A region is only ever written by the one writer that made its random id, and each index leaves that writer once. So
//! no nonce can be used twice, and a resumed upload goes on in a new region: what an earlier process may have sealed
//! behind the checkpoint stays under a key that is never used again.

use std::sync::Arc;

use crate::error::SealError;
use crate::key::{DataKey, KeyId};
use crate::layout::{Layout, RegionSlice};
use crate::region::{MAX_SEGMENTS, RegionId, RegionKey, SEALED_SEGMENT, SEGMENT, SegmentIndex, TAG};

/// Writes a new region of an object whose bytes may be copied into others, such as an image.
#[derive(Debug)]
pub struct RegionWriter {
    data_key: KeyId,
    key: Arc<RegionKey>,
    next: u64,
}

impl RegionWriter {
    /// Starts a region with a new random id.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    #[must_use]
    pub fn new(data_key: &DataKey) -> Self {
        Self::with_id(data_key, RegionId::generate())
    }

    /// Test vectors need an id that is not random; nobody else may choose one.
    pub(crate) fn with_id(data_key: &DataKey, id: RegionId) -> Self {
        Self {
            data_key: data_key.id().clone(),
            key: Arc::new(RegionKey::derive(data_key, id, b"")),
            next: 0,
        }
    }

    /// The right to seal the next segment, a whole one that is not the last of the region.
    ///
    /// # Errors
    /// [`SealError::RegionFull`] after 2^36 − 1 segments.
    pub fn next_segment(&mut self) -> Result<Ticket, SealError> {
        // One is left for the last.
        if self.next + 1 >= MAX_SEGMENTS {
            return Err(SealError::RegionFull);
        }
        let index = SegmentIndex(self.next);
        self.next += 1;
        Ok(Ticket {
            key: Arc::clone(&self.key),
            index,
            last: false,
            plain: SEGMENT,
        })
    }

    /// The right to seal the last segment, of `plain` bytes, and the layout of the whole region.
    ///
    /// # Errors
    /// [`SealError::LastSegment`]: `plain` is not 1 to [`SEGMENT`].
    pub fn last_segment(self, plain: usize) -> Result<(Ticket, Layout), SealError> {
        if !(1..=SEGMENT).contains(&plain) {
            return Err(SealError::LastSegment(plain));
        }
        let layout = self.layout_of(self.next * SEGMENT as u64 + plain as u64, true);
        let ticket = Ticket {
            key: self.key,
            index: SegmentIndex(self.next),
            last: true,
            plain,
        };
        Ok((ticket, layout))
    }

    /// The layout of all segments handed out so far; empty before the first. A region may stay without an end: that is
    /// what a resumed upload keeps of the region it was interrupted in.
    #[must_use]
    pub fn layout(&self) -> Layout {
        match self.next {
            0 => Layout::default(),
            segments => self.layout_of(segments * SEGMENT as u64, false),
        }
    }

    fn layout_of(&self, plain: u64, ends: bool) -> Layout {
        Layout::of_region(RegionSlice {
            key: self.data_key.clone(),
            region: self.key.id(),
            first: SegmentIndex(0),
            plain,
            ends,
        })
    }
}

/// The right to seal one segment, once. May go to another thread.
#[derive(Debug)]
pub struct Ticket {
    key: Arc<RegionKey>,
    index: SegmentIndex,
    last: bool,
    plain: usize,
}

impl Ticket {
    /// Bytes of plaintext the segment takes.
    #[must_use]
    pub fn plain_len(&self) -> usize {
        self.plain
    }

    /// Seals in place: `buffer` holds the plaintext and behind it [`TAG`] bytes of room, and then the sealed segment.
    ///
    /// # Errors
    /// [`SealError::Length`]: the buffer has another length. The segment is lost, and with it the region.
    pub fn seal(self, buffer: &mut [u8]) -> Result<(), SealError> {
        let expected = self.plain + TAG;
        if buffer.len() != expected {
            return Err(SealError::Length {
                expected,
                found: buffer.len(),
            });
        }
        self.key.seal(self.index, self.last, buffer);
        Ok(())
    }
}

/// Seals one region as a stream. Holds at most one segment of plaintext back, since the last one is sealed as such.
#[derive(Debug)]
pub struct Sealer {
    region: RegionWriter,
    held: Vec<u8>,
}

impl Sealer {
    /// Starts a region with a new random id, see [`RegionWriter`].
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    #[must_use]
    pub fn new(data_key: &DataKey) -> Self {
        Self::over(RegionWriter::new(data_key))
    }

    pub(crate) fn over(region: RegionWriter) -> Self {
        Self {
            region,
            held: Vec::with_capacity(SEGMENT),
        }
    }

    /// Takes plaintext of any length and appends the sealed segments that are now certain to `out`.
    ///
    /// # Errors
    /// [`SealError::RegionFull`] after 4 PiB.
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        out.reserve(self.held.len().saturating_add(plain.len()) / SEGMENT * SEALED_SEGMENT);
        while !plain.is_empty() {
            if self.held.len() == SEGMENT {
                append(self.region.next_segment()?, &self.held, out)?;
                self.held.clear();
            }
            // What lies in one piece is sealed without being held.
            if self.held.is_empty() && plain.len() > SEGMENT {
                let (segment, rest) = plain.split_at(SEGMENT);
                append(self.region.next_segment()?, segment, out)?;
                plain = rest;
            } else {
                let (piece, rest) = plain.split_at(plain.len().min(SEGMENT - self.held.len()));
                self.held.extend_from_slice(piece);
                plain = rest;
            }
        }
        Ok(())
    }

    /// The layout of what [`push`](Self::push) has appended so far: what a checkpoint keeps. Plaintext from its end on
    /// has to be pushed again to the sealer that goes on.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.region.layout()
    }

    /// The plaintext from the end of [`layout`](Self::layout) on.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Appends the last segment and returns the layout of everything appended; empty when nothing was ever pushed.
    ///
    /// # Errors
    /// None that a caller of [`push`](Self::push) can cause.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<Layout, SealError> {
        if self.held.is_empty() {
            return Ok(self.region.layout());
        }
        let (ticket, layout) = self.region.last_segment(self.held.len())?;
        append(ticket, &self.held, out)?;
        Ok(layout)
    }
}

fn append(ticket: Ticket, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
    let start = out.len();
    out.extend_from_slice(plain);
    out.extend_from_slice(&[0; TAG]);
    ticket.seal(&mut out[start..])
}
