//! Nothing that was changed, moved, swapped, repeated or cut off opens, and the refusal says where.

use holdfast_seal::{
    DataKey, KeyRing, Layout, OpenError, RegionSlice, SEALED_SEGMENT, SEGMENT, SegmentIndex, TAG,
    open_document, peek, seal_document,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{Object, copy, data_key, noise};

/// Opens all of an object from other bytes: at once, and as a stream that must never yield anything but a beginning of
/// the right plaintext.
fn open_all(object: &Object, ring: &KeyRing, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let unlocked = object.layout.unlock(ring)?;
    let all = 0..object.layout.plain_len();
    let mut opener = unlocked.opener(all.clone()).unwrap();
    let mut out = Vec::new();
    let mut streamed = Ok(());
    for piece in sealed.chunks(10_000) {
        streamed = streamed.and_then(|()| opener.push(piece, &mut out));
        if let Err(error) = &streamed {
            assert_eq!(
                opener.push(piece, &mut out).as_ref(),
                Err(error),
                "it stays failed"
            );
        }
    }
    let streamed = streamed.and(opener.finish());
    assert!(object.plain.starts_with(&out));
    let opened = unlocked.open(&all, sealed.to_vec());
    assert_eq!(streamed.is_ok(), opened.is_ok(), "{streamed:?}");
    opened
}

/// An object of three regions under two keys, one of them without an end.
fn sample() -> (Object, KeyRing) {
    let keys = [data_key("b-1"), data_key("b-2")];
    let regions = [
        Object::seal(&keys[0], noise(1, 3 * SEGMENT)),
        Object::seal(&keys[1], noise(2, SEGMENT + 700)),
        Object::seal(&keys[0], noise(3, 2 * SEGMENT)),
    ];
    let object = Object::copied([
        (&regions[0], 0..2 * SEGMENT as u64),
        (&regions[1], 0..SEGMENT as u64 + 700),
        (&regions[2], 0..2 * SEGMENT as u64),
    ]);
    (object, KeyRing::of(keys).unwrap())
}

/// The segments as stored.
fn segments(object: &Object) -> Vec<Vec<u8>> {
    let all = 0..object.layout.plain_len();
    let segments = object.layout.segments(&all).unwrap();
    segments
        .map(|segment| object.sealed[segment.sealed.start as usize..segment.sealed.end as usize].to_vec())
        .collect()
}

fn damaged_segment(result: Result<Vec<u8>, OpenError>) -> u64 {
    match result {
        Err(OpenError::Damaged { offset, .. }) => offset,
        other => panic!("expected damage, got {:?}", other.map(|plain| plain.len())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_flipped_bit_is_found_where_it_is(at: Index, bit in 0_u8..8) {
        let (object, ring) = sample();
        let mut sealed = object.sealed.clone();
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        let hit = object.layout.segments(&(0..object.layout.plain_len())).unwrap()
            .find(|segment| segment.sealed.contains(&(at as u64))).unwrap();
        match open_all(&object, &ring, &sealed) {
            Err(OpenError::Damaged { region, segment, offset }) => {
                prop_assert_eq!(offset, hit.plain.start);
                prop_assert_eq!(segment, hit.index);
                prop_assert_eq!(region, object.layout.slices()[hit.slice].region);
            }
            other => prop_assert!(false, "{:?}", other.map(|plain| plain.len())),
        }
        // What does not touch the segment still reads.
        for segment in object.layout.segments(&(0..object.layout.plain_len())).unwrap() {
            let mut buffer = sealed[segment.sealed.start as usize..segment.sealed.end as usize].to_vec();
            let opened = object.layout.unlock(&ring).unwrap().open_segment(&segment, &mut buffer).is_ok();
            prop_assert_eq!(opened, segment != hit);
        }
    }

    #[test]
    fn a_truncated_or_longer_object_is_refused(at: Index, more in 1_usize..200_000) {
        let (object, ring) = sample();
        let at = at.index(object.sealed.len());
        let expected = object.layout.sealed_len();
        prop_assert_eq!(
            open_all(&object, &ring, &object.sealed[..at]).unwrap_err(),
            OpenError::Truncated { expected, found: at as u64 }
        );
        let mut longer = object.sealed.clone();
        longer.extend_from_slice(&noise(9, more));
        let error = open_all(&object, &ring, &longer).unwrap_err();
        prop_assert!(matches!(error, OpenError::Excess { .. }), "{}", error);
    }

    /// Any other order, repetition or omission of the same segments.
    #[test]
    fn other_segments_than_the_layout_says_are_refused(picks in vec(any::<Index>(), 6)) {
        let (object, ring) = sample();
        let stored = segments(&object);
        let picked: Vec<usize> = picks.iter().map(|pick| pick.index(stored.len())).collect();
        prop_assume!(picked != (0..stored.len()).collect::<Vec<_>>());
        let sealed: Vec<u8> = picked.iter().flat_map(|at| stored[*at].clone()).collect();
        prop_assert!(open_all(&object, &ring, &sealed).is_err());
    }

    /// Any change of a slice, which only somebody with the key could make, is refused all the same.
    #[test]
    fn another_layout_is_refused(at: Index, change in 0_usize..5, other: Index) {
        let (object, ring) = sample();
        let mut slices = object.layout.slices().to_vec();
        let at = at.index(slices.len());
        let other = other.get(object.layout.slices()).clone();
        let slice: &mut RegionSlice = &mut slices[at];
        match change {
            0 => slice.first = SegmentIndex(slice.first.0 + 1),
            1 => slice.ends = !slice.ends,
            2 => slice.region = other.region,
            3 => slice.key = if slice.key.as_str() == "b-1" { "b-2" } else { "b-1" }.parse().unwrap(),
            _ => *slice = RegionSlice { first: SegmentIndex(other.first.0 + 1), ..other },
        }
        prop_assume!(slices != object.layout.slices());
        let opened = Layout::new(slices).map(|layout| {
            open_all(&Object { layout, ..object.clone() }, &ring, &object.sealed)
        });
        prop_assert!(!matches!(opened, Ok(Ok(_))));
    }

    /// Parsers of what lies on a target take any bytes: no panic, and nothing opens.
    #[test]
    fn any_bytes_are_refused_as_documents(mut bytes in vec(any::<u8>(), 0..300), magic: bool, id: bool) {
        if magic {
            bytes.splice(..0, *b"HFSEAL1\n");
        }
        if id {
            bytes.splice(8.min(bytes.len())..8.min(bytes.len()), *b"\x03b-1");
        }
        let ring = KeyRing::of([data_key("b-1")]).unwrap();
        let _ = peek(&bytes);
        prop_assert!(open_document("key", &bytes, &ring, u64::MAX).is_err());
    }

    #[test]
    fn any_text_is_refused_or_a_sound_layout(text in r#"\[(\{"key":"b-[0-9]","region":"[0-9a-f]{32}","first":[0-9]{1,20},"plain":[0-9]{1,20},"ends":(true|false)\},?){0,4}\]"#) {
        if let Ok(layout) = serde_json::from_str::<Layout>(&text) {
            let sum: u64 = layout.slices().iter().map(|slice| slice.plain).sum();
            prop_assert_eq!(layout.plain_len(), sum);
            prop_assert_eq!(layout.locate(&(0..sum)), Ok(0..layout.sealed_len()));
        }
    }
}

/// Each bit of a small document, its head included.
#[test]
fn each_bit_of_a_document_counts() {
    let key = data_key("b-1");
    let sealed = seal_document(&key, "a/b.json", b"{\"format\":1}").unwrap();
    // Another key by each name that one flipped bit could make of ours must not help.
    let ring = KeyRing::of([key]).unwrap();
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            assert!(
                open_document("a/b.json", &changed, &ring, 100).is_err(),
                "byte {at} bit {bit}"
            );
        }
    }
    assert!(open_document("a/b.json", &sealed, &ring, 100).is_ok());
}

#[test]
fn a_document_belongs_to_its_place() {
    let key = data_key("b-1");
    let ring = KeyRing::of([copy(&key)]).unwrap();
    let document = seal_document(&key, "points/a/backup.json", b"one").unwrap();
    for place in [
        "points/b/backup.json",
        "points/a/backup.jso",
        "",
        "points/a/backup.json ",
    ] {
        let error = open_document(place, &document, &ring, 100).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { offset: 0, .. }), "{error}");
    }
    // Its region does not open as a part of an image either, although region and data key are known.
    let region = hex::encode(&document[12..28]);
    let layout = format!(r#"[{{"key":"b-1","region":"{region}","first":0,"plain":3,"ends":true}}]"#);
    let body = Object {
        plain: b"one".to_vec(),
        sealed: document[28..].to_vec(),
        layout: serde_json::from_str(&layout).unwrap(),
    };
    assert_eq!(damaged_segment(open_all(&body, &ring, &body.sealed)), 0);
}

