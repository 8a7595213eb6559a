//! Lengths, places, cuts, and layouts that describe nothing.

use super::*;

fn slice(key: &str, region: u8, first: u64, plain: u64, ends: bool) -> RegionSlice {
    RegionSlice {
        key: key.parse().unwrap(),
        region: RegionId::from_bytes([region; 16]),
        first: SegmentIndex(first),
        plain,
        ends,
    }
}

/// Two whole segments, one and a bit that end their region, one of another key.
fn sample() -> Layout {
    Layout::new([
        slice("a", 1, 0, 2 * PLAIN, false),
        slice("a", 2, 7, PLAIN + 5, true),
        slice("b", 3, 1, PLAIN, false),
    ])
    .unwrap()
}

#[test]
fn lengths_and_keys() {
    let layout = sample();
    assert_eq!(layout.plain_len(), 4 * PLAIN + 5);
    assert_eq!(layout.sealed_len(), 4 * PLAIN + 5 + 5 * 16);
    let keys: Vec<&str> = layout.key_ids().into_iter().map(KeyId::as_str).collect();
    assert_eq!(keys, ["a", "b"]);
    let empty = Layout::new([]).unwrap();
    assert_eq!((empty.plain_len(), empty.sealed_len()), (0, 0));
    assert_eq!(empty.locate(&(0..0)), Ok(0..0));
    assert_eq!(empty.cut(&(0..0)).unwrap().layout, empty);
}

#[test]
fn ranges_are_located_by_whole_segments() {
    let layout = sample();
    let cases = [
        (0..1, 0..SEALED),
        (PLAIN - 1..PLAIN, 0..SEALED),
        (PLAIN..PLAIN + 1, SEALED..2 * SEALED),
        (PLAIN - 1..PLAIN + 1, 0..2 * SEALED),
        (3 * PLAIN + 4..3 * PLAIN + 5, 3 * SEALED..3 * SEALED + 21),
        (3 * PLAIN + 5..3 * PLAIN + 6, 3 * SEALED + 21..4 * SEALED + 21),
        (0..layout.plain_len(), 0..layout.sealed_len()),
        (PLAIN..PLAIN, SEALED..SEALED),
        (PLAIN + 1..PLAIN + 1, SEALED..SEALED),
    ];
    for (plain, sealed) in cases {
        assert_eq!(layout.locate(&plain), Ok(sealed.clone()), "{plain:?}");
        let segments: Vec<SegmentAt> = layout.segments(&plain).unwrap().collect();
        assert_eq!(segments.is_empty(), plain.is_empty());
        if let (Some(first), Some(last)) = (segments.first(), segments.last()) {
            assert_eq!(first.sealed.start..last.sealed.end, sealed, "{plain:?}");
            assert!(first.plain.contains(&plain.start));
            assert!(last.plain.contains(&(plain.end - 1)));
        }
    }
    let ends: Vec<(u64, bool)> = layout
        .segments(&(0..layout.plain_len()))
        .unwrap()
        .map(|segment| (segment.index.0, segment.last))
        .collect();
    assert_eq!(ends, [(0, false), (1, false), (7, false), (8, true), (1, false)]);
    #[expect(clippy::reversed_empty_ranges)]
    let outside = [0..layout.plain_len() + 1, 5..4, u64::MAX..u64::MAX];
    for range in outside {
        assert!(matches!(
            layout.locate(&range),
            Err(LayoutError::OutOfRange { .. })
        ));
        assert!(matches!(layout.cut(&range), Err(LayoutError::OutOfRange { .. })));
        assert!(layout.segments(&range).is_err());
    }
}

