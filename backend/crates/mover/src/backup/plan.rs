//! Decides, in device order, which pieces of a shard workers read next.
use std::{
    ops::Range,
    sync::{Arc, mpsc},
};

use holdfast_qcow2::{ClusterIndex, EffectiveSpan, Geometry, SpanIndex};

use crate::{MoverError, device::Device, limits};

/// What the parents hold in a span; absent in a full backup.
pub(super) type States = Option<Arc<EffectiveSpan>>;

/// A run of clusters inside one span.
#[derive(Debug)]
pub(super) struct Piece {
    /// Position in the order of pieces, from 0.
    pub(super) sequence: u64,
    pub(super) clusters: Range<u64>,
    /// Whether the device holds nothing there, so that there is nothing to read.
    pub(super) hole: bool,
    pub(super) states: States,
}

/// Cuts a shard into pieces.
pub(super) struct Planner<'a> {
    device: &'a Device,
    geometry: Geometry,
    /// Where the shard begins on the device.
    offset: u64,
    cursor: u64,
    sequence: u64,
    /// The next range of the device with data, as far as it is known.
    data: Option<Range<u64>>,
    /// Effective spans in order; absent in a full backup.
    parents: Option<mpsc::Receiver<Result<Arc<EffectiveSpan>, MoverError>>>,
    span: Option<(SpanIndex, Arc<EffectiveSpan>)>,
}

impl<'a> Planner<'a> {
    /// Begins with cluster `start`; the first of `parents` is the span that holds it.
    pub(super) fn new(
        device: &'a Device,
        geometry: Geometry,
        offset: u64,
        start: u64,
        parents: Option<mpsc::Receiver<Result<Arc<EffectiveSpan>, MoverError>>>,
    ) -> Self {
        Self {
            device,
            geometry,
            offset,
            cursor: start,
            sequence: 0,
            data: None,
            parents,
            span: None,
        }
    }

    /// The next piece; `None` at the end. `skipped` is told the clusters that need no piece.
    pub(super) fn next(&mut self, mut skipped: impl FnMut(u64)) -> Result<Option<Piece>, MoverError> {
        while self.cursor < self.geometry.clusters() {
            let span = self.geometry.span_of(ClusterIndex(self.cursor));
            let states = self.states(span)?;
            let data = self.data_clusters()?;
            let end = self.geometry.clusters_of(span).end;
            let (end, hole) = if data.start > self.cursor {
                (data.start.min(end), true)
            } else {
                let most = limits::CHUNK / self.geometry.cluster_size().bytes();
                (data.end.min(end).min(self.cursor + most), false)
            };
            let clusters = self.cursor..end;
            self.cursor = end;
            if hole && states.is_none() {
                skipped(clusters.end - clusters.start);
                continue;
            }
            let sequence = self.sequence;
            self.sequence += 1;
            return Ok(Some(Piece {
                sequence,
                clusters,
                hole,
                states,
            }));
        }
        Ok(None)
    }

    fn states(&mut self, span: SpanIndex) -> Result<States, MoverError> {
        let Some(parents) = &self.parents else {
            return Ok(None);
        };
        match &self.span {
            Some((current, states)) if *current == span => Ok(Some(states.clone())),
            _ => {
                // Spans come in order, and every span has at least one piece.
                let ended = |_| MoverError::Internal("the parents' index ended early".to_owned());
                let states = parents.recv().map_err(ended)??;
                self.span = Some((span, states.clone()));
                Ok(Some(states))
            }
        }
    }

    /// The first run of clusters at or after the cursor that touch data; empty behind the last cluster.
    fn data_clusters(&mut self) -> Result<Range<u64>, MoverError> {
        let bits = self.geometry.cluster_size().bits();
        let at = self.offset + (self.cursor << bits);
        let none = self.geometry.clusters()..self.geometry.clusters();
        if self.data.as_ref().is_none_or(|data| data.end <= at) {
            let Some(data) = self.device.next_data(at)? else {
                self.data = Some(u64::MAX - 1..u64::MAX);
                return Ok(none);
            };
            self.data = Some(data);
        }
        let Some(data) = &self.data else { return Ok(none) };
        let start = (data.start.max(at) - self.offset) >> bits;
        let end = (data.end - self.offset).div_ceil(self.geometry.cluster_size().bytes());
        let last = self.geometry.clusters();
        Ok(start.min(last)..end.min(last))
    }
}
