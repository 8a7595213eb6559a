//! Merges of runs of hostile images.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_qcow2::{
    Chain, Image, ImageName, Merge, MergeOutcome, MergePiece, MergeRules, PieceContent, ReadAt, ResolvedSpan,
    Run, Source, SpanIndex,
};

use crate::carve::Carver;
use crate::sparse::Sparse;

/// Spans of the largest shard with the smallest clusters: the disk of a member is known from its record.
const SPANS: u64 = 4096;
/// Longest file that is made.
const LONGEST: u64 = 16 << 20;

/// A run, the rules for its merge, and numbers of pieces that are there already.
pub(crate) struct Job {
    files: Vec<Sparse>,
    below: Option<ImageName>,
    rules: MergeRules,
    skip: u64,
}

impl Job {
    pub(crate) fn carve(input: &[u8]) -> Self {
        let mut input = Carver::new(input);
        let kind = input.byte();
        let unit = 4096;
        let rules = MergeRules {
            min_piece: input.number(1) * unit,
            max_copy: input.number(2) * unit,
            literal_piece: input.number(1) * unit,
            align: 1 << (input.byte() % 22),
            max_gap: input.number(1) * unit,
            dead_weight: u32::from(input.byte() % 8),
            max_pieces: u32::from(input.byte()) * 4,
            memory: input.number(2) * 256,
        };
        let skip = input.number(4);
        let files = (0..kind / 2 % 3 + 1).map(|_| Sparse::carve(&mut input)).collect();
        let below = (!kind.is_multiple_of(2)).then(|| below_name().parse().expect("a valid name"));
        Self {
            files,
            below,
            rules,
            skip,
        }
    }

    fn run(&self) -> Option<Run<&Sparse>> {
        let images: Result<Vec<_>, _> = self.files.iter().map(Image::open).collect();
        let images = images.ok()?;
        if images.iter().any(|image| image.geometry().spans() > SPANS) {
            return None;
        }
        Run::new(images, self.below.clone()).ok()
    }
}

/// What merged overlays call the image below them.
pub(crate) const fn below_name() -> &'static str {
    "below.qcow2"
}

/// A run is merged to an image of the same content, or not at all.
pub(crate) fn merge(input: &[u8]) {
    let job = Job::carve(input);
    let Some(run) = job.run() else { return };
    let Some((pieces, outcome)) = carry_out(&run, job.rules, BTreeSet::new()) else {
        return;
    };
    let file = assemble(&run, &pieces);
    assert_eq!(file.len() as u64, outcome.image.file_size);
    let merged = Image::open(file.as_slice()).expect("what was merged is read");
    assert_eq!(merged.tables_digest().ok(), Some(outcome.image.tables));
    assert_eq!(merged.is_overlay(), job.below.is_some());
    check_content(&run, &file);

    let skip: BTreeSet<u32> = (0..32)
        .filter(|n| job.skip >> n & 1 == 1)
        .map(|n| n + 1)
        .collect();
    let (rest, same) = carry_out(&run, job.rules, skip.clone()).expect("the same merge, less of it");
    assert_eq!(same, outcome);
    for (number, piece) in &pieces {
        let expected = (*number == 1 || !skip.contains(number)).then_some(piece);
        assert!(
            rest.get(number) == expected,
            "piece {number} with others left out"
        );
    }
}

/// The merged file of an input, where there is one: for an outside judge.
pub(crate) fn merged(input: &[u8]) -> Option<Vec<u8>> {
    let job = Job::carve(input);
    let run = job.run()?;
    let (pieces, _) = carry_out(&run, job.rules, BTreeSet::new())?;
    Some(assemble(&run, &pieces))
}

type Pieces = BTreeMap<u32, MergePiece>;

