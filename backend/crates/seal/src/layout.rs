//! Layouts: of which pieces of which regions an object consists.
//!
//! A layout is not sealed itself. It stands in a document that is, so a wrong one can only come from somebody who has
//! the key; everything else that can be wrong with the bytes is found by their tags and their number.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::LayoutError;
use crate::key::KeyId;
use crate::region::{MAX_SEGMENTS, RegionId, SEALED_SEGMENT, SEGMENT, SegmentIndex, TAG};

/// A layout has at most so many slices.
pub const MAX_SLICES: usize = 20_000;

/// An object has fewer bytes, so that every JSON reader sees its offsets exactly.
const MAX_OBJECT: u64 = 1 << 53;

const PLAIN: u64 = SEGMENT as u64;
const SEALED: u64 = SEALED_SEGMENT as u64;

/// Whole segments of one region, one behind the other, in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionSlice {
    /// The data key the region is sealed under.
    pub key: KeyId,
    /// The region.
    pub region: RegionId,
    /// Its first segment here.
    pub first: SegmentIndex,
    /// Bytes of plaintext.
    pub plain: u64,
    /// Whether the region ends here: then the last segment was sealed as the last one, and may be short.
    pub ends: bool,
}

impl RegionSlice {
    fn segments(&self) -> u64 {
        self.plain.div_ceil(PLAIN)
    }

    fn sealed(&self) -> u64 {
        self.plain + self.segments() * TAG as u64
    }

    /// Whether `next` goes on where this slice stops, so that both are one.
    fn goes_on_in(&self, next: &Self) -> bool {
        !self.ends
            && self.key == next.key
            && self.region == next.region
            && self.first.0 + self.segments() == next.first.0
    }
}

/// Where a slice begins in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Start {
    plain: u64,
    sealed: u64,
}

/// How the bytes of one object are sealed. As JSON the list of its slices.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Layout {
    slices: Vec<RegionSlice>,
    /// Begin of each slice.
    starts: Vec<Start>,
    end: Start,
}

/// One segment of an object and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentAt {
    /// Its slice, by position in the layout.
    pub slice: usize,
    /// Its number in the region.
    pub index: SegmentIndex,
    /// Whether it was sealed as the region's last.
    pub last: bool,
    /// Its bytes in the object's plaintext.
    pub plain: Range<u64>,
    /// Its bytes in the object as stored.
    pub sealed: Range<u64>,
}

/// A piece of an object that a store can copy into another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// How the piece is sealed; to be joined with [`Layout::concat`].
    pub layout: Layout,
    /// The bytes to copy of the object as stored.
    pub sealed: Range<u64>,
}

impl Layout {
    /// A layout of these slices, in the order of the object's bytes.
    ///
    /// # Errors
    /// [`LayoutError`]: they describe no object.
    pub fn new(slices: impl IntoIterator<Item = RegionSlice>) -> Result<Self, LayoutError> {
        let mut layout = Self::default();
        for slice in slices {
            layout.append(slice)?;
        }
        Ok(layout)
    }

    /// The layout of a whole region, whose writer keeps its bounds.
    pub(crate) fn of_region(slice: RegionSlice) -> Self {
        Self::new([slice]).expect("a region that its writer let grow is a valid slice")
    }

    fn append(&mut self, slice: RegionSlice) -> Result<(), LayoutError> {
        let at = self.slices.len();
        if at == MAX_SLICES {
            return Err(LayoutError::TooManySlices { limit: MAX_SLICES });
        }
        if slice.plain == 0 {
            return Err(LayoutError::EmptySlice { slice: at });
        }
        if !slice.ends && !slice.plain.is_multiple_of(PLAIN) {
            return Err(LayoutError::PartialSegment {
                slice: at,
                plain: slice.plain,
            });
        }
        let behind = slice.first.0.checked_add(slice.segments());
        if behind.is_none_or(|behind| behind > MAX_SEGMENTS) {
            return Err(LayoutError::TooLarge { slice: at });
        }
        // No sum overflows: a region has less than 2^53 bytes, and so had the object until now.
        let end = Start {
            plain: self.end.plain + slice.plain,
            sealed: self.end.sealed + slice.sealed(),
        };
        if end.sealed >= MAX_OBJECT {
            return Err(LayoutError::TooLarge { slice: at });
        }
        self.starts.push(self.end);
        self.slices.push(slice);
        self.end = end;
        Ok(())
    }

    /// The slices, in the order of the object's bytes.
    #[must_use]
    pub fn slices(&self) -> &[RegionSlice] {
        &self.slices
    }

    /// The data keys without which the object cannot be read.
    #[must_use]
    pub fn key_ids(&self) -> BTreeSet<&KeyId> {
        self.slices.iter().map(|slice| &slice.key).collect()
    }

    /// Bytes of the object's plaintext.
    #[must_use]
    pub fn plain_len(&self) -> u64 {
        self.end.plain
    }

    /// Bytes of the object as stored.
    #[must_use]
    pub fn sealed_len(&self) -> u64 {
        self.end.sealed
    }

    /// The stored bytes that have to be read for a range of the plaintext: all segments the range touches.
    ///
    /// # Errors
    /// [`LayoutError::OutOfRange`].
    pub fn locate(&self, plain: &Range<u64>) -> Result<Range<u64>, LayoutError> {
        self.check(plain)?;
        if plain.is_empty() {
            let at = self.before(plain.start).sealed;
            return Ok(at..at);
        }
        Ok(self.before(plain.start).sealed..self.behind(plain.end).sealed)
    }

