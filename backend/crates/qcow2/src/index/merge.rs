//! The effective content of a chain, from the indexes of its members.

use super::page::IndexPage;
use super::{ClusterState, Index};
use crate::chain::check_members;
use crate::error::{ChainError, IndexError, MemberError};
use crate::geometry::{ClusterIndex, Geometry, SpanIndex};
use crate::io::ReadAt;

/// Indexes on top of each other, newest first.
#[derive(Debug)]
pub struct MergedIndex<R> {
    indexes: Vec<Index<R>>,
    below: bool,
}

/// What a chain holds in one span. Reuse it: it keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct EffectiveSpan {
    states: Vec<Option<ClusterState>>,
    page: IndexPage,
    first: u64,
}

impl EffectiveSpan {
    /// An empty span to be filled by [`MergedIndex::read_span`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every cluster of the span in ascending order; `None` for one that no member holds, which reads as zeroes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ClusterIndex, Option<ClusterState>)> + '_ {
        let first = self.first;
        self.states
            .iter()
            .enumerate()
            .map(move |(i, state)| (ClusterIndex(first + i as u64), *state))
    }

    /// One cluster of the span; `None` also for a cluster of another span.
    #[must_use]
    pub fn get(&self, cluster: ClusterIndex) -> Option<ClusterState> {
        let position = usize::try_from(cluster.0.checked_sub(self.first)?).ok()?;
        self.states.get(position).copied().flatten()
    }
}

impl<R: ReadAt> MergedIndex<R> {
    /// Puts indexes together, newest first.
    ///
    /// # Errors
    /// [`ChainError`] when they cannot belong together.
    pub fn new(indexes: Vec<Index<R>>) -> Result<Self, ChainError> {
        Self::checked(indexes, false)
    }

    /// The indexes of neighbouring overlays with more images below them, newest first. A cluster that none of them
    /// holds is then decided below.
    ///
    /// # Errors
    /// [`ChainError`] when they cannot belong together.
    pub fn overlays(indexes: Vec<Index<R>>) -> Result<Self, ChainError> {
        Self::checked(indexes, true)
    }

    fn checked(indexes: Vec<Index<R>>, below: bool) -> Result<Self, ChainError> {
        let members = indexes
            .iter()
            .map(|index| (*index.geometry(), index.spec().overlay));
        check_members(members, below)?;
        Ok(Self { indexes, below })
    }

    /// Whether more images lie below the members.
    pub(super) const fn has_below(&self) -> bool {
        self.below
    }

    /// The members, newest first.
    #[must_use]
    pub fn indexes(&self) -> &[Index<R>] {
        &self.indexes
    }

    /// Shape of the newest member, which is the disk's.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.indexes[0].geometry()
    }

    /// Finds the state of every cluster of a span. Reads at most one page of each member and holds one at a time.
    ///
    /// # Errors
    /// [`IndexError`] with the position of the member it happened in.
    pub fn read_span(
        &self,
        span: SpanIndex,
        effective: &mut EffectiveSpan,
    ) -> Result<(), MemberError<IndexError>> {
        let geometry = self.geometry();
        if span.0 >= geometry.spans() {
            let source = IndexError::NoSuchSpan {
                span,
                spans: geometry.spans(),
            };
            return Err(MemberError { member: 0, source });
        }
        let clusters = geometry.clusters_of(span);
        let mut open = (clusters.end - clusters.start) as usize;
        effective.first = clusters.start;
        effective.states.clear();
        effective.states.resize(open, None);
        for (member, index) in self.indexes.iter().enumerate() {
            // A disk that has grown: the older member ends before this span.
            if open == 0 || span.0 >= index.geometry().spans() {
                break;
            }
            index
                .read_page(span, &mut effective.page)
                .map_err(|source| MemberError { member, source })?;
            for (cluster, state) in effective.page.iter() {
                let slot = &mut effective.states[(cluster.0 - clusters.start) as usize];
                if slot.is_none() {
                    *slot = Some(state);
                    open -= 1;
                }
            }
        }
        Ok(())
    }
}
