//! Goes through the run's effective content in device order and decides the place of every payload and table.

use super::count::Counts;
use super::literal::Literals;
use super::place::{Copies, Placer};
use super::{Run, Sectors};
use crate::chain::{ResolvedSpan, Source};
use crate::digest::TableChain;
use crate::error::MergeError;
use crate::geometry::{ENTRY_BYTES, SpanIndex};
use crate::io::ReadAt;
use crate::l2::{self, Extent, SECTOR};

/// Where the walk stands. The same members, rules and copies lead to the same places each time.
#[derive(Debug)]
pub(super) struct Walk {
    placer: Placer,
    /// Offsets of the L2 tables.
    pub(super) l1: Vec<u64>,
    next: u64,
    span: SpanIndex,
    resolved: ResolvedSpan,
    /// Next cluster of the span.
    cursor: usize,
    /// The span's L2 table.
    table: Vec<u8>,
    used: bool,
    pub(super) totals: Totals,
}

/// What went by so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) data_clusters: u64,
    pub(super) zero_clusters: u64,
    /// Bytes of payload inside copies and outside.
    pub(super) kept: u64,
    pub(super) packed: u64,
}

/// What takes the literals; a walk that only counts has none.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) literals: Literals,
    pub(super) tables: TableChain,
}

impl Output {
    /// Puts a table of the body in its place.
    pub(super) fn put_table(&mut self, at: u64, bytes: &[u8]) {
        self.tables.add(at, bytes);
        self.literals.put(at, bytes);
    }
}

impl Walk {
    pub(super) fn new<R: ReadAt>(run: &Run<R>, placer: Placer) -> Self {
        let geometry = run.geometry();
        Self {
            placer,
            l1: vec![0; geometry.spans() as usize],
            next: 0,
            span: SpanIndex(0),
            resolved: ResolvedSpan::new(),
            cursor: 0,
            table: vec![0; geometry.cluster_size().as_usize()],
            used: false,
            totals: Totals::default(),
        }
    }

    pub(super) const fn placer(&self) -> &Placer {
        &self.placer
    }

    /// Deals with one cluster, or with one L2 table. Returns `false` at the end.
    pub(super) fn step<R: ReadAt>(
        &mut self,
        run: &Run<R>,
        copies: &Copies,
        counts: &mut Counts,
        output: Option<&mut Output>,
    ) -> Result<bool, MergeError> {
        let Some(source) = self.resolved.get(self.cursor) else {
            self.close_table(run, counts, output)?;
            return self.open_span(run);
        };
        let entry = match source {
            Source::Data { image, extent } => self.place(run, copies, (image, extent), counts, output)?,
            Source::Zero { .. } if run.below.is_some() => {
                self.totals.zero_clusters += 1;
                l2::ZERO_ENTRY
            }
            // A full image has nothing below that could shine through.
            Source::Zero { .. } | Source::Unallocated => 0,
        };
        if entry != 0 {
            let at = self.cursor * ENTRY_BYTES as usize;
            self.table[at..at + ENTRY_BYTES as usize].copy_from_slice(&entry.to_be_bytes());
            self.used = true;
        }
        self.cursor += 1;
        Ok(true)
    }

    fn place<R: ReadAt>(
        &mut self,
        run: &Run<R>,
        copies: &Copies,
        (member, extent): (usize, Extent),
        counts: &mut Counts,
        output: Option<&mut Output>,
    ) -> Result<u64, MergeError> {
        let sectors = run.sectors(member, extent)?;
        self.totals.data_clusters += 1;
        let at = if let Some(at) = copies.find(member, sectors) {
            self.totals.kept += sectors.len();
            at
        } else {
            self.totals.packed += sectors.len();
            let at = self.placer.take(sectors.len(), SECTOR);
            if let Some(output) = output {
                output.literals.put_later(at, member, extent, sectors);
            }
            at
        };
        counts.add(at, sectors.len())?;
        Ok(entry(at, sectors, extent, run))
    }

    fn close_table<R: ReadAt>(
        &mut self,
        run: &Run<R>,
        counts: &mut Counts,
        output: Option<&mut Output>,
    ) -> Result<(), MergeError> {
        if !self.used {
            return Ok(());
        }
        let cluster = run.geometry().cluster_size().bytes();
        let at = self.placer.take(cluster, cluster);
        self.l1[self.span.0 as usize] = l2::encode_l1(at);
        counts.add(at, cluster)?;
        if let Some(output) = output {
            output.put_table(at, &self.table);
        }
        self.table.fill(0);
        self.used = false;
        Ok(())
    }

    fn open_span<R: ReadAt>(&mut self, run: &Run<R>) -> Result<bool, MergeError> {
        let mut spans = self.next..run.geometry().spans();
        let Some(span) = spans.find(|span| run.holds(SpanIndex(*span))) else {
            self.next = run.geometry().spans();
            return Ok(false);
        };
        self.next = span + 1;
        self.span = SpanIndex(span);
        self.cursor = 0;
        run.chain.resolve(self.span, &mut self.resolved)?;
        Ok(true)
    }
}

/// The L2 entry of payload whose first sector is now at `at`.
fn entry<R: ReadAt>(at: u64, sectors: Sectors, extent: Extent, run: &Run<R>) -> u64 {
    let inside_sector = extent.offset - sectors.start;
    l2::encode_compressed(at + inside_sector, sectors.len(), run.geometry().cluster_size())
}
