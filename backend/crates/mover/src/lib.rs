//! Moves one volume: a block device (or a file that stands for one) to images on a target, and back.
//!
//! What enters: a [`Job`] with paths, names and records, and a [`Target`](holdfast_target::Target). What this crate must
//! not know: Kubernetes, web servers, where jobs come from and where results go.
//!
//! A backup reads the device once, in order, on all cores, and streams one QCOW2 image and one index for each shard of
//! 128 GiB straight into uploads. A restore reads the images of a chain in device order and counts a cluster as restored
//! only when its hash is the one in the index. A merge makes one image of neighbouring ones inside the store. A verification looks whether images are still what was written. Memory is bounded by constants ([`limits`]), never by the volume.
//!
//! Everything that blocks (device, compression, hashing) runs on threads of its own; only the network runs on the
//! caller's runtime. Dropping the future of a job or cancelling its token stops it; an orderly cancel also removes what
//! it had begun on the target.

mod backup;
mod buffer;
mod checkpoint;
mod content;
mod device;
mod error;
mod job;
mod ledger;
pub mod limits;
mod merge;
mod progress;
mod remote;
mod restore;
mod threads;
mod upload;
mod verify;

pub use backup::backup;
pub use error::{Damage, MoverError};
pub use job::{
    BackupJob, Job, MergeJob, Problem, RestoreJob, RestoreSummary, ShardClusters, VerifyJob, VerifyPosition,
    VerifyReport, VerifyScope, Zeroing,
};
pub use merge::{MergeGain, merge, survey};
pub use progress::{Progress, ProgressSnapshot, peak_memory};
pub use restore::restore;
pub use verify::verify;
