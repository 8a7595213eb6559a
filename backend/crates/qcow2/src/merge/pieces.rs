//! Turns the plan of a merge into pieces, one after the other.

use std::collections::BTreeSet;
use std::vec::IntoIter;

use super::count::Counts;
use super::literal::Literals;
use super::place::Placer;
use super::select::{Selection, select};
use super::survey::{MergeSurvey, look};
use super::walk::{Output, Walk};
use super::{MergeOutcome, MergePiece, MergeRules, PieceContent, Run};
use crate::digest::{Digest, TableChain};
use crate::error::MergeError;
use crate::geometry::ENTRY_BYTES;
use crate::io::ReadAt;
use crate::writer::{ImageSummary, check_cluster_size};

/// Changes with every change of what a plan makes of the same members and rules.
const PLAN: &[u8; 24] = b"holdfast merge of runs 0";

/// A planned merge, which hands out its pieces.
///
/// Memory, besides the piece that was handed out: at most [`MergeRules::memory`] for the map of live payload or for
/// refcounts; one [`literal_piece`](MergeRules::literal_piece) and one [`min_piece`](MergeRules::min_piece) being filled;
/// 4 MiB for reads; the tables of one span; the L1 tables; 40 bytes for each copy. With [`MergeRules::STORE`] and
/// clusters of 64 KiB that stays below 64 MiB, whatever the size of disk and files.
#[derive(Debug)]
pub struct Merge<'a, R> {
    run: &'a Run<R>,
    rules: MergeRules,
    selection: Selection,
    stage: Stage,
    copies: IntoIter<MergePiece>,
    walk: Walk,
    counts: Counts,
    output: Output,
    /// Offsets of the refcount blocks.
    blocks: Vec<u64>,
    outcome: Option<MergeOutcome>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Copies,
    /// Payload and L2 tables.
    Body,
    /// The refcount block with this number.
    Block(usize),
    /// The literals that do not fill a piece.
    Tail,
    Head,
    Done,
}

impl<'a, R: ReadAt> Merge<'a, R> {
    /// Plans the merge of a run. Reads the tables of the run, nothing else.
    ///
    /// # Errors
    /// [`MergeError`]: a member cannot be read or merged, or the rules cannot be kept.
    pub fn plan(run: &'a Run<R>, rules: MergeRules) -> Result<Self, MergeError> {
        check_cluster_size(run.geometry().cluster_size())?;
        let rules = rules.for_disk(run.geometry())?;
        // The map of live payload goes before the refcounts come.
        let selection = select(run, &rules, &look(run, &rules)?)?;
        let head = selection.layout.body_start;
        let range = selection.copies.range().clone();
        let copies = selection.copies.pieces(rules.max_copy, rules.align);
        let number = copies.len() as u32 + 2;
        Ok(Self {
            run,
            walk: Walk::new(run, Placer::new(head, range.clone())),
            counts: Counts::new(run.geometry().cluster_size(), 0, rules.memory),
            output: Output {
                literals: Literals::new(head, range, rules.literal_piece, number),
                tables: TableChain::new(),
            },
            copies: copies.into_iter(),
            rules,
            selection,
            stage: Stage::Copies,
            blocks: Vec::new(),
            outcome: None,
        })
    }

    /// The copies that are still to come, in the order in which they come.
    #[must_use]
    pub fn copies(&self) -> &[MergePiece] {
        self.copies.as_slice()
    }

    /// What the merge moves and frees.
    #[must_use]
    pub const fn survey(&self) -> &MergeSurvey {
        &self.selection.survey
    }

