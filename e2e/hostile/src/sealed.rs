//! What is sealed: layouts, documents, wrapped keys.

use std::str;

use holdfast_seal::{
    DataKey, KeyRing, Layout, Location, PlanKey, RecoveryKey, SegmentAt, open_document, peek, rewrap,
    seal_document, unwrap_with_plan, unwrap_with_recovery,
};
use secrecy::ExposeSecret as _;

use crate::carve::Carver;

/// The keys of the test vectors in `docs/FORMAT.md`, known to everybody.
pub(crate) const LOCATION: &str = "c-1/p-1/b-1";
pub(crate) const DATA_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
pub(crate) const PLAN_KEY: &str =
    "AGE-SECRET-KEY-1M5DTLZDYX20C3NCXKJATMA2EGMPCGZT3YKZ2EFY96PCNM5FFKKHSSY90XX";
pub(crate) const RECOVERY_KEY: &str =
    "AGE-SECRET-KEY-1AKGXW9ZTDCWGQ0T52AJZ5M9EWQ85EJZZA58SFJAQM2FWRVWDKQQQ2WKQTJ";
pub(crate) const CONTEXT: &str = "holdfast/points/c-1/p-1/b-1/backup.json";

/// Bytes of plaintext of a range that is opened.
const RANGE: u64 = 1 << 20;
/// Most plaintext of a document.
const MAX: u64 = 64 << 10;

pub(crate) fn data_key() -> DataKey {
    DataKey::from_hex(LOCATION.parse().expect("a location"), DATA_KEY).expect("a key")
}

pub(crate) fn ring() -> KeyRing {
    KeyRing::of([data_key()]).expect("keys of one plan")
}

/// JSON of a layout, and behind a zero byte the places where it is cut and read.
pub(crate) fn layout(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let Ok(layout) = serde_json::from_slice::<Layout>(&input[..end]) else {
        return;
    };
    let printed = serde_json::to_vec(&layout).expect("a layout can be written");
    assert_eq!(
        serde_json::from_slice::<Layout>(&printed).ok().as_ref(),
        Some(&layout)
    );
    assert!(layout.plain_len() <= layout.sealed_len());
    assert_eq!(
        layout.locate(&(0..layout.plain_len())),
        Ok(0..layout.sealed_len())
    );
    let unlocked = layout.unlock(&ring());
    let mut places = Carver::new(input.get(end + 1..).unwrap_or_default());
    for _ in 0..8 {
        let (start, len) = (places.number(7), places.number(3));
        let start = start % (layout.plain_len() + 1);
        let plain = start..layout.plain_len().min(start + len.min(RANGE));
        let segments = check_range(&layout, &plain);
        let (Ok(unlocked), [first, .., last]) = (&unlocked, segments.as_slice()) else {
            continue;
        };
        let sealed = vec![0; (last.sealed.end - first.sealed.start) as usize];
        assert!(
            unlocked.open(&plain, sealed.clone()).is_err(),
            "zeroes were authentic"
        );
        let mut opened = Vec::new();
        let mut opener = unlocked.opener(plain.clone()).expect("the range is inside");
        let pushed = opener.push(&sealed, &mut opened);
        assert!(pushed.is_err() && opened.is_empty() && opener.finish().is_err());
    }
    assert!(layout.locate(&(0..layout.plain_len() + 1)).is_err());
}

