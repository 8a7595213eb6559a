//! Gives the written Block volume to the application's claim: the PersistentVolume is made anew with the mode that the
//! application wants, the storage behind it stays.

use std::time::Duration;

use holdfast_crd::TransferStage;
use holdfast_crd::names::{labels, reasons};
use holdfast_k8s::{create_or_get, dynamic, is_not_found};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::build::{self, HandOver};
use super::task::{Step, Task};
use crate::failure::Failure;

/// A hand-over takes seconds; what is not done after this long hangs.
const DEADLINE: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Parameter of a storage class that names the file system.
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";

impl Task {
    /// Stage HandingOver.
    pub(super) async fn handing_over(&mut self) -> Result<Step, Failure> {
        let Some(manifest) = self.status.saved_volume.clone() else {
            return self.save_volume().await;
        };
        if let Some(waiting) = self.retire(&manifest).await? {
            return self.wait_for(&waiting);
        }
        let volume = create_or_get(&self.volumes(), &dynamic(&manifest)?).await?;
        // The binder must have seen the volume before it sees the claim: one that names an unknown volume is looked at
        // again only with the binder's next round, up to half a minute later.
        if volume
            .data
            .pointer("/status/phase")
            .is_none_or(|phase| phase == "Pending")
        {
            return self.wait_for(&format!("the volume {} to be noticed", self.names.volume()));
        }
        let claims = self
            .ctx()
            .namespaced::<PersistentVolumeClaim>(&self.transfer.spec.claim.namespace);
        let wanted = build::application_claim(&self.transfer, &self.names)?;
        let failed = |error| Failure::from(error).during("the claim of the application was not accepted");
        let claim = create_or_get(&claims, &wanted).await.map_err(failed)?;
        self.check_claim(&claim)?;
        let phase = claim.status.and_then(|status| status.phase).unwrap_or_default();
        if phase == "Bound" {
            return Ok(Step::Enter(TransferStage::Succeeded));
        }
        self.wait_for(&format!(
            "the claim {} to be bound, it is {phase}",
            self.transfer.spec.claim.name
        ))
    }

    fn wait_for(&mut self, what: &str) -> Result<Step, Failure> {
        if self.stage_age() > DEADLINE {
            let text = format!("the volume was written but not handed over: waited in vain for {what}");
            return Err(Failure::lasting(reasons::PROVISION_FAILED, text));
        }
        self.note(reasons::IN_PROGRESS, &format!("waits for {what}"));
        Ok(Step::Stay(LOOK))
    }

    /// PersistentVolumes, untyped: what we do not know of them must survive.
    pub(super) fn volumes(&self) -> Api<DynamicObject> {
        Api::all_with(
            self.ctx().client.clone(),
            &ApiResource::erase::<PersistentVolume>(&()),
        )
    }

    /// Stores the manifest of the new volume. Nothing was deleted yet.
    async fn save_volume(&mut self) -> Result<Step, Failure> {
        let gone = |what: &str| {
            Failure::lasting(
                reasons::PROVISION_FAILED,
                format!("{what} of the mover is gone; restore again"),
            )
        };
        let claim = self
            .ctx()
            .installed::<PersistentVolumeClaim>()
            .get_opt(&self.names.claim())
            .await?;
        let volume = claim
            .and_then(|claim| claim.spec?.volume_name)
            .ok_or_else(|| gone("the claim"))?;
        let old = self
            .volumes()
            .get_opt(&volume)
            .await?
            .ok_or_else(|| gone("the volume"))?;
        let old = serde_json::to_value(old)
            .map_err(|error| Failure::lasting(reasons::INTERNAL, error.to_string()))?;
        if !old["spec"]["csi"].is_object() {
            let text = format!("the volume {volume} has no CSI source and cannot be handed over");
            return Err(Failure::lasting(reasons::PROVISION_FAILED, text));
        }
        let class = &self.transfer.spec.volume.storage_class;
        let class = self
            .ctx()
            .cluster_wide::<StorageClass>()
            .get_opt(class)
            .await?
            .unwrap_or_default();
        let from = HandOver {
            mount_options: class.mount_options.as_deref().unwrap_or_default(),
            class_fs_type: class
                .parameters
                .as_ref()
                .and_then(|all| all.get(FS_TYPE))
                .map(String::as_str),
        };
        self.status.saved_volume = Some(build::handed_over(&self.transfer, &self.names, &old, &from));
        Ok(Step::Stay(Duration::ZERO))
    }

    /// Takes the old volume out of use: its storage is kept, the mover is gone from it, then claim and volume go.
    /// What is still waited for; `None` when nothing of the old is left.
    async fn retire(&self, manifest: &Value) -> Result<Option<String>, Failure> {
        let name = build::replaced(manifest);
        let old = self.volumes().get_opt(name).await?;
        if let Some(old) = &old {
            self.set_reclaim_policy(old, "Retain").await?;
        }
        self.remove_jobs(None).await?;
        if let Some(pod) = self.mover_pods().await?.first() {
            return Ok(Some(format!("the mover pod {} to be gone", pod.name_any())));
        }
        if let Some(node) = self.attached_to(name).await? {
            return Ok(Some(format!("the volume {name} to be detached from node {node}")));
        }
        let claims = self.ctx().installed::<PersistentVolumeClaim>();
        if !holdfast_k8s::delete(&claims, &self.names.claim(), None).await? {
            return Ok(Some(format!(
                "the mover's claim {} to be gone",
                self.names.claim()
            )));
        }
        if old.is_some() && !holdfast_k8s::delete(&self.volumes(), name, None).await? {
            return Ok(Some(format!("the volume {name} to be gone")));
        }
        Ok(None)
    }

    /// Sets what happens to the storage when a volume's claim goes, and marks the volume as ours.
    pub(super) async fn set_reclaim_policy(
        &self,
        volume: &DynamicObject,
        policy: &str,
    ) -> Result<(), Failure> {
        if volume
            .data
            .pointer("/spec/persistentVolumeReclaimPolicy")
            .and_then(Value::as_str)
            == Some(policy)
        {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"labels": {labels::TRANSFER: self.uid()}},
            "spec": {"persistentVolumeReclaimPolicy": policy},
        });
        match self
            .volumes()
            .patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Err(error) if is_not_found(&error) => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// The node a volume is attached to, for drivers that attach.
    async fn attached_to(&self, volume: &str) -> Result<Option<String>, Failure> {
        let all = self
            .ctx()
            .cluster_wide::<VolumeAttachment>()
            .list(&ListParams::default())
            .await?;
        let mut ours = all
            .items
            .into_iter()
            .filter(|attachment| attachment.spec.source.persistent_volume_name.as_deref() == Some(volume));
        Ok(ours.next().map(|attachment| attachment.spec.node_name))
    }

    /// A claim that is there already must be the one that waits for our volume.
    fn check_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), Failure> {
        let volume = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.clone())
            .unwrap_or_default();
        if volume == self.names.volume() {
            return Ok(());
        }
        let text = format!(
            "the claim {}/{} exists already and is bound to {}; it was not touched",
            self.transfer.spec.claim.namespace,
            claim.name_any(),
            if volume.is_empty() { "nothing yet" } else { &volume },
        );
        Err(Failure::lasting(reasons::CONFLICT, text))
    }
}
