//! The pages, one file each.

pub(crate) mod backups;
pub(crate) mod namespaces;
pub(crate) mod not_found;
pub(crate) mod plans;
pub(crate) mod restores;
pub(crate) mod sign_in;
pub(crate) mod targets;
