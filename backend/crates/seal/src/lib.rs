//! `holdfast-seal`: how bytes on the target are encrypted, and nothing else.
//!
//! **May enter:** bytes, keys, randomness of the operating system, AEAD and key derivation.
//! **Must not know:** networks, object stores, files, Kubernetes, async runtimes, threads, clocks; what the bytes mean
//! (images, indexes, documents) and what objects are called, beyond a text that binds a document to its place.
//!
//! Three layers (`docs/FORMAT.md` is their specification):
//!
//! * a **region** is a stream of bytes under a key of its own, sealed in segments of 64 KiB. [`Sealer`] writes one as a
//!   stream, [`RegionWriter`] hands out one [`Ticket`] for each segment, so that all cores can seal;
//! * a **layout** says of which pieces of which regions an object consists. It finds ranges ([`Layout::locate`]), is cut
//!   and joined as the store copies bytes ([`Layout::cut`], [`Layout::concat`]) and, with its keys, becomes
//!   [`Unlocked`], which opens ranges. Small objects need no layout: [`seal_document`] makes them speak for themselves;
//! * a **wrapped key** is the data key of one backup as an age file for the plan's key and the recovery keys: [`wrap`],
//!   [`unwrap_with_plan`], [`unwrap_with_recovery`], [`rewrap`].
//!
//! What is shown to a caller was authentic: no function returns a byte of a segment before its tag was checked. The
//! exception is said by a type: [`Recovered`], a data key whose origin only the plan's key could prove.
//!
//! Data keys and private keys are never printed and are zeroed when dropped. `ring` does not zero the key schedules it
//! makes of region keys, so those stay in freed memory until it is used again.
#![forbid(unsafe_code)]

pub mod document;
pub mod error;
pub mod identity;
pub mod key;
pub mod layout;
pub mod open;
pub mod region;
pub mod sealer;
pub mod wrapped;

#[cfg(test)]
mod vectors;

pub use document::{MAX_DOCUMENT_HEAD, open_document, peek, seal_document};
pub use error::{
    KeyTextError, LayoutError, NameError, OpenError, OtherPlan, RewrapError, SealError, UnwrapError,
    WrapError,
};
pub use identity::{PlanKey, Recipient, RecoveryKey};
pub use key::{DataKey, KeyId, KeyRing, Location};
pub use layout::{Cut, Layout, MAX_SLICES, RegionSlice, SegmentAt};
pub use open::{Opener, Unlocked};
pub use region::{RegionId, SEALED_SEGMENT, SEGMENT, SegmentIndex, TAG};
pub use sealer::{RegionWriter, Sealer, Ticket};
pub use wrapped::{MAX_WRAPPED, Recovered, rewrap, unwrap_with_plan, unwrap_with_recovery, wrap};
