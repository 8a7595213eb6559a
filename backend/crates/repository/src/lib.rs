//! What lies on a target, as a whole: points, chains of images, keys, readers. How they are found, committed, kept apart
//! and removed, with or without the keys that open them.
//!
//! **May enter:** a [`Target`](holdfast_target::Target), keys, records, the time of day.
//! **Must not know:** Kubernetes, custom resources, devices; what is inside an image.
//!
//! Rules that hold at every moment, whoever dies when:
//! - A point is there when its commit object is; that is written last and never again ([`point`]).
//! - A chain changes by a new generation, created only if nobody else was there first ([`chain`]).
//! - An object goes in two steps: a generation no longer names it, and after a grace period, when no reader holds an
//!   older generation, it is removed ([`removal`], [`lease`]). What no generation ever named goes at once.
//! - Nothing is decided on what could not be read: a document that fails to parse keeps what it may need.
//! - Where objects are locked, a point is locked before it is there, and what is locked is never merged ([`lock`]).
//!
//! `docs/FORMAT.md` is the specification of the documents.
#![forbid(unsafe_code)]

mod base;
pub mod chain;
mod error;
pub mod inspect;
pub mod keys;
pub mod lease;
pub mod lock;
pub mod point;
pub mod removal;
mod shell;
pub mod sweep;

pub use base::choose_base;
pub use error::RepositoryError;

/// Most objects that one volume, point or plan may have on a target.
pub(crate) const MAX_OBJECTS: usize = 200_000;
