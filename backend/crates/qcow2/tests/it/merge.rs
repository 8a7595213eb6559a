//! Merges of random runs against the model and qemu, with rules so small that everything happens on small disks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use holdfast_qcow2::{
    Chain, ClusterIndex, ClusterSize, ClusterState, EffectiveSpan, Geometry, Image, Index, IndexMerge, Merge,
    MergeError, MergeOutcome, MergePiece, MergeRules, MergedIndex, PieceContent, ReadAt, Run, SpanIndex,
    cluster_hash,
};
use proptest::prelude::*;

use crate::support::*;

mod cases;
mod fixed;
mod large;
mod refused;

/// One image of a chain and the layers of the model that it stands for.
#[derive(Clone)]
struct Member {
    image: Vec<u8>,
    index: Vec<u8>,
    layers: Range<usize>,
}

fn members(layers: &[Layer], cluster_size: ClusterSize) -> Vec<Member> {
    let member = |(number, stored): (usize, Stored)| Member {
        image: stored.image,
        index: stored.index,
        layers: number..number + 1,
    };
    let stored = write_chain(layers, cluster_size);
    stored.into_iter().enumerate().map(member).collect()
}

/// The rules for pieces, as a store knows them.
fn check_piece(piece: &MergePiece, rules: &MergeRules, cluster: u64, ends_file: bool) {
    let align = rules.align.max(cluster);
    assert_eq!(piece.at % align, 0);
    match &piece.content {
        PieceContent::Copy { source, .. } => {
            assert_eq!((source.start % align, source.end % align), (0, 0));
            assert!(
                piece.len() >= rules.min_piece && piece.len() <= rules.max_copy,
                "{piece:?}"
            );
        }
        PieceContent::Bytes(_) => {
            let limit = rules.literal_piece.next_multiple_of(align);
            assert!(ends_file || piece.len() >= rules.min_piece, "{}", piece.len());
            assert!(piece.number == 1 || piece.len() <= limit, "{}", piece.len());
        }
    }
    assert!(!piece.is_empty());
}

/// All pieces by number.
fn pieces<R: ReadAt>(
    mut merge: Merge<'_, R>,
) -> Result<(BTreeMap<u32, MergePiece>, MergeOutcome), MergeError> {
    let mut pieces = BTreeMap::new();
    while let Some(piece) = merge.next_piece()? {
        let number = if piece.at == 0 { 1 } else { pieces.len() as u32 + 2 };
        assert_eq!(piece.number, number);
        pieces.insert(number, piece);
    }
    let outcome = *merge.outcome().expect("the head came out");
    assert_eq!(pieces.len() as u32, outcome.pieces);
    Ok((pieces, outcome))
}

/// Carries a merge out as a store would.
pub(crate) fn carry_out<R: ReadAt>(
    run: &Run<R>,
    rules: MergeRules,
) -> Result<(Vec<u8>, MergeOutcome), MergeError> {
    let (pieces, outcome) = pieces(Merge::plan(run, rules)?)?;
    let cluster = run.geometry().cluster_size().bytes();
    let (mut file, mut copied) = (Vec::new(), 0);
    for (number, piece) in &pieces {
        assert_eq!(piece.at, file.len() as u64);
        check_piece(piece, &rules, cluster, *number == outcome.pieces);
        match &piece.content {
            PieceContent::Bytes(bytes) => file.extend_from_slice(bytes),
            PieceContent::Copy { member, source } => {
                let mut bytes = vec![0; (source.end - source.start) as usize];
                let from = run.images()[*member].source();
                from.read_exact_at(source.start, &mut bytes).unwrap();
                file.append(&mut bytes);
                copied += piece.len();
            }
        }
    }
    assert_eq!(copied, outcome.copied);
    assert_eq!(file.len() as u64, outcome.image.file_size);
    Ok((file, outcome))
}

/// Carries a merge out and checks what it says about itself.
fn execute<R: ReadAt>(run: &Run<R>, rules: MergeRules) -> (Vec<u8>, MergeOutcome) {
    let survey = run.survey(&rules).unwrap();
    let (file, outcome) = carry_out(run, rules).unwrap();
    let image = outcome.image;
    assert_eq!(survey.copied, outcome.copied);
    assert_eq!(image.payload_bytes, survey.live);
    assert_eq!(outcome.packed + outcome.copied - outcome.dead, survey.live);
    assert_eq!(
        (image.data_clusters, image.zero_clusters),
        (survey.data_clusters, survey.zero_clusters)
    );
    // The survey may only err to the safe side.
    let safe = image.file_size <= survey.result && outcome.packed <= survey.packed;
    assert!(
        safe && outcome.pieces <= survey.pieces && survey.pieces <= rules.max_pieces,
        "{survey:?} {outcome:?}"
    );
    assert!(survey.dead * u64::from(rules.dead_weight) <= survey.copied - survey.dead);
    (file, outcome)
}

