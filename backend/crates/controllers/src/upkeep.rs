//! Work on the images of a volume, on the target itself: transfers that belong to a plan and to no run.
//!
//! A mover pod does the work; who asked for it waits for the transfer and removes it. Transfers outlive their leader: their
//! names follow from what they do, so that the next one finds them.

use std::collections::BTreeSet;

use holdfast_crd::names::{MANAGED_BY, labels, reasons};
use holdfast_crd::transfer::{ClaimRef, RunRef, TransferEncryption, VolumeSpec};
use holdfast_crd::{BackupPlan, Direction, VolumeTransfer, VolumeTransferSpec};
use holdfast_k8s::delete;
use holdfast_target::layout::{ImageId, ImageRecord, VolumeHome};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::ListParams;
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::{Context, encryption};

/// What is to be done with images of one volume.
pub(crate) struct Work<'a> {
    pub(crate) plan: &'a BackupPlan,
    pub(crate) direction: Direction,
    pub(crate) home: &'a VolumeHome,
    /// Name of the claim, for people.
    pub(crate) claim: String,
    pub(crate) images: &'a [ImageRecord],
    /// For a merge: what the new files are called.
    pub(crate) files: Option<String>,
    /// For a verification: how much is read.
    pub(crate) scope: Option<Value>,
    /// Whether the images are sealed; and under which key new bytes are.
    pub(crate) sealed: Option<Option<String>>,
}

impl Work<'_> {
    /// The transfer that does it.
    pub(crate) fn transfer(&self, ctx: &Context, name: &str) -> Result<VolumeTransfer, Failure> {
        let namespace = self.plan.namespace().unwrap_or_default();
        let encryption = match (&self.sealed, &self.plan.spec.encryption) {
            (Some(seal), Some(encryption)) => Some(TransferEncryption {
                secret: encryption::secret_of(encryption, &namespace)?,
                seal: seal.clone(),
            }),
            _ => None,
        };
        let mut target = self.plan.spec.backup_config.target.clone();
        target.namespace.get_or_insert_with(|| namespace.clone());
        let capacity = self.images.first().map_or(0, |image| image.virtual_size);
        let spec = VolumeTransferSpec {
            direction: self.direction,
            run: RunRef {
                kind: "BackupPlan".to_owned(),
                namespace: namespace.clone(),
                name: self.plan.name_any(),
                uid: self.plan.uid().unwrap_or_default(),
            },
            target,
            claim: ClaimRef {
                namespace,
                name: self.claim.clone(),
                uid: self.home.claim.to_string(),
            },
            volume: VolumeSpec {
                capacity,
                ..VolumeSpec::default()
            },
            home: self.home.to_string(),
            image: None,
            snapshot_class: None,
            chain: Some(encode(self.images)?),
            encryption,
            heal: None,
            files: self.files.clone(),
            scope: self.scope.clone(),
            full_reason: None,
            claim_manifest: None,
            placement: None,
            cancel: false,
        };
        let mut transfer = VolumeTransfer::new(name, spec);
        transfer.metadata.namespace = Some(ctx.install_namespace.clone());
        let marks = transfer.labels_mut();
        marks.insert(labels::MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
        marks.insert(labels::RUN.to_owned(), self.plan.uid().unwrap_or_default());
        Ok(transfer)
    }
}

/// A value as JSON.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::lasting(reasons::INTERNAL, error.to_string()))
}

/// Transfers that do this kind of work, of every plan.
pub(crate) async fn all(ctx: &Context, direction: Direction) -> Result<Vec<VolumeTransfer>, Failure> {
    let all = ctx
        .installed::<VolumeTransfer>()
        .list(&ListParams::default())
        .await?;
    let ours = all.items.into_iter().filter(|t| t.spec.direction == direction);
    Ok(ours.collect())
}

/// Whether nothing more will happen to it.
pub(crate) fn is_over(transfer: &VolumeTransfer) -> bool {
    transfer
        .status
        .as_ref()
        .is_some_and(|status| status.stage.is_final())
}

/// The images that work on a target reads or replaces. A transfer that is over counts until it is removed: whoever asked
/// for it has not dealt with what it made yet.
pub(crate) fn images_at_work(transfers: &[VolumeTransfer]) -> BTreeSet<(VolumeHome, ImageId)> {
    let mut images = BTreeSet::new();
    for transfer in transfers.iter().filter(|t| !t.spec.direction.has_volume()) {
        let Ok(home) = transfer.spec.home.parse::<VolumeHome>() else {
            continue;
        };
        let records = transfer.spec.chain.as_ref().and_then(Value::as_array);
        for id in records
            .into_iter()
            .flatten()
            .filter_map(|record| record.get("id")?.as_str())
        {
            if let Ok(id) = id.parse() {
                images.insert((home.clone(), id));
            }
        }
    }
    images
}

/// What people call a volume: the name of its claim, or the UID of one that is gone.
pub(crate) async fn claim_name(
    ctx: &Context,
    plan: &BackupPlan,
    home: &VolumeHome,
) -> Result<String, Failure> {
    let api = ctx.namespaced::<PersistentVolumeClaim>(&plan.namespace().unwrap_or_default());
    let claims = api.list_metadata(&ListParams::default()).await?;
    let uid = home.claim.to_string();
    let found = claims
        .items
        .iter()
        .find(|claim| claim.uid().as_ref() == Some(&uid));
    Ok(found.map_or(uid, ResourceExt::name_any))
}

/// Deletes a transfer, which stops it where it is still under way.
pub(crate) async fn remove(ctx: &Context, transfer: &VolumeTransfer) -> Result<(), Failure> {
    let api = ctx.installed::<VolumeTransfer>();
    delete(&api, &transfer.name_any(), transfer.uid().as_deref()).await?;
    Ok(())
}