    /// Binds the plan: two merges with the same fingerprint, of members with the same bytes, have the same pieces. To
    /// be stored with the numbers of stored pieces, and compared before [`skip`](Self::skip).
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let geometry = self.run.geometry();
        let mut number = |value: u64| {
            hasher.update(&value.to_be_bytes());
        };
        number(geometry.virtual_size());
        number(geometry.cluster_size().bytes());
        number(self.rules.literal_piece);
        number(self.rules.max_copy);
        number(self.rules.align);
        number(self.selection.copies.range().start);
        number(self.run.images().len() as u64);
        for image in self.run.images() {
            number(image.source().size());
        }
        number(self.selection.copies.stretches().len() as u64);
        for (stretch, _) in self.selection.copies.stretches() {
            number(stretch.member as u64);
            number(stretch.start);
            number(stretch.end);
        }
        let below = self.run.below().map_or("", |name| name.as_str());
        hasher.update(below.as_bytes()).update(PLAN);
        Digest(*hasher.finalize().as_bytes())
    }

    /// Leaves out pieces that are already stored: they are not handed out, and payload that only they hold is not read.
    /// The head, number 1, is always handed out. Before the first piece.
    pub fn skip(&mut self, stored: BTreeSet<u32>) {
        self.output.literals.skip(stored);
    }

    /// The next piece; `None` after the head, which comes last. Copies come first, and nothing is read for them.
    ///
    /// # Errors
    /// [`MergeError`]: a member cannot be read. The merge has then ended, without an outcome.
    pub fn next_piece(&mut self) -> Result<Option<MergePiece>, MergeError> {
        while self.stage != Stage::Done {
            match self.advance() {
                Ok(None) => {}
                Ok(piece) => return Ok(piece),
                Err(error) => {
                    self.stage = Stage::Done;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// What was made, once the head was handed out.
    #[must_use]
    pub const fn outcome(&self) -> Option<&MergeOutcome> {
        self.outcome.as_ref()
    }

    /// One step; a piece when it made one.
    fn advance(&mut self) -> Result<Option<MergePiece>, MergeError> {
        let full = self.output.literals.is_full();
        match self.stage {
            Stage::Copies => match self.copies.next() {
                Some(copy) => return Ok((!self.output.literals.skips(copy.number)).then_some(copy)),
                None => self.stage = Stage::Body,
            },
            Stage::Body | Stage::Block(_) | Stage::Tail if full => return self.cut(),
            Stage::Body => {
                let Selection { copies, .. } = &self.selection;
                let output = Some(&mut self.output);
                if !self.walk.step(self.run, copies, &mut self.counts, output)? {
                    self.place_blocks()?;
                    self.stage = Stage::Block(0);
                }
            }
            Stage::Block(number) if number < self.blocks.len() => {
                self.write_block(number)?;
                self.stage = Stage::Block(number + 1);
            }
            Stage::Block(_) => self.stage = Stage::Tail,
            Stage::Tail if self.output.literals.is_empty() => self.stage = Stage::Head,
            Stage::Tail => return self.cut(),
            Stage::Head => {
                self.stage = Stage::Done;
                return Ok(Some(self.head()));
            }
            Stage::Done => {}
        }
        Ok(None)
    }

    fn cut(&mut self) -> Result<Option<MergePiece>, MergeError> {
        let piece = self.output.literals.cut(self.run.images())?;
        match &piece {
            // Only tables that name the same bytes again and again make more pieces than the survey found.
            Some(piece) if piece.number > self.rules.max_pieces => Err(MergeError::TooManyPieces {
                needed: piece.number.into(),
                limit: self.rules.max_pieces,
            }),
            _ => Ok(piece),
        }
    }

    /// Everything but the refcount blocks has its place; gives them theirs.
    fn place_blocks(&mut self) -> Result<(), MergeError> {
        let (totals, survey) = (self.walk.totals, &self.selection.survey);
        let seen = (
            totals.data_clusters,
            totals.zero_clusters,
            totals.kept + totals.packed,
        );
        if seen != (survey.data_clusters, survey.zero_clusters, survey.live) {
            return Err(MergeError::Changed);
        }
        let cluster = self.run.geometry().cluster_size().bytes();
        self.blocks = self.walk.placer().clone().take_blocks(cluster);
        let room = self.selection.layout.refcount_table_clusters * cluster / ENTRY_BYTES;
        if self.blocks.len() as u64 > room {
            return Err(MergeError::Changed);
        }
        count_tables(&self.selection, &self.blocks, cluster, &mut self.counts)
    }

    fn write_block(&mut self, number: usize) -> Result<(), MergeError> {
        if !self.counts.holds(number as u64) {
            self.recount(number)?;
        }
        let block = self.counts.block(number as u64);
        self.output.put_table(self.blocks[number], &block);
        Ok(())
    }

    /// Counts again, for the blocks from this one.
    fn recount(&mut self, first: usize) -> Result<(), MergeError> {
        let Selection { copies, layout, .. } = &self.selection;
        let cluster_size = self.run.geometry().cluster_size();
        let mut walk = Walk::new(self.run, Placer::new(layout.body_start, copies.range().clone()));
        self.counts = Counts::new(cluster_size, first as u64, self.rules.memory);
        while walk.step(self.run, copies, &mut self.counts, None)? {}
        if (walk.placer(), walk.totals) != (self.walk.placer(), self.walk.totals) {
            return Err(MergeError::Changed);
        }
        count_tables(
            &self.selection,
            &self.blocks,
            cluster_size.bytes(),
            &mut self.counts,
        )
    }

    fn head(&mut self) -> MergePiece {
        let geometry = self.run.geometry();
        let Selection { layout, survey, .. } = &self.selection;
        let mut bytes = layout.write(geometry, self.run.below(), &self.walk.l1, &self.blocks);
        let mut placer = self.walk.placer().clone();
        let cluster = geometry.cluster_size().bytes();
        placer.take_blocks(cluster);
        let file_size = placer.end(cluster);
        let tables = self.output.tables;
        let tables = tables.finish(file_size, &bytes[..layout.tables_end as usize]);
        let (mut literals, pieces) = self.output.literals.finish();
        bytes.append(&mut literals);
        let totals = self.walk.totals;
        self.outcome = Some(MergeOutcome {
            image: ImageSummary {
                file_size,
                head_size: layout.body_start,
                tables,
                data_clusters: totals.data_clusters,
                zero_clusters: totals.zero_clusters,
                payload_bytes: totals.kept + totals.packed,
            },
            copied: survey.copied,
            dead: survey.copied.saturating_sub(totals.kept),
            packed: totals.packed,
            pieces,
        });
        MergePiece {
            number: 1,
            at: 0,
            content: PieceContent::Bytes(bytes),
        }
    }
}

/// Counts the tables of the head and the refcount blocks; the walk counted all others.
fn count_tables(
    selection: &Selection,
    blocks: &[u64],
    cluster: u64,
    counts: &mut Counts,
) -> Result<(), MergeError> {
    counts.add(0, selection.layout.tables_end)?;
    blocks.iter().try_for_each(|block| counts.add(*block, cluster))
}
