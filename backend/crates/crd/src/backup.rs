//! Backup: one run of a plan.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{ObjectRef, Requester};
use crate::status::{PhaseRecord, Problem, VolumeProgress};
use crate::verification::VerifiedVolume;

/// One run of a plan: the objects and volumes of its namespace at one time.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1",
    kind = "Backup",
    namespaced,
    status = "BackupStatus",
    shortname = "hfb",
    category = "holdfast",
    derive = "PartialEq",
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.backupPlan.name"),
    printcolumn(name = "Type", type_ = "string", json_path = ".status.type"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Complete')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Complete')].reason"
    ),
    printcolumn(
        name = "Percent",
        type_ = "integer",
        json_path = ".status.percentageCompletion"
    ),
    printcolumn(
        name = "Verified",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Verified')].status"
    ),
    printcolumn(name = "Stored", type_ = "integer", json_path = ".status.size"),
    printcolumn(
        name = "Locked until",
        type_ = "string",
        priority = 1,
        json_path = ".status.lockedUntil"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpec {
    /// What is asked for. The first backup of a volume is always full.
    #[serde(rename = "type")]
    pub kind: BackupKind,
    /// The plan, in the same namespace.
    pub backup_plan: ObjectRef,
    /// What happens to the data when this resource is deleted by a person. `Retain` when absent.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Stops the run. The only field that may change, and only to `true`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// Who asked; written by admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Requester>,
}

/// What kind of backup is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupKind {
    /// Every volume as a new base image.
    Full,
    /// Every volume as an overlay on its last image where there is one.
    Incremental,
}

/// What happens to data on the target when the Backup resource is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The point stays on the target and can be restored by its location.
    #[default]
    Retain,
    /// The point is deleted from the target, unless the namespace or our CRDs are going away.
    Delete,
}

/// Phases of a backup, in order; `UploadVolumes` and `UploadMetadata` run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
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
}

/// State of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// `Accepted`, `Complete`, `Failed`. Exactly one of Complete and Failed becomes True, and then the run is over.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The newest phase that has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupPhase>,
    /// Every phase so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub phases: Vec<PhaseRecord<BackupPhase>>,
    /// `Full`, `Incremental` or `Mixed`: what the run became, volume by volume.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Where the point is on the target: `<cluster>/<plan>/<backup>`, UIDs. Set once the point is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The Secret with the key that encrypts this run, with its namespace; absent where nothing is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_secret: Option<ObjectRef>,
    /// The target as resolved at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ObjectRef>,
    /// How the run locks what it stores, as the plan said at the start; absent where the target locks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_terms: Option<LockTerms>,
    /// Until when nobody can delete the point from the target. Set once the point is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Time>,
    /// UID of the plan as resolved at the start: the chain's home on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_uid: Option<String>,
    /// Number of the attempt; written into names on the target, checked by the commit.
    #[serde(default)]
    pub attempt: u32,
    /// When the run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<Time>,
    /// Progress in percent of volume bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage_completion: Option<u8>,
    /// Bytes this backup added to the target: images, indexes, objects, manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Objects captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// The captured objects on the target, once written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects_file: Option<StoredFile>,
    /// Volumes and their progress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub volumes: Vec<VolumeProgress>,
    /// Claims that the plan excludes by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub excluded_claims: Vec<String>,
    /// Named problems, at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub problems: Vec<Problem>,
    /// What verification knows of each volume of the point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub verification: Vec<VerifiedVolume>,
}

/// How a run locks what it stores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LockTerms {
    /// Days for which a point stays locked, at least.
    pub retention_days: u32,
    /// Days for which incrementals are put on a full backup.
    pub chain_days: u32,
    /// Most incrementals on a full backup.
    pub incrementals: u32,
}

/// An object on the target that a status refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredFile {
    /// Key on the target.
    pub key: String,
    /// Size in bytes as stored.
    pub size: u64,
    /// Version that the store gave it, where it has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// BLAKE3 of the stored bytes, hexadecimal.
    pub blake3: String,
}
