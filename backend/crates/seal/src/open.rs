//! Opening objects by their layout.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::OpenError;
use crate::key::{KeyId, KeyRing};
use crate::layout::{Layout, SegmentAt};
use crate::region::{Mismatch, RegionId, RegionKey};

/// An object's layout with the keys of all its regions. May be shared among threads.
#[derive(Debug)]
pub struct Unlocked {
    layout: Layout,
    /// One for each slice.
    keys: Vec<Arc<RegionKey>>,
}

impl Layout {
    /// Takes the keys of all regions out of the ring, before a byte of the object is read.
    ///
    /// # Errors
    /// [`OpenError::NoKey`].
    pub fn unlock(&self, ring: &KeyRing) -> Result<Unlocked, OpenError> {
        let mut derived: HashMap<(&KeyId, RegionId), Arc<RegionKey>> = HashMap::new();
        let mut keys = Vec::with_capacity(self.slices().len());
        for slice in self.slices() {
            let data_key = ring
                .get(&slice.key)
                .ok_or_else(|| OpenError::NoKey(slice.key.clone()))?;
            let key = derived
                .entry((&slice.key, slice.region))
                .or_insert_with(|| Arc::new(RegionKey::derive(data_key, slice.region, b"")));
            keys.push(Arc::clone(key));
        }
        Ok(Unlocked {
            layout: self.clone(),
            keys,
        })
    }
}

impl Unlocked {
    /// How the object is sealed.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Opens one of the layout's segments in place and returns its plaintext: for callers with many cores. `buffer`
    /// holds the bytes at [`SegmentAt::sealed`]; after an error its content is of no use.
    ///
    /// # Errors
    /// [`OpenError::Truncated`], [`OpenError::Excess`], [`OpenError::Damaged`].
    ///
    /// # Panics
    /// When the segment is one of another layout with more slices.
    pub fn open_segment<'b>(
        &self,
        segment: &SegmentAt,
        buffer: &'b mut [u8],
    ) -> Result<&'b mut [u8], OpenError> {
        check_len(segment.sealed.end - segment.sealed.start, buffer.len())?;
        let key = &self.keys[segment.slice];
        key.open(segment.index, segment.last, buffer)
            .map_err(|Mismatch| OpenError::Damaged {
                region: key.id(),
                segment: segment.index,
                offset: segment.plain.start,
            })
    }

    /// Opens a range of the plaintext. `sealed` are exactly the bytes at [`Layout::locate`] of that range.
    ///
    /// # Errors
    /// [`OpenError::Range`], [`OpenError::Truncated`], [`OpenError::Excess`], [`OpenError::Damaged`].
    pub fn open(&self, plain: &Range<u64>, mut sealed: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        let place = self.layout.locate(plain)?;
        check_len(place.end - place.start, sealed.len())?;
        // Each segment is opened where it lies and then moved to its place among the plaintext before it.
        let mut done = 0;
        for segment in self.layout.segments(plain)? {
            let start = (segment.sealed.start - place.start) as usize;
            let end = (segment.sealed.end - place.start) as usize;
            self.open_segment(&segment, &mut sealed[start..end])?;
            let wanted = wanted(&segment, plain);
            sealed.copy_within(start + wanted.start..start + wanted.end, done);
            done += wanted.len();
        }
        sealed.truncate(done);
        Ok(sealed)
    }

    /// Opens a range of the plaintext as a stream.
    ///
    /// # Errors
    /// [`OpenError::Range`].
    pub fn opener(&self, plain: Range<u64>) -> Result<Opener<'_>, OpenError> {
        let place = self.layout.locate(&plain)?;
        Ok(Opener {
            unlocked: self,
            next: plain.start,
            plain,
            expected: place.end - place.start,
            taken: 0,
            held: Vec::new(),
            failed: None,
        })
    }
}

/// Opens a range as a stream. Holds at most one segment that has not arrived in full.
#[derive(Debug)]
pub struct Opener<'u> {
    unlocked: &'u Unlocked,
    plain: Range<u64>,
    /// A byte of the segment that is opened next, or the end of the range.
    next: u64,
    expected: u64,
    taken: u64,
    held: Vec<u8>,
    failed: Option<OpenError>,
}

impl Opener<'_> {
    /// Takes the next stored bytes, in pieces of any length, and appends the plaintext that is now authentic to `out`.
    ///
    /// # Errors
    /// [`OpenError::Damaged`], [`OpenError::Excess`]. What was appended before is authentic. A stream that failed
    /// yields nothing more, only its error again.
    pub fn push(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.take(sealed, out);
        self.failed = result.clone().err();
        result
    }

    fn take(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        self.taken += sealed.len() as u64;
        if self.taken > self.expected {
            return Err(OpenError::Excess {
                expected: self.expected,
                found: self.taken,
            });
        }
        out.reserve(self.held.len() + sealed.len());
        let unlocked = self.unlocked;
        let rest = self.next..self.plain.end;
        for segment in unlocked.layout.segments(&rest)? {
            let len = (segment.sealed.end - segment.sealed.start) as usize;
            let missing = len - self.held.len();
            if sealed.len() < missing {
                break;
            }
            let (piece, behind) = sealed.split_at(missing);
            let start = out.len();
            out.extend_from_slice(&self.held);
            out.extend_from_slice(piece);
            if let Err(error) = unlocked.open_segment(&segment, &mut out[start..]) {
                out.truncate(start);
                return Err(error);
            }
            let wanted = wanted(&segment, &self.plain);
            out.copy_within(start + wanted.start..start + wanted.end, start);
            out.truncate(start + wanted.len());
            self.held.clear();
            self.next = segment.plain.end.min(self.plain.end);
            sealed = behind;
        }
        self.held.extend_from_slice(sealed);
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// [`OpenError::Truncated`]: not all of the range has arrived; or the error with which the stream failed.
    pub fn finish(self) -> Result<(), OpenError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.taken < self.expected => Err(OpenError::Truncated {
                expected: self.expected,
                found: self.taken,
            }),
            None => Ok(()),
        }
    }
}

/// Which bytes of a segment's plaintext belong to the range.
fn wanted(segment: &SegmentAt, plain: &Range<u64>) -> Range<usize> {
    let from = plain.start.saturating_sub(segment.plain.start);
    let to = plain.end.min(segment.plain.end) - segment.plain.start;
    from as usize..to as usize
}

fn check_len(expected: u64, found: usize) -> Result<(), OpenError> {
    let found = found as u64;
    if found < expected {
        Err(OpenError::Truncated { expected, found })
    } else if found > expected {
        Err(OpenError::Excess { expected, found })
    } else {
        Ok(())
    }
}
