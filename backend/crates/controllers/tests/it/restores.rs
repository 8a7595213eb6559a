//! What a restore refuses before it makes anything: points that somebody wrote who may write to the target.

use std::io::Write;

use holdfast_crd::{Restore, VolumeTransfer};
use holdfast_target::Target as _;
use holdfast_target::layout::{Attempt, BackupManifest, Digest, Location};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, ResourceQuota};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::world::{INSTALLED, World, make, truth};

/// A world in which rita may write what the core group has.
async fn world(namespace: &str) -> World {
    let world = World::new(namespace).await;
    world
        .make(
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "all"},
            "rules": [{"apiGroups": [""], "resources": ["*"], "verbs": ["*"]}]}),
        )
        .await;
    world
        .make(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "all"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "all"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "rita"}]}))
        .await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "csi.example",
        "metadata": {"name": format!("class-{namespace}")}});
    make(&world.client, &class).await;
    world
}

async fn uid(world: &World, namespace: &str) -> String {
    let all: Api<Namespace> = Api::all(world.client.clone());
    all.get(namespace).await.unwrap().uid().unwrap()
}

/// The claim `data` of 1 GiB.
fn claim() -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
}

fn packed(objects: &[Value]) -> (Vec<u8>, usize) {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    for object in objects {
        writeln!(encoder, "{object}").unwrap();
    }
    (encoder.finish().unwrap(), objects.len())
}

/// Puts a point of the world's own namespace onto the target, with this file and a volume of this capacity.
async fn forge(world: &World, (file, count): (Vec<u8>, usize), capacity: u64) -> Location {
    let (cluster, own) = (
        uid(world, "kube-system").await,
        uid(world, &world.namespace).await,
    );
    let location: Location = format!("{cluster}/{own}/backup-1").parse().unwrap();
    let source = json!({"namespace": world.namespace, "name": "p", "uid": own});
    let manifest = json!({
        "format": 1, "location": location, "attempt": 1, "createdBy": "somebody", "cluster": {"uid": cluster},
        "plan": source, "backup": {"namespace": world.namespace, "name": "b", "uid": "backup-1"}, "backupType": "Full",
        "started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:00Z",
        "namespace": {"name": world.namespace, "uid": own},
        "objects": {"key": Location::objects_name(Attempt(1)), "size": file.len(), "blake3": Digest::of(&file),
            "count": count},
        "volumes": [{
            "claim": "data", "claimUid": "c-1", "home": format!("{cluster}/{own}/c-1"), "generation": 1,
            "image": "backup-1-a1", "capacity": capacity, "volumeMode": "Filesystem", "driver": "csi.example",
            "storageClass": format!("class-{}", world.namespace), "accessModes": ["ReadWriteOnce"],
            "snapshotTime": "2026-01-01T00:00:00Z",
            "chain": [{"id": "backup-1-a1", "kind": "Full", "virtualSize": 1 << 20, "clusterSize": 65536, "shards": [],
                "stored": 1}]}],
    });
    let manifest: BackupManifest = serde_json::from_value(manifest).unwrap();
    let store = world.store();
    let key = location.objects_key(Attempt(1));
    store.put(&key, file.into()).await.unwrap();
    store
        .put(&location.commit_key(), manifest.to_bytes().into())
        .await
        .unwrap();
    location
}

/// Restores as rita and returns reason and message of the failure, and that nothing was made.
async fn refused(world: &World, location: &Location) -> (String, String) {
    world
        .make(
            json!({"apiVersion": "holdfast.dev/v1", "kind": "Restore", "metadata": {"name": "r"}, "spec": {
            "source": {"type": "Location", "location": location.to_string(), "target": {"name": "t"}},
            "requester": {"user": "rita", "groups": ["system:authenticated"]}}}),
        )
        .await;
    let failed = |r: Restore| truth(r.status.map(|s| s.conditions), "Failed") == Some(true);
    let restore = world.until::<Restore>("r", failed).await;
    let transfers: Api<VolumeTransfer> = Api::namespaced(world.client.clone(), INSTALLED);
    let of_run = ListParams::default().labels(&format!("holdfast.dev/run={}", restore.uid().unwrap()));
    assert!(transfers.list(&of_run).await.unwrap().items.is_empty());
    let claims = world.api::<PersistentVolumeClaim>();
    assert!(
        claims
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let conditions = restore.status.unwrap().conditions;
    let failed = conditions.into_iter().find(|c| c.type_ == "Failed").unwrap();
    (failed.reason, failed.message)
}

#[tokio::test]
async fn a_claim_is_asked_about_with_the_size_of_its_volume() {
    let world = world("quota").await;
    let location = forge(&world, packed(&[claim()]), 10 << 40).await;
    world
        .make(
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
            "spec": {"hard": {"requests.storage": "5Gi"}}}),
        )
        .await;
    // Nobody else keeps count here: there is no controller manager.
    let count = json!({"status": {"hard": {"requests.storage": "5Gi"}, "used": {"requests.storage": "0"}}});
    world
        .api::<ResourceQuota>()
        .patch_status("q", &PatchParams::default(), &Patch::Merge(count))
        .await
        .unwrap();
    let (reason, message) = refused(&world, &location).await;
    assert_eq!(reason, "Forbidden", "{message}");
    assert!(message.contains("exceeded quota"), "{message}");
    assert!(message.contains("PersistentVolumeClaim/data"), "{message}");
}

#[tokio::test]
async fn a_damaged_claim_ends_the_restore_and_nothing_else() {
    let world = world("damaged-claim").await;
    let mut claim = claim();
    claim["metadata"]["annotations"] = json!("x");
    let location = forge(&world, packed(&[claim]), 1 << 30).await;
    let (reason, message) = refused(&world, &location).await;
    assert_eq!(reason, "Damaged", "{message}");
    assert!(message.contains("claim data"), "{message}");
}

#[tokio::test]
async fn a_small_file_that_would_fill_the_memory_is_refused() {
    let world = world("bomb").await;
    let line = format!("{{\"a\":[{}0]}}\n", "0,".repeat(1 << 20));
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    (0..100).for_each(|_| encoder.write_all(line.as_bytes()).unwrap());
    let location = forge(&world, (encoder.finish().unwrap(), 100), 1 << 30).await;
    let (reason, message) = refused(&world, &location).await;
    assert_eq!(reason, "Damaged", "{message}");
    assert!(message.contains("MiB of memory"), "{message}");
}
