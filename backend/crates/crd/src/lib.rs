//! The custom resources of Holdfast, as Rust types: one file per kind, schemas generated from them.
//!
//! Room rules: types, their schemas and constants only. No client, no reconcile logic, no I/O.
//! `spec` fields follow the product users come from so that manifests carry over; `status` is ours.
//! A field that does not work yet is not here: what the schema shows is what the product does.
#![allow(
    clippy::duplicated_attributes,
    reason = "the lint takes columns of the same type for the same attribute"
)]

pub mod backup;
pub mod backup_plan;
pub mod common;
pub mod external;
pub mod generate;
pub mod names;
pub mod restore;
pub mod status;
pub mod target;
pub mod transfer;
pub mod verification;

pub use backup::{Backup, BackupKind, BackupPhase, BackupSpec, BackupStatus, DeletionPolicy, LockTerms};
pub use backup_plan::{BackupPlan, BackupPlanSpec, BackupPlanStatus, ObjectLock};
pub use common::{Encryption, GroupVersionKind, ObjectRef, Requester, ResourceSelector, ResourceSet};
pub use restore::{Restore, RestorePhase, RestoreSource, RestoreSpec, RestoreStatus, SourceType};
pub use status::{PhaseRecord, PhaseState, Problem, VolumeProgress};
pub use target::{Immutability, Target, TargetSpec, TargetStatus};
pub use transfer::{
    Direction, TransferEncryption, TransferStage, VolumeTransfer, VolumeTransferSpec, VolumeTransferStatus,
};
pub use verification::{
    ClusterRange, ImageDamage, PlanVerification, Verification, VerifiedVolume, VolumeVerification,
};