#[test]
fn a_document_cut_off_anywhere_is_refused() {
    let key = data_key("b-1");
    let plain = noise(5, 2 * SEGMENT + 10);
    let document = seal_document(&key, "k", &plain).unwrap();
    let ring = KeyRing::of([key]).unwrap();
    let head = document.len() - (2 * SEALED_SEGMENT + 10 + TAG);
    let edges = [
        head,
        head + SEALED_SEGMENT,
        head + 2 * SEALED_SEGMENT,
        document.len(),
    ];
    let near = edges
        .iter()
        .flat_map(|edge| edge.saturating_sub(20)..(edge + 20).min(document.len()));
    for len in (0..head + 40)
        .chain(near)
        .chain((0..document.len()).step_by(4099))
    {
        let error = open_document("k", &document[..len], &ring, u64::MAX).unwrap_err();
        let cut_between_segments = len > head && (len - head).is_multiple_of(SEALED_SEGMENT);
        let too_short = len < head + TAG;
        match error {
            OpenError::Truncated { expected, found } => {
                assert!(expected > found && found == len as u64);
                assert!(
                    too_short || cut_between_segments || (len - head) % SEALED_SEGMENT < TAG,
                    "{len}"
                );
            }
            OpenError::Damaged { .. } => assert!(!too_short && !cut_between_segments, "{len}"),
            other => panic!("{len}: {other}"),
        }
    }
    let mut longer = document.clone();
    longer.push(0);
    assert!(matches!(
        open_document("k", &longer, &ring, u64::MAX),
        Err(OpenError::Damaged { .. })
    ));
}