fn open_run<'a>(members: &'a [Member], below: Option<&str>) -> Run<&'a [u8]> {
    let open = |member| Image::open(Member::image(member)).unwrap();
    let images = members.iter().rev().map(open).collect();
    Run::new(images, below.map(|name| name.parse().unwrap())).unwrap()
}

impl Member {
    fn image(&self) -> &[u8] {
        &self.image
    }

    fn index(&self) -> &[u8] {
        &self.index
    }
}

/// Merges some neighbours; `bottom` says that the oldest of them is the full image.
fn merge(run: &[Member], bottom: bool, rules: MergeRules) -> (Member, MergeOutcome) {
    // Side by side with the others, the merged image bears the name of the newest member.
    let layers = run[0].layers.start..run[run.len() - 1].layers.end;
    let below = layers.start.checked_sub(1).map(file_name);
    assert_eq!(below.is_none(), bottom);
    let (image, outcome) = execute(&open_run(run, below.as_deref()), rules);
    let opened = Image::open(image.as_slice()).unwrap();
    assert_eq!(opened.tables_digest().unwrap(), outcome.image.tables);
    assert_eq!(opened.header().backing_file, below.map(|name| name.into_bytes()));

    let indexes = run
        .iter()
        .rev()
        .map(|member| Index::open(member.index()).unwrap());
    let merged = if bottom {
        MergedIndex::new(indexes.collect()).unwrap()
    } else {
        MergedIndex::overlays(indexes.collect()).unwrap()
    };
    let mut index = Vec::new();
    let name = file_name(layers.end - 1).parse().unwrap();
    let mut indexer = IndexMerge::new(&merged, name, &mut index);
    while indexer.next_span(&mut index).unwrap() {}
    let summary = indexer.finish(&mut index);
    assert_eq!(summary.size, index.len() as u64);
    assert_eq!(summary.data_clusters, outcome.image.data_clusters);
    if !bottom {
        let zeroes = summary.zero_clusters + summary.trimmed_clusters;
        assert_eq!(zeroes, outcome.image.zero_clusters);
    }
    let member = Member { image, index, layers };
    (member, outcome)
}

/// Every point that ends with one of the members reads as the model says, through images and through indexes.
fn verify_points(layers: &[Layer], members: &[Member], from: usize) {
    for newest in from..members.len() {
        let members = &members[..=newest];
        let layers = &layers[..members[newest].layers.end];
        let open = |member| Image::open(Member::image(member)).unwrap();
        let chain = Chain::new(members.iter().rev().map(open).collect()).unwrap();
        let geometry = *chain.geometry();
        assert_eq!(geometry.virtual_size(), layers[layers.len() - 1].virtual_size);
        let mut found = BTreeMap::new();
        for_each_data(&chain, |cluster, raw| {
            let content = effective(layers, cluster).expect("a cluster nobody wrote holds data");
            let own = geometry_of(layers, cluster, &geometry);
            assert!(raw == content.bytes(&own, cluster), "cluster {cluster}");
            found.insert(cluster, cluster_hash(raw));
        });
        let indexes = members
            .iter()
            .rev()
            .map(|member| Index::open(member.index()).unwrap());
        let merged = MergedIndex::new(indexes.collect()).unwrap();
        let mut span_states = EffectiveSpan::new();
        for span in 0..geometry.spans() {
            merged.read_span(SpanIndex(span), &mut span_states).unwrap();
            for (ClusterIndex(cluster), state) in span_states.iter() {
                let expected = effective(layers, cluster).map(|content| match content {
                    Content::Zero => ClusterState::Zero,
                    Content::Trimmed => ClusterState::Trimmed,
                    _ => ClusterState::Data(found[&cluster]),
                });
                assert_eq!(state, expected, "cluster {cluster}");
            }
        }
    }
}

/// Replaces `run` of the chain by one image.
fn replace(members: &mut Vec<Member>, run: Range<usize>, rules: MergeRules) -> MergeOutcome {
    let (merged, outcome) = merge(&members[run.clone()], run.start == 0, rules);
    members.splice(run, [merged]);
    outcome
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        3 => any::<u64>().prop_map(Content::Mixed),
        3 => any::<u64>().prop_map(Content::Noise),
        1 => Just(Content::Zero),
        1 => Just(Content::Trimmed),
    ]
}

