//! The index against a model and against damage.

use std::collections::BTreeMap;

use holdfast_qcow2::{
    ClusterIndex, ClusterSize, ClusterState, Digest, EffectiveSpan, Geometry, Index, IndexError, IndexPage,
    IndexSpec, IndexWriter, MergedIndex, SpanIndex, WriteError, cluster_hash,
};
use proptest::prelude::*;

type States = BTreeMap<u64, ClusterState>;

fn spec(geometry: Geometry, overlay: bool) -> IndexSpec {
    IndexSpec {
        image: "b-a1-s0.qcow2".parse().unwrap(),
        geometry,
        overlay,
    }
}

fn write(geometry: Geometry, overlay: bool, states: &States) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = IndexWriter::new(&spec(geometry, overlay), &mut out);
    for (cluster, state) in states {
        writer.push(ClusterIndex(*cluster), state, &mut out).unwrap();
    }
    let summary = writer.finish(&mut out);
    assert_eq!(summary.size, out.len() as u64);
    out
}

fn read(bytes: &[u8]) -> Result<States, IndexError> {
    let index = Index::open(bytes)?;
    let mut page = IndexPage::new();
    let mut states = States::new();
    for span in 0..index.geometry().spans() {
        let there = index.read_page(SpanIndex(span), &mut page)?;
        assert_eq!(there, index.page_extent(SpanIndex(span)).is_some());
        states.extend(page.iter().map(|(cluster, state)| (cluster.0, state)));
    }
    Ok(states)
}

fn geometry(virtual_size: u64) -> Geometry {
    // Spans of 2048 clusters.
    Geometry::new(virtual_size, ClusterSize::new(16 << 10).unwrap()).unwrap()
}

