//! The snapshot recipe: one pair in the application's namespace for the cut, one in ours for the reading.

use std::collections::BTreeMap;

use holdfast_crd::VolumeTransfer;
use holdfast_crd::external::{
    SnapshotRef, VolumeSnapshot, VolumeSnapshotContent, VolumeSnapshotContentSource,
    VolumeSnapshotContentSpec, VolumeSnapshotSource, VolumeSnapshotSpec,
};
use holdfast_crd::transfer::SnapshotRecord;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::{Names, labels_of, owned};

/// Lets a Block claim be made from the snapshot of a Filesystem volume.
const ALLOW_MODE_CHANGE: &str = "snapshot.storage.kubernetes.io/allow-volume-mode-change";
/// Annotations of a content that its deletion needs, and that are copied to ours.
const DELETION_SECRETS: [&str; 2] = [
    "snapshot.storage.kubernetes.io/deletion-secret-name",
    "snapshot.storage.kubernetes.io/deletion-secret-namespace",
];
/// Label by which a distributed snapshotter knows its contents.
const MANAGED_BY_NODE: &str = "snapshot.storage.kubernetes.io/managed-by";

/// The snapshot that is cut, in the application's namespace.
pub(in crate::transfer) fn snapshot_of_claim(transfer: &VolumeTransfer, names: &Names) -> VolumeSnapshot {
    let spec = VolumeSnapshotSpec {
        source: VolumeSnapshotSource {
            persistent_volume_claim_name: Some(transfer.spec.claim.name.clone()),
            volume_snapshot_content_name: None,
        },
        volume_snapshot_class_name: transfer.spec.snapshot_class.clone(),
    };
    let mut snapshot = VolumeSnapshot::new(&names.snapshot(), spec);
    snapshot.metadata.namespace = Some(transfer.spec.claim.namespace.clone());
    snapshot.metadata.labels = Some(labels_of(transfer));
    snapshot
}

/// The same snapshot as ours: a content for its handle that deletes it in the end, bound to our VolumeSnapshot.
/// What the driver needs for the deletion is copied from the original; that the original is being deleted is not.
pub(in crate::transfer) fn content(
    transfer: &VolumeTransfer,
    names: &Names,
    record: &SnapshotRecord,
    original: &VolumeSnapshotContent,
    namespace: &str,
) -> VolumeSnapshotContent {
    let mut annotations: BTreeMap<String, String> = DELETION_SECRETS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), original.annotations().get(*key)?.clone())))
        .collect();
    annotations.insert(ALLOW_MODE_CHANGE.to_owned(), "true".to_owned());
    let mut labels = labels_of(transfer);
    if let Some(node) = original.labels().get(MANAGED_BY_NODE) {
        labels.insert(MANAGED_BY_NODE.to_owned(), node.clone());
    }
    let spec = VolumeSnapshotContentSpec {
        deletion_policy: "Delete".to_owned(),
        driver: original.spec.driver.clone(),
        source: VolumeSnapshotContentSource {
            snapshot_handle: Some(record.handle.clone()),
            volume_handle: None,
        },
        volume_snapshot_class_name: original.spec.volume_snapshot_class_name.clone(),
        volume_snapshot_ref: SnapshotRef {
            kind: Some(VolumeSnapshot::kind(&()).into_owned()),
            api_version: Some(VolumeSnapshot::api_version(&()).into_owned()),
            uid: None,
            name: names.snapshot(),
            namespace: namespace.to_owned(),
        },
        source_volume_mode: Some(transfer.spec.volume.volume_mode.clone()),
    };
    let metadata = ObjectMeta {
        labels: Some(labels),
        annotations: Some(annotations),
        ..Default::default()
    };
    VolumeSnapshotContent {
        metadata: ObjectMeta {
            name: Some(names.content()),
            ..metadata
        },
        ..VolumeSnapshotContent::new("", spec)
    }
}

/// Our VolumeSnapshot, in the install namespace.
pub(in crate::transfer) fn snapshot_of_content(
    transfer: &VolumeTransfer,
    names: &Names,
    namespace: &str,
) -> VolumeSnapshot {
    let spec = VolumeSnapshotSpec {
        source: VolumeSnapshotSource {
            persistent_volume_claim_name: None,
            volume_snapshot_content_name: Some(names.content()),
        },
        volume_snapshot_class_name: transfer.spec.snapshot_class.clone(),
    };
    let mut snapshot = VolumeSnapshot::new(&names.snapshot(), spec);
    snapshot.metadata = owned(transfer, names.snapshot());
    snapshot.metadata.namespace = Some(namespace.to_owned());
    snapshot
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::transfer;
    use super::*;

    #[test]
    fn our_content_keeps_what_deletes_the_snapshot_and_nothing_that_is_being_deleted() {
        let transfer = transfer("Backup", json!({"image": "b", "snapshotClass": "snap"}));
        let names = Names::of(&transfer);
        let original: VolumeSnapshotContent = serde_json::from_value(json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
            "metadata": {"name": "snapcontent-1", "labels": {"other": "x", MANAGED_BY_NODE: "n1"}, "annotations": {
                "snapshot.storage.kubernetes.io/deletion-secret-name": "s",
                "snapshot.storage.kubernetes.io/deletion-secret-namespace": "ns",
                "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted": "yes"}},
            "spec": {"deletionPolicy": "Retain", "driver": "csi.example", "volumeSnapshotClassName": "snap",
                "source": {"volumeHandle": "v1"}, "volumeSnapshotRef": {"name": "o", "namespace": "app"},
                "sourceVolumeMode": "Filesystem"}}))
        .unwrap();
        let record = SnapshotRecord {
            handle: "h1".into(),
            creation_time: 1,
            restore_size: None,
        };
        let ours = serde_json::to_value(content(&transfer, &names, &record, &original, "holdfast")).unwrap();
        assert_eq!(
            ours["metadata"]["annotations"],
            json!({"snapshot.storage.kubernetes.io/deletion-secret-name": "s",
                "snapshot.storage.kubernetes.io/deletion-secret-namespace": "ns",
                ALLOW_MODE_CHANGE: "true"})
        );
        assert_eq!(ours["metadata"]["labels"][MANAGED_BY_NODE], "n1");
        assert_eq!(ours["metadata"]["labels"].get("other"), None);
        assert_eq!(ours["spec"]["deletionPolicy"], "Delete");
        assert_eq!(ours["spec"]["source"], json!({"snapshotHandle": "h1"}));
        assert_eq!(ours["spec"]["sourceVolumeMode"], "Filesystem");
        let snapshot = snapshot_of_content(&transfer, &names, "holdfast");
        assert_eq!(ours["spec"]["volumeSnapshotRef"]["name"], snapshot.name_any());
        assert_eq!(
            snapshot.spec.source.volume_snapshot_content_name,
            Some(names.content())
        );
    }

    #[test]
    fn the_cut_has_no_owner_in_another_namespace() {
        let transfer = transfer("Backup", json!({"image": "b", "snapshotClass": "snap"}));
        let cut = snapshot_of_claim(&transfer, &Names::of(&transfer));
        assert_eq!(cut.namespace().as_deref(), Some("app"));
        assert_eq!(cut.metadata.owner_references, None);
        assert_eq!(cut.labels()["holdfast.dev/transfer"], "99999999-0000");
    }
}
