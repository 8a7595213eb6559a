//! Random chains against the model, through our own reader and through qemu.

use std::collections::BTreeMap;

use holdfast_qcow2::{
    ChainError, ClusterIndex, ClusterSize, ClusterState, EffectiveSpan, Extent, Geometry, Image, ImageSpec,
    ImageWriter, IndexSpec, IndexWriter, Mapping, MergedIndex, Payload, SpanIndex, SpanMap, WriteError,
    cluster_hash,
};
use proptest::prelude::*;

use crate::support::*;

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        3 => any::<u64>().prop_map(Content::Mixed),
        2 => any::<u64>().prop_map(Content::Noise),
        1 => Just(Content::Zero),
        1 => Just(Content::Trimmed),
    ]
}

/// Positions are fractions of the disk, so that they stay valid when it has another size.
type Writes = Vec<(u32, u8, Content)>;

fn layer() -> impl Strategy<Value = (u64, Writes)> {
    (
        0u64..200_000,
        prop::collection::vec((any::<u32>(), 1u8..6, content()), 0..24),
    )
}

/// One to four layers of a disk that may grow from each to the next: up to six spans of 32 MiB, odd sizes.
fn chain() -> impl Strategy<Value = (ClusterSize, Vec<Layer>)> {
    let sizes = prop_oneof![Just(16u64 << 10), Just(64 << 10)];
    (sizes, 1u64..100_000, prop::collection::vec(layer(), 1..5)).prop_map(|(cluster, sectors, layers)| {
        let cluster_size = ClusterSize::new(cluster).unwrap();
        let mut virtual_size = sectors * 512;
        let mut chain = Vec::new();
        for (growth, writes) in layers {
            // Most layers keep the size.
            virtual_size += if growth > 100_000 {
                (growth - 100_000) * 512
            } else {
                0
            };
            let count = Geometry::new(virtual_size, cluster_size).unwrap().clusters();
            let mut clusters = BTreeMap::new();
            for (position, run, content) in writes {
                let first = (u64::from(position) * count) >> 32;
                for cluster in first..(first + u64::from(run)).min(count) {
                    clusters.insert(cluster, content);
                }
            }
            chain.push(Layer {
                virtual_size,
                clusters,
            });
        }
        (cluster_size, chain)
    })
}

