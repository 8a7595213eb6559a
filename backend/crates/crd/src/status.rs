//! Status types that Backup and Restore share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Named problems in a status: at most this many, the full list is in the report on the target.
pub const MAX_PROBLEMS: usize = 50;
/// Volumes in a status: at most this many; a run with more is refused by validation.
pub const MAX_VOLUMES: usize = 500;

/// State of one phase of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PhaseState {
    /// Started, not ended.
    InProgress,
    /// Ended well.
    Completed,
    /// Ended with an error.
    Failed,
    /// Not needed in this run.
    Skipped,
}

/// When a phase of a run started and how it ended. `P` is the kind's phase enum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseRecord<P> {
    /// The phase.
    pub phase: P,
    /// Its state.
    pub state: PhaseState,
    /// When it started.
    pub start_timestamp: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<Time>,
}

/// One named problem: which object, why, what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The object as `Kind/name` or `namespace/Kind/name`.
    pub object: String,
    /// One of the condition reasons.
    pub reason: String,
    /// What happened and what to do about it.
    pub message: String,
}

/// Progress of one volume of a run, copied from its volume-transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeProgress {
    /// Name of the PersistentVolumeClaim.
    pub claim: String,
    /// Name of the volume-transfer in the install namespace.
    pub transfer: String,
    /// Stage of the transfer, as its status says.
    pub stage: String,
    /// `Full` or `Incremental`; for a restore absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_type: Option<String>,
    /// Why the image is what it is: for instance why a full was taken though an incremental was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_reason: Option<String>,
    /// Size of the volume in bytes.
    pub bytes_total: u64,
    /// Bytes of the volume dealt with so far (read, or found empty).
    pub bytes_done: u64,
    /// Bytes moved to or from the target so far.
    pub bytes_transferred: u64,
}