    /// The segments that a range of the plaintext touches, in order; none of an empty range.
    ///
    /// # Errors
    /// [`LayoutError::OutOfRange`].
    pub fn segments(
        &self,
        plain: &Range<u64>,
    ) -> Result<impl Iterator<Item = SegmentAt> + use<'_>, LayoutError> {
        self.check(plain)?;
        let plain = plain.clone();
        let slices = self.slices_of(&plain);
        Ok(slices.flat_map(move |at| {
            let (start, slice) = (self.starts[at].plain, &self.slices[at]);
            let first = plain.start.saturating_sub(start) / PLAIN;
            let behind = (plain.end - start).min(slice.plain).div_ceil(PLAIN);
            (first..behind).map(move |segment| self.segment(at, segment))
        }))
    }

    /// Cuts out a range of the plaintext without opening it. Both ends have to lie between two segments.
    ///
    /// # Errors
    /// [`LayoutError::OutOfRange`], [`LayoutError::Misaligned`].
    pub fn cut(&self, plain: &Range<u64>) -> Result<Cut, LayoutError> {
        self.check(plain)?;
        self.check_boundary(plain.start)?;
        self.check_boundary(plain.end)?;
        let sealed = self.locate(plain)?;
        let mut layout = Self::default();
        for at in self.slices_of(plain) {
            let (start, slice) = (self.starts[at].plain, &self.slices[at]);
            let from = plain.start.saturating_sub(start);
            let to = (plain.end - start).min(slice.plain);
            layout.append(RegionSlice {
                first: SegmentIndex(slice.first.0 + from / PLAIN),
                plain: to - from,
                ends: slice.ends && to == slice.plain,
                ..slice.clone()
            })?;
        }
        Ok(Cut { layout, sealed })
    }

    /// The layout of an object that consists of these, one behind the other. Slices that go on in the next one become
    /// one with it, so that cutting and joining again leaves no trace.
    ///
    /// # Errors
    /// [`LayoutError::TooManySlices`], [`LayoutError::TooLarge`].
    pub fn concat<'l>(parts: impl IntoIterator<Item = &'l Self>) -> Result<Self, LayoutError> {
        let mut slices: Vec<RegionSlice> = Vec::new();
        for slice in parts.into_iter().flat_map(|part| &part.slices) {
            match slices.last_mut() {
                Some(last) if last.goes_on_in(slice) => {
                    last.plain += slice.plain;
                    last.ends = slice.ends;
                }
                _ => slices.push(slice.clone()),
            }
        }
        Self::new(slices)
    }

    fn check(&self, plain: &Range<u64>) -> Result<(), LayoutError> {
        if plain.start <= plain.end && plain.end <= self.plain_len() {
            return Ok(());
        }
        Err(LayoutError::OutOfRange {
            start: plain.start,
            end: plain.end,
            len: self.plain_len(),
        })
    }

    fn check_boundary(&self, offset: u64) -> Result<(), LayoutError> {
        let (before, behind) = (self.before(offset).plain, self.behind(offset).plain);
        if before == behind {
            return Ok(());
        }
        Err(LayoutError::Misaligned {
            offset,
            before,
            after: behind,
        })
    }

    /// The slices that hold a range inside the object; none of an empty one.
    fn slices_of(&self, plain: &Range<u64>) -> Range<usize> {
        if plain.is_empty() {
            return 0..0;
        }
        self.slice_at(plain.start)..self.slice_at(plain.end - 1) + 1
    }

    /// The slice that holds this byte of the plaintext, which is inside the object.
    fn slice_at(&self, offset: u64) -> usize {
        self.starts.partition_point(|start| start.plain <= offset) - 1
    }

    /// The boundary between segments at this place of the plaintext or the next one before it.
    fn before(&self, offset: u64) -> Start {
        if offset == self.end.plain {
            return self.end;
        }
        let at = self.slice_at(offset);
        let start = self.starts[at];
        let whole = (offset - start.plain) / PLAIN;
        Start {
            plain: start.plain + whole * PLAIN,
            sealed: start.sealed + whole * SEALED,
        }
    }

    /// The boundary between segments at this place of the plaintext or the next one behind it.
    fn behind(&self, offset: u64) -> Start {
        if offset == 0 {
            return Start::default();
        }
        let at = self.slice_at(offset - 1);
        let segment = (offset - 1 - self.starts[at].plain) / PLAIN;
        let segment = self.segment(at, segment);
        Start {
            plain: segment.plain.end,
            sealed: segment.sealed.end,
        }
    }

    /// A segment of a slice, by its number in the slice.
    fn segment(&self, at: usize, number: u64) -> SegmentAt {
        let (start, slice) = (self.starts[at], &self.slices[at]);
        let behind = start.plain + slice.plain;
        let plain = start.plain + number * PLAIN;
        let plain = plain..behind.min(plain + PLAIN);
        let sealed = start.sealed + number * SEALED;
        SegmentAt {
            slice: at,
            index: SegmentIndex(slice.first.0 + number),
            last: slice.ends && plain.end == behind,
            sealed: sealed..sealed + (plain.end - plain.start) + TAG as u64,
            plain,
        }
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.slices).finish()
    }
}

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.slices.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Checks each slice as it comes, so that nothing is held of a list that is too long.
        struct Slices;
        impl<'de> Visitor<'de> for Slices {
            type Value = Layout;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of slices of regions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut slices: A) -> Result<Layout, A::Error> {
                let mut layout = Layout::default();
                while let Some(slice) = slices.next_element()? {
                    layout.append(slice).map_err(A::Error::custom)?;
                }
                Ok(layout)
            }
        }
        deserializer.deserialize_seq(Slices)
    }
}

#[cfg(test)]
mod tests;
