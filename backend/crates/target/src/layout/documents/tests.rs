//! What documents say is checked before it is used.

use super::*;

fn image(id: &str, parent: Option<&str>) -> ImageRecord {
    let object = |name: &str| ObjectRecord {
        key: name.to_owned(),
        size: 1,
        etag: ETag::new("e"),
        version: None,
        seal: None,
    };
    ImageRecord {
        id: id.parse().unwrap(),
        parent: parent.map(|p| p.parse().unwrap()),
        kind: if parent.is_some() {
            ImageKind::Incremental
        } else {
            ImageKind::Full
        },
        virtual_size: 1 << 30,
        cluster_size: 65536,
        shards: vec![ShardRecord {
            shard: ShardNumber(0),
            virtual_size: 1 << 30,
            image: object("i"),
            tables: Digest::of(b"t"),
            index: object("x"),
            index_digest: Digest::of(b"x"),
        }],
        stored: 2,
    }
}

fn manifest() -> serde_json::Value {
    let uid = |uid: &str| serde_json::json!({"namespace": "n", "name": "n", "uid": uid});
    let volume = serde_json::json!({"claim": "data", "claimUid": "v", "home": "c/p/v", "generation": 1,
        "image": "b-a1", "capacity": 1 << 30, "volumeMode": "Block", "driver": "d", "accessModes": ["ReadWriteOnce"],
        "snapshotTime": "2026-01-01T00:00:00Z", "chain": [image("b-a1", None)]});
    serde_json::json!({"format": 1, "location": "c/p/b", "attempt": 3, "createdBy": "t", "cluster": {"uid": "c"},
        "plan": uid("p"), "backup": uid("b"), "backupType": "Full", "started": "2026-01-01T00:00:00Z",
        "completed": "2026-01-01T00:00:00Z", "namespace": {"name": "n", "uid": "n"}, "volumes": [volume],
        "objects": {"key": "objects-3.jsonl.zst", "size": 1, "blake3": Digest::of(b"x"), "count": 1}})
}

fn read(manifest: &serde_json::Value) -> Result<BackupManifest, DocumentError> {
    BackupManifest::parse(&"c/p/b".parse().unwrap(), manifest.to_string().as_bytes())
}

#[test]
fn numbers_that_somebody_counts_up_to_are_bounded() {
    assert_eq!(read(&manifest()).unwrap().stored(), 3);
    for (path, most) in [
        ("/attempt", u64::from(MAX_ATTEMPT)),
        ("/volumes/0/capacity", MAX_VOLUME),
        ("/volumes/0/chain/0/virtualSize", MAX_VOLUME),
    ] {
        let mut hostile = manifest();
        *hostile.pointer_mut(path).unwrap() = most.into();
        read(&hostile).unwrap();
        for beyond in [most + 1, u64::from(u32::MAX)].into_iter().filter(|n| *n > most) {
            *hostile.pointer_mut(path).unwrap() = beyond.into();
            let error = read(&hostile).unwrap_err();
            assert!(
                matches!(error, DocumentError::Inconsistent { .. }),
                "{path}: {error}"
            );
        }
    }
    let mut hostile = manifest();
    hostile["volumes"] = vec![hostile["volumes"][0].clone(); MAX_VOLUMES + 1].into();
    assert!(matches!(read(&hostile), Err(DocumentError::Inconsistent { .. })));
    let mut hostile = manifest();
    hostile["excludedClaims"] = vec![""; MAX_NAMES + 1].into();
    assert!(matches!(read(&hostile), Err(DocumentError::Damaged { .. })));
    for texts in ["labels", "annotations"] {
        let mut hostile = manifest();
        let many = (0..=MAX_NAMES).map(|n| (n.to_string(), "".into())).collect();
        hostile["namespace"][texts] = serde_json::Value::Object(many);
        assert!(
            matches!(read(&hostile), Err(DocumentError::Damaged { .. })),
            "{texts}"
        );
    }
    let mut hostile = manifest();
    hostile["objects"]["size"] = u64::MAX.into();
    hostile["volumes"][0]["chain"][0]["stored"] = u64::MAX.into();
    assert_eq!(read(&hostile).unwrap().stored(), u64::MAX, "sums stop at the end");
}

#[test]
fn a_document_of_before_the_first_release_is_refused() {
    let mut old = manifest();
    old["format"] = 0.into();
    let error = read(&old).unwrap_err();
    assert!(
        matches!(error, DocumentError::Unreleased { found: 0, .. }),
        "{error}"
    );
}

#[test]
fn a_newer_document_is_told_as_such() {
    let mut newer = manifest();
    newer["format"] = 9.into();
    let error = read(&newer).unwrap_err();
    assert!(matches!(error, DocumentError::Newer { found: 9, .. }), "{error}");
}
