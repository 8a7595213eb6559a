//! Parts that several resources share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What Kubernetes knows of every object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace.
    #[serde(default)]
    pub namespace: String,
    /// UID: tells an object from a later one of the same name.
    #[serde(default)]
    pub uid: String,
    /// When it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Set while the object is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// Number of the spec's change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// A named object, by default in the referring object's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Name.
    pub name: String,
    /// Namespace; the referring object's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl ObjectRef {
    /// A reference inside the same namespace.
    pub fn local(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: None,
        }
    }
}

/// One condition of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `Complete` or `Failed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word for the cause.
    #[serde(default)]
    pub reason: String,
    /// What happened, for people.
    #[serde(default)]
    pub message: String,
    /// When the status last changed.
    #[serde(default)]
    pub last_transition_time: String,
    /// Generation of the spec this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The condition of that type, if it is there and `True`.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.kind == kind && c.status == "True")
}

/// Where a run stands, in one word; derived from conditions and phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RunState {
    /// Created, nothing has started.
    Pending,
    /// At work.
    Running,
    /// Everything was done.
    Complete,
    /// Given up; the `Failed` condition says why.
    Failed,
    /// A person stopped it.
    Canceled,
}

impl RunState {
    /// Derives the state; `started` says whether a phase has begun.
    pub fn of(conditions: &[Condition], started: bool) -> Self {
        if condition(conditions, "Complete").is_some() {
            return Self::Complete;
        }
        match condition(conditions, "Failed") {
            Some(c) if c.reason == "Canceled" => Self::Canceled,
            Some(_) => Self::Failed,
            None if started => Self::Running,
            None => Self::Pending,
        }
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Canceled)
    }
}

/// State of one phase of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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

/// One named problem: which object, why, what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The object as `Kind/name` or `namespace/Kind/name`.
    pub object: String,
    /// One word for the cause.
    pub reason: String,
    /// What happened and what to do about it.
    pub message: String,
}

/// Who asked for a run, as admission recorded it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Requester {
    /// User name.
    pub user: String,
    /// UID of the user, if the authenticator gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Groups of the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Extra attributes of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Progress of one volume of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct VolumeProgress {
    /// Name of the PersistentVolumeClaim.
    pub claim: String,
    /// Name of the volume-transfer in the install namespace.
    pub transfer: String,
    /// Stage of the transfer.
    pub stage: String,
    /// `Full` or `Incremental`; for a restore absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_type: Option<String>,
    /// Why the image is what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_reason: Option<String>,
    /// Size of the volume in bytes.
    pub bytes_total: u64,
    /// Bytes of the volume dealt with so far.
    pub bytes_done: u64,
    /// Bytes moved to or from the target so far.
    pub bytes_transferred: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: &str, status: &str, reason: &str) -> Condition {
        Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            ..Condition::default()
        }
    }

    #[test]
    fn state_follows_conditions_before_phase() {
        assert_eq!(RunState::of(&[], false), RunState::Pending);
        assert_eq!(
            RunState::of(&[with("Complete", "False", "InProgress")], true),
            RunState::Running
        );
        assert_eq!(
            RunState::of(&[with("Complete", "True", "Succeeded")], true),
            RunState::Complete
        );
        assert_eq!(
            RunState::of(&[with("Failed", "True", "Canceled")], true),
            RunState::Canceled
        );
        assert_eq!(
            RunState::of(&[with("Failed", "True", "TargetFull")], false),
            RunState::Failed
        );
    }
}
