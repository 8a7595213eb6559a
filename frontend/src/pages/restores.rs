//! Restores: bringing points back.

pub(crate) mod create;
pub(crate) mod detail;
pub(crate) mod list;
