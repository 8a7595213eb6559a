//! Hands out the pieces of a merged object, ready to be stored.
use std::{collections::BTreeSet, ops::Range};

use bytes::Bytes;
use holdfast_qcow2::{MergeOutcome, MergePiece, PieceContent, ReadAt};
use holdfast_seal::{DataKey, Layout, RegionWriter, SEALED_SEGMENT, SEGMENT, SealError, Sealer, TAG};
use holdfast_target::{Key, PartNumber, Pin};
use tokio::sync::mpsc;

use super::{
    members::Members,
    plan::{Move, Plan},
};
use crate::{MoverError, remote::Remote};

/// A part of the merged object.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) number: PartNumber,
    /// Where in the object it begins.
    pub(super) offset: u64,
    pub(super) from: From,
    /// How it is sealed.
    pub(super) seal: Option<Layout>,
}

/// Where the stored bytes of a piece come from.
#[derive(Debug)]
pub(super) enum From {
    /// A range of another object as it is stored.
    Object { key: Key, pin: Pin, range: Range<u64> },
    /// These.
    Bytes(Bytes),
}

/// Sends all pieces but those that are stored, and returns what all of them make. Blocks.
pub(super) fn send(
    remote: &Remote,
    members: &Members,
    plan: Plan<'_>,
    stored: BTreeSet<u32>,
    seal: Option<&DataKey>,
    out: &mpsc::Sender<Piece>,
) -> Result<MergeOutcome, MoverError> {
    let Plan { mut merge, moves } = plan;
    merge.skip(stored);
    let mut sealing = seal.map(Sealing::new);
    while let Some(piece) = merge.next_piece().map_err(|error| members.error(error))? {
        if remote.cancel.is_cancelled() {
            return Err(MoverError::Cancelled);
        }
        // Number 1 is the head; copies have the numbers behind it.
        let copy = piece.number.checked_sub(2).map(|at| at as usize);
        let how = copy.and_then(|at| moves.get(at));
        let piece = prepare(members, piece, how, sealing.as_mut())?;
        // Nobody listens any more when storing has failed; what it failed of is reported there.
        out.blocking_send(piece).map_err(|_| MoverError::Cancelled)?;
    }
    let outcome = merge.outcome();
    outcome
        .copied()
        .ok_or_else(|| MoverError::Internal("a merge ended without an outcome".to_owned()))
}

fn prepare(
    members: &Members,
    piece: MergePiece,
    how: Option<&Move>,
    sealing: Option<&mut Sealing<'_>>,
) -> Result<Piece, MoverError> {
    let number = PartNumber(piece.number);
    let offset = match sealing {
        // Pieces begin where segments do.
        Some(_) => piece.at / SEGMENT as u64 * SEALED_SEGMENT as u64,
        None => piece.at,
    };
    let (from, seal) = match (piece.content, how) {
        (PieceContent::Bytes(bytes), _) => match sealing {
            None => (From::Bytes(bytes.into()), None),
            Some(sealing) => {
                let (bytes, layout) = sealing.literals(number, &bytes)?;
                (From::Bytes(bytes.into()), Some(layout))
            }
        },
        (PieceContent::Copy { member, source }, Some(Move::AsStored(cut))) => {
            let image = &members.images[member];
            let range = cut.as_ref().map_or(source, |cut| cut.sealed.clone());
            let (key, pin) = (image.key.clone(), image.pin.clone());
            (
                From::Object { key, pin, range },
                cut.as_ref().map(|cut| cut.layout.clone()),
            )
        }
        (PieceContent::Copy { member, source }, _) => {
            let bytes = read(members, member, &source)?;
            let sealing = sealing.ok_or_else(|| {
                MoverError::Internal("a copy is to be sealed, and there is no key".to_owned())
            })?;
            let (bytes, layout) = sealing.region(&bytes)?;
            (From::Bytes(bytes.into()), Some(layout))
        }
    };
    Ok(Piece {
        number,
        offset,
        from,
        seal,
    })
}

/// A range of a member's file, opened.
fn read(members: &Members, member: usize, range: &Range<u64>) -> Result<Vec<u8>, MoverError> {
    let len = usize::try_from(range.end - range.start).expect("what is sealed anew is a buffer's size");
    let mut bytes = vec![0; len];
    let source = members.run.images()[member].source();
    let read = source.read_exact_at(range.start, &mut bytes);
    read.map_err(|error| MoverError::from_io(&members.images[member].key, error))?;
    Ok(bytes)
}

/// Seals what is new in a merged object.
struct Sealing<'k> {
    key: &'k DataKey,
    /// The region of the literals behind the head's piece; none once it has ended.
    literals: Option<RegionWriter>,
}

impl<'k> Sealing<'k> {
    fn new(key: &'k DataKey) -> Self {
        Self {
            key,
            literals: Some(RegionWriter::new(key)),
        }
    }

    /// Bytes as a region of their own.
    fn region(&self, plain: &[u8]) -> Result<(Vec<u8>, Layout), MoverError> {
        let mut sealer = Sealer::new(self.key);
        let mut sealed = Vec::with_capacity(plain.len() + (plain.len() / SEGMENT + 1) * TAG);
        sealer.push(plain, &mut sealed).map_err(internal)?;
        let layout = sealer.finish(&mut sealed).map_err(internal)?;
        Ok((sealed, layout))
    }

    /// The next literals. The head comes last and leaves as a region of its own; the others are one region, so that
    /// they are one slice where they follow each other.
    fn literals(&mut self, number: PartNumber, plain: &[u8]) -> Result<(Vec<u8>, Layout), MoverError> {
        let Some(mut writer) = self.literals.take().filter(|_| number != PartNumber::FIRST) else {
            return self.region(plain);
        };
        let before = writer.layout().plain_len();
        let mut sealed = Vec::with_capacity(plain.len() + (plain.len() / SEGMENT + 1) * TAG);
        let mut chunks = plain.chunks_exact(SEGMENT);
        for segment in &mut chunks {
            let ticket = writer.next_segment().map_err(internal)?;
            seal(ticket, segment, &mut sealed)?;
        }
        // Only the last piece of a file is no multiple of a segment.
        let rest = chunks.remainder();
        let all = if rest.is_empty() {
            let layout = writer.layout();
            self.literals = Some(writer);
            layout
        } else {
            let (ticket, layout) = writer.last_segment(rest.len()).map_err(internal)?;
            seal(ticket, rest, &mut sealed)?;
            layout
        };
        let cut = all.cut(&(before..all.plain_len()));
        let cut = cut.map_err(|error| MoverError::Internal(format!("sealing: {error}")))?;
        Ok((sealed, cut.layout))
    }
}

fn seal(ticket: holdfast_seal::Ticket, plain: &[u8], out: &mut Vec<u8>) -> Result<(), MoverError> {
    let start = out.len();
    out.extend_from_slice(plain);
    out.extend_from_slice(&[0; TAG]);
    ticket.seal(&mut out[start..]).map_err(internal)
}

#[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
fn internal(error: SealError) -> MoverError {
    MoverError::Internal(format!("sealing: {error}"))
}