#[test]
fn cuts_fall_between_segments_and_join_without_a_trace() {
    let layout = sample();
    let len = layout.plain_len();
    let boundaries = [0, PLAIN, 2 * PLAIN, 3 * PLAIN, 3 * PLAIN + 5, len];
    for from in boundaries {
        for to in boundaries.into_iter().filter(|to| *to >= from) {
            let parts = [0..from, from..to, to..len].map(|range| layout.cut(&range).unwrap());
            assert_eq!(parts[1].layout.plain_len(), to - from);
            assert_eq!(
                parts[1].layout.sealed_len(),
                parts[1].sealed.end - parts[1].sealed.start
            );
            assert_eq!(
                Layout::concat(parts.iter().map(|part| &part.layout)),
                Ok(layout.clone())
            );
        }
    }
    let cut = layout.cut(&(PLAIN..3 * PLAIN)).unwrap();
    assert_eq!(cut.sealed, SEALED..3 * SEALED);
    assert_eq!(
        cut.layout.slices(),
        [slice("a", 1, 1, PLAIN, false), slice("a", 2, 7, PLAIN, false)]
    );
    assert_eq!(
        layout.cut(&(0..3 * PLAIN + 1)),
        Err(LayoutError::Misaligned {
            offset: 3 * PLAIN + 1,
            before: 3 * PLAIN,
            after: 3 * PLAIN + 5
        })
    );
    assert!(matches!(
        layout.cut(&(4 * PLAIN..len)),
        Err(LayoutError::Misaligned { offset, .. }) if offset == 4 * PLAIN
    ));
    let next = slice("a", 1, 1, PLAIN, true);
    for (before, joined) in [
        (slice("a", 1, 0, PLAIN, false), 1),
        (slice("a", 1, 0, PLAIN, true), 2),
        (slice("a", 2, 0, PLAIN, false), 2),
        (slice("b", 1, 0, PLAIN, false), 2),
        (slice("a", 1, 1, PLAIN, false), 2),
    ] {
        let parts = [before, next.clone()].map(|slice| Layout::new([slice]).unwrap());
        assert_eq!(
            Layout::concat(&parts).unwrap().slices().len(),
            joined,
            "{parts:?}"
        );
    }
    // A piece twice, and pieces in another order, are other layouts.
    let piece = layout.cut(&(0..PLAIN)).unwrap().layout;
    assert_eq!(Layout::concat([&piece, &piece]).unwrap().slices().len(), 2);
}

#[test]
fn what_describes_no_object_is_refused() {
    let refused = |slices: Vec<RegionSlice>| Layout::new(slices).unwrap_err();
    assert_eq!(
        refused(vec![slice("a", 1, 0, 0, true)]),
        LayoutError::EmptySlice { slice: 0 }
    );
    assert_eq!(
        refused(vec![
            slice("a", 1, 0, PLAIN, false),
            slice("a", 1, 1, PLAIN + 1, false)
        ]),
        LayoutError::PartialSegment {
            slice: 1,
            plain: PLAIN + 1
        }
    );
    let too_large = LayoutError::TooLarge { slice: 0 };
    assert_eq!(refused(vec![slice("a", 1, 0, u64::MAX, true)]), too_large);
    assert_eq!(refused(vec![slice("a", 1, u64::MAX, PLAIN, true)]), too_large);
    assert_eq!(refused(vec![slice("a", 1, MAX_SEGMENTS, PLAIN, true)]), too_large);
    let largest = slice("a", 1, 0, MAX_SEGMENTS * PLAIN, true);
    assert!(Layout::new([largest.clone()]).is_ok());
    assert_eq!(
        refused(vec![largest.clone(), largest]),
        LayoutError::TooLarge { slice: 1 }
    );
    let many = vec![slice("a", 1, 5, PLAIN, false); MAX_SLICES];
    assert!(Layout::new(many.clone()).is_ok());
    let more = many.into_iter().chain([slice("a", 1, 5, PLAIN, false)]);
    assert_eq!(
        Layout::new(more),
        Err(LayoutError::TooManySlices { limit: MAX_SLICES })
    );
}

#[test]
fn json_is_the_list_of_slices_and_is_checked() {
    let layout = Layout::new([slice("b-1", 0xab, 3, 7, true)]).unwrap();
    let text =
        r#"[{"key":"b-1","region":"abababababababababababababababab","first":3,"plain":7,"ends":true}]"#;
    assert_eq!(serde_json::to_string(&layout).unwrap(), text);
    assert_eq!(serde_json::from_str::<Layout>(text).unwrap(), layout);
    for (good, bad) in [
        ("\"plain\":7", "\"plain\":0"),
        ("\"plain\":7", "\"plain\":-1"),
        ("\"plain\":7", "\"plain\":18446744073709551616"),
        ("true", "false"),
        ("\"first\":3", "\"first\":68719476736"),
        ("b-1", "B"),
        ("abab", "ABAB"),
        ("abab", "ab"),
        (",\"ends\":true", ""),
    ] {
        let text = text.replacen(good, bad, 1);
        assert!(serde_json::from_str::<Layout>(&text).is_err(), "{text}");
    }
}
