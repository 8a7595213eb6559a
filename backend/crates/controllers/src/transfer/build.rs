//! Manifests of everything a transfer makes: pure functions from the transfer, so that making them twice makes the same.

mod claim;
mod job;
mod snapshot;
mod store;
mod volume;

use std::collections::BTreeMap;

use holdfast_crd::VolumeTransfer;
use holdfast_crd::names::{MANAGED_BY, labels};
use holdfast_k8s::hashed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

pub(super) use self::claim::{claim_for_restore, claim_from_snapshot};
pub use self::job::DatamoverTask;
pub(super) use self::job::{PodParts, files_of, image_of, job, job_for, keys_of, secret};
pub(super) use self::snapshot::{content, snapshot_of_claim, snapshot_of_content};
pub(super) use self::volume::{HandOver, abandoned, application_claim, handed_over, replaced};

/// Names of a transfer's temporaries, derived from its UID.
pub(super) struct Names {
    transfer: String,
    base: String,
}

impl Names {
    pub(super) fn of(transfer: &VolumeTransfer) -> Self {
        let uid = transfer.uid().unwrap_or_default();
        Self {
            transfer: transfer.name_any(),
            base: hashed("hf", &["transfer", &uid]),
        }
    }

    /// The VolumeSnapshot, in the application's namespace and in ours.
    pub(super) fn snapshot(&self) -> String {
        self.base.clone()
    }

    /// Our VolumeSnapshotContent.
    pub(super) fn content(&self) -> String {
        self.base.clone()
    }

    /// The mover's claim.
    pub(super) fn claim(&self) -> String {
        self.base.clone()
    }

    /// The PersistentVolume that a restored claim gets.
    pub(super) fn volume(&self) -> String {
        self.base.clone()
    }

    /// Job and Secret of an attempt. A pod's name begins with its Job's, and so with the transfer's: that is how the
    /// cluster's policy tells which transfer a mover may report on.
    pub(super) fn job(&self, attempt: u32) -> String {
        format!("{}-a{attempt}", self.transfer)
    }
}

/// Labels of everything a transfer makes.
pub(super) fn labels_of(transfer: &VolumeTransfer) -> BTreeMap<String, String> {
    [
        (labels::MANAGED_BY, MANAGED_BY.to_owned()),
        (labels::RUN, transfer.spec.run.uid.clone()),
        (labels::TRANSFER, transfer.uid().unwrap_or_default()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Metadata of a temporary in the install namespace: it belongs to the transfer and goes with it.
fn owned(transfer: &VolumeTransfer, name: String) -> ObjectMeta {
    let owner = OwnerReference {
        api_version: VolumeTransfer::api_version(&()).into_owned(),
        kind: VolumeTransfer::kind(&()).into_owned(),
        name: transfer.name_any(),
        uid: transfer.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    ObjectMeta {
        name: Some(name),
        namespace: transfer.namespace(),
        labels: Some(labels_of(transfer)),
        owner_references: Some(vec![owner]),
        ..Default::default()
    }
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
pub(super) mod tests {
    use holdfast_crd::VolumeTransfer;
    use serde_json::{Value, json};

    /// A transfer as the run controllers make them.
    #[allow(clippy::needless_pass_by_value, reason = "literals at every call")]
    pub(crate) fn transfer(direction: &str, more: Value) -> VolumeTransfer {
        let mut spec = json!({
            "direction": direction,
            "run": {"kind": direction, "namespace": "app", "name": "r", "uid": "11111111-0000"},
            "target": {"name": "t", "namespace": "holdfast"},
            "claim": {"namespace": "app", "name": "data", "uid": "c-uid"},
            "volume": {"capacity": 1_073_741_824, "driver": "csi.example", "storageClass": "fast",
                "volumeMode": "Filesystem", "accessModes": ["ReadWriteOnce"], "fsType": "xfs"},
            "home": "cluster/plan/claim",
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "VolumeTransfer",
            "metadata": {"name": "hf-0123", "namespace": "holdfast", "uid": "99999999-0000"},
            "spec": spec,
        }))
        .unwrap()
    }
}
