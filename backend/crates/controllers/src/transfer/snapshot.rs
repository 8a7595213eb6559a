//! Takes the snapshot and takes it over: from then on nothing in the application's namespace can take it away.

mod removal;

use std::time::Duration;

use holdfast_crd::TransferStage;
use holdfast_crd::external::{VolumeSnapshot, VolumeSnapshotContent};
use holdfast_crd::names::{labels, reasons};
use holdfast_crd::transfer::SnapshotRecord;
use holdfast_k8s::{create_or_get, is_not_found};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::build;
use super::task::{Step, Task};
use crate::failure::Failure;

/// A snapshot without handle after this long will not come.
const DEADLINE: Duration = Duration::from_secs(600);
/// The driver may repeat a failed call this long; then its error is ours. (The sidecar repeats for ever.)
const ERROR_GRACE: Duration = Duration::from_secs(45);

impl Task {
    /// Stage Snapshotting.
    pub(super) async fn snapshotting(&mut self) -> Result<Step, Failure> {
        if self.status.snapshot.is_none() {
            return self.take_snapshot().await;
        }
        self.adopt_snapshot().await?;
        if self.drop_original().await? {
            return Ok(Step::Enter(TransferStage::Snapshotted));
        }
        if self.stage_age() > DEADLINE {
            let text = "the original snapshot object does not go away; its finalizers hold it";
            return Err(Failure::lasting(reasons::SNAPSHOT_FAILED, text));
        }
        Ok(Step::Stay(Duration::from_millis(300)))
    }

    /// Snapshots of the application's namespace.
    fn originals(&self) -> Api<VolumeSnapshot> {
        self.ctx().namespaced(&self.transfer.spec.claim.namespace)
    }

    pub(super) fn contents(&self) -> Api<VolumeSnapshotContent> {
        self.ctx().cluster_wide()
    }

    /// Makes sure that the snapshot was asked for and writes its handle down as soon as there is one.
    async fn take_snapshot(&mut self) -> Result<Step, Failure> {
        let wanted = build::snapshot_of_claim(&self.transfer, &self.names);
        let snapshot = create_or_get(&self.originals(), &wanted)
            .await
            .map_err(snapshot_failure)?;
        self.check_ours(&snapshot)?;
        let content = self.content_of(&snapshot).await?;
        let state = snapshot.status.unwrap_or_default();
        let of_content = content.and_then(|content| content.status).unwrap_or_default();
        if let (Some(handle), Some(creation_time)) = (of_content.snapshot_handle, of_content.creation_time) {
            let restore_size = of_content.restore_size;
            self.status.snapshot = Some(SnapshotRecord {
                handle,
                creation_time,
                restore_size,
            });
            return Ok(Step::Stay(Duration::ZERO));
        }
        let error = of_content.error.or(state.error).and_then(|error| error.message);
        self.wait_for_handle(error)
    }

    /// The snapshot is not cut yet: patience, or the driver's words.
    fn wait_for_handle(&mut self, error: Option<String>) -> Result<Step, Failure> {
        let claim = &self.transfer.spec.claim;
        let age = self.stage_age();
        let failed = |why: &str| {
            let text = format!(
                "the snapshot of claim {}/{} was not taken: {why}; see the events of the CSI driver {}",
                claim.namespace, claim.name, self.transfer.spec.volume.driver
            );
            Failure::lasting(reasons::SNAPSHOT_FAILED, text)
        };
        match error {
            Some(why) if age > ERROR_GRACE => return Err(failed(&why)),
            None if age > DEADLINE => return Err(failed("the driver did not answer within 10 minutes")),
            Some(why) => self.note(
                reasons::IN_PROGRESS,
                &format!("the snapshot is not taken yet: {why}"),
            ),
            None => {}
        }
        // Often at first, for the cut is what the application waits for; slower when it takes its time.
        Ok(Step::Stay(
            (age / 8).clamp(Duration::from_millis(250), Duration::from_secs(3)),
        ))
    }

