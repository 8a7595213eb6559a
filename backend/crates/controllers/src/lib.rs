//! The operator: one controller per kind, and what they share.
//!
//! Room rules: reconcile loops live here and nowhere else; nobody but the binary imports this crate. Rules that need no
//! cluster are in `holdfast-core`, talking to the API server is in `holdfast-k8s`, talking to a store in
//! `holdfast-target`. A controller is level-triggered: it looks at what is, does the next step and writes the status;
//! killed at any point, the next leader goes on from what is stored.

mod backup;
mod contain;
mod context;
mod depot;
mod encryption;
pub mod failure;
mod locks;
mod metrics;
mod mounting;
mod operator;
mod phases;
mod plan;
mod restore;
mod retention;
mod settings;
mod spec_check;
mod streak;
mod sweep;
mod target;
mod target_access;
mod transfer;
mod upkeep;
mod verification;

pub use context::Context;
pub use metrics::Metrics;
pub use operator::{Config, OperatorError, run};
pub use settings::{Limits, MoverSettings};
pub use target_access::TargetAccess;
pub use transfer::{DatamoverTask, NEEDS_FULL};
