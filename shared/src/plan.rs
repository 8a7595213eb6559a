//! Backup plans.

use serde::{Deserialize, Serialize};

use crate::meta::{Condition, Metadata, ObjectRef};

/// Protects the namespace it lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackupPlan {
    /// Name, namespace and age.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: BackupPlanSpec,
    /// What is known.
    #[serde(default)]
    pub status: BackupPlanStatus,
}

/// What is protected and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupPlanSpec {
    /// Where backups go.
    pub backup_config: BackupConfig,
    /// Objects and claims left out, by kind and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_resources: Option<ResourceSelector>,
    /// Encrypts what the plan stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Lets Secrets be stored in clear where nothing is encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub store_secrets_unencrypted: bool,
    /// How often stored points are verified, and how thoroughly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
}

/// How a plan's points are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Hours from one look to the next; 168 when absent, 0: only when somebody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_hours: Option<u32>,
    /// Stored content that each look reads of every volume, such as `20Gi`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_budget: Option<String>,
}

/// Encrypts, or opens what is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Secret in the same namespace with the key.
    pub encryption_secret: ObjectRef,
}

/// Where backups of a plan go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupConfig {
    /// The target; it cannot be changed later.
    pub target: ObjectRef,
    /// For how long points are locked, where the target locks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,
    /// Most incrementals on a full backup where points are locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_incr_backups_per_full_backup: Option<u32>,
}

/// For how long points of a plan are locked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ObjectLock {
    /// Days after its completion for which a point stays locked, at least.
    pub retention_days: u32,
    /// Days for which incrementals are put on a full backup; 7 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_days: Option<u32>,
}

/// Selects objects by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourceSelector {
    /// Kinds, each with names or as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gvk_selector: Vec<ResourceSet>,
}

/// Objects of one kind, all of them or by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourceSet {
    /// The kind.
    pub group_version_kind: GroupVersionKind,
    /// Names; every object of the kind when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
}

/// Group, version and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct GroupVersionKind {
    /// API group; empty for the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// API version; any when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Kind.
    pub kind: String,
}

/// What the operator knows about a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupPlanStatus {
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Public half of the key that the plan encrypts with.
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
}

/// Body of `POST /api/v1/backupplans`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateBackupPlan {
    /// Name.
    pub name: String,
    /// The namespace that is protected.
    pub namespace: String,
    /// What is asked for.
    pub spec: BackupPlanSpec,
}
