//! The store: where backups lie and how they get there and back. What enters: credentials of a bucket, keys and bytes.
//! What this crate must not know: Kubernetes, custom resources, QCOW2, volumes; it moves opaque bytes and knows only
//! how they are named ([`layout`]).
//!
//! [`Target`] is the interface, [`S3Target`] the implementation for S3 compatible stores, [`DirectoryTarget`] the one for
//! a mounted folder, [`depot::DepotTarget`] the one for a folder that is mounted elsewhere. With the feature `testing` come [`testing::MemoryTarget`], [`testing::Faulty`], a real gateway process ([`testing::Gateway`]) and the
//! conformance suite that every implementation passes.
//!
//! Promises every implementation keeps:
//! - Nothing is ever overwritten: [`Target::put`] and [`Target::put_new`] create or refuse.
//! - Every call ends within a bounded time; errors that may pass are retried inside ([`Patience`]).
//! - A call is cancelled by dropping its future. What it had begun on the store may or may not have happened.
//! - A secret never shows in `Debug`, `Display` or an error.

mod address;
mod connection;
pub mod depot;
mod directory;
mod error;
pub mod layout;
mod retry;
mod s3;
mod target;
#[cfg(feature = "testing")]
pub mod testing;
mod walk;

pub use address::{Address, Directory};
pub use connection::{Connection, SecretKey};
pub use directory::{DirectoryTarget, StoreId};
pub use error::{ErrorKind, TargetError};
pub use retry::Patience;
pub use s3::S3Target;
pub use target::{
    Creation, DefaultRetention, ETag, Immutability, InvalidKey, Key, ListRequest, Listing, MAX_LIST, Object,
    ObjectMeta, OpenUpload, Part, PartNumber, Pin, Prefix, ProbeReport, RetentionMode, Target, Upload,
    Version,
};
pub use walk::{MAX_EMPTY_PAGES, each_page, list_all};
