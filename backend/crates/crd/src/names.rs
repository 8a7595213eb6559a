//! Names that several rooms share: the group, labels, annotations, finalizers, condition types and reasons.

/// API group of every kind.
pub const GROUP: &str = "holdfast.dev";
/// Version of the kinds people write.
pub const VERSION: &str = "v1";
/// Field manager of the operator's own writes.
pub const FIELD_MANAGER: &str = "holdfast";
/// Value of [`labels::MANAGED_BY`] on everything the operator makes.
pub const MANAGED_BY: &str = "holdfast";

/// Labels; values are UIDs or fixed words, never user text.
pub mod labels {
    /// Marks what the operator made: value [`super::MANAGED_BY`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// UID of the run (Backup or Restore) something belongs to.
    pub const RUN: &str = "holdfast.dev/run";
    /// UID of the volume-transfer something belongs to.
    pub const TRANSFER: &str = "holdfast.dev/transfer";
    /// Role of a pod: `server`, `operator`, `datamover`, `metamover`.
    pub const ROLE: &str = "holdfast.dev/role";
    /// On a Backup: somebody asks for a verification, `quick` or `full`. Goes when it has begun.
    pub const VERIFY: &str = "holdfast.dev/verify";
    /// UID of the Target that a depot, its claim or its volume belongs to.
    pub const TARGET: &str = "holdfast.dev/target";
    /// Marks a deferred deletion on a target, kept as a ConfigMap in the install namespace.
    pub const TOMBSTONE: &str = "holdfast.dev/tombstone";
}

/// Annotations.
pub mod annotations {
    /// On restored objects: UID of the Restore that wrote them.
    pub const RESTORED_BY: &str = "holdfast.dev/restored-by";
    /// On a VolumeSnapshotContent that is being deleted: when its snapshotter was last woken to do so.
    pub const REMINDED: &str = "holdfast.dev/reminded-at";
}

/// Finalizers. They never wait for a network target: they hand over to the sweeper and let go.
pub mod finalizers {
    /// On Backup and Restore: temporary objects are cleaned before the resource goes.
    pub const RUN: &str = "holdfast.dev/run";
    /// On VolumeTransfer: cluster-scoped leftovers are cleaned before the resource goes.
    pub const TRANSFER: &str = "holdfast.dev/transfer";
}

/// Condition types, the same on every kind.
pub mod conditions {
    /// The resource is understood and may act (for a Target: it can be used; for a plan: it can run).
    pub const ACCEPTED: &str = "Accepted";
    /// What the resource asks for has been done, entirely.
    pub const COMPLETE: &str = "Complete";
    /// It was tried and did not succeed; `reason` and `message` say what, where, why and what to do.
    pub const FAILED: &str = "Failed";
    /// On a Backup: what it stored was looked at after it was stored, and is as it was written. Absent: nobody has looked.
    pub const VERIFIED: &str = "Verified";
}

/// Condition reasons. One word per cause; tests and dashboards may rely on them.
pub mod reasons {
    /// Everything needed was found and is valid.
    pub const VALID: &str = "Valid";
    /// Work is going on.
    pub const IN_PROGRESS: &str = "InProgress";
    /// Waits for another run of the same plan.
    pub const QUEUED: &str = "Queued";
    /// Done, nothing left out.
    pub const SUCCEEDED: &str = "Succeeded";
    /// What is stored is as it was written.
    pub const VERIFIED: &str = "Verified";
    /// A person asked the run to stop.
    pub const CANCELED: &str = "Canceled";
    /// A field is unknown, missing or contradicts another.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A referenced resource does not exist.
    pub const NOT_FOUND: &str = "NotFound";
    /// A reference that the target or the namespace rules do not allow.
    pub const NOT_ALLOWED: &str = "NotAllowed";
    /// The requester lacks a Kubernetes right that the run needs.
    pub const FORBIDDEN: &str = "Forbidden";
    /// The store refused the key pair.
    pub const WRONG_CREDENTIALS: &str = "WrongCredentials";
    /// The Secret with the credentials or one of its keys is missing.
    pub const CREDENTIALS_MISSING: &str = "CredentialsMissing";
    /// The bucket does not exist.
    pub const BUCKET_MISSING: &str = "BucketMissing";
    /// A key that is needed is not there, or is not the right one.
    pub const KEY_MISSING: &str = "KeyMissing";
    /// Secrets would be stored in clear.
    pub const SECRETS_IN_CLEAR: &str = "SecretsInClear";
    /// The endpoint does not answer.
    pub const UNREACHABLE: &str = "Unreachable";
    /// The endpoint's certificate is not signed by a trusted authority.
    pub const UNTRUSTED_CERTIFICATE: &str = "UntrustedCertificate";
    /// The store has no room, or its quota is used up.
    pub const TARGET_FULL: &str = "TargetFull";
    /// The target answered with an error that fits no other reason.
    pub const TARGET_ERROR: &str = "TargetError";
    /// The folder does not hold the store that it held: its volume is not mounted, or it is another one.
    pub const NOT_MOUNTED: &str = "NotMounted";
    /// The pod that opens the folder of a target does not run (yet); the message says what it waits for.
    pub const DEPOT_NOT_READY: &str = "DepotNotReady";
    /// The target of a run is not Accepted.
    pub const TARGET_NOT_READY: &str = "TargetNotReady";
    /// The Target is to lock what is stored, and its bucket cannot.
    pub const OBJECT_LOCK_MISSING: &str = "ObjectLockMissing";
    /// What the plan says of locks contradicts its target.
    pub const LOCK_MISMATCH: &str = "LockMismatch";
    /// The data is locked: nobody can delete it before the date in the message.
    pub const LOCKED: &str = "Locked";
    /// No VolumeSnapshotClass for the driver, or several without a default.
    pub const SNAPSHOT_CLASS_MISSING: &str = "SnapshotClassMissing";
    /// A claim cannot be read: not bound, no CSI driver, no snapshots.
    pub const VOLUME_UNREADABLE: &str = "VolumeUnreadable";
    /// The driver did not take the snapshot.
    pub const SNAPSHOT_FAILED: &str = "SnapshotFailed";
    /// A volume's data did not reach the target, or did not come back from it.
    pub const TRANSFER_FAILED: &str = "TransferFailed";
    /// An API group could not be listed, or the application changed in a way that makes the capture incomplete.
    pub const CAPTURE_INCOMPLETE: &str = "CaptureIncomplete";
    /// Bytes on the target do not match what the commit object says.
    pub const DAMAGED: &str = "Damaged";
    /// Something that the restore would write exists already.
    pub const CONFLICT: &str = "Conflict";
    /// The API server refused an object.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// A volume could not be provisioned or handed over.
    pub const PROVISION_FAILED: &str = "ProvisionFailed";
    /// Nothing moved for longer than the progress deadline.
    pub const NO_PROGRESS: &str = "NoProgress";
    /// A cause inside Holdfast; the message and the operator's log have the details.
    pub const INTERNAL: &str = "Internal";
}
