//! The volume-transfers of a restore.

use std::collections::BTreeSet;

use holdfast_crd::names::{MANAGED_BY, annotations, labels, reasons};
use holdfast_crd::transfer::{ClaimRef, RunRef, VolumeSpec};
use holdfast_crd::{
    Direction, ObjectRef, Restore, TransferEncryption, TransferStage, VolumeProgress, VolumeTransfer,
    VolumeTransferSpec,
};
use holdfast_target::layout::VolumeRecord;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::planned::{self, PlannedClaim};
use crate::Context;
use crate::failure::Failure;

/// Name of the transfer of a claim in a run.
pub(super) fn transfer_name(run_uid: &str, claim: &str) -> String {
    holdfast_k8s::hashed("hf", &[run_uid, claim])
}

/// Longest name of a claim.
const MAX_NAME: usize = 253;

/// Checks that the records name claims, each once: the names become parts of paths to the API server.
pub(super) fn check_names(volumes: &[VolumeRecord]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for claim in volumes.iter().map(|v| v.claim.as_str()) {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = claim.as_bytes();
        let is_name = bytes.len() <= MAX_NAME
            && bytes.iter().all(|b| plain(*b))
            && edge(bytes.first())
            && edge(bytes.last());
        if !is_name || !seen.insert(claim) {
            let shown: String = claim.chars().take(MAX_NAME).collect();
            let text =
                format!("the point has a volume of the claim {shown:?}, which is no name or there twice");
            return Err(Failure::lasting(reasons::DAMAGED, text));
        }
    }
    Ok(())
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
    /// The Secret that opens its images, where they are encrypted.
    pub(super) secret: Option<&'a ObjectRef>,
    pub(super) namespace: &'a str,
}

impl Order<'_> {
    /// The transfer that brings one volume back.
    pub(super) async fn transfer(
        &self,
        volume: &VolumeRecord,
        claim: PlannedClaim,
    ) -> Result<VolumeTransfer, Failure> {
        let run_uid = self.restore.uid().unwrap_or_default();
        let classes: Api<StorageClass> = Api::all(self.ctx.client.clone());
        let class = classes
            .get(volume.storage_class.as_deref().unwrap_or_default())
            .await?;
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
                capacity: planned::capacity(volume),
                driver: class.provisioner.clone(),
                storage_class: class.name_any(),
                volume_mode: planned::mode(volume).to_owned(),
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
            heal: None,
            files: None,
            scope: None,
            full_reason: None,
            claim_manifest: Some(json!(claim.manifest)),
            placement: claim.placement,
            encryption: self.secret.map(|secret| TransferEncryption {
                secret: secret.clone(),
                seal: None,
            }),
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