/// The chain's content through our reader and through the indexes is what the model says.
fn verify(layers: &[Layer], stored: &[Stored]) {
    let chain = open_chain(stored);
    let geometry = *chain.geometry();
    let mut found = BTreeMap::new();
    for_each_data(&chain, |cluster, raw| {
        let content = effective(layers, cluster).expect("a cluster nobody wrote holds data");
        assert!(
            raw == content.bytes(&geometry_of(layers, cluster, &geometry), cluster),
            "cluster {cluster}"
        );
        found.insert(cluster, cluster_hash(raw));
    });
    let merged = MergedIndex::new(open_indexes(stored)).unwrap();
    let mut effective_span = EffectiveSpan::new();
    for span in 0..geometry.spans() {
        merged.read_span(SpanIndex(span), &mut effective_span).unwrap();
        for (ClusterIndex(cluster), state) in effective_span.iter() {
            let expected = effective(layers, cluster).map(|content| match content {
                Content::Zero => ClusterState::Zero,
                Content::Trimmed => ClusterState::Trimmed,
                _ => ClusterState::Data(found[&cluster]),
            });
            assert_eq!(state, expected, "cluster {cluster}");
            assert_eq!(effective_span.get(ClusterIndex(cluster)), expected);
        }
    }
    let data = |content: &Content| matches!(content, Content::Mixed(_) | Content::Noise(_));
    let newest = layers.last().unwrap();
    let count = newest.clusters.values().filter(|content| data(content)).count() as u64;
    let stored = stored.last().unwrap();
    assert_eq!(
        (
            stored.image_summary.data_clusters,
            stored.index_summary.data_clusters
        ),
        (count, count)
    );
    assert_eq!(
        Image::open(stored.image.as_slice())
            .unwrap()
            .tables_digest()
            .unwrap(),
        stored.image_summary.tables
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read((cluster_size, layers) in chain()) {
        let stored = write_chain(&layers, cluster_size);
        for depth in 1..=layers.len() {
            verify(&layers[..depth], &stored[..depth]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn qemu_reads_what_was_written((cluster_size, layers) in chain()) {
        let dir = tempfile::tempdir().unwrap();
        let newest = store(&write_chain(&layers, cluster_size), dir.path());
        for number in 0..layers.len() {
            check(&dir.path().join(file_name(number)));
        }
        let raw = dir.path().join("raw");
        let geometry = Geometry::new(layers.last().unwrap().virtual_size, cluster_size).unwrap();
        write_grown_raw(&layers, &geometry, &raw);
        compare(&newest, &raw);
    }
}

fn writer(virtual_size: u64, backing: Option<&str>) -> ImageWriter {
    let backing = backing.map(|name| name.parse().unwrap());
    ImageWriter::new(ImageSpec {
        virtual_size,
        cluster_size: ClusterSize::DEFAULT,
        backing,
        min_head: 0,
    })
    .unwrap()
}

#[test]
fn a_writer_refuses_what_breaks_its_order_and_goes_on() {
    let mut writer = writer(10 << 16, Some("base.qcow2"));
    let mut out = Vec::new();
    writer.push(ClusterIndex(3), Payload::Zero, &mut out).unwrap();
    for cluster in [3, 2, 0] {
        let error = writer
            .push(ClusterIndex(cluster), Payload::Zero, &mut out)
            .unwrap_err();
        assert_eq!(
            error,
            WriteError::OutOfOrder {
                cluster: ClusterIndex(cluster),
                previous: ClusterIndex(3)
            }
        );
    }
    let error = writer
        .push(ClusterIndex(10), Payload::Zero, &mut out)
        .unwrap_err();
    assert_eq!(
        error,
        WriteError::BeyondEnd {
            cluster: ClusterIndex(10),
            clusters: 10
        }
    );
    for len in [0, (64 << 10) + 513] {
        let frame = vec![1; len];
        let error = writer
            .push(ClusterIndex(4), Payload::Frame(&frame), &mut out)
            .unwrap_err();
        assert_eq!(
            error,
            WriteError::PayloadLength {
                cluster: ClusterIndex(4),
                len,
                max: (64 << 10) + 512
            }
        );
    }
    assert!(out.is_empty());
    writer.push(ClusterIndex(4), Payload::Zero, &mut out).unwrap();
    assert_eq!(writer.finish(&mut out).summary.zero_clusters, 2);
}

#[test]
fn specifications_without_an_image_are_refused() {
    let new = |virtual_size, cluster: u64, min_head| {
        let cluster_size = ClusterSize::new(cluster).unwrap();
        ImageWriter::new(ImageSpec {
            virtual_size,
            cluster_size,
            backing: None,
            min_head,
        })
        .unwrap_err()
    };
    assert!(matches!(new(0, 65536, 0), WriteError::Geometry(_)));
    assert!(matches!(new(1000, 65536, 0), WriteError::Geometry(_)));
    assert!(matches!(
        new(u64::MAX / 512 * 512, 65536, 0),
        WriteError::Geometry(_)
    ));
    assert!(matches!(new(1 << 20, 8192, 0), WriteError::ClusterSize(8192)));
    assert!(matches!(
        new(1 << 20, 65536, 65 << 20),
        WriteError::HeadTooLarge(_)
    ));
    // 2^49 is what a compressed entry can address with clusters of 2 MiB.
    assert!(matches!(new(1 << 49, 2 << 20, 0), WriteError::TooLarge(_)));
    assert!(
        ClusterSize::new(100_000).is_err()
            && ClusterSize::new(4 << 20).is_err()
            && ClusterSize::new(0).is_err()
    );
}

#[test]
fn backing_names_hold_nothing_that_could_be_read_otherwise() {
    use holdfast_qcow2::ImageName;
    for name in ["a.qcow2", "0.qcow2", "vol-1-full.qcow2"] {
        assert_eq!(name.parse::<ImageName>().unwrap().as_str(), name);
    }
    let long = format!("{}.qcow2", "a".repeat(250));
    let bad = [
        "",
        ".qcow2",
        "a",
        "a.qcow",
        "a.qcow2.qcow2",
        "A.qcow2",
        "nbd:a.qcow2",
        "../a.qcow2",
        "a b.qcow2",
        "ä.qcow2",
        "json:{}.qcow2",
        "a.qcow2\n",
        "a\0.qcow2",
        &long,
    ];
    for name in bad {
        assert_eq!(
            name.parse::<ImageName>(),
            Err(WriteError::ImageName(name.to_owned())),
            "{name:?}"
        );
    }
}

#[test]
fn an_overlay_keeps_zeroes_and_a_full_image_drops_them() {
    for (backing, expected) in [(Some("base.qcow2"), Mapping::Zero), (None, Mapping::Unallocated)] {
        let mut writer = writer(4 << 16, backing);
        let mut out = Vec::new();
        writer.push(ClusterIndex(1), Payload::Zero, &mut out).unwrap();
        let mut file = writer.finish(&mut out).head;
        file.extend(out);
        let image = Image::open(file).unwrap();
        let mut map = SpanMap::new();
        assert_eq!(
            image.read_span(SpanIndex(0), &mut map).unwrap(),
            backing.is_some()
        );
        let other = Mapping::Unallocated;
        assert_eq!(map.mappings(), [other, expected, other, other]);
    }
}

#[test]
fn members_that_do_not_fit_are_refused() {
    let image = |virtual_size, cluster: u64, backing: Option<&str>| {
        let backing = backing.map(|name| name.parse().unwrap());
        let cluster_size = ClusterSize::new(cluster).unwrap();
        let writer = ImageWriter::new(ImageSpec {
            virtual_size,
            cluster_size,
            backing,
            min_head: 0,
        })
        .unwrap();
        let mut body = Vec::new();
        let mut file = writer.finish(&mut body).head;
        file.extend(body);
        Image::open(file).unwrap()
    };
    let full = |size| image(size, 65536, None);
    let over = |size| image(size, 65536, Some("a.qcow2"));
    let error = |images| holdfast_qcow2::Chain::<Vec<u8>>::new(images).unwrap_err();
    assert_eq!(error(vec![]), ChainError::Empty);
    assert_eq!(
        error(vec![over(512)]),
        ChainError::Order {
            member: 0,
            members: 1,
            overlay: true
        }
    );
    assert_eq!(
        error(vec![full(512), full(512)]),
        ChainError::Order {
            member: 0,
            members: 2,
            overlay: false
        }
    );
    assert_eq!(
        error(vec![over(512), full(1024)]),
        ChainError::Shrinks {
            member: 1,
            found: 1024,
            newer: 512
        }
    );
    let small = image(512, 16384, None);
    assert_eq!(
        error(vec![over(512), small]),
        ChainError::ClusterSize {
            member: 1,
            found: 16384,
            expected: 65536
        }
    );
}

/// Whoever changes this test changes the format: docs/FORMAT.md and its version go with it.
#[test]
fn the_bytes_of_the_format_are_fixed() {
    let cluster_size = ClusterSize::new(16 << 10).unwrap();
    let image = "b-a1-s0.qcow2".parse().unwrap();
    let spec = ImageSpec {
        virtual_size: (4000 << 14) - 512,
        cluster_size,
        backing: Some("a-a1-s0.qcow2".parse().unwrap()),
        min_head: 0,
    };
    let mut writer = ImageWriter::new(spec).unwrap();
    let (mut body, mut index) = (Vec::new(), Vec::new());
    let geometry = *writer.geometry();
    let mut indexer = IndexWriter::new(
        &IndexSpec {
            image,
            geometry,
            overlay: true,
        },
        &mut index,
    );
    // Frames made by hand: what zstd makes of a cluster may change with its version.
    for cluster in (0..4000).step_by(3).map(ClusterIndex) {
        let frame = vec![cluster.0 as u8; 1 + cluster.0 as usize * 4];
        let (payload, state) = match cluster.0 % 4 {
            0 => (Payload::Zero, ClusterState::Zero),
            1 => (Payload::Zero, ClusterState::Trimmed),
            _ => (Payload::Frame(&frame), ClusterState::Data(cluster_hash(&frame))),
        };
        writer.push(cluster, payload, &mut body).unwrap();
        indexer.push(cluster, &state, &mut index).unwrap();
    }
    let finished = writer.finish(&mut body);
    let summary = indexer.finish(&mut index);
    let mut file = finished.head;
    file.extend(body);
    assert_eq!(
        finished.summary.tables.to_string(),
        "10a8e91e9e4e6fd5dec3fc3d6f3137aaa66625dcb0ad6f516f8c7badc025df2d"
    );
    assert_eq!(
        cluster_hash(&file).to_string(),
        "c71ac81d3503faf1c25123829beff3de1307cd5ccad1e1a91e8b70448be89a1f"
    );
    assert_eq!(
        summary.digest.to_string(),
        "55aa38e2ce53848f65815c7dbb614f8890b868d549d24d1c9918edab6a2f7db3"
    );
    assert_eq!(
        cluster_hash(&index).to_string(),
        "db931fd5bdcb9dc5394847c4c8da1aa6a7f642c5789a55f23223d112236ac4ce"
    );
}

#[test]
fn payload_takes_whole_sectors_and_no_more() {
    for (len, sectors) in [(1, 1), (511, 1), (512, 1), (513, 2), (65536, 128), (66048, 129)] {
        let mut writer = writer(1 << 16, None);
        let mut out = Vec::new();
        writer
            .push(ClusterIndex(0), Payload::Frame(&vec![7; len]), &mut out)
            .unwrap();
        assert_eq!(out.len(), sectors * 512);
        let mut file = writer.finish(&mut out).head;
        file.extend(out);
        let mut map = SpanMap::new();
        Image::open(file.as_slice())
            .unwrap()
            .read_span(SpanIndex(0), &mut map)
            .unwrap();
        let extent = Extent {
            offset: 3 << 16,
            len: sectors as u32 * 512,
            compressed: true,
        };
        assert_eq!(map.mappings(), [Mapping::Data(extent)]);
    }
}