#[test]
fn other_objects_are_told_from_sealed_ones() {
    let ring = KeyRing::default();
    let open = |bytes: &[u8]| open_document("k", bytes, &ring, 100).unwrap_err();
    assert_eq!(open(b"{\"format\":0}"), OpenError::NotSealed);
    assert_eq!(open(b"HFSEALS\0\0\0\0\0"), OpenError::NotSealed);
    assert_eq!(open(b"HFSEAL2\nwhatever"), OpenError::Version('2'));
    assert_eq!(
        open(b"HFSEA"),
        OpenError::Truncated {
            expected: 8,
            found: 5
        }
    );
    assert!(matches!(
        open(b"HFSEAL1\n"),
        OpenError::Truncated { found: 8, .. }
    ));
    let nameless = [b"HFSEAL1\n\0".as_slice(), &[0; 40]].concat();
    assert!(matches!(open(&nameless), OpenError::Head(_)));
    let shouting = [b"HFSEAL1\n\x02B1".as_slice(), &[0; 40]].concat();
    assert!(matches!(open(&shouting), OpenError::Head(_)));
    assert_eq!(peek(&shouting).unwrap_err(), open(&shouting));
}

/// A region lost its end, or got the end of another.
#[test]
fn ends_of_regions_cannot_be_forged() {
    let key = data_key("b-1");
    let ring = KeyRing::of([copy(&key)]).unwrap();
    let seal = |seed| Object::seal(&key, noise(seed, 2 * SEGMENT));
    let (object, other) = (seal(1), seal(2));
    // Half of the region as the whole: a layout that says so is refused, since that segment was not sealed as last.
    let half = |ends| Object {
        plain: object.plain[..SEGMENT].to_vec(),
        sealed: object.sealed[..SEALED_SEGMENT].to_vec(),
        layout: Layout::new([RegionSlice {
            plain: SEGMENT as u64,
            ends,
            ..object.layout.slices()[0].clone()
        }])
        .unwrap(),
    };
    assert_eq!(
        damaged_segment(open_all(&half(true), &ring, &half(true).sealed)),
        0
    );
    assert!(open_all(&half(false), &ring, &half(false).sealed).is_ok());
    // The same segment of another region under the same data key.
    let spliced = [&object.sealed[..SEALED_SEGMENT], &other.sealed[SEALED_SEGMENT..]].concat();
    assert_eq!(
        damaged_segment(open_all(&object, &ring, &spliced)),
        SEGMENT as u64
    );
}

/// A key of the right name that is another one: what is said cannot tell it from damage, and says both.
#[test]
fn a_wrong_data_key_opens_nothing() {
    let (object, _) = sample();
    let wrong = KeyRing::of(["b-1", "b-2"].map(data_key)).unwrap();
    let error = open_all(&object, &wrong, &object.sealed).unwrap_err();
    assert!(error.to_string().contains("belongs to another data key"));
    let key: DataKey = data_key("b-1");
    let document = seal_document(&key, "k", b"x").unwrap();
    assert!(open_document("k", &document, &wrong, 10).is_err());
}
