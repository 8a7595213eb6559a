//! Namespaces and whether they could be brought back.

use serde::{Deserialize, Serialize};

use crate::backup::BackupPhase;

/// A namespace with its protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NamespaceProtection {
    /// Name of the namespace.
    pub name: String,
    /// Whether the namespace is being deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
    /// In one word.
    pub state: ProtectionState,
    /// Names of its plans.
    pub plans: Vec<String>,
    /// Complete backups there are.
    pub points: u64,
    /// The newest Complete backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good_backup: Option<BackupSummary>,
    /// Seconds since the newest Complete backup was started: what would be lost now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// The newest backup that failed after the last good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_since: Option<BackupSummary>,
    /// Backups at work or waiting.
    pub running: Vec<BackupSummary>,
}

/// Protection of a namespace in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ProtectionState {
    /// No plan.
    Unprotected,
    /// A plan, and no Complete backup yet.
    NeverBackedUp,
    /// The newest finished backup is Complete.
    Protected,
    /// The newest finished backup failed; an older one may be there.
    LastFailed,
}

/// A backup in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupSummary {
    /// Name of the Backup.
    pub name: String,
    /// Name of its plan.
    pub backup_plan: String,
    /// When it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<String>,
    /// The newest phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupPhase>,
    /// Progress in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage_completion: Option<u8>,
    /// Bytes it added to the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
