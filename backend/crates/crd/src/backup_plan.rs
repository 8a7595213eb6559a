//! BackupPlan: what is protected and where it goes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Encryption, ObjectRef, ResourceSelector};
use crate::verification::{PlanVerification, Verification};

/// Protects the namespace it lives in.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1",
    kind = "BackupPlan",
    namespaced,
    status = "BackupPlanStatus",
    shortname = "hfp",
    category = "holdfast",
    derive = "PartialEq",
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".spec.backupConfig.target.name"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].reason"
    ),
    printcolumn(name = "Points", type_ = "integer", json_path = ".status.points"),
    printcolumn(
        name = "Last good",
        type_ = "string",
        json_path = ".status.lastSuccessfulBackup.name"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupPlanSpec {
    /// Where backups go.
    pub backup_config: BackupConfig,
    /// Objects and claims left out, by kind and name. A claim that is named here is not read, and the backup is
    /// complete without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_resources: Option<ResourceSelector>,
    /// Encrypts what the plan stores. Without it, a namespace with Secrets is backed up only where
    /// `storeSecretsUnencrypted` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Lets Secrets be stored in clear: whoever can read the target can read them. Without effect where `encryption` is
    /// set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub store_secrets_unencrypted: bool,
    /// How often stored points are verified, and how thoroughly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
}

/// Where backups of a plan go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupConfig {
    /// The target; it cannot be changed later, a chain lives on one target.
    pub target: ObjectRef,
    /// For how long points are locked. Needed on a target with `objectLockingEnabled`, refused on others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,
    /// Most incrementals on a full backup where points are locked, since chains are not merged there; what chains may
    /// have at most when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 49))]
    pub max_incr_backups_per_full_backup: Option<u32>,
}

/// For how long points of a plan are locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectLock {
    /// Days after its completion for which a point stays locked, at least.
    #[schemars(range(min = 1, max = 36500))]
    pub retention_days: u32,
    /// Days for which incrementals are put on a full backup; the first backup after them is full. All of a chain is
    /// locked until the retention of its last possible incremental ends, so a longer chain is locked for longer.
    #[serde(default = "a_week")]
    #[schemars(range(min = 1, max = 365))]
    pub chain_days: u32,
}

fn a_week() -> u32 {
    7
}

/// What the operator knows about a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupPlanStatus {
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Public half of the key that the plan's data keys are wrapped for. Changes when the key was rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_recipient: Option<String>,
    /// Backups of this plan that are Complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<u64>,
    /// Newest Backup that is Complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_backup: Option<ObjectRef>,
    /// Newest Backup of any state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_backup: Option<ObjectRef>,
    /// What verification found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<PlanVerification>,
}