fn states(clusters: u64) -> impl Strategy<Value = States> {
    let state = prop_oneof![
        any::<[u8; 32]>().prop_map(|hash| ClusterState::Data(Digest(hash))),
        Just(ClusterState::Zero),
        Just(ClusterState::Trimmed),
    ];
    prop::collection::btree_map(0..clusters, state, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_index_gives_back_what_was_pushed(
        (clusters, expected) in (1u64..9000).prop_flat_map(|clusters| (Just(clusters), states(clusters))),
    ) {
        let bytes = write(geometry(clusters << 14), false, &expected);
        prop_assert_eq!(read(&bytes).unwrap(), expected);
    }

    #[test]
    fn the_newest_member_that_holds_a_cluster_decides(
        (clusters, members) in (1u64..9000).prop_flat_map(|clusters| {
            (Just(clusters), prop::collection::vec(states(clusters), 1..5))
        }),
    ) {
        let geometry = geometry(clusters << 14);
        let count = members.len();
        let files: Vec<_> = members.iter().enumerate().map(|(i, m)| write(geometry, i + 1 < count, m)).collect();
        let indexes = files.iter().map(|file| Index::open(file.as_slice()).unwrap()).collect();
        let merged = MergedIndex::new(indexes).unwrap();
        let mut span = EffectiveSpan::new();
        for number in 0..geometry.spans() {
            merged.read_span(SpanIndex(number), &mut span).unwrap();
            prop_assert_eq!(span.iter().len() as u64, geometry.clusters_of(SpanIndex(number)).count() as u64);
            for (cluster, state) in span.iter() {
                prop_assert_eq!(state, members.iter().find_map(|member| member.get(&cluster.0)).copied());
            }
        }
    }
}

fn small() -> Vec<u8> {
    let data = |byte| ClusterState::Data(Digest([byte; 32]));
    let states = [
        (0, data(1)),
        (3, ClusterState::Zero),
        (2047, data(2)),
        (2048, ClusterState::Trimmed),
        (4098, data(3)),
    ];
    write(geometry((4099 << 14) - 512), true, &states.into())
}

#[test]
fn every_flipped_bit_is_found() {
    let good = small();
    read(&good).unwrap();
    let mut bad = good.clone();
    for at in 0..good.len() {
        for bit in 0..8 {
            bad[at] ^= 1 << bit;
            assert!(read(&bad).is_err(), "byte {at} bit {bit}");
            bad[at] = good[at];
        }
    }
}

#[test]
fn every_cut_is_found() {
    let good = small();
    for len in 0..good.len() {
        assert!(read(&good[..len]).is_err(), "{len}");
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert!(read(&longer).is_err());
}

#[test]
fn a_page_of_another_index_is_found() {
    let (one, two) = (small(), {
        let states = [(0, ClusterState::Data(Digest([9; 32])))].into();
        write(geometry((4099 << 14) - 512), true, &states)
    });
    // The first page, with its valid own checksum, is as long in both up to the number of hashes.
    let extent = Index::open(two.as_slice())
        .unwrap()
        .page_extent(SpanIndex(0))
        .unwrap();
    let mut bad = one;
    bad[extent.start as usize..extent.end as usize]
        .copy_from_slice(&two[extent.start as usize..extent.end as usize]);
    assert!(matches!(read(&bad).unwrap_err(), IndexError::Page(SpanIndex(0))));
}

#[test]
fn an_empty_index_is_header_and_footer() {
    let bytes = write(geometry(512), false, &States::new());
    assert_eq!(bytes.len(), 288 + 96);
    let index = Index::open(bytes.as_slice()).unwrap();
    assert_eq!(index.spec(), &spec(geometry(512), false));
    assert!(read(&bytes).unwrap().is_empty());
}

#[test]
fn order_and_range_are_checked() {
    let mut out = Vec::new();
    let mut writer = IndexWriter::new(&spec(geometry(4 << 14), false), &mut out);
    writer
        .push(ClusterIndex(1), &ClusterState::Zero, &mut out)
        .unwrap();
    let error = writer
        .push(ClusterIndex(1), &ClusterState::Zero, &mut out)
        .unwrap_err();
    assert_eq!(
        error,
        WriteError::OutOfOrder {
            cluster: ClusterIndex(1),
            previous: ClusterIndex(1)
        }
    );
    let error = writer
        .push(ClusterIndex(4), &ClusterState::Zero, &mut out)
        .unwrap_err();
    assert_eq!(
        error,
        WriteError::BeyondEnd {
            cluster: ClusterIndex(4),
            clusters: 4
        }
    );
    let summary = writer.finish(&mut out);
    assert_eq!(
        (
            summary.data_clusters,
            summary.zero_clusters,
            summary.trimmed_clusters
        ),
        (0, 1, 0)
    );
    let index = Index::open(out.as_slice()).unwrap();
    assert_eq!(index.summary(), &summary);
    assert!(matches!(
        index.read_page(SpanIndex(1), &mut IndexPage::new()).unwrap_err(),
        IndexError::NoSuchSpan {
            span: SpanIndex(1),
            spans: 1
        }
    ));
}

/// Changes the page of the first span and makes all checksums right again, as an attacker or a faulty writer would.
fn forge(change: impl FnOnce(&mut [u8])) -> IndexError {
    // Five clusters with two of content: header of 24 bytes, states of two bytes, two hashes, checksum.
    let data = |byte| ClusterState::Data(Digest([byte; 32]));
    let mut bytes = write(geometry(5 << 14), false, &[(0, data(1)), (4, data(2))].into());
    let page = 288..288 + 24 + 2 + 64;
    change(&mut bytes[page.clone()]);
    let checksum = cluster_hash(&bytes[page.clone()]).0;
    let directory = page.end + 32;
    bytes[page.end..directory].copy_from_slice(&checksum);
    bytes[directory + 24..directory + 56].copy_from_slice(&checksum);
    let footer = directory + 56;
    let bound = [&bytes[..288], &bytes[directory..footer + 64]].concat();
    bytes[footer + 64..].copy_from_slice(&cluster_hash(&bound).0);
    Index::open(bytes.as_slice()).unwrap();
    read(&bytes).unwrap_err()
}

#[test]
fn a_page_that_contradicts_itself_is_refused_whatever_its_checksum() {
    let what = |error| match error {
        IndexError::Field { what, .. } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(forge(|page| page[0] = b'X')), "page magic");
    assert_eq!(what(forge(|page| page[7] = 1)), "page length");
    assert_eq!(what(forge(|page| page[15] = 1)), "page span");
    assert_eq!(what(forge(|page| page[19] = 0)), "page length");
    assert_eq!(what(forge(|page| page[23] = 1)), "reserved page bytes");
    assert_eq!(what(forge(|page| page[24] = 0b0101)), "number of hashes");
    assert_eq!(what(forge(|page| page[24] = 0)), "number of hashes");
    assert_eq!(
        what(forge(|page| page[25] |= 0b1000)),
        "state beyond the end of the disk"
    );
}
