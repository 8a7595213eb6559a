//! VolumeTransfer: what one mover pod does: a volume of a run on its way to or from a target, or work on the images of a
//! volume on the target itself. Internal, lives in the install namespace.
//!
//! The run's controller creates it, the transfer controller drives it through its stages, the mover pod patches
//! `status.mover` and nothing else. It owns everything temporary that the volume needs in the install namespace.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::ObjectRef;

/// The work of one mover on one volume.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "VolumeTransfer",
    namespaced,
    status = "VolumeTransferStatus",
    shortname = "hfx",
    category = "holdfast",
    derive = "PartialEq",
    printcolumn(name = "Direction", type_ = "string", json_path = ".spec.direction"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.claim.namespace"),
    printcolumn(name = "Claim", type_ = "string", json_path = ".spec.claim.name"),
    printcolumn(name = "Stage", type_ = "string", json_path = ".status.stage"),
    printcolumn(name = "Done", type_ = "integer", json_path = ".status.mover.bytesDone"),
    printcolumn(name = "Total", type_ = "integer", json_path = ".status.mover.bytesTotal"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeTransferSpec {
    /// To the target, from it, or on it.
    pub direction: Direction,
    /// The run this belongs to; for work on the target, the plan.
    pub run: RunRef,
    /// The target resource, with its namespace.
    pub target: ObjectRef,
    /// The claim: for a backup the one that is read, for a restore the one that will exist, otherwise the one whose images
    /// these are.
    pub claim: ClaimRef,
    /// The volume behind the claim. Work on the target touches none and knows only the capacity.
    pub volume: VolumeSpec,
    /// Prefix on the target that holds the volume's images and chain files.
    #[schemars(length(max = 300))]
    pub home: String,
    /// For a backup: id of the image to write, without the attempt; the attempt is appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// For a backup: name of the VolumeSnapshotClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_class: Option<String>,
    /// For an incremental backup: images of the chain, newest first, as the chain file records them.
    /// For a restore: the images to read, newest first, as the commit object records them. For a merge the images to
    /// merge, newest first; for a verification those to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub chain: Option<serde_json::Value>,
    /// Where the images are encrypted: what opens and seals them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<TransferEncryption>,
    /// For a backup: clusters of the chain whose stored content is damaged; they are stored again, whatever their hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub heal: Option<serde_json::Value>,
    /// For a merge: what the files of the new image are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub files: Option<String>,
    /// For a verification: how much is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub scope: Option<serde_json::Value>,
    /// For a backup: why the image is a full one although an incremental was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_reason: Option<String>,
    /// For a restore: the claim manifest to create in the restored namespace once the data is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub claim_manifest: Option<serde_json::Value>,
    /// For a restore: node selector, affinity and tolerations of the pod that will use the volume, as a fragment of
    /// a pod spec, so that a volume bound on first use is provisioned where that pod can run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub placement: Option<serde_json::Value>,
    /// Stops the transfer; only ever set to `true`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

/// What opens and seals the images of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferEncryption {
    /// The Secret with the plan's key or a recovery key, with its namespace.
    pub secret: ObjectRef,
    /// For a backup and a merge: name of the data key that the new image is sealed under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub seal: Option<String>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// From a volume to the target.
    Backup,
    /// From the target to a volume.
    Restore,
    /// Images on the target are looked at.
    Verify,
    /// Images on the target become one.
    Merge,
}

impl Direction {
    /// Whether a volume of the cluster is read or written.
    pub fn has_volume(self) -> bool {
        matches!(self, Self::Backup | Self::Restore)
    }
}

/// The run a transfer belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunRef {
    /// `Backup` or `Restore`; `BackupPlan` for work on the target.
    pub kind: String,
    /// Namespace of the run.
    pub namespace: String,
    /// Name of the run.
    pub name: String,
    /// UID of the run.
    pub uid: String,
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID of the claim that was backed up.
    pub uid: String,
}

/// What is known of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// Capacity in bytes: of the PersistentVolume for a backup, otherwise of the image.
    pub capacity: u64,
    /// CSI driver; for a restore the one of the storage class.
    pub driver: String,
    /// StorageClass that provisions the mover's claim.
    pub storage_class: String,
    /// `Filesystem` or `Block`: how the application uses the volume. The mover always reads and writes it as Block.
    pub volume_mode: String,
    /// Access modes of the application's claim.
    #[schemars(length(max = 8))]
    pub access_modes: Vec<String>,
    /// Filesystem type, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
}

