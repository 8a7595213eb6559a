//! One page: the states of the clusters of one span, two bits each, then the hashes of those with content.

use super::{ClusterState, HASH_BYTES, PAGE_MAGIC};
use crate::digest::Digest;
use crate::error::{IndexError, WriteError};
use crate::geometry::{ClusterIndex, Geometry, SpanIndex};
use crate::io::{array, be32, be64};
use crate::saved::{Load, Save};

/// Magic, number of hashes, span, length of the body, reserved.
pub(super) const PAGE_HEADER_BYTES: usize = 24;

const ABSENT: u8 = 0;
const DATA: u8 = 1;
const ZERO: u8 = 2;
const TRIMMED: u8 = 3;

/// Bytes of the state bits of `clusters` clusters.
pub(super) const fn states_bytes(clusters: u64) -> usize {
    clusters.div_ceil(4) as usize
}

/// Bytes of a page of so many clusters that all have content.
pub(super) const fn longest_page(clusters: u64) -> u64 {
    (PAGE_HEADER_BYTES + states_bytes(clusters) + HASH_BYTES) as u64 + clusters * HASH_BYTES as u64
}

/// A page being filled.
#[derive(Debug)]
pub(super) struct PageBuilder {
    pub(super) span: SpanIndex,
    states: Vec<u8>,
    hashes: Vec<u8>,
    used: bool,
}

impl PageBuilder {
    pub(super) fn new() -> Self {
        Self {
            span: SpanIndex(0),
            states: Vec::new(),
            hashes: Vec::new(),
            used: false,
        }
    }

    /// Starts the page of a span, empty.
    pub(super) fn start(&mut self, span: SpanIndex, geometry: &Geometry) {
        let clusters = geometry.clusters_of(span);
        self.span = span;
        self.states.clear();
        self.states.resize(states_bytes(clusters.end - clusters.start), 0);
        self.hashes.clear();
        self.used = false;
    }

    pub(super) const fn is_used(&self) -> bool {
        self.used
    }

    /// Sets the state of the cluster at `position` of the span; positions come in ascending order.
    pub(super) fn push(&mut self, position: u64, state: &ClusterState) {
        let bits = match state {
            ClusterState::Data(hash) => {
                self.hashes.extend_from_slice(&hash.0);
                DATA
            }
            ClusterState::Zero => ZERO,
            ClusterState::Trimmed => TRIMMED,
        };
        self.states[(position / 4) as usize] |= bits << (position % 4 * 2);
        self.used = true;
    }

    pub(in crate::index) fn save(&self, save: &mut Save) {
        save.number(self.span.0);
        save.bytes(&self.states);
        save.bytes(&self.hashes);
        save.number(self.used.into());
    }

    pub(in crate::index) fn load(load: &mut Load<'_>, geometry: &Geometry) -> Result<Self, WriteError> {
        let mut page = Self::new();
        page.start(SpanIndex(load.number()?), geometry);
        let states = load.exactly(page.states.len())?;
        page.states.copy_from_slice(states);
        let hashes = load.bytes()?;
        if !hashes.len().is_multiple_of(HASH_BYTES) || hashes.len() > page.states.len() * 4 * HASH_BYTES {
            return Err(WriteError::SavedState("its hashes have another length"));
        }
        page.hashes.extend_from_slice(hashes);
        page.used = load.number()? != 0;
        Ok(page)
    }

    /// The page as it stands in the file, in the three pieces before its checksum.
    pub(super) fn pieces(&self) -> ([u8; PAGE_HEADER_BYTES], &[u8], &[u8]) {
        let hashes = (self.hashes.len() / HASH_BYTES) as u32;
        let body = (self.states.len() + self.hashes.len()) as u32;
        let mut header = [0; PAGE_HEADER_BYTES];
        header[0..4].copy_from_slice(PAGE_MAGIC);
        header[4..8].copy_from_slice(&hashes.to_be_bytes());
        header[8..16].copy_from_slice(&self.span.0.to_be_bytes());
        header[16..20].copy_from_slice(&body.to_be_bytes());
        (header, &self.states, &self.hashes)
    }
}

/// The clusters of one span that one image holds. Reuse it: it keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct IndexPage {
    /// The page without its checksum; empty when the image holds nothing in the span.
    pub(super) bytes: Vec<u8>,
    pub(super) first: u64,
    pub(super) clusters: u64,
}

impl IndexPage {
    /// An empty page to be filled by [`Index::read_page`](super::Index::read_page).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The clusters that the image holds, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (ClusterIndex, ClusterState)> + '_ {
        let body = self.bytes.get(PAGE_HEADER_BYTES..).unwrap_or_default();
        let states = states_bytes(if body.is_empty() { 0 } else { self.clusters });
        let (states, hashes) = body.split_at(states);
        let mut hashes = hashes.chunks_exact(HASH_BYTES);
        let four = |(i, byte): (usize, &u8)| {
            let byte = *byte;
            (0..4u64).map(move |k| (i as u64 * 4 + k, byte >> (k * 2) & 3))
        };
        states
            .iter()
            .enumerate()
            .flat_map(four)
            .filter_map(move |(position, bits)| {
                let state = match bits {
                    ABSENT => return None,
                    DATA => ClusterState::Data(Digest(array(hashes.next()?, 0))),
                    ZERO => ClusterState::Zero,
                    _ => ClusterState::Trimmed,
                };
                Some((ClusterIndex(self.first + position), state))
            })
    }

    /// Checks the page in `bytes`, whose checksum was already found right, against what the directory says.
    pub(super) fn check(&self, span: SpanIndex) -> Result<(), IndexError> {
        let (header, body) = self.bytes.split_at(PAGE_HEADER_BYTES);
        let field = |what, value| Err(IndexError::Field { what, value });
        if &header[0..4] != PAGE_MAGIC {
            return field("page magic", be32(header, 0).into());
        }
        if be64(header, 8) != span.0 {
            return field("page span", be64(header, 8));
        }
        if be32(header, 20) != 0 {
            return field("reserved page bytes", be32(header, 20).into());
        }
        let (hashes, states_len) = (be32(header, 4), states_bytes(self.clusters));
        let body_len = states_len as u64 + u64::from(hashes) * HASH_BYTES as u64;
        if u64::from(be32(header, 16)) != body_len || body.len() as u64 != body_len {
            return field("page length", be32(header, 16).into());
        }
        let states = &body[..states_len];
        let data = |byte: &u8| (0..4).filter(|k| byte >> (k * 2) & 3 == DATA).count() as u64;
        if states.iter().map(data).sum::<u64>() != u64::from(hashes) {
            return field("number of hashes", hashes.into());
        }
        let beyond_end = match (self.clusters % 4, states.last()) {
            (0, _) | (_, None) => 0,
            (used, Some(last)) => last >> (used * 2),
        };
        if beyond_end != 0 {
            return field("state beyond the end of the disk", beyond_end.into());
        }
        Ok(())
    }
}
