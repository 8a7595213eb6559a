//! Volume-transfers: one volume on its way. Read only.

use serde::{Deserialize, Serialize};

use crate::meta::{Condition, Metadata, ObjectRef};

/// One volume of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeTransfer {
    /// Name, namespace and age.
    pub metadata: Metadata,
    /// What is moved.
    pub spec: VolumeTransferSpec,
    /// How far it is.
    #[serde(default)]
    pub status: VolumeTransferStatus,
}

/// What is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct VolumeTransferSpec {
    /// To or from the target.
    pub direction: Direction,
    /// The run this belongs to.
    pub run: RunRef,
    /// The target.
    pub target: ObjectRef,
    /// The claim.
    pub claim: ClaimRef,
    /// The volume behind the claim.
    pub volume: VolumeSpec,
    /// Why the image is a full one although an incremental was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_reason: Option<String>,
    /// Whether it was asked to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Direction {
    /// From a volume to the target.
    Backup,
    /// From the target to a volume.
    Restore,
}

/// The run a transfer belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RunRef {
    /// `Backup` or `Restore`.
    pub kind: String,
    /// Namespace of the run.
    pub namespace: String,
    /// Name of the run.
    pub name: String,
    /// UID of the run.
    pub uid: String,
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// Capacity in bytes.
    pub capacity: u64,
    /// CSI driver.
    pub driver: String,
    /// StorageClass.
    pub storage_class: String,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
}

/// Stages of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TransferStage {
    /// Nothing was done yet.
    #[default]
    Pending,
    /// The snapshot is being taken.
    Snapshotting,
    /// The snapshot belongs to us.
    Snapshotted,
    /// Waits for a free place.
    Queued,
    /// The mover is at work.
    Running,
    /// The written volume is being given to the application's claim.
    HandingOver,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
    /// Stopped.
    Canceled,
    /// A stage of a newer operator.
    #[serde(other)]
    Unknown,
}

/// State of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct VolumeTransferStatus {
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Stage.
    #[serde(default)]
    pub stage: TransferStage,
    /// When the stage was entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_timestamp: Option<String>,
    /// Node the mover runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What the mover says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mover: Option<MoverReport>,
    /// One word for the cause when Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened and what to do when Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What the mover reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    /// Volume bytes per second over the last interval.
    pub rate: u64,
    /// Peak resident memory of the mover in bytes.
    pub peak_memory: u64,
    /// When this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
}
