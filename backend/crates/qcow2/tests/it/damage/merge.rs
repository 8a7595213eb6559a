//! Merges of damaged and hostile members, and damage of merged images.

use holdfast_qcow2::{ClusterIndex, ImageSpec, ImageWriter, MergeError, MergeRules, Payload, Run};

use super::*;
use crate::merge::carry_out;

/// So small that a few clusters make a copy.
const RULES: MergeRules = MergeRules {
    min_piece: 64 << 10,
    max_copy: 192 << 10,
    literal_piece: 64 << 10,
    align: 16 << 10,
    max_gap: 16 << 10,
    dead_weight: 1,
    max_pieces: 10_000,
    memory: 1 << 20,
};

/// Two overlays with enough content for copies and for packing, oldest first.
fn overlays() -> [Vec<u8>; 2] {
    let content = |c: u64| match c % 11 {
        3 => Content::Zero,
        5 => Content::Trimmed,
        _ => Content::Noise(c),
    };
    let clusters: [Vec<u64>; 2] = [
        (0..30).chain(100..160).chain(2040..2060).collect(),
        // What stays of the older one's second stretch is too sparse to be copied.
        (10..14)
            .chain((100..160).filter(|c| c % 4 != 1))
            .chain(2044..2080)
            .collect(),
    ];
    let layer = |(number, clusters): (usize, Vec<u64>)| {
        let layer = Layer {
            virtual_size: (2090 << 14) - 512,
            clusters: clusters
                .into_iter()
                .map(|c| (c, content(c * 7 + number as u64)))
                .collect(),
        };
        write_layer(&layer, number + 1, ClusterSize::new(16 << 10).unwrap(), 0).image
    };
    let mut layers = clusters.into_iter().enumerate().map(layer);
    [layers.next().unwrap(), layers.next().unwrap()]
}

/// Merges two members; what comes out, if something does, is an image in itself.
fn use_run(newest: &[u8], oldest: &[u8]) -> Result<u64, ()> {
    let images = [newest, oldest].map(|bytes| Image::open(Probe::new(bytes)));
    let images: Result<Vec<_>, _> = images.into_iter().collect();
    let run = Run::new(images.map_err(|_| ())?, Some("a.qcow2".parse().unwrap())).map_err(|_| ())?;
    if run.geometry().spans() > 4096 {
        // A flipped size; the head alone takes long.
        return Err(());
    }
    let (file, outcome) = carry_out(&run, RULES).map_err(|_| ())?;
    assert_eq!(
        Image::open(file.as_slice()).unwrap().tables_digest().unwrap(),
        outcome.image.tables
    );
    Ok(outcome.copied)
}

#[test]
fn damaged_members_are_merged_to_an_image_or_not_at_all() {
    let [oldest, newest] = overlays();
    assert!(use_run(&newest, &oldest).unwrap() > 512 << 10);
    for len in (0..newest.len()).step_by(4099).chain(0..200) {
        // The refcount block at its end is not needed.
        let cut = use_run(&newest[..len], &oldest);
        assert!(cut.is_err() || len >= newest.len() - (16 << 10), "newest {len}");
    }
    for len in (0..oldest.len()).step_by(4099) {
        let cut = use_run(&newest, &oldest[..len]);
        assert!(cut.is_err() || len >= oldest.len() - (16 << 10), "oldest {len}");
    }
    let image = Image::open(newest.as_slice()).unwrap();
    let tables = [SpanIndex(0), SpanIndex(1)].map(|span| image.table_extent(span).unwrap());
    let mut bad = newest.clone();
    let (mut merged, mut refused) = (0, 0);
    let places = (0..3 << 14)
        .step_by(41)
        .chain(0..256)
        .chain(1 << 14..(1 << 14) + 16);
    for at in places.chain(tables.into_iter().flat_map(|table| table.step_by(29))) {
        for bit in [at % 8, (at + 3) % 8] {
            bad[at as usize] ^= 1 << bit;
            match use_run(&bad, &oldest).and(use_run(&oldest, &bad)) {
                Ok(_) => merged += 1,
                Err(()) => refused += 1,
            }
            bad[at as usize] = newest[at as usize];
        }
    }
    assert!(merged > 1000 && refused > 500, "{merged} {refused}");
}

#[test]
fn a_merged_image_is_bound_by_its_tables_like_any_other() {
    let [oldest, newest] = overlays();
    let images = [&newest, &oldest].map(|bytes| Image::open(bytes.as_slice()).unwrap());
    let run = Run::new(images.into(), Some("a.qcow2".parse().unwrap())).unwrap();
    let (good, outcome) = carry_out(&run, RULES).unwrap();
    assert!(
        outcome.copied > 0 && outcome.packed > 0 && outcome.dead > 0,
        "{outcome:?}"
    );
    assert_eq!(use_image(&good).unwrap(), outcome.image.tables);
    let image = Image::open(good.as_slice()).unwrap();
    let tables = [SpanIndex(0), SpanIndex(1)].map(|span| image.table_extent(span).unwrap());
    let places = (0..outcome.image.head_size).step_by(5);
    let mut bad = good.clone();
    for at in places.chain(tables.iter().cloned().flat_map(|table| table.step_by(11))) {
        bad[at as usize] ^= 1 << (at % 8);
        let result = use_image(&bad);
        let found = result.is_err() || result.is_ok_and(|digest| digest != outcome.image.tables);
        assert!(found, "{at}");
        bad[at as usize] = good[at as usize];
    }
    for len in (0..good.len()).step_by(997) {
        let result = use_image(&good[..len]);
        let found = result.is_err() || result.is_ok_and(|digest| digest != outcome.image.tables);
        assert!(found, "{len}");
    }
    // Two spans may not share a table, nor a table and the head.
    let l1 = 16 << 10;
    for table in [tables[1].start, l1 as u64, 2 * l1 as u64] {
        bad[l1..l1 + 8].copy_from_slice(&table.to_be_bytes());
        assert!(matches!(use_image(&bad).unwrap_err(), ReadError::Overlap { .. }));
    }
}

#[test]
fn clusters_that_share_payload_without_end_are_refused() {
    // Refcounts end at 65535.
    let clusters = 33 * 2048;
    let spec = ImageSpec {
        virtual_size: clusters << 14,
        cluster_size: ClusterSize::new(16 << 10).unwrap(),
        backing: None,
        min_head: 0,
    };
    let mut writer = ImageWriter::new(spec).unwrap();
    let mut body = Vec::new();
    for cluster in 0..clusters {
        // The first one is large enough for a copy.
        let frame = vec![7; if cluster == 0 { 16 << 10 } else { 1 }];
        writer
            .push(ClusterIndex(cluster), Payload::Frame(&frame), &mut body)
            .unwrap();
    }
    let mut file = writer.finish(&mut body).head;
    file.append(&mut body);
    let image = Image::open(file.as_slice()).unwrap();
    let table = |span| image.table_extent(SpanIndex(span)).unwrap();
    let tables: Vec<_> = (0..33).map(table).collect();
    let first = file[tables[0].start as usize..][..8].to_vec();
    for table in tables {
        for entry in file[table.start as usize..table.end as usize].chunks_exact_mut(8) {
            entry.copy_from_slice(&first);
        }
    }
    let rules = MergeRules {
        min_piece: 1,
        max_pieces: 100_000,
        ..RULES
    };
    let run = Run::new(vec![Image::open(Probe::new(&file)).unwrap()], None).unwrap();
    let error = carry_out(&run, rules).unwrap_err();
    assert!(matches!(error, MergeError::SharedPayload { .. }), "{error}");
}
