//! Removes what a transfer made, at any point of its life. Every call may be repeated until nothing is left.

use std::time::Duration;

use holdfast_crd::{Direction, TransferStage};
use holdfast_k8s::{create_or_get, delete, dynamic};
use holdfast_target::layout::{FileStem, ImageId, ImageRecord, SHARD_SIZE, ShardNumber, VolumeHome};
use holdfast_target::{Target, TargetError, list_all};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use super::task::Task;
use super::{build, pods};
use crate::failure::Failure;

/// Longest time the target may take to forget an attempt that failed.
const SWEEP_DEADLINE: Duration = Duration::from_secs(15);

/// Most objects of one attempt: image and index of each shard, and a few checkpoints.
const MAX_LEFTOVERS: usize = 10_000;

/// What is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Removed {
    /// No mover is left, except on nodes that do not answer.
    pub(super) movers: bool,
    /// No snapshot object is left.
    pub(super) snapshots: bool,
    /// Nothing is left at all.
    pub(super) everything: bool,
}

impl Task {
    /// Removes Jobs, pods, Secrets, claims, volumes that were not handed over, and snapshots.
    pub(super) async fn remove_temporaries(&mut self) -> Result<Removed, Failure> {
        let jobs = self.remove_jobs(None).await?;
        let secrets = self.remove_secrets().await?;
        let volumes = self.remove_volumes().await?;
        let snapshots = match self.transfer.spec.direction {
            Direction::Backup => self.remove_snapshots().await?,
            Direction::Restore | Direction::Verify | Direction::Merge => true,
        };
        let pods = self.mover_pods().await?;
        Ok(Removed {
            movers: pods.iter().all(|pod| pods::is_lost(pod, Timestamp::now())),
            snapshots,
            everything: jobs && secrets && volumes && snapshots && pods.is_empty(),
        })
    }

    /// Deletes the Jobs of the transfer except `keep`, and their pods, which are told to stop at once instead of when
    /// the garbage collector comes by. `true` when there is no such Job.
    pub(super) async fn remove_jobs(&self, keep: Option<&str>) -> Result<bool, Failure> {
        let api = self.ctx().installed::<Job>();
        let mut gone = true;
        for job in api.list(&self.selector()).await?.items {
            if Some(job.name_any().as_str()) != keep {
                gone &= delete(&api, &job.name_any(), None).await?;
            }
        }
        let api = self.ctx().installed::<Pod>();
        for pod in self.mover_pods().await? {
            let kept = keep.is_some_and(|job| pods::is_of(&pod, job));
            if !kept && pod.metadata.deletion_timestamp.is_none() {
                delete(&api, &pod.name_any(), pod.uid().as_deref()).await?;
            }
        }
        Ok(gone)
    }

    async fn remove_secrets(&self) -> Result<bool, Failure> {
        let api = self.ctx().installed::<Secret>();
        let mut gone = true;
        for secret in api.list_metadata(&self.selector()).await?.items {
            gone &= delete(&api, &secret.name_any(), None).await?;
        }
        Ok(gone)
    }

    /// Deletes the mover's claim and sees to it that its storage goes with it. A volume that was handed over, or that
    /// the application's claim waits for, is not ours any more.
    async fn remove_volumes(&mut self) -> Result<bool, Failure> {
        let claims = self.ctx().installed::<PersistentVolumeClaim>();
        let claim = claims.get_opt(&self.names.claim()).await?;
        if let Some(volume) = claim
            .as_ref()
            .and_then(|claim| claim.spec.as_ref()?.volume_name.clone())
        {
            self.free_volume(&volume).await?;
        }
        let claim_gone = claim.is_none() || delete(&claims, &self.names.claim(), None).await?;
        let succeeded = self.status.stage == TransferStage::Succeeded;
        match self.status.saved_volume.clone() {
            Some(manifest) if !succeeded => Ok(self.abandon(&manifest).await? && claim_gone),
            _ => Ok(claim_gone),
        }
    }

