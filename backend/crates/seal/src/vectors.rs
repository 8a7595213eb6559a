//! The test vectors of `docs/FORMAT.md`: every structure is made and read as they say.
//!
//! They were made by another implementation. What is random in use has a fixed value in them.

use ring::hkdf::{HKDF_SHA256, Salt};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::document::seal_with;
use crate::key::{DataKey, KeyRing};
use crate::layout::Layout;
use crate::region::{RegionId, RegionKey, SEGMENT, SegmentIndex, TAG};
use crate::sealer::{RegionWriter, Sealer};
use crate::wrapped::content;
use crate::{PlanKey, RecoveryKey, open_document, peek, unwrap_with_plan, unwrap_with_recovery};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../tests/vectors.json")).unwrap()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap()
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(value, field)).unwrap()
}

fn data_key(id: &str, hex: &str) -> DataKey {
    let location = format!("c-1/p-1/{id}").parse().unwrap();
    DataKey::from_hex(location, hex).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

fn hkdf(salt: &[u8], secret: &[u8], info: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 32];
    let secret = Salt::new(HKDF_SHA256, salt).extract(secret);
    secret
        .expand(&[info], HKDF_SHA256)
        .unwrap()
        .fill(&mut out)
        .unwrap();
    out
}

/// Byte `i` is `i mod 251`.
fn stream(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn region_key_and_segment() {
    let vectors = vectors();
    let (region, segment) = (&vectors["region"], &vectors["segment"]);
    let key = data_key("b-1", text(region, "dataKey"));
    let id: RegionId = text(region, "region").parse().unwrap();
    assert_eq!(
        hkdf(id.as_bytes(), key.expose(), &bytes(region, "info")),
        bytes(region, "key")
    );
    let index = SegmentIndex(segment["index"].as_u64().unwrap());
    let mut buffer = bytes(segment, "plain");
    buffer.extend([0; TAG]);
    let region = RegionKey::derive(&key, id, b"");
    region.seal(index, true, &mut buffer);
    assert_eq!(hex::encode(&buffer), text(segment, "sealed"));
    let plain = region.open(index, true, &mut buffer).ok().unwrap();
    assert_eq!(hex::encode(plain), text(segment, "plain"));
}

/// What the stream of the vectors becomes: its layout and its sealed bytes.
fn sealed_stream(vectors: &Value) -> (Layout, Vec<u8>) {
    let region = &vectors["region"];
    let key = data_key("b-1", text(region, "dataKey"));
    let id = text(region, "region").parse().unwrap();
    let mut sealer = Sealer::over(RegionWriter::with_id(&key, id));
    let mut sealed = Vec::new();
    let plain = stream(vectors["stream"]["plainLength"].as_u64().unwrap() as usize);
    assert_eq!(sha256(&plain), text(&vectors["stream"], "plainSha256"));
    sealer.push(&plain, &mut sealed).unwrap();
    (sealer.finish(&mut sealed).unwrap(), sealed)
}

#[test]
fn a_stream() {
    let vectors = vectors();
    let expected = &vectors["stream"];
    let (layout, sealed) = sealed_stream(&vectors);
    assert_eq!(layout.sealed_len(), expected["sealedLength"].as_u64().unwrap());
    assert_eq!(sealed.len() as u64, layout.sealed_len());
    assert_eq!(sha256(&sealed), text(expected, "sealedSha256"));
    let (first, last) = sealed.split_at(SEGMENT + TAG);
    assert_eq!(hex::encode(&first[SEGMENT..]), text(expected, "firstTag"));
    assert_eq!(hex::encode(last), text(expected, "lastSegment"));
}

#[test]
fn an_object_of_two_regions() {
    let vectors = vectors();
    let expected = &vectors["object"];
    let keys = expected["keys"].as_object().unwrap().iter();
    let ring = KeyRing::of(keys.map(|(id, key)| data_key(id, key.as_str().unwrap()))).unwrap();
    let layout: Layout = serde_json::from_value(expected["layout"].clone()).unwrap();
    assert_eq!(serde_json::to_value(&layout).unwrap(), expected["layout"]);
    // Made by cutting the stream and a region of another key, as a merge does.
    let (whole, stream) = sealed_stream(&vectors);
    let mut hello = Sealer::over(RegionWriter::with_id(
        ring.get(&"b-2".parse().unwrap()).unwrap(),
        layout.slices()[1].region,
    ));
    let mut second = Vec::new();
    hello.push(b"hello", &mut second).unwrap();
    let second_layout = hello.finish(&mut second).unwrap();
    let head = whole.cut(&(0..SEGMENT as u64)).unwrap();
    let tail = whole.cut(&(SEGMENT as u64..whole.plain_len())).unwrap();
    let joined = Layout::concat([&tail.layout, &second_layout, &head.layout]).unwrap();
    assert_eq!(joined, layout);
    let piece = |range: std::ops::Range<u64>| &stream[range.start as usize..range.end as usize];
    let sealed = [piece(tail.sealed), &second, piece(head.sealed)].concat();
    assert_eq!(sha256(&sealed), text(expected, "sealedSha256"));
    assert_eq!(layout.sealed_len(), expected["sealedLength"].as_u64().unwrap());
    let unlocked = layout.unlock(&ring).unwrap();
    let plain = unlocked.open(&(0..layout.plain_len()), sealed.clone()).unwrap();
    assert_eq!(sha256(&plain), text(expected, "plainSha256"));
    // A range, and a cut.
    let of = |value: &Value| value[0].as_u64().unwrap()..value[1].as_u64().unwrap();
    let range = &expected["range"];
    assert_eq!(layout.locate(&of(&range["plain"])), Ok(of(&range["sealed"])));
    let content = unlocked.open(&of(&range["plain"]), sealed).unwrap();
    assert_eq!(hex::encode(content), text(range, "content"));
    let cut = layout.cut(&of(&expected["cut"]["plain"])).unwrap();
    assert_eq!(cut.sealed, of(&expected["cut"]["sealed"]));
    assert_eq!(
        serde_json::to_value(&cut.layout).unwrap(),
        expected["cut"]["layout"]
    );
}

#[test]
fn documents() {
    let vectors = vectors();
    for expected in [&vectors["document"], &vectors["emptyDocument"]] {
        let plain = expected
            .get("plain")
            .map_or_else(Vec::new, |_| bytes(expected, "plain"));
        let id = text(expected, "keyId");
        let key = data_key(id, text(expected, "dataKey"));
        let region: RegionId = text(expected, "region").parse().unwrap();
        let context = text(expected, "context");
        let sealed = seal_with(&key, region, context, &plain);
        assert_eq!(hex::encode(&sealed), text(expected, "sealed"));
        assert_eq!(peek(&sealed).unwrap().as_str(), id);
        let ring = KeyRing::of([key]).unwrap();
        assert_eq!(open_document(context, &sealed, &ring, 100).unwrap(), plain);
    }
}

#[test]
fn a_wrapped_key() {
    let vectors = vectors();
    let expected = &vectors["wrapped"];
    let plan = PlanKey::parse(text(expected, "planKey")).unwrap();
    let recovery = RecoveryKey::parse(text(expected, "recoveryKey")).unwrap();
    assert_eq!(plan.recipient().to_string(), text(expected, "planRecipient"));
    assert_eq!(
        recovery.recipient().to_string(),
        text(expected, "recoveryRecipient")
    );
    let location = text(expected, "location").parse().unwrap();
    let key = data_key("b-1", text(expected, "dataKey"));
    let proof_key = hkdf(b"", plan.proof_secret(), b"holdfast plan proof 1\n");
    assert_eq!(proof_key, bytes(expected, "proofKey"));
    assert_eq!(content(&key, &plan).as_slice(), text(expected, "line").as_bytes());
    let file = bytes(expected, "file");
    let hex = |key: &DataKey| key.to_hex().expose_secret().to_owned();
    let unwrapped = unwrap_with_plan(&file, &location, &plan).unwrap();
    assert_eq!(hex(&unwrapped), text(expected, "dataKey"));
    let recovered = unwrap_with_recovery(&file, &location, &recovery).unwrap();
    assert_eq!(
        hex(&recovered.accept_unproven_origin()),
        text(expected, "dataKey")
    );
}
