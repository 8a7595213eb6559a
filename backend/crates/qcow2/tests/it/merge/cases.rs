//! One case at a time: what is copied, what is packed, what is read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;

use holdfast_qcow2::{Mapping, SpanMap};

use super::*;

/// A full image of `clusters` that do not shrink, and an overlay that rewrites those of `rewritten`.
pub(super) fn base_and_overlay(
    clusters: u64,
    rewritten: impl Fn(u64) -> bool,
    cluster_size: ClusterSize,
) -> Vec<Layer> {
    let virtual_size = clusters * cluster_size.bytes();
    let layer = |seed: u64, held: &dyn Fn(u64) -> bool| Layer {
        virtual_size,
        clusters: (0..clusters)
            .filter(|c| held(*c))
            .map(|c| (c, Content::Noise(seed + c)))
            .collect(),
    };
    vec![layer(1, &|_| true), layer(1 << 32, &rewritten)]
}

pub(super) const SMALL: MergeRules = MergeRules {
    min_piece: 256 << 10,
    max_copy: 2 << 20,
    literal_piece: 512 << 10,
    align: 64 << 10,
    max_gap: 64 << 10,
    dead_weight: 1,
    max_pieces: 10_000,
    memory: 1 << 20,
};

#[test]
fn copies_gaps_and_packed_regions_all_happen() {
    // Of the base stay: clusters 0 to 99 with single holes, 200 to 219, 300 to 309, and every fourth from 400 to 499.
    let stays = |c: u64| match c {
        0..100 => c % 10 != 5,
        200..220 | 300..310 => true,
        400..500 => c.is_multiple_of(4),
        _ => false,
    };
    let layers = base_and_overlay(600, |c| !stays(c), cluster_size());
    let chain = members(&layers, cluster_size());
    let run = open_run(&chain, None);
    let mut plan = Merge::plan(&run, SMALL).unwrap();
    let mut copies = Vec::new();
    while let Some(piece) = plan.next_piece().unwrap() {
        if let PieceContent::Copy { member, source } = piece.content {
            copies.push((member, source.end - source.start));
        }
    }
    // The overlay: what is longer than 2 MiB in equal parts. The base: one copy over the single holes, and the 20
    // clusters; the 10 and the sparse ones are packed.
    assert_eq!(
        copies.iter().filter(|(member, _)| *member == 1).count(),
        2,
        "{copies:?}"
    );
    let overlay: Vec<u64> = copies
        .iter()
        .filter(|(member, _)| *member == 0)
        .map(|(_, len)| *len)
        .collect();
    assert!(
        overlay.len() > 2 && overlay.iter().all(|len| len.abs_diff(overlay[0]) <= 64 << 10),
        "{copies:?}"
    );
    let (mut merged, outcome) = (chain.clone(), *plan.outcome().unwrap());
    assert!(
        outcome.dead > 10 * (16 << 10) && outcome.packed > 35 * (16 << 10),
        "{outcome:?}"
    );
    replace(&mut merged, 0..2, SMALL);
    verify_points(&layers, &merged, 0);
    judge(&layers, &merged);
}

#[test]
fn refcounts_are_right_across_blocks_and_windows() {
    // Clusters of 16 KiB: a block counts 128 MiB of file; the window holds one.
    let layers = base_and_overlay(16_000, |c| c % 7000 > 6000 || c % 50 == 0, cluster_size());
    for memory in [0, 32 << 10, 1 << 20] {
        let mut chain = members(&layers, cluster_size());
        let outcome = replace(&mut chain, 0..2, MergeRules { memory, ..SMALL });
        assert!(outcome.image.file_size > 256 << 20);
        verify_points(&layers, &chain, 0);
        judge(&layers, &chain);
    }
}

#[test]
fn production_rules_hold_for_every_cluster_size() {
    for bits in 14..=21 {
        let cluster_size = ClusterSize::new(1 << bits).unwrap();
        let clusters = (48 << 20) >> bits;
        // The second quarter is rewritten in halves of clusters that alternate, the third wholly.
        let rewritten = |c: u64| match c * 4 / clusters {
            1 => c.is_multiple_of(2),
            2 => true,
            _ => false,
        };
        let layers = base_and_overlay(clusters, rewritten, cluster_size);
        for rules in [MergeRules::STORE, MergeRules::FILES] {
            let mut chain = members(&layers, cluster_size);
            let outcome = replace(&mut chain, 0..2, rules);
            assert!(outcome.copied > 20 << 20, "{bits} {outcome:?}");
            judge(&layers, &chain);
        }
    }
}

