//! Restores.

use serde::{Deserialize, Serialize};

use crate::meta::{Condition, Metadata, ObjectRef, PhaseState, Problem, Requester, RunState, VolumeProgress};

/// Brings a point back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Restore {
    /// Name, namespace and age.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: RestoreSpec,
    /// How far it is.
    #[serde(default)]
    pub status: RestoreStatus,
}

impl Restore {
    /// Where the run stands, in one word.
    pub fn state(&self) -> RunState {
        RunState::of(&self.status.conditions, self.status.phase.is_some())
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RestoreSpec {
    /// What to restore.
    pub source: RestoreSource,
    /// Namespace to restore into, only for a Restore in the install namespace; the Restore's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_namespace: Option<String>,
    /// Opens an encrypted point; the key of its plan is taken when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<crate::Encryption>,
    /// Whether the run was asked to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Requester>,
}

/// What is restored: exactly the field that `type` names is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    pub location: Option<String>,
    /// For `Location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ObjectRef>,
}

/// Kinds of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SourceType {
    /// A Backup resource.
    Backup,
    /// The newest Complete backup of a plan.
    BackupPlan,
    /// A point on a target, of this or another cluster.
    Location,
}

/// Phases of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    /// A phase of a newer operator.
    #[serde(other)]
    Unknown,
}

/// When a phase of a restore started and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RestorePhaseRecord {
    /// The phase.
    pub phase: RestorePhase,
    /// Its state.
    pub state: PhaseState,
    /// When it started.
    pub start_timestamp: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<String>,
}

/// State of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The newest phase that has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestorePhase>,
    /// Every phase so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<RestorePhaseRecord>,
    /// The point being restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The target as resolved at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ObjectRef>,
    /// Namespace that is restored into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_namespace: Option<String>,
    /// When the run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<String>,
    /// Progress in percent of volume bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage_completion: Option<u8>,
    /// Volumes and their progress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeProgress>,
    /// Objects in the plan, created so far, failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<ObjectCounts>,
    /// Key of the report on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Named problems, at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Counts of objects of a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ObjectCounts {
    /// Objects the plan holds.
    pub planned: u64,
    /// Objects written.
    pub created: u64,
    /// Objects that existed already, left as they are.
    pub skipped: u64,
    /// Objects the API server refused.
    pub failed: u64,
}

/// Body of `POST /api/v1/restores`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateRestore {
    /// Namespace the Restore lives in.
    pub namespace: String,
    /// Create that namespace first if it does not exist, as the signed-in person: the way back for a namespace that
    /// was deleted. Without it a missing namespace is an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create_namespace: bool,
    /// Name; `restore-` and a random end when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What to restore.
    pub source: RestoreSource,
    /// Namespace to restore into, only for a Restore in the install namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_namespace: Option<String>,
    /// Opens an encrypted point; the key of its plan is taken when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<crate::Encryption>,
}
