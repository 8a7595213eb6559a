//! Restore: brings a point back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Encryption, ObjectRef, Requester};
use crate::status::{PhaseRecord, Problem, VolumeProgress};

/// Brings a point back into the namespace the Restore lives in, or, from the install namespace, into a new one.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1",
    kind = "Restore",
    namespaced,
    status = "RestoreStatus",
    shortname = "hfr",
    category = "holdfast",
    derive = "PartialEq",
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source.type"),
    printcolumn(name = "Into", type_ = "string", json_path = ".status.restoreNamespace"),
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
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSpec {
    /// What to restore.
    pub source: RestoreSource,
    /// Namespace to restore into. Only a Restore in the install namespace may name one; it is created and must not
    /// exist. Absent: the namespace the Restore lives in, which must hold nothing that conflicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub restore_namespace: Option<String>,
    /// Opens an encrypted point. Absent: the key of the point's plan is taken, where that still exists in this cluster and
    /// the requester may read its Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Stops the run. The only field that may change, and only to `true`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// Who asked; written by admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Requester>,
}

/// What is restored: exactly the field that `type` names must be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSource {
    /// Kind of source.
    #[serde(rename = "type")]
    pub source_type: SourceType,
    /// For `Backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<ObjectRef>,
    /// For `BackupPlan`: its newest Complete backup is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_plan: Option<ObjectRef>,
    /// For `Location`: `<cluster>/<plan>/<backup>` on `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub location: Option<String>,
    /// For `Location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ObjectRef>,
}

/// Kinds of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceType {
    /// A Backup resource.
    Backup,
    /// The newest Complete backup of a plan.
    BackupPlan,
    /// A point on a target, of this or another cluster.
    Location,
}

/// Phases of a restore, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RestorePhase {
    /// Target, point, rights, conflicts and storage classes are checked.
    Validate,
    /// What will be created, and in which order.
    Plan,
    /// The namespace and the custom resource definitions it needs.
    Primitives,
    /// Movers write the volumes.
    Volumes,
    /// Objects, in dependency order, as the requester.
    Objects,
    /// The report per object is written.
    Report,
    /// Everything temporary is removed.
    CleanUp,
}

/// State of a restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// `Accepted`, `Complete`, `Failed`. Exactly one of Complete and Failed becomes True, and then the run is over.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The newest phase that has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestorePhase>,
    /// Every phase so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub phases: Vec<PhaseRecord<RestorePhase>>,
    /// The point being restored: `<cluster>/<plan>/<backup>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The target as resolved at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ObjectRef>,
    /// The Secret that opens the point, with its namespace; absent where the point is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_secret: Option<ObjectRef>,
    /// How often the signs on the target that its images are being read were renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_renewals: Option<u32>,
    /// Namespace that is restored into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_namespace: Option<String>,
    /// Whether this run created the namespace (and may remove it when nothing was restored).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created_namespace: bool,
    /// Number of the attempt.
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
    /// Volumes and their progress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub volumes: Vec<VolumeProgress>,
    /// Objects in the plan, created so far, failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<ObjectCounts>,
    /// Key of the report on the target: one JSON line per object, zstd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Named problems, at most 50; the report has all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub problems: Vec<Problem>,
}

/// Counts of objects of a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectCounts {
    /// Objects the plan holds.
    pub planned: u64,
    /// Objects written.
    pub created: u64,
    /// Cluster-scoped objects that existed already with the same content that matters (CRDs), left as they are.
    pub skipped: u64,
    /// Objects the API server refused.
    pub failed: u64,
}