#[test]
fn an_empty_run_and_a_small_one_are_one_piece() {
    let empty = Layer {
        virtual_size: 100 << 20,
        clusters: BTreeMap::new(),
    };
    let mut chain = members(&[empty.clone(), empty.clone(), empty], cluster_size());
    for run in [1..3, 0..2] {
        let outcome = replace(&mut chain, run, MergeRules::STORE);
        assert_eq!((outcome.pieces, outcome.copied, outcome.packed), (1, 0, 0));
    }
    let layers = base_and_overlay(100, |c| c < 50, cluster_size());
    let mut chain = members(&layers, cluster_size());
    let outcome = replace(&mut chain, 0..2, MergeRules::STORE);
    assert_eq!((outcome.pieces, outcome.copied), (1, 0));
    // Packed without a gap: head, payload, one L2 table, one refcount block.
    let payload = outcome.packed.next_multiple_of(16 << 10);
    assert_eq!(
        outcome.image.file_size,
        outcome.image.head_size + payload + (2 << 14)
    );
    judge(&layers, &chain);
}

/// A full image whose payload lies in another order than its clusters, as a tool other than ours may write it. Payload
/// has equal lengths, so the slots are shuffled and the entries with them.
fn shuffled(layers: &[Layer]) -> Vec<Member> {
    let mut chain = members(layers, cluster_size());
    let original = chain[0].image.clone();
    let image = Image::open(original.as_slice()).unwrap();
    let mut map = SpanMap::new();
    image.read_span(SpanIndex(0), &mut map).unwrap();
    let table = image.table_extent(SpanIndex(0)).unwrap().start as usize;
    let slots: Vec<(usize, u64, usize)> = map
        .iter()
        .filter_map(|(cluster, mapping)| match mapping {
            Mapping::Data(extent) => Some((cluster.0 as usize, extent.offset, extent.len as usize)),
            _ => None,
        })
        .collect();
    assert!(slots.iter().all(|slot| slot.2 == slots[0].2));
    let mut order: Vec<usize> = (0..slots.len()).collect();
    let mut state = 7;
    for i in (1..order.len()).rev() {
        order.swap(i, (next(&mut state) % (i as u64 + 1)) as usize);
    }
    let shuffled = &mut chain[0].image;
    for (slot, target) in slots.iter().zip(order) {
        let (from, to, len) = (slot.1 as usize, slots[target].1 as usize, slot.2);
        shuffled[to..to + len].copy_from_slice(&original[from..from + len]);
        let entry = &mut shuffled[table + slot.0 * 8..][..8];
        let moved = u64::from_be_bytes((&*entry).try_into().unwrap()) - from as u64 + to as u64;
        entry.copy_from_slice(&moved.to_be_bytes());
    }
    chain
}

#[test]
fn payload_in_any_order_is_merged() {
    let layers = base_and_overlay(1500, |c| c % 100 > 70, cluster_size());
    let mut chain = shuffled(&layers);
    verify_points(&layers, &chain, 0);
    // Nearly a third of every place is dead.
    let outcome = replace(&mut chain, 0..2, SMALL);
    assert!(outcome.copied > 20 << 20 && outcome.dead > 5 << 20, "{outcome:?}");
    verify_points(&layers, &chain, 0);
    judge(&layers, &chain);
}

/// Counts what is read.
struct Metered<'a> {
    bytes: &'a [u8],
    read: RefCell<Vec<Range<u64>>>,
}

impl ReadAt for Metered<'_> {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read.borrow_mut().push(offset..offset + buf.len() as u64);
        self.bytes.read_exact_at(offset, buf)
    }
}

fn metered(chain: &[Member]) -> Run<Metered<'_>> {
    let open = |member| {
        Image::open(Metered {
            bytes: Member::image(member),
            read: RefCell::default(),
        })
    };
    Run::new(
        chain.iter().rev().map(|member| open(member).unwrap()).collect(),
        None,
    )
    .unwrap()
}

fn is_table(image: &Image<Metered<'_>>, read: &Range<u64>) -> bool {
    let mut tables = (0..2).filter_map(|span| image.table_extent(SpanIndex(span)));
    tables.any(|table| table.start <= read.start && read.end <= table.end)
}