    fn check_ours(&self, snapshot: &VolumeSnapshot) -> Result<(), Failure> {
        if snapshot.labels().get(labels::TRANSFER) == Some(&self.uid()) {
            return Ok(());
        }
        let text = format!(
            "VolumeSnapshot {} exists and is not of this transfer",
            snapshot.name_any()
        );
        Err(Failure::lasting(reasons::CONFLICT, text))
    }

    /// Makes our own pair for the handle. The original is found by the snapshot; when it is gone already, our pair
    /// was made before.
    async fn adopt_snapshot(&self) -> Result<(), Failure> {
        let record = self
            .status
            .snapshot
            .as_ref()
            .expect("only called with a recorded snapshot");
        if self.contents().get_opt(&self.names.content()).await?.is_none() {
            let original = self.original_content().await?.ok_or_else(|| {
                let text = "the snapshot was deleted in the application's namespace before it was taken over";
                Failure::lasting(reasons::SNAPSHOT_FAILED, text)
            })?;
            let ours = build::content(
                &self.transfer,
                &self.names,
                record,
                &original,
                &self.ctx().install_namespace,
            );
            create_or_get(&self.contents(), &ours).await?;
        }
        let snapshot = build::snapshot_of_content(&self.transfer, &self.names, &self.ctx().install_namespace);
        create_or_get(&self.ctx().installed::<VolumeSnapshot>(), &snapshot).await?;
        Ok(())
    }

    async fn original_content(&self) -> Result<Option<VolumeSnapshotContent>, Failure> {
        let Some(snapshot) = self.originals().get_opt(&self.names.snapshot()).await? else {
            return Ok(None);
        };
        self.content_of(&snapshot).await
    }

    /// The content that a snapshot of the application's namespace is bound to, if it is bound to that very snapshot: whoever
    /// may write the snapshot's status could name the content of another namespace.
    async fn content_of(&self, snapshot: &VolumeSnapshot) -> Result<Option<VolumeSnapshotContent>, Failure> {
        // Not written yet in the first moments: then the snapshot controller's rule for the name tells it.
        let by_rule = format!("snapcontent-{}", snapshot.uid().unwrap_or_default());
        let status = snapshot.status.as_ref();
        let name = status
            .and_then(|status| status.bound_volume_snapshot_content_name.clone())
            .unwrap_or(by_rule);
        let content = self.contents().get_opt(&name).await?;
        Ok(content.filter(|content| {
            let bound = &content.spec.volume_snapshot_ref;
            snapshot.metadata.namespace.as_ref() == Some(&bound.namespace)
                && snapshot.metadata.name.as_ref() == Some(&bound.name)
                && snapshot.metadata.uid == bound.uid
        }))
    }

    /// Lets go of the original pair without touching the snapshot itself. `true` when nothing is left of it.
    async fn drop_original(&self) -> Result<bool, Failure> {
        if let Some(content) = self.original_content().await? {
            self.set_policy(&content, "Retain").await?;
        }
        self.delete_originals().await
    }

    /// Sets what happens to the snapshot when its content goes, and marks the content as ours to delete.
    pub(super) async fn set_policy(
        &self,
        content: &VolumeSnapshotContent,
        policy: &str,
    ) -> Result<(), Failure> {
        let labelled = content.labels().get(labels::TRANSFER) == Some(&self.uid());
        if labelled && content.spec.deletion_policy == policy {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"labels": {labels::TRANSFER: self.uid()}},
            "spec": {"deletionPolicy": policy},
        });
        match self
            .contents()
            .patch(
                &content.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
        {
            Err(error) if is_not_found(&error) => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }
}

fn snapshot_failure(error: kube::Error) -> Failure {
    let failure = Failure::from(error).during("the snapshot was not accepted");
    if failure.retryable {
        failure
    } else {
        Failure {
            reason: reasons::SNAPSHOT_FAILED,
            ..failure
        }
    }
}
