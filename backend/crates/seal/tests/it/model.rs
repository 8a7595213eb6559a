//! Whatever is sealed in whatever pieces, cut and joined, reads back as the model says.

use std::ops::Range;

use holdfast_seal::{
    DataKey, KeyRing, Layout, OpenError, RegionWriter, SEALED_SEGMENT, SEGMENT, SealError, Sealer, TAG,
    open_document, peek, seal_document,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{Object, copy, data_key, len_of, noise};

/// Lengths where mistakes are: small, and around whole segments.
fn length(segments: usize) -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0),
        2 => 1_usize..100,
        4 => (0..=segments, -17_i64..=17).prop_map(|(segments, offset)| len_of(segments, offset)),
        2 => 0..segments * SEGMENT,
    ]
}

/// Splits by lengths; what they leave is the last piece.
fn pieces<'b>(mut bytes: &'b [u8], lengths: &[usize]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    for len in lengths {
        let (piece, rest) = bytes.split_at((*len).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

fn range_of(len: u64, from: Index, to: Index) -> Range<u64> {
    let ends = [from, to].map(|at| at.index(len as usize + 1) as u64);
    ends[0].min(ends[1])..ends[0].max(ends[1])
}

/// Opens a range at once and as a stream in pieces.
fn check_range(object: &Object, ring: &KeyRing, range: &Range<u64>, lengths: &[usize]) {
    let expected = &object.plain[range.start as usize..range.end as usize];
    let unlocked = object.layout.unlock(ring).unwrap();
    let fetched = object.fetch(range);
    let mut out = Vec::new();
    let mut opener = unlocked.opener(range.clone()).unwrap();
    for piece in pieces(&fetched, lengths) {
        opener.push(piece, &mut out).unwrap();
    }
    opener.finish().unwrap();
    assert!(out == expected, "as a stream: {range:?}");
    let opened = unlocked.open(range, fetched).unwrap();
    assert!(opened == expected, "at once: {range:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_pushes_and_any_range_read_back(
        seed: u64,
        lengths in vec(length(4), 0..6),
        ranges in vec((any::<Index>(), any::<Index>()), 1..6),
        splits in vec(length(2), 0..6),
    ) {
        let key = data_key("b-1");
        let plain = noise(seed, lengths.iter().sum());
        let mut sealer = Sealer::new(&key);
        let mut sealed = Vec::new();
        let mut pushed = 0;
        for piece in pieces(&plain, &lengths) {
            sealer.push(piece, &mut sealed).unwrap();
            pushed += piece.len();
            // What a checkpoint would keep is what is there, and no more than a segment is held back.
            let layout = sealer.layout();
            prop_assert_eq!(layout.sealed_len(), sealed.len() as u64);
            prop_assert!(pushed as u64 - layout.plain_len() <= SEGMENT as u64);
        }
        let layout = sealer.finish(&mut sealed).unwrap();
        prop_assert_eq!(layout.plain_len(), plain.len() as u64);
        prop_assert!(layout.slices().iter().all(|slice| slice.ends), "a finished region ends");
        prop_assert_eq!(layout.sealed_len(), sealed.len() as u64);
        let text = serde_json::to_string(&layout).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Layout>(&text).unwrap(), &layout);
        let object = Object { plain, sealed, layout };
        let ring = KeyRing::of([key]).unwrap();
        check_range(&object, &ring, &(0..object.layout.plain_len()), &splits);
        for (from, to) in ranges {
            check_range(&object, &ring, &range_of(object.layout.plain_len(), from, to), &splits);
        }
    }

    /// Three generations of merges, each of random pieces of all objects before.
    #[test]
    fn cut_and_joined_reads_as_the_model_says(
        seed: u64,
        regions in vec((0_usize..3, length(5)), 1..5),
        merges in vec(vec((any::<Index>(), any::<Index>(), any::<Index>()), 1..6), 1..4),
        ranges in vec((any::<Index>(), any::<Index>()), 1..4),
        splits in vec(length(2), 0..4),
    ) {
        let keys: Vec<DataKey> = ["b-1", "b-2", "b-3"].map(data_key).into();
        let mut objects: Vec<Object> = regions
            .iter()
            .zip(seed..=u64::MAX)
            .map(|((key, len), seed)| Object::seal(&keys[*key], noise(seed, *len)))
            .collect();
        let ring = KeyRing::of(keys.iter().map(copy)).unwrap();
        for merge in merges {
            let cuts = merge.iter().map(|(object, from, to)| {
                let object = object.get(&objects);
                let boundaries = object.boundaries();
                let ends = [from, to].map(|at| *at.get(&boundaries));
                (object, ends[0].min(ends[1])..ends[0].max(ends[1]))
            });
            let merged = Object::copied(cuts);
            prop_assert_eq!(merged.layout.plain_len(), merged.plain.len() as u64);
            prop_assert_eq!(merged.layout.sealed_len(), merged.sealed.len() as u64);
            let text = serde_json::to_string(&merged.layout).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Layout>(&text).unwrap(), &merged.layout);
            check_range(&merged, &ring, &(0..merged.layout.plain_len()), &splits);
            for (from, to) in &ranges {
                check_range(&merged, &ring, &range_of(merged.layout.plain_len(), *from, *to), &splits);
            }
            objects.push(merged);
        }
    }

    /// An upload that is interrupted after any push goes on from its checkpoint, in a new region.
    #[test]
    fn a_resumed_upload_reads_back(seed: u64, lengths in vec(length(3), 1..8)) {
        let key = data_key("b-1");
        let plain = noise(seed, lengths.iter().sum());
        let (mut sealed, mut done) = (Vec::new(), Layout::default());
        for len in &lengths {
            let mut sealer = Sealer::new(&key);
            let from = done.plain_len() as usize;
            let to = plain.len().min(from + len);
            sealer.push(&plain[from..to], &mut sealed).unwrap();
            done = Layout::concat([&done, &sealer.layout()]).unwrap();
            prop_assert_eq!(done.sealed_len(), sealed.len() as u64);
        }
        let mut sealer = Sealer::new(&key);
        sealer.push(&plain[done.plain_len() as usize..], &mut sealed).unwrap();
        let layout = Layout::concat([&done, &sealer.finish(&mut sealed).unwrap()]).unwrap();
        let ring = KeyRing::of([key]).unwrap();
        let all = 0..layout.plain_len();
        let opened = layout.unlock(&ring).unwrap().open(&all, sealed).unwrap();
        prop_assert!(opened == plain);
    }

    #[test]
    fn documents_read_back(seed: u64, len in length(3), id in "[a-z0-9-]{1,64}", context in ".{1,200}") {
        let key = data_key(&id);
        let plain = noise(seed, len);
        let sealed = seal_document(&key, &context, &plain).unwrap();
        prop_assert_eq!(&peek(&sealed).unwrap(), key.id());
        let head = &sealed[..sealed.len().min(holdfast_seal::MAX_DOCUMENT_HEAD)];
        prop_assert_eq!(&peek(head).unwrap(), key.id());
        let ring = KeyRing::of([key]).unwrap();
        prop_assert!(open_document(&context, &sealed, &ring, len as u64).unwrap() == plain);
        if len > 0 {
            prop_assert_eq!(
                open_document(&context, &sealed, &ring, len as u64 - 1).unwrap_err(),
                OpenError::TooLarge { found: len as u64, limit: len as u64 - 1 }
            );
        }
    }
}

