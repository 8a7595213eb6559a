//! Backups.

use serde::{Deserialize, Serialize};

use crate::meta::{Condition, Metadata, ObjectRef, PhaseState, Problem, Requester, RunState, VolumeProgress};

/// One run of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Backup {
    /// Name, namespace and age.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: BackupSpec,
    /// How far it is.
    #[serde(default)]
    pub status: BackupStatus,
}

impl Backup {
    /// Where the run stands, in one word.
    pub fn state(&self) -> RunState {
        RunState::of(&self.status.conditions, self.status.phase.is_some())
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupSpec {
    /// `Full` or `Incremental`. The first backup of a volume is always full.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// The plan, in the same namespace.
    pub backup_plan: ObjectRef,
    /// What happens to the data when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whether the run was asked to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Requester>,
}

/// What kind of backup is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BackupType {
    /// Every volume as a new base image.
    Full,
    /// Every volume as an overlay on its last image where there is one.
    #[default]
    Incremental,
}

/// What happens to data on the target when the Backup is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeletionPolicy {
    /// The point stays and can be restored by its location.
    #[default]
    Retain,
    /// The point is deleted from the target.
    Delete,
}

/// Phases of a backup; `UploadVolumes` and `UploadMetadata` run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BackupPhase {
    /// Plan, target, rights and volumes are checked.
    Validate,
    /// Objects are listed and read, volumes found.
    CaptureMetadata,
    /// Every volume gets its snapshot.
    SnapshotVolumes,
    /// Movers write images to the target.
    UploadVolumes,
    /// The captured objects are written to the target.
    UploadMetadata,
    /// Chains and, last, the commit object are written.
    Commit,
    /// Everything temporary is removed.
    CleanUp,
    /// A phase of a newer operator.
    #[serde(other)]
    Unknown,
}

/// When a phase of a backup started and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupPhaseRecord {
    /// The phase.
    pub phase: BackupPhase,
    /// Its state.
    pub state: PhaseState,
    /// When it started.
    pub start_timestamp: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<String>,
}

/// State of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The newest phase that has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupPhase>,
    /// Every phase so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<BackupPhaseRecord>,
    /// `Full`, `Incremental` or `Mixed`: what the run became.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Where the point is on the target. Set once the point is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The target as resolved at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ObjectRef>,
    /// Until when nobody can delete the point from the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<String>,
    /// When the run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<String>,
    /// Progress in percent of volume bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage_completion: Option<u8>,
    /// Bytes this backup added to the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Objects captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Volumes and their progress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeProgress>,
    /// Claims that the plan excludes by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_claims: Vec<String>,
    /// Named problems, at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What verification knows of each volume of the point; the condition `Verified` says it of the point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verification: Vec<VerifiedVolume>,
}

/// What is known of one volume of a point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct VerifiedVolume {
    /// Name of the claim.
    pub claim: String,
    /// When objects, tables and indexes of all its images were looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<String>,
    /// When all its content had been read and compared with its hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_checked_at: Option<String>,
    /// What is damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Body of `POST /api/v1/backups/{namespace}/{name}/verify`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyBackup {
    /// How much is read.
    #[serde(default)]
    pub scope: VerifyScope,
}

/// How much of a point a verification reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum VerifyScope {
    /// Whether every object is there, and tables and indexes are what was written.
    #[default]
    Quick,
    /// All content as well.
    Full,
}

/// Body of `POST /api/v1/backups`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateBackup {
    /// Namespace of the plan.
    pub namespace: String,
    /// Name; made from the plan's name and a random end when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of the plan.
    pub backup_plan: String,
    /// `Full` or `Incremental`; `Incremental` when absent.
    #[serde(default, rename = "type")]
    pub kind: BackupType,
    /// `Retain` when absent.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}