    /// The storage of this volume goes with its claim.
    async fn free_volume(&self, name: &str) -> Result<bool, Failure> {
        match self.volumes().get_opt(name).await? {
            Some(volume) => {
                self.set_reclaim_policy(&volume, "Delete").await?;
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// A hand-over that will not be finished: whatever volume stands for the storage now is deleted with it. When there
    /// is none, because the old one was deleted and the new one not made yet, one is made in order to be deleted.
    async fn abandon(&mut self, manifest: &Value) -> Result<bool, Failure> {
        if self.application_claimed().await? {
            return Ok(true);
        }
        if !self.free_volume(build::replaced(manifest)).await? {
            return Ok(false);
        }
        let condemned = build::abandoned(&self.transfer, manifest, &self.uid());
        let volume = create_or_get(&self.volumes(), &dynamic(&condemned)?).await?;
        let patch = serde_json::json!({
            "metadata": {"labels": condemned["metadata"]["labels"]},
            "spec": {
                "claimRef": condemned["spec"]["claimRef"],
                "persistentVolumeReclaimPolicy": condemned["spec"]["persistentVolumeReclaimPolicy"],
            },
        });
        self.volumes()
            .patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        // From here on it is the provisioner's: were the manifest kept, it would be made again once it is gone.
        self.status.saved_volume = None;
        self.save().await?;
        Ok(false)
    }

    /// Whether the application's claim exists and names our volume.
    async fn application_claimed(&self) -> Result<bool, Failure> {
        let wanted = &self.transfer.spec.claim;
        let claim = self
            .ctx()
            .namespaced::<PersistentVolumeClaim>(&wanted.namespace)
            .get_opt(&wanted.name)
            .await?;
        let volume = claim.and_then(|claim| claim.spec?.volume_name);
        Ok(volume == Some(self.names.volume()))
    }

    /// Removes from the target what attempts without a result left there: open uploads and finished shards. Movers do
    /// that themselves when they are told to stop; this is for those that were killed. The store may be away: then it
    /// is left to the sweeper, which tells the objects by the attempt in their names.
    pub(super) async fn sweep_target(&self) {
        // What a merge leaves has names of its own, by which the sweeper finds it.
        if self.transfer.spec.direction != Direction::Backup || self.status.attempt == 0 {
            return;
        }
        let result = tokio::time::timeout(SWEEP_DEADLINE, self.sweep_attempts()).await;
        let why = match result {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure.message,
            Err(_) => "the target did not answer in time".to_owned(),
        };
        tracing::warn!(transfer.name = %self.transfer.name_any(), error = %why, "leftovers stay on the target");
    }

    async fn sweep_attempts(&self) -> Result<(), Failure> {
        let spec = &self.transfer.spec;
        let Ok(home) = spec.home.parse::<VolumeHome>() else {
            return Ok(());
        };
        let resource = self
            .ctx()
            .targets
            .resource(&spec.target, &self.ctx().install_namespace)
            .await?;
        let target = self.ctx().targets.open(&resource).await?;
        // Later attempts may have gone on with the image of an earlier one.
        let kept = self.status.result.as_ref();
        let kept = kept.and_then(|result| serde_json::from_value::<ImageRecord>(result.clone()).ok());
        for attempt in 1..=self.status.attempt {
            let image = build::image_of(&self.transfer, attempt).ok();
            if let Some(image) = image.filter(|image| kept.as_ref().is_none_or(|kept| kept.id != *image)) {
                sweep_image(&*target, &home, &image, spec.volume.capacity).await?;
            }
        }
        Ok(())
    }
}

/// Drops the uploads and objects of one image, checkpoints included. Uploads are asked for by exact key, which every
/// store answers.
async fn sweep_image(
    target: &dyn Target,
    home: &VolumeHome,
    image: &ImageId,
    capacity: u64,
) -> Result<(), TargetError> {
    let shards = u32::try_from(capacity.div_ceil(SHARD_SIZE)).unwrap_or(u32::MAX);
    // One more than the capacity asks for: a driver may round up.
    for shard in (0..=shards).map(ShardNumber) {
        for key in [home.image_key(image, shard), home.index_key(image, shard)] {
            let Ok(prefix) = key.as_str().parse() else {
                continue;
            };
            for open in target.list_uploads(&prefix).await? {
                target.abort_upload(&open.upload).await?;
            }
        }
    }
    let files = FileStem::from(image);
    let Ok(prefix) = format!("{}{files}-s", home.prefix()).parse() else {
        return Ok(());
    };
    let found = list_all(target, &prefix, MAX_LEFTOVERS).await?;
    let ours = found.into_iter().map(|object| object.key);
    let ours: Vec<_> = ours
        .filter(|key| home.stem_of(key).as_ref() == Some(&files))
        .collect();
    if !ours.is_empty() {
        target.delete(&ours).await?;
    }
    Ok(())
}