/// All cores seal and open one region, each a segment at a time and in place.
#[test]
fn segments_are_sealed_and_opened_on_many_threads() {
    let key = data_key("b-1");
    let plain = noise(7, 9 * SEGMENT + 100);
    let mut region = RegionWriter::new(&key);
    let mut tickets: Vec<_> = (0..9).map(|_| region.next_segment().unwrap()).collect();
    assert_eq!(region.layout().plain_len(), 9 * SEGMENT as u64);
    let (last, layout) = region.last_segment(100).unwrap();
    tickets.push(last);
    let mut sealed: Vec<u8> = plain
        .chunks(SEGMENT)
        .flat_map(|segment| [segment, &[0; TAG]].concat())
        .collect();
    std::thread::scope(|scope| {
        for (ticket, buffer) in tickets.into_iter().zip(sealed.chunks_mut(SEALED_SEGMENT)) {
            scope.spawn(move || {
                assert_eq!(ticket.plain_len() + TAG, buffer.len());
                ticket.seal(buffer).unwrap();
            });
        }
    });
    let object = Object {
        plain,
        sealed,
        layout,
    };
    let ring = KeyRing::of([key]).unwrap();
    check_range(&object, &ring, &(0..object.layout.plain_len()), &[]);
    let unlocked = object.layout.unlock(&ring).unwrap();
    let mut stored = object.sealed.clone();
    std::thread::scope(|scope| {
        let segments = unlocked
            .layout()
            .segments(&(0..object.layout.plain_len()))
            .unwrap();
        for (segment, buffer) in segments.zip(stored.chunks_mut(SEALED_SEGMENT)) {
            let (unlocked, plain) = (&unlocked, &object.plain);
            scope.spawn(move || {
                let opened = unlocked.open_segment(&segment, buffer).unwrap();
                assert!(opened == &plain[segment.plain.start as usize..segment.plain.end as usize]);
            });
        }
    });
}

