//! Takes the snapshot objects of a transfer away, and sees to it that they really go.

use std::time::Duration;

use holdfast_crd::external::{VolumeSnapshot, VolumeSnapshotContent};
use holdfast_crd::names::{annotations, labels};
use holdfast_k8s::{is_conflict, is_not_found};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::failure::Failure;
use crate::transfer::task::Task;

/// The snapshot controller's finalizer on a claim that is being cut.
const SOURCE_PROTECTION: &str = "snapshot.storage.kubernetes.io/pvc-as-source-protection";
/// The snapshotter's mark on a content whose snapshot is being cut; until it is gone there is nothing to delete.
const BEING_CREATED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-created";
/// A snapshotter that works deletes a content within this time.
const PATIENCE: Duration = Duration::from_secs(4);

impl Task {
    /// Deletes the snapshot object in the application's namespace and its marked content.
    pub(super) async fn delete_originals(&self) -> Result<bool, Failure> {
        let snapshot_gone = holdfast_k8s::delete(&self.originals(), &self.names.snapshot(), None).await?;
        let marked = ListParams::default().labels(&format!("{}={}", labels::TRANSFER, self.uid()));
        let mut contents_gone = true;
        for content in self.contents().list(&marked).await?.items {
            if content.name_any() != self.names.content() {
                contents_gone &= self.delete_content(&content).await?;
            }
        }
        Ok(snapshot_gone && contents_gone)
    }

    /// Removes every snapshot object of the transfer, and with the last one the snapshot itself. `true` when nothing
    /// is left.
    pub(in crate::transfer) async fn remove_snapshots(&self) -> Result<bool, Failure> {
        let ours = self.contents().get_opt(&self.names.content()).await?;
        if let Some(original) = self.original_content().await? {
            // Exactly one of the two contents may take the snapshot with it.
            let policy = if ours.is_some() { "Retain" } else { "Delete" };
            self.set_policy(&original, policy).await?;
        }
        let originals_gone = self.delete_originals().await?;
        let installed = self.ctx().installed::<VolumeSnapshot>();
        let snapshot_gone = holdfast_k8s::delete(&installed, &self.names.snapshot(), None).await?;
        let content_gone = match ours {
            Some(ours) => self.delete_content(&ours).await?,
            None => true,
        };
        if originals_gone {
            self.release_source().await?;
        }
        Ok(originals_gone && snapshot_gone && content_gone)
    }

    /// Takes the snapshot controller's finalizer off the application's claim when no snapshot of it is left. The
    /// controller does that itself, except when the last snapshot to go had never got beyond its class: then the claim,
    /// and with it the namespace, could never be deleted.
    async fn release_source(&self) -> Result<(), Failure> {
        let source = &self.transfer.spec.claim;
        let claims = self.ctx().namespaced::<PersistentVolumeClaim>(&source.namespace);
        let Some(claim) = claims.get_metadata_opt(&source.name).await? else {
            return Ok(());
        };
        if !claim
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == SOURCE_PROTECTION)
        {
            return Ok(());
        }
        let of_claim = |snapshot: &VolumeSnapshot| {
            snapshot.spec.source.persistent_volume_claim_name.as_ref() == Some(&source.name)
        };
        if self
            .originals()
            .list(&ListParams::default())
            .await?
            .iter()
            .any(of_claim)
        {
            return Ok(());
        }
        let kept: Vec<_> = claim
            .finalizers()
            .iter()
            .filter(|f| *f != SOURCE_PROTECTION)
            .collect();
        let patch = json!({"metadata": {"resourceVersion": claim.resource_version(), "finalizers": kept}});
        match claims
            .patch_metadata(&source.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            // Changed meanwhile, most likely by the controller that does the same.
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// Deletes a content and reminds the snapshotter of it when it should be gone by now. `true` when it is.
    ///
    /// The snapshot controller and the CSI snapshotter (8.x) replace a content's annotations without looking at its
    /// version. When a snapshot is deleted while it is being cut, one of them loses the other's mark or its own wake-up,
    /// and content, snapshot and namespace stay until the next resync, a quarter of an hour later. Any change wakes the
    /// snapshotter.
    async fn delete_content(&self, content: &VolumeSnapshotContent) -> Result<bool, Failure> {
        let name = content.name_any();
        if holdfast_k8s::delete(&self.contents(), &name, None).await? {
            return Ok(true);
        }
        let now = Timestamp::now();
        if is_overlooked(content, now) {
            let patch = json!({"metadata": {"annotations": {annotations::REMINDED: now.to_string()}}});
            let reminded = self
                .contents()
                .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match reminded {
                Err(error) if is_not_found(&error) => return Ok(true),
                other => drop(other?),
            }
        }
        Ok(false)
    }
}

/// Whether a content that is being deleted was not looked at by the snapshotter for a while.
fn is_overlooked(content: &VolumeSnapshotContent, now: Timestamp) -> bool {
    let Some(deleted) = &content.metadata.deletion_timestamp else {
        return false;
    };
    let reminded = content.annotations().get(annotations::REMINDED);
    let last = reminded.and_then(|at| at.parse().ok()).unwrap_or(deleted.0);
    !content.annotations().contains_key(BEING_CREATED) && now.duration_since(last).unsigned_abs() > PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(metadata: &serde_json::Value) -> VolumeSnapshotContent {
        serde_json::from_value(
            json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
            "metadata": metadata, "spec": {"deletionPolicy": "Delete", "driver": "d", "source": {},
                "volumeSnapshotRef": {"name": "s", "namespace": "n"}}}),
        )
        .unwrap()
    }

    #[test]
    fn the_snapshotter_is_reminded_of_a_deletion_it_forgot_and_not_of_one_that_must_wait() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let deleted = "2026-01-01T00:00:50Z";
        let forgotten = json!({"name": "c", "deletionTimestamp": deleted});
        assert!(is_overlooked(&content(&forgotten), now));
        let fresh = json!({"name": "c", "deletionTimestamp": "2026-01-01T00:00:59Z"});
        assert!(!is_overlooked(&content(&fresh), now));
        assert!(!is_overlooked(&content(&json!({"name": "c"})), now));
        let cutting =
            json!({"name": "c", "deletionTimestamp": deleted, "annotations": {BEING_CREATED: "yes"}});
        assert!(!is_overlooked(&content(&cutting), now));
        let told = json!({"name": "c", "deletionTimestamp": deleted,
            "annotations": {annotations::REMINDED: "2026-01-01T00:00:58Z"}});
        assert!(!is_overlooked(&content(&told), now));
    }
}
