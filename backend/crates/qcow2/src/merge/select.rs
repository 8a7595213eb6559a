//! Chooses what to copy, so that the pieces are as large and as many as the rules want.

use super::live::{LiveMap, Stretch, Wish};
use super::place::Copies;
use super::survey::{Found, MergeSurvey};
use super::{MergeRules, Run};
use crate::error::{MergeError, WriteError};
use crate::header::HeadLayout;
use crate::io::ReadAt;
use crate::l2::SECTOR;

/// What is copied, and where.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) copies: Copies,
    pub(super) layout: HeadLayout,
    pub(super) survey: MergeSurvey,
}

/// Chooses the copies. Where they make too many pieces, copies have to be longer and may go on over longer gaps, as long
/// as they are worth it altogether; in the end nearly all is packed, into pieces of one size.
pub(super) fn select<R: ReadAt>(
    run: &Run<R>,
    rules: &MergeRules,
    found: &Found,
) -> Result<Selection, MergeError> {
    let mut wish = Wish {
        least: rules.min_piece.max(1),
        max_gap: rules.max_gap,
        dead_weight: rules.dead_weight,
    };
    let mut fewest = u64::MAX;
    loop {
        if let Some(stretches) = collect(&found.map, wish, rules.max_pieces as usize) {
            let last = stretches.is_empty();
            let (selection, pieces) = lay_out(run, rules, found, stretches)?;
            if pieces <= rules.max_pieces.into() {
                return Ok(selection);
            }
            fewest = fewest.min(pieces);
            if last {
                return Err(MergeError::TooManyPieces {
                    needed: fewest,
                    limit: rules.max_pieces,
                });
            }
        }
        wish.least = wish.least.saturating_mul(2);
        wish.max_gap = wish.max_gap.saturating_mul(2);
    }
}

/// The stretches that are as wished, unless they are more than `limit`.
fn collect(map: &LiveMap, wish: Wish, limit: usize) -> Option<Vec<Stretch>> {
    let mut stretches = Vec::new();
    map.for_each_stretch(wish, |stretch| {
        if stretches.len() <= limit {
            stretches.push(stretch);
        }
    });
    (stretches.len() <= limit).then_some(stretches)
}

/// The places that follow from these copies, with the number of pieces at most.
fn lay_out<R: ReadAt>(
    run: &Run<R>,
    rules: &MergeRules,
    found: &Found,
    stretches: Vec<Stretch>,
) -> Result<(Selection, u64), MergeError> {
    let geometry = run.geometry();
    let cluster = geometry.cluster_size().bytes();
    let copied: u64 = stretches.iter().map(Stretch::len).sum();
    let kept: u64 = stretches.iter().map(|stretch| stretch.live).sum();
    let copy_pieces: u64 = stretches
        .iter()
        .map(|stretch| stretch.len().div_ceil(rules.max_copy))
        .sum();
    // Payload that crosses an end of a stretch is packed; so at most twice a cluster and a sector more for each.
    let edges = stretches.len() as u64 * 2 * (cluster + SECTOR);
    let packed = (found.live.saturating_sub(kept) + edges).min(found.live);

    let layout = HeadLayout::new(geometry, 0, copied + rules.min_piece + 2 * rules.align);
    if !layout.is_addressable(geometry.cluster_size()) {
        return Err(WriteError::TooLarge(geometry.virtual_size()).into());
    }
    let head = layout.body_start;
    let start = head.max(rules.min_piece).next_multiple_of(rules.align);
    let copies = Copies::new(stretches, start);

    let result = if copied == 0 {
        head + with_tables(packed, found.tables, head, cluster)
    } else {
        // The last literal between head and copies may leave a cluster and a sector unused.
        let literals = with_tables(packed, found.tables, start + copied, cluster) + cluster + SECTOR;
        start + copied + literals.saturating_sub(start - head)
    };
    let behind = result.saturating_sub(start + copied);
    let pieces = 1 + copy_pieces + behind.div_ceil(rules.literal_piece);
    let survey = MergeSurvey {
        members: found.members,
        result,
        live: found.live,
        copied,
        dead: copied.saturating_sub(kept),
        packed,
        data_clusters: found.data_clusters,
        zero_clusters: found.zero_clusters,
        pieces: u32::try_from(pieces).unwrap_or(u32::MAX),
    };
    let selection = Selection {
        copies,
        layout,
        survey,
    };
    Ok((selection, pieces))
}

/// Most bytes of literals: packed payload, L2 tables with the padding before each, and the refcount blocks of a file
/// with `others` bytes besides.
const fn with_tables(packed: u64, tables: u64, others: u64, cluster: u64) -> u64 {
    let without_blocks = packed.next_multiple_of(cluster) + tables * 2 * cluster;
    let counted = (without_blocks + others).div_ceil(cluster) + 1;
    // A block counts itself, too.
    without_blocks + counted.div_ceil(cluster / 2 - 1) * cluster
}
