//! The way to a Kubernetes cluster: client, impersonation, discovery, conditions, events, election.
//!
//! Room rules: everything here speaks to one API server and knows nothing of backups. No controller, no reconcile
//! loop, no target, no HTTP server. Objects of applications stay [`serde_json::Value`] end to end, so that a field
//! this build has never heard of survives.

mod access;
mod apply;
mod cluster;
mod condition;
mod discovery;
mod error;
mod events;
mod lease;
mod names;
mod status;

pub use access::{Access, Decision, review};
pub use apply::{create_or_get, delete, dynamic};
pub use cluster::{ADMINISTRATORS, Cluster, ConnectError, impersonated};
pub use condition::{Truth, condition, is_true, set_condition};
pub use discovery::{
    ApiKind, ApiKinds, DiscoverError, LIST_RESTARTS, ListFailure, ListFailures, Page, Pages, is_expired,
    list_kind,
};
pub use error::{ApiFailure, describe, is_already_exists, is_conflict, is_not_found};
pub use events::Events;
pub use lease::{Election, ElectionError, Leadership};
pub use names::hashed;
pub use status::update_status;
