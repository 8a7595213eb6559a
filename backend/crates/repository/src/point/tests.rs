//! Commit objects, in clear and sealed.

use holdfast_seal::{DataKey, KeyRing};
use holdfast_target::layout::Digest;
use holdfast_target::testing::MemoryTarget;
use serde_json::{Value, json};

use super::*;

pub(crate) fn manifest(location: &str) -> BackupManifest {
    let location: Location = location.parse().unwrap();
    let uid = |uid: &str| json!({"namespace": "n", "name": "n", "uid": uid});
    let image = json!({"id": "b-a1", "kind": "Full", "virtualSize": 512, "clusterSize": 65536, "stored": 1, "shards": []});
    let document = json!({"format": 1, "location": location, "attempt": 1, "createdBy": "t",
        "cluster": {"uid": location.cluster.as_str()}, "plan": uid(location.plan.as_str()),
        "backup": uid(location.backup.as_str()), "backupType": "Full",
        "started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:00Z",
        "namespace": {"name": "secret-project", "uid": "n"},
        "volumes": [{"claim": "data", "claimUid": "v", "home": format!("{}/{}/v", location.cluster, location.plan),
            "generation": 1, "image": "b-a1", "capacity": 512, "volumeMode": "Block", "driver": "d",
            "accessModes": ["ReadWriteOnce"], "snapshotTime": "2026-01-01T00:00:00Z", "chain": [image]}],
        "objects": {"key": "o", "size": 1, "blake3": Digest::of(b"x"), "count": 1}});
    BackupManifest::parse(&location, document.to_string().as_bytes()).unwrap()
}

fn key(location: &str) -> DataKey {
    DataKey::generate(location.parse().unwrap())
}

#[test]
fn a_sealed_commit_object_shows_what_it_needs_and_nothing_else() {
    let manifest = manifest("c/p/b");
    let key = key("c/p/b");
    let bytes = CommitObject::encode(&manifest, Some(&key)).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(!text.contains("secret-project"), "{text}");
    let found = CommitObject::parse(&manifest.location, &bytes).unwrap();
    assert_eq!(
        (found.attempt(), found.key().map(KeyId::as_str)),
        (Attempt(1), Some("b"))
    );
    assert_eq!(found.needs(), needs_of(&manifest));
    assert!(matches!(
        found.clone().open(None),
        Err(RepositoryError::NeedsKey { .. })
    ));
    let ring = KeyRing::of([key]).unwrap();
    assert_eq!(found.clone().open(Some(&ring)).unwrap(), manifest);
    assert!(found.open(Some(&KeyRing::default())).unwrap_err().is_key());
}

#[test]
fn a_shell_that_says_something_else_is_refused() {
    let manifest = manifest("c/p/b");
    let key = key("c/p/b");
    let bytes = CommitObject::encode(&manifest, Some(&key)).unwrap();
    let ring = KeyRing::of([key]).unwrap();
    let changed: [(&str, Value); 4] = [
        ("attempt", json!(2)),
        ("lockedUntil", json!("2027-01-01T00:00:00Z")),
        ("needs", json!([])),
        ("needs", json!([{"home": "c/p/v", "images": ["b-a2"]}])),
    ];
    for (field, value) in changed {
        let mut document: Value = serde_json::from_slice(&bytes).unwrap();
        document[field] = value;
        let found = CommitObject::parse(&manifest.location, document.to_string().as_bytes()).unwrap();
        assert!(found.open(Some(&ring)).unwrap_err().is_damage(), "{field}");
    }
    for (field, value) in [
        ("location", json!("c/p/other")),
        ("key", json!("other")),
        ("format", json!(99)),
    ] {
        let mut document: Value = serde_json::from_slice(&bytes).unwrap();
        document[field] = value;
        assert!(
            CommitObject::parse(&manifest.location, document.to_string().as_bytes()).is_err(),
            "{field}"
        );
    }
}

#[test]
fn a_point_in_clear_is_none_for_who_brings_a_key() {
    let manifest = manifest("c/p/b");
    let bytes = CommitObject::encode(&manifest, None).unwrap();
    let found = CommitObject::parse(&manifest.location, &bytes).unwrap();
    assert_eq!(found.clone().open(None).unwrap(), manifest);
    let error = found.open(Some(&KeyRing::default())).unwrap_err();
    assert!(matches!(error, RepositoryError::NotSealed { .. }), "{error}");
    assert!(CommitObject::encode(&manifest, Some(&key("c/p/other"))).is_err());
}

#[tokio::test]
async fn of_earlier_attempts_only_files_that_are_there_are_found() {
    let (store, location) = (MemoryTarget::new(), "c/p/b".parse::<Location>().unwrap());
    for attempt in [2, 999_999, 1_000_000, 1_000_001] {
        let key = location.objects_key(Attempt(attempt));
        store.put(&key, Bytes::from_static(b"x")).await.unwrap();
    }
    let found = abandoned(&store, &location, Attempt(1_000_000)).await.unwrap();
    let old = [2, 999_999].map(|attempt| location.objects_key(Attempt(attempt)));
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), old.into());
}
