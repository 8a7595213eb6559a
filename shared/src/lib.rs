//! What the server and the console say to each other over `/api/v1`: requests, answers, events.
//!
//! Room rules: plain data with serde and pure functions on it, nothing else; it builds for wasm32. No clock, no I/O,
//! no Kubernetes client. Resource types carry the field names of the custom resources, so that one word means one
//! thing in a manifest, in REST and in the console; a test of the server compares them with the definitions.
//!
//! Times are RFC 3339 strings in UTC, as Kubernetes writes them. Sizes are bytes.

pub mod backup;
pub mod error;
pub mod event;
pub mod meta;
pub mod namespace;
pub mod page;
pub mod plan;
pub mod restore;
pub mod server;
pub mod session;
pub mod target;
pub mod transfer;

pub use backup::{
    Backup, BackupPhase, BackupSpec, BackupStatus, BackupType, CreateBackup, DeletionPolicy, VerifiedVolume,
    VerifyBackup, VerifyScope,
};
pub use error::{ErrorBody, ErrorDetail, ErrorEnvelope};
pub use event::{Resource, ResourceKind, ServerEvent};
pub use meta::{
    Condition, Metadata, ObjectRef, PhaseState, Problem, Requester, RunState, VolumeProgress, condition,
};
pub use namespace::{BackupSummary, NamespaceProtection, ProtectionState};
pub use page::{ListQuery, Page};
pub use plan::{
    BackupConfig, BackupPlan, BackupPlanSpec, BackupPlanStatus, CreateBackupPlan, Encryption,
    GroupVersionKind, ObjectLock, ResourceSelector, ResourceSet, Verification,
};
pub use restore::{
    CreateRestore, ObjectCounts, Restore, RestorePhase, RestoreSource, RestoreSpec, RestoreStatus, SourceType,
};
pub use server::ServerInfo;
pub use session::{Session, SignIn, SignInMethod};
pub use target::{
    CreateTarget, DirectoryStatus, Immutability, NfsCredentials, ObjectStoreCredentials, SslCertConfig,
    Target, TargetClaim, TargetCredentials, TargetSpec, TargetStatus, TargetType, VENDORS,
};
pub use transfer::{
    ClaimRef, Direction, MoverReport, RunRef, TransferStage, VolumeSpec, VolumeTransfer, VolumeTransferSpec,
    VolumeTransferStatus,
};

/// Header that every request which is not GET or HEAD must carry, with the value [`CSRF_HEADER_VALUE`]. A page of
/// another site cannot send it without asking first, and the server never allows that.
pub const CSRF_HEADER: &str = "x-holdfast-request";
/// Value of [`CSRF_HEADER`].
pub const CSRF_HEADER_VALUE: &str = "1";
