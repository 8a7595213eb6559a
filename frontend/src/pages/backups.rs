//! Backups: runs of plans.

pub(crate) mod delete;
pub(crate) mod detail;
pub(crate) mod list;
pub(crate) mod start;
mod verify;
