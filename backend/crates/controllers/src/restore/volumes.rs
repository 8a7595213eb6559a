//! The volume-transfers of a restore.

use std::collections::BTreeSet;

use holdfast_crd::names::{MANAGED_BY, annotations, labels, reasons};
use holdfast_crd::transfer::{ClaimRef, RunRef, VolumeSpec};
use holdfast_crd::{
    Direction, ObjectRef, Restore, TransferStage, VolumeProgress, VolumeTransfer, VolumeTransferSpec,
};
use holdfast_target::layout::{VolumeMode, VolumeRecord};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::placement;
use crate::Context;
use crate::failure::Failure;

/// Name of the transfer of a claim in a run.
pub(super) fn transfer_name(run_uid: &str, claim: &str) -> String {
    holdfast_k8s::hashed("hf", &[run_uid, claim])
}

/// Names of the claims whose data the point holds.
pub(super) fn claims(volumes: &[VolumeRecord]) -> BTreeSet<String> {
    volumes.iter().map(|v| v.claim.clone()).collect()
}

/// Progress records before anything moved: they also say which transfers belong to the run.
pub(super) fn expected(run_uid: &str, volumes: &[VolumeRecord]) -> Vec<VolumeProgress> {
    let record = |v: &VolumeRecord| VolumeProgress {
        claim: v.claim.clone(),
        transfer: transfer_name(run_uid, &v.claim),
        stage: format!("{:?}", TransferStage::Pending),
        bytes_total: v.capacity,
        ..VolumeProgress::default()
    };
    volumes.iter().map(record).collect()
}

/// Checks that every volume can be provisioned here: its storage class exists and no claim is in the way.
pub(super) async fn check(
    ctx: &Context,
    restore_uid: &str,
    namespace: &str,
    volumes: &[VolumeRecord],
) -> Result<(), Failure> {
    let classes: Api<StorageClass> = Api::all(ctx.client.clone());
    let existing: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), namespace);
    for volume in volumes {
        let class = volume.storage_class.as_deref().unwrap_or_default();
        if classes.get_opt(class).await?.is_none() {
            let text = format!(
                "claim {}: there is no storage class {class:?} in this cluster; create it",
                volume.claim
            );
            return Err(Failure::lasting(reasons::PROVISION_FAILED, text));
        }
        if let Some(found) = existing.get_metadata_opt(&volume.claim).await?
            && !is_ours(found.annotations().get(annotations::RESTORED_BY), restore_uid)
        {
            let text = format!(
                "claim {namespace}/{} exists already; a restore overwrites no volume: delete it, or restore into \
                 another namespace",
                volume.claim
            );
            return Err(Failure::lasting(reasons::CONFLICT, text));
        }
    }
    Ok(())
}

fn is_ours(annotation: Option<&String>, restore_uid: &str) -> bool {
    annotation.is_some_and(|uid| uid == restore_uid)
}

/// What a transfer needs to know of its run.
pub(super) struct Order<'a> {
    pub(super) ctx: &'a Context,
    pub(super) restore: &'a Restore,
    pub(super) target: &'a ObjectRef,
    pub(super) namespace: &'a str,
    /// Objects of the point, for the placement of volumes.
    pub(super) objects: &'a [Value],
}

impl Order<'_> {
    /// The transfer that brings one volume back. `manifest` is the cleaned claim.
    pub(super) async fn transfer(
        &self,
        volume: &VolumeRecord,
        manifest: &Value,
    ) -> Result<VolumeTransfer, Failure> {
        let run_uid = self.restore.uid().unwrap_or_default();
        let classes: Api<StorageClass> = Api::all(self.ctx.client.clone());
        let class = classes
            .get(volume.storage_class.as_deref().unwrap_or_default())
            .await?;
        let mut claim = manifest.clone();
        claim["metadata"]["annotations"][annotations::RESTORED_BY] = json!(run_uid);
        let image_size = volume.chain.first().map_or(0, |image| image.virtual_size);
        let spec = VolumeTransferSpec {
            direction: Direction::Restore,
            run: RunRef {
                kind: "Restore".to_owned(),
                namespace: self.restore.namespace().unwrap_or_default(),
                name: self.restore.name_any(),
                uid: run_uid.clone(),
            },
            target: self.target.clone(),
            claim: ClaimRef {
                namespace: self.namespace.to_owned(),
                name: volume.claim.clone(),
                uid: volume.claim_uid.to_string(),
            },
            volume: VolumeSpec {
                capacity: volume.capacity.max(image_size),
                driver: class.provisioner.clone(),
                storage_class: class.name_any(),
                volume_mode: match volume.volume_mode {
                    VolumeMode::Filesystem => "Filesystem".to_owned(),
                    VolumeMode::Block => "Block".to_owned(),
                },
                access_modes: volume.access_modes.clone(),
                fs_type: volume.fs_type.clone(),
            },
            home: volume.home.to_string(),
            image: None,
            snapshot_class: None,
            chain: Some(serde_json::to_value(&volume.chain).map_err(|e| {
                Failure::lasting(
                    reasons::INTERNAL,
                    format!("the chain of {} does not encode: {e}", volume.claim),
                )
            })?),
            full_reason: None,
            claim_manifest: Some(claim),
            placement: placement::for_claim(self.objects, &volume.claim),
            cancel: false,
        };
        let mut transfer = VolumeTransfer::new(&transfer_name(&run_uid, &volume.claim), spec);
        transfer.metadata.namespace = Some(self.ctx.install_namespace.clone());
        let marks = transfer.labels_mut();
        marks.insert(labels::MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
        marks.insert(labels::RUN.to_owned(), run_uid);
        Ok(transfer)
    }
}
