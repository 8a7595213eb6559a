//! The event stream `GET /api/v1/events`.

use serde::{Deserialize, Serialize};

use crate::backup::Backup;
use crate::plan::BackupPlan;
use crate::restore::Restore;
use crate::target::Target;
use crate::transfer::VolumeTransfer;

/// One message of the stream, the JSON of an unnamed server-sent event. Heartbeats are comments and show as nothing.
///
/// Order per kind: [`ServerEvent::Reset`], then every object as [`ServerEvent::Upsert`], then
/// [`ServerEvent::Synced`], then changes. A kind may be reset again at any time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "camelCase")]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every event is an upsert: a box would save nothing"
)]
pub enum ServerEvent {
    /// Forget what is known of this kind in this namespace: it comes anew.
    Reset {
        /// The kind.
        kind: ResourceKind,
        /// The namespace; every namespace when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
    /// An object is there or has changed.
    Upsert {
        /// The object as a whole.
        resource: Resource,
    },
    /// An object is gone.
    Delete {
        /// Its kind.
        kind: ResourceKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Everything that exists of this kind in this namespace has been sent.
    Synced {
        /// The kind.
        kind: ResourceKind,
        /// The namespace; every namespace when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
    /// The session may not watch this kind there; nothing of it will come.
    Forbidden {
        /// The kind.
        kind: ResourceKind,
        /// The namespace; every namespace when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// The missing right, as the API server said it.
        message: String,
    },
    /// The stream ends and must not be opened again with this session.
    SessionEnded,
    /// The server stops; open the stream again.
    ServerStopping,
}

/// Kinds that the stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[allow(missing_docs, reason = "the kinds are documented where they are defined")]
pub enum ResourceKind {
    Target,
    BackupPlan,
    Backup,
    Restore,
    VolumeTransfer,
}

/// An object with its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", content = "object")]
#[allow(missing_docs, reason = "the kinds are documented where they are defined")]
pub enum Resource {
    Target(Target),
    BackupPlan(BackupPlan),
    Backup(Box<Backup>),
    Restore(Box<Restore>),
    VolumeTransfer(Box<VolumeTransfer>),
}

impl Resource {
    /// The kind of the object.
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Target(_) => ResourceKind::Target,
            Self::BackupPlan(_) => ResourceKind::BackupPlan,
            Self::Backup(_) => ResourceKind::Backup,
            Self::Restore(_) => ResourceKind::Restore,
            Self::VolumeTransfer(_) => ResourceKind::VolumeTransfer,
        }
    }
}