/// Also where the last push filled a segment.
#[test]
fn a_finished_region_ends() {
    let key = data_key("b-1");
    for (first, second) in [(0, -1), (0, 0), (0, 1), (1, 0), (1, 1), (-1, 1), (-1, 2)] {
        for segments in [1, 2] {
            let pushed = [len_of(segments, first), len_of(1, second)];
            for pushed in [&pushed[..1], &pushed[..]] {
                let mut sealer = Sealer::new(&key);
                let mut sealed = Vec::new();
                for len in pushed {
                    sealer.push(&vec![1; *len], &mut sealed).unwrap();
                }
                let layout = sealer.finish(&mut sealed).unwrap();
                assert!(matches!(layout.slices(), [slice] if slice.ends), "{layout:?}");
                assert_eq!(layout.sealed_len(), sealed.len() as u64);
            }
        }
    }
    let empty = Sealer::new(&key).finish(&mut Vec::new()).unwrap();
    assert_eq!(empty, Layout::default());
}

#[test]
fn contracts_of_the_writers() {
    let key = data_key("b-1");
    let mut region = RegionWriter::new(&key);
    let ticket = region.next_segment().unwrap();
    assert_eq!(
        ticket.seal(&mut vec![0; SEGMENT]).unwrap_err(),
        SealError::Length {
            expected: SEALED_SEGMENT,
            found: SEGMENT
        }
    );
    for len in [0, SEGMENT + 1] {
        let error = RegionWriter::new(&key).last_segment(len).unwrap_err();
        assert_eq!(error, SealError::LastSegment(len));
    }
    for context in [String::new(), "k".repeat(1025)] {
        let error = seal_document(&key, &context, b"x").unwrap_err();
        assert_eq!(error, SealError::Context(context.len()));
    }
    assert!(seal_document(&key, &"k".repeat(1024), b"x").is_ok());
    // The same content never looks the same.
    let seal = || Object::seal(&key, vec![1; 100]);
    let (one, two) = (seal(), seal());
    assert_ne!(one.sealed, two.sealed);
    assert_ne!(one.layout, two.layout);
}

#[test]
fn a_missing_key_is_refused_before_a_byte_is_read() {
    let (one, two) = (data_key("b-1"), data_key("b-2"));
    let merged = {
        let objects = [
            Object::seal(&one, noise(1, SEGMENT)),
            Object::seal(&two, noise(2, SEGMENT)),
        ];
        Object::copied(objects.iter().map(|object| (object, 0..SEGMENT as u64)))
    };
    let mut ring = KeyRing::of([one]).unwrap();
    let error = merged.layout.unlock(&ring).unwrap_err();
    assert_eq!(error, OpenError::NoKey("b-2".parse().unwrap()));
    assert!(error.to_string().contains("b-2") && error.to_string().contains("recovery key"));
    let document = seal_document(&two, "key", b"x").unwrap();
    assert_eq!(open_document("key", &document, &ring, 9).unwrap_err(), error);
    ring.insert(two).unwrap();
    check_range(&merged, &ring, &(0..2 * SEGMENT as u64), &[]);
}
