//! Backup plans: what is protected and where it goes.

pub(crate) mod create;
pub(crate) mod detail;
pub(crate) mod list;