fn carry_out(run: &Run<&Sparse>, rules: MergeRules, skip: BTreeSet<u32>) -> Option<(Pieces, MergeOutcome)> {
    let mut merge = Merge::plan(run, rules).ok()?;
    if merge.survey().result > LONGEST {
        return None;
    }
    assert_eq!(Merge::plan(run, rules).ok()?.fingerprint(), merge.fingerprint());
    merge.skip(skip);
    let mut pieces = Pieces::new();
    let mut bytes = 0;
    while let Some(piece) = merge.next_piece().ok()? {
        assert!(!piece.is_empty() && !pieces.contains_key(&piece.number));
        bytes += piece.len();
        // Tables that name the same bytes again and again make more of them.
        if bytes > 2 * LONGEST {
            return None;
        }
        pieces.insert(piece.number, piece);
    }
    let outcome = *merge.outcome().expect("the head came out");
    Some((pieces, outcome))
}

fn assemble(run: &Run<&Sparse>, pieces: &Pieces) -> Vec<u8> {
    let mut file = Vec::new();
    for (number, piece) in (1..).zip(pieces.values()) {
        assert_eq!((piece.number, piece.at), (number, file.len() as u64));
        match &piece.content {
            PieceContent::Bytes(bytes) => file.extend_from_slice(bytes),
            PieceContent::Copy { member, source } => {
                let from = run.images()[*member].source();
                let bytes = from.get(source.start, (source.end - source.start) as usize);
                file.extend(bytes.expect("what is copied lies inside the member"));
            }
        }
    }
    file
}

/// Every cluster has the state and the stored bytes that it had in the run.
fn check_content(run: &Run<&Sparse>, merged: &[u8]) {
    let below = run.below().is_some();
    // The oldest may be an overlay, which is no chain: a full image below it holds nothing.
    let base = || below.then(|| Box::new(base(run)) as Box<dyn ReadAt>);
    let chain = |members: Vec<Box<dyn ReadAt>>| {
        let images = members
            .into_iter()
            .map(|file| Image::open(file).expect("it was opened before"));
        Chain::new(images.collect()).expect("the members fit")
    };
    let members = run
        .images()
        .iter()
        .map(|image| Box::new((*image.source()).clone()) as Box<dyn ReadAt>);
    let before = chain(members.chain(base()).collect());
    let merged = Box::new(merged.to_vec()) as Box<dyn ReadAt>;
    let after = chain([merged].into_iter().chain(base()).collect());
    let mut resolved = [ResolvedSpan::new(), ResolvedSpan::new()];
    assert_eq!(before.geometry(), after.geometry());
    for span in (0..before.geometry().spans()).map(SpanIndex) {
        let [old, new] = &mut resolved;
        before.resolve(span, old).expect("the merge read it");
        after.resolve(span, new).expect("what was merged is read");
        for ((cluster, old), (_, new)) in old.iter().zip(new.iter()) {
            let same = match (old, new) {
                (Source::Data { image, extent }, Source::Data { extent: moved, .. }) => {
                    let stored = bytes(before.images()[image].source(), extent.offset, extent.len);
                    let copied = bytes(after.images()[0].source(), moved.offset, moved.len);
                    // What ended with the file is filled up to its sector.
                    copied.starts_with(&stored) && copied[stored.len()..].iter().all(|byte| *byte == 0)
                }
                (Source::Zero { .. }, Source::Zero { .. }) | (Source::Unallocated, Source::Unallocated) => {
                    true
                }
                // Nothing shines through a full image.
                (Source::Zero { .. }, Source::Unallocated) => !below,
                _ => false,
            };
            assert!(same, "cluster {cluster}: {old:?} became {new:?}");
        }
    }
}

fn bytes(source: &dyn ReadAt, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    source
        .read_exact_at(offset, &mut bytes)
        .expect("an extent lies inside the file");
    bytes
}

/// A full image of the size of the oldest member that holds nothing.
fn base(run: &Run<&Sparse>) -> Vec<u8> {
    let oldest = run.images()[run.images().len() - 1].geometry();
    empty(oldest.virtual_size(), oldest.cluster_size())
}

pub(crate) fn empty(virtual_size: u64, cluster_size: holdfast_qcow2::ClusterSize) -> Vec<u8> {
    let spec = holdfast_qcow2::ImageSpec {
        virtual_size,
        cluster_size,
        backing: None,
        min_head: 0,
    };
    let writer = holdfast_qcow2::ImageWriter::new(spec).expect("the size of an image that was merged");
    let mut body = Vec::new();
    let mut file = writer.finish(&mut body).head;
    file.append(&mut body);
    file
}
