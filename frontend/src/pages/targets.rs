//! Targets: where backups are stored.

pub(crate) mod create;
pub(crate) mod detail;
pub(crate) mod list;