/// The segments of a range follow each other and hold it; where it ends between two, it can be cut off and joined again.
fn check_range(layout: &Layout, plain: &std::ops::Range<u64>) -> Vec<SegmentAt> {
    let located = layout.locate(plain).expect("the range is inside");
    let segments: Vec<SegmentAt> = layout.segments(plain).expect("the range is inside").collect();
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        assert!(plain.is_empty() && located.is_empty());
        return segments;
    };
    assert!(first.plain.start <= plain.start && plain.start < first.plain.end);
    assert!(last.plain.start < plain.end && plain.end <= last.plain.end);
    assert_eq!(located, first.sealed.start..last.sealed.end);
    for pair in segments.windows(2) {
        assert_eq!(pair[0].plain.end, pair[1].plain.start);
        assert_eq!(pair[0].sealed.end, pair[1].sealed.start);
    }
    let (from, to, end) = (first.plain.start, last.plain.end, layout.plain_len());
    let cut = [0..from, from..to, to..end].map(|range| layout.cut(&range).expect("it ends between segments"));
    assert_eq!(cut[1].sealed, located);
    assert_eq!(cut[1].layout.sealed_len(), located.end - located.start);
    assert_eq!(cut[0].sealed.end, located.start);
    assert_eq!(cut[2].sealed, located.end..layout.sealed_len());
    // A list of as many slices as there may be has no room for another cut.
    if let Ok(joined) = Layout::concat(cut.iter().map(|cut| &cut.layout)) {
        assert_eq!(Layout::concat([layout]).as_ref(), Ok(&joined));
    }
    if plain.start > from {
        assert!(
            layout.cut(&(plain.start..to)).is_err(),
            "a cut inside of a segment"
        );
    }
    segments
}

/// A sealed document; and the same bytes as plaintext of one.
pub(crate) fn document(input: &[u8]) {
    let (key, ring) = (data_key(), ring());
    let needs = peek(input);
    let opened = open_document(CONTEXT, input, &ring, MAX);
    if let Ok(plain) = &opened {
        assert_eq!(needs.ok().as_ref(), Some(key.id()));
        assert!(plain.len() as u64 <= MAX);
        assert!(open_document("holdfast/points/elsewhere", input, &ring, MAX).is_err());
        assert!(open_document(CONTEXT, &input[..input.len() - 1], &ring, MAX).is_err());
    }
    let plain = opened.as_deref().unwrap_or(input);
    let sealed = seal_document(&key, CONTEXT, plain).expect("the context is a key");
    assert_eq!(peek(&sealed).ok().as_ref(), Some(key.id()));
    let again = open_document(CONTEXT, &sealed, &ring, plain.len() as u64);
    assert!(again.is_ok_and(|again| again == plain), "a document changed");
    if !plain.is_empty() {
        assert!(open_document(CONTEXT, &sealed, &ring, plain.len() as u64 - 1).is_err());
    }
}

/// A wrapped key; or the text of one that wraps.
pub(crate) fn wrapped_key(input: &[u8]) {
    let location: Location = LOCATION.parse().expect("a location");
    let plan = PlanKey::parse(PLAN_KEY).expect("a key");
    let recovery = RecoveryKey::parse(RECOVERY_KEY).expect("a key");
    let proven = unwrap_with_plan(input, &location, &plan);
    let recovered = unwrap_with_recovery(input, &location, &recovery);
    if let (Ok(proven), Ok(recovered)) = (&proven, recovered) {
        let recovered = recovered.accept_unproven_origin();
        assert_eq!(
            proven.to_hex().expose_secret(),
            recovered.to_hex().expose_secret()
        );
    }
    if let Ok(proven) = proven {
        assert_eq!(proven.location(), &location);
        let other: Location = "c-1/p-1/b-2".parse().expect("a location");
        assert!(unwrap_with_plan(input, &other, &plan).is_err());
        let new = PlanKey::generate();
        let again = rewrap(input, &location, &plan, &new, &[recovery.recipient()]).expect("it was unwrapped");
        let again = unwrap_with_plan(&again, &location, &new).expect("it was just wrapped");
        assert_eq!(again.to_hex().expose_secret(), proven.to_hex().expose_secret());
    }
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(key) = PlanKey::parse(text) {
        let again = PlanKey::parse(key.to_text().expose_secret()).expect("its own text");
        assert_eq!(again.recipient(), key.recipient());
        assert_eq!(
            RecoveryKey::parse(text).map(|key| key.recipient()),
            Ok(key.recipient())
        );
    }
}
