//! What a run holds and what merging it would move, from its tables alone.

use super::live::LiveMap;
use super::{MergeRules, Run};
use crate::chain::{ResolvedSpan, Source};
use crate::error::MergeError;
use crate::geometry::SpanIndex;
use crate::io::ReadAt;

/// What a merge would do, in bytes where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeSurvey {
    /// Length of all members' files.
    pub members: u64,
    /// Length of the merged file, at most.
    pub result: u64,
    /// Payload that the merged image names.
    pub live: u64,
    /// Copied inside the store.
    pub copied: u64,
    /// What is dead of that; edges of copies, which are read and packed, count as live.
    pub dead: u64,
    /// Payload to be read and packed, at most.
    pub packed: u64,
    /// Clusters with payload.
    pub data_clusters: u64,
    /// Explicit zero clusters.
    pub zero_clusters: u64,
    /// Pieces, at most.
    pub pieces: u32,
}

impl MergeSurvey {
    /// What the store holds less when the members are gone.
    #[must_use]
    pub const fn freed(&self) -> u64 {
        self.members.saturating_sub(self.result)
    }

    /// What has to be moved for it.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        self.copied + self.packed
    }

    /// Whether the merge frees at least a quarter of what it moves: the rule for merging before the chain is too long.
    #[must_use]
    pub const fn is_worth_it(&self) -> bool {
        self.freed() > 0 && self.freed() >= self.moved() / 4
    }
}

/// What the tables of a run say.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) map: LiveMap,
    /// Length of all members' files.
    pub(super) members: u64,
    /// Bytes of live payload.
    pub(super) live: u64,
    pub(super) data_clusters: u64,
    pub(super) zero_clusters: u64,
    /// Spans that need an L2 table.
    pub(super) tables: u64,
}

/// Reads all tables of the run. `rules` fit the disk.
pub(super) fn look<R: ReadAt>(run: &Run<R>, rules: &MergeRules) -> Result<Found, MergeError> {
    let sizes: Vec<u64> = run.images().iter().map(|image| image.source().size()).collect();
    let mut found = Found {
        map: LiveMap::new(&sizes, rules.align, rules.memory),
        members: sizes.iter().sum(),
        live: 0,
        data_clusters: 0,
        zero_clusters: 0,
        tables: 0,
    };
    let mut resolved = ResolvedSpan::new();
    let spans = 0..run.geometry().spans();
    for span in spans.map(SpanIndex).filter(|span| run.holds(*span)) {
        run.chain.resolve(span, &mut resolved)?;
        let before = (found.data_clusters, found.zero_clusters);
        for (_, source) in resolved.iter() {
            match source {
                Source::Data { image, extent } => {
                    let sectors = run.sectors(image, extent)?;
                    found.map.add(image, sectors);
                    found.live += sectors.len();
                    found.data_clusters += 1;
                }
                Source::Zero { .. } if run.below.is_some() => found.zero_clusters += 1,
                Source::Zero { .. } | Source::Unallocated => {}
            }
        }
        found.tables += u64::from(before != (found.data_clusters, found.zero_clusters));
    }
    Ok(found)
}