/// A disk of 16 KiB clusters that grows from time to time, written mostly in three places: at its begin, across the
/// first two spans, and at its end.
fn history(max_layers: usize) -> impl Strategy<Value = Vec<Layer>> {
    let write = (0u64..600, 1u64..100, content());
    let layer = (0u64..3000, prop::collection::vec(write, 0..8));
    let start = 2200 * 32u64..5000 * 32;
    (start, prop::collection::vec(layer, 1..=max_layers)).prop_map(|(sectors, layers)| {
        let mut virtual_size = sectors * 512;
        let mut history = Vec::new();
        for (growth, writes) in layers {
            // Mostly not at all, sometimes by a few clusters, seldom by a span.
            virtual_size += growth.saturating_sub(2000).pow(3) / 10_000 * 512;
            let count = Geometry::new(virtual_size, cluster_size()).unwrap().clusters();
            let mut clusters = BTreeMap::new();
            for (place, run, content) in writes {
                let first = match place {
                    0..200 => place,
                    200..400 => 2048 - 300 + place,
                    _ => count + place - 600,
                };
                for cluster in first..(first + run).min(count) {
                    // Neighbours differ, so that none can stand for another.
                    let content = match content {
                        Content::Mixed(seed) => Content::Mixed(seed ^ cluster),
                        Content::Noise(seed) => Content::Noise(seed ^ cluster),
                        other => other,
                    };
                    clusters.insert(cluster, content);
                }
            }
            history.push(Layer {
                virtual_size,
                clusters,
            });
        }
        history
    })
}

fn cluster_size() -> ClusterSize {
    ClusterSize::new(16 << 10).unwrap()
}

/// From a few clusters for a copy, so that nearly all is copied, to so many that nearly all is packed.
fn rules() -> impl Strategy<Value = MergeRules> {
    let align = prop_oneof![Just(512u64), Just(16 << 10), Just(64 << 10)];
    let least = prop_oneof![1u64..200 << 10, 200u64 << 10..2 << 20];
    let sizes = (least, 0u64..256 << 10, 0u64..256 << 10, 0u64..100 << 10);
    (align, sizes, 1u32..4, 0u64..2000).prop_map(|(align, (min, copy, literal, gap), weight, memory)| {
        let unit = align.max(16 << 10);
        MergeRules {
            min_piece: min,
            max_copy: 2 * (min + unit) + copy + unit,
            literal_piece: min + literal,
            align,
            max_gap: gap,
            dead_weight: weight,
            max_pieces: 10_000,
            memory,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_of_a_chain_merges_to_the_same_content(layers in history(5), rules in rules()) {
        let chain = members(&layers, cluster_size());
        verify_points(&layers, &chain, 0);
        for end in 1..=chain.len() {
            for start in 0..end {
                let mut chain = chain.clone();
                replace(&mut chain, start..end, rules);
                verify_points(&layers, &chain, start);
            }
        }
    }

    #[test]
    fn merged_images_merge_again(
        layers in history(8),
        merges in prop::collection::vec((any::<u32>(), 1usize..4, rules()), 12),
    ) {
        let mut chain = members(&layers, cluster_size());
        for (place, len, rules) in merges {
            let start = place as usize % chain.len();
            let end = (start + len).min(chain.len());
            replace(&mut chain, start..end, rules);
            verify_points(&layers, &chain, start);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn qemu_reads_merged_images(
        layers in history(5),
        merges in prop::collection::vec((any::<u32>(), 1usize..5, rules()), 1..4),
    ) {
        let mut chain = members(&layers, cluster_size());
        for (place, len, rules) in merges {
            let start = place as usize % chain.len();
            let end = (start + len).min(chain.len());
            replace(&mut chain, start..end, rules);
        }
        judge(&layers, &chain);
    }
}

/// qemu finds every image clean, and the newest equal to the model.
fn judge(layers: &[Layer], chain: &[Member]) {
    let dir = tempfile::tempdir().unwrap();
    let path = |member: &Member| dir.path().join(file_name(member.layers.end - 1));
    for member in chain {
        std::fs::write(path(member), &member.image).unwrap();
    }
    for member in chain {
        check(&path(member));
    }
    let raw = dir.path().join("raw");
    let size = layers[layers.len() - 1].virtual_size;
    let geometry = Image::open(chain[0].image()).unwrap().geometry().cluster_size();
    write_grown_raw(layers, &Geometry::new(size, geometry).unwrap(), &raw);
    compare(&path(&chain[chain.len() - 1]), &raw);
    converts(&path(&chain[chain.len() - 1]), &raw);
}

/// The way a stranger restores.
fn converts(image: &Path, raw: &Path) {
    let restored = raw.with_extension("restored");
    let (image, restored) = (image.to_str().unwrap(), restored.to_str().unwrap());
    run(
        "qemu-img",
        &["convert", "-f", "qcow2", "-O", "raw", image, restored],
    );
    run("cmp", &[raw.to_str().unwrap(), restored]);
}