#[test]
fn only_tables_and_what_is_packed_are_read() {
    // In the end a few clusters stay here and there, too far from each other to be read together.
    let rewritten = |c: u64| match c {
        0..3000 => c % 500 < 60 || c.is_multiple_of(97),
        _ => c % 40 > 2,
    };
    let layers = base_and_overlay(4000, rewritten, cluster_size());
    let chain = members(&layers, cluster_size());
    let run = metered(&chain);
    run.survey(&SMALL).unwrap();
    for image in run.images() {
        assert!(!image.source().read.borrow().is_empty());
        let tables = |read: &Range<u64>| read.end <= 48 << 10 || is_table(image, read);
        assert!(image.source().read.borrow().iter().all(tables));
    }
    let mut merge = Merge::plan(&run, SMALL).unwrap();
    let mut copies = Vec::new();
    while let Some(piece) = merge.next_piece().unwrap() {
        if let PieceContent::Copy { member, source } = piece.content {
            copies.push((member, source));
        }
    }
    let outcome = merge.outcome().unwrap();
    assert!(
        outcome.packed > 70 * (16 << 10) && outcome.copied > 50 << 20,
        "{outcome:?}"
    );
    let mut payload = 0;
    for (member, image) in run.images().iter().enumerate() {
        for read in image.source().read.borrow().iter() {
            if read.end <= 48 << 10 || is_table(image, read) {
                continue;
            }
            payload += read.end - read.start;
            let inside = |(other, copy): &(usize, Range<u64>)| {
                *other == member && copy.start <= read.start && read.end <= copy.end
            };
            assert!(
                !copies.iter().any(inside),
                "{read:?} of {member} was copied anyway"
            );
        }
    }
    // Neighbours are read together, with what lies between them.
    assert!(
        payload >= outcome.packed && payload < outcome.packed * 2,
        "{payload} {outcome:?}"
    );
}

#[test]
fn an_interrupted_merge_goes_on_with_what_is_missing() {
    let layers = base_and_overlay(3000, |c| c % 3 != 0 && c < 1000 || c > 2900, cluster_size());
    let chain = members(&layers, cluster_size());
    let run = open_run(&chain, None);
    let all = |skip: BTreeSet<u32>| {
        let run = metered(&chain);
        let mut merge = Merge::plan(&run, SMALL).unwrap();
        merge.skip(skip);
        let mut pieces = BTreeMap::new();
        while let Some(piece) = merge.next_piece().unwrap() {
            pieces.insert(piece.number, piece);
        }
        let read: u64 = run
            .images()
            .iter()
            .flat_map(|image| image.source().read.borrow().clone())
            .map(|read| read.end - read.start)
            .sum();
        (pieces, *merge.outcome().unwrap(), read)
    };
    let (whole, outcome, read) = all(BTreeSet::new());
    assert!(outcome.pieces > 20, "{outcome:?}");
    for step in [2, 3] {
        let stored: BTreeSet<u32> = (2..=outcome.pieces).filter(|number| number % step == 0).collect();
        let (rest, again, less) = all(stored.clone());
        assert_eq!(again, outcome);
        assert!(less < read, "{less} of {read}");
        for (number, piece) in &whole {
            assert_eq!(rest.get(number), Some(piece).filter(|_| !stored.contains(number)));
        }
    }
    let (head, _, tables) = all((1..=outcome.pieces).collect());
    assert_eq!(head.into_keys().collect::<Vec<_>>(), [1]);
    assert!(tables < read / 2);

    let fingerprint = |run: &Run<&[u8]>, rules| Merge::plan(run, rules).unwrap().fingerprint();
    assert_eq!(
        fingerprint(&run, SMALL),
        fingerprint(&open_run(&chain, None), SMALL)
    );
    let other = MergeRules {
        literal_piece: 1 << 20,
        ..SMALL
    };
    assert_ne!(fingerprint(&run, SMALL), fingerprint(&run, other));
    assert_ne!(
        fingerprint(&run, SMALL),
        fingerprint(&open_run(&chain[..1], None), SMALL)
    );
}

#[test]
fn fewer_pieces_are_made_of_longer_copies() {
    // Stretches of 0.6 MiB with gaps of 0.2 MiB between them.
    let layers = base_and_overlay(8000, |c| c % 50 >= 38, cluster_size());
    let chain = members(&layers, cluster_size());
    let run = open_run(&chain, None);
    let many = execute(&run, SMALL).1;
    assert!(many.pieces > 150 && many.dead < many.copied / 10, "{many:?}");
    let rules = MergeRules {
        max_pieces: 120,
        ..SMALL
    };
    let (file, few) = execute(&run, rules);
    assert!(few.pieces <= 120 && few.packed <= many.packed, "{few:?}");
    assert_eq!(
        Image::open(file.as_slice()).unwrap().tables_digest().unwrap(),
        few.image.tables
    );
}