/// Stages of a transfer. Backup: `Pending → Snapshotting → Snapshotted → Queued → Running → Succeeded`;
/// restore: `Pending → Queued → Running → HandingOver → Succeeded`; work on the target: `Pending → Queued → Running →
/// Succeeded`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TransferStage {
    /// Nothing was done yet.
    #[default]
    Pending,
    /// The snapshot is being taken and taken over.
    Snapshotting,
    /// The snapshot belongs to us: the application may go on.
    Snapshotted,
    /// Waits for a free place under the limits of node and target.
    Queued,
    /// Claim and mover Job exist.
    Running,
    /// The written volume is being given to the application's claim.
    HandingOver,
    /// Done; `result`, for a restore the bound claim, is there.
    Succeeded,
    /// Given up; see `reason` and `message`.
    Failed,
    /// Stopped by `spec.cancel`.
    Canceled,
}

impl TransferStage {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }
}

/// State of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeTransferStatus {
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Stage.
    #[serde(default)]
    pub stage: TransferStage,
    /// When the stage was entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_timestamp: Option<Time>,
    /// Number of the mover attempt in force: what an older one reports does not count.
    #[serde(default)]
    pub attempt: u32,
    /// The snapshot, from the moment its handle is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotRecord>,
    /// Node the mover runs on, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Complete manifest of the PersistentVolume, saved before anything of it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub saved_volume: Option<serde_json::Value>,
    /// For a restore: what earlier attempts have written for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// What the mover says; only the mover writes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mover: Option<MoverReport>,
    /// For a backup and a merge: the image as written, an image record of the format. For a verification: its report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub result: Option<serde_json::Value>,
    /// One of the condition reasons when Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened and what to do when Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The beginning of a volume that is restored already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// UID of the mover's claim it was written to.
    pub claim_uid: String,
    /// Bytes from the start of the volume.
    pub bytes: u64,
}

/// A snapshot that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRecord {
    /// The driver's handle.
    pub handle: String,
    /// Nanoseconds since the epoch at which the snapshot was cut.
    pub creation_time: i64,
    /// Bytes a volume from this snapshot needs at least, if the driver says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_size: Option<i64>,
}

/// What the mover pod reports, at most every two seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoverReport {
    /// Attempt this report belongs to.
    pub attempt: u32,
    /// Bytes of the volume to deal with.
    pub bytes_total: u64,
    /// Bytes of the volume dealt with.
    pub bytes_done: u64,
    /// Bytes moved to or from the target.
    pub bytes_transferred: u64,
    /// Bytes read from (backup) or written to (restore) the device.
    pub bytes_device: u64,
    /// Bytes from the start of the volume that a restore has written and flushed.
    #[serde(default)]
    pub bytes_durable: u64,
    /// Volume bytes per second over the last interval.
    pub rate: u64,
    /// Peak resident memory of the mover in bytes.
    pub peak_memory: u64,
    /// When this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Time>,
    /// Set once, when the attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<MoverOutcome>,
}

/// How an attempt ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoverOutcome {
    /// Whether everything was written and checked.
    pub succeeded: bool,
    /// Whether another attempt may help.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retryable: bool,
    /// One of the condition reasons when it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened and what to do when it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For a backup or merge that succeeded: the image record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub image: Option<serde_json::Value>,
    /// For a verification that came to its end: what it found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub report: Option<serde_json::Value>,
}
