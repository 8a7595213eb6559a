//! Decides how each copy of a merge is made.
use std::{collections::BTreeSet, ops::Range};

use holdfast_qcow2::{Merge, MergePiece, MergeRules, PieceContent};
use holdfast_seal::{Cut, LayoutError, MAX_SLICES};
use serde::{Deserialize, Serialize};

use super::members::Members;
use crate::{MoverError, limits, remote::RemoteFile};

/// Regions of a merged object that are no copies: the head, and one of literals for each attempt.
const OWN_SLICES: usize = 1000;

/// How the store moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Transport {
    /// It copies inside.
    Copy,
    /// It does not: bytes are read and sent.
    Read,
}

/// How the bytes of a copy get into the merged object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// As they are stored, a range of the object.
    AsStored(Option<Cut>),
    /// Opened and sealed anew.
    Anew,
}

/// A merge with what becomes of its copies.
pub(super) struct Plan<'m> {
    pub(super) merge: Merge<'m, RemoteFile>,
    /// In the order of the copies.
    pub(super) moves: Vec<Move>,
}

impl<'m> Plan<'m> {
    /// Plans the merge. Where bytes have to go through this process, copies are as small as its buffers.
    pub(super) fn new(members: &'m Members, sealed: bool, transport: Transport) -> Result<Self, MoverError> {
        if transport == Transport::Copy && members.are_regular(sealed) {
            let plan = Self::with(members, sealed, MergeRules::STORE)?;
            if plan.moves.iter().all(|how| *how != Move::Anew) {
                return Ok(plan);
            }
        }
        let small = MergeRules {
            max_copy: limits::IMAGE_PART as u64,
            ..MergeRules::STORE
        };
        Self::with(members, sealed, small)
    }

    fn with(members: &'m Members, sealed: bool, rules: MergeRules) -> Result<Self, MoverError> {
        let merge = Merge::plan(&members.run, rules).map_err(|error| members.error(error))?;
        let moves = merge.copies().iter().map(|copy| how(members, sealed, copy));
        let mut moves = moves.collect::<Result<Vec<_>, _>>()?;
        spare_slices(&mut moves, MAX_SLICES - OWN_SLICES);
        Ok(Self { merge, moves })
    }
}

fn how(members: &Members, sealed: bool, copy: &MergePiece) -> Result<Move, MoverError> {
    let (member, range): (usize, &Range<u64>) = match &copy.content {
        PieceContent::Copy { member, source } => (*member, source),
        PieceContent::Bytes(_) => {
            return Err(MoverError::Internal("a copy of a merge has bytes".to_owned()));
        }
    };
    let source = &members.images[member];
    match &source.seal {
        None if sealed => Ok(Move::Anew),
        None => Ok(Move::AsStored(None)),
        Some(layout) => match layout.cut(range) {
            Ok(cut) => Ok(Move::AsStored(Some(cut))),
            Err(LayoutError::Misaligned { .. }) => Ok(Move::Anew),
            Err(error) => Err(MoverError::damaged(&source.key, error.to_string())),
        },
    }
}

/// Seals copies anew that consist of the most slices, until all of them have at most `limit`.
fn spare_slices(moves: &mut [Move], limit: usize) {
    let slices = |how: &Move| match how {
        Move::AsStored(Some(cut)) => cut.layout.slices().len(),
        Move::AsStored(None) => 0,
        Move::Anew => 1,
    };
    let mut total: usize = moves.iter().map(slices).sum();
    let mut costly: BTreeSet<(usize, usize)> = (0..)
        .zip(moves.iter())
        .map(|(at, how)| (slices(how), at))
        .collect();
    while total > limit
        && let Some((slices, at)) = costly.pop_last()
        && slices > 1
    {
        moves[at] = Move::Anew;
        total -= slices - 1;
    }
}

#[cfg(test)]
mod tests {
    use holdfast_seal::{DataKey, Layout, Sealer};

    use super::*;

    /// A piece that consists of so many regions.
    fn piece(regions: usize) -> Move {
        let key = DataKey::generate("c/p/b".parse().unwrap());
        let layouts: Vec<Layout> = (0..regions)
            .map(|_| {
                let mut sealer = Sealer::new(&key);
                sealer.push(b"x", &mut Vec::new()).unwrap();
                sealer.finish(&mut Vec::new()).unwrap()
            })
            .collect();
        let layout = Layout::concat(&layouts).unwrap();
        let sealed = 0..layout.sealed_len();
        Move::AsStored(Some(Cut { layout, sealed }))
    }

    #[test]
    fn the_most_patched_copies_are_sealed_anew_and_no_more_than_needed() {
        let regions = [3, 9, 1, 7];
        let spared = |limit: usize| -> Vec<usize> {
            let mut moves: Vec<Move> = regions.iter().map(|regions| piece(*regions)).collect();
            spare_slices(&mut moves, limit);
            (0..4).filter(|at| moves[*at] == Move::Anew).collect()
        };
        assert_eq!(spared(20), [0; 0]);
        assert_eq!(spared(19), [1]);
        assert_eq!(spared(12), [1]);
        assert_eq!(spared(11), [1, 3]);
        assert_eq!(spared(4), [0, 1, 3]);
        // What has one region already cannot have fewer.
        assert_eq!(spared(1), [0, 1, 3]);
    }
}
