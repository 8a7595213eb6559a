//! Plain words for what the API says in one: states, phases, reasons. Text only, no markup.

use holdfast_shared::{BackupPhase, PhaseState, ProtectionState, RestorePhase, RunState, TargetType};

/// How a state is coloured; every colour comes with a word and a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// At work.
    Busy,
    /// Needs a look.
    Warn,
    /// Broken.
    Bad,
    /// Neither good nor bad.
    Quiet,
}

impl Tone {
    /// Class of elements in this tone.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "tone-good",
            Self::Busy => "tone-busy",
            Self::Warn => "tone-warn",
            Self::Bad => "tone-bad",
            Self::Quiet => "tone-quiet",
        }
    }
}

/// Label and tone of a run.
pub(crate) fn run_state(state: RunState) -> (&'static str, Tone) {
    match state {
        RunState::Pending => ("Pending", Tone::Quiet),
        RunState::Running => ("Running", Tone::Busy),
        RunState::Complete => ("Complete", Tone::Good),
        RunState::Failed => ("Failed", Tone::Bad),
        RunState::Canceled => ("Canceled", Tone::Quiet),
    }
}

/// Label and tone of a namespace's protection.
pub(crate) fn protection(state: ProtectionState) -> (&'static str, Tone) {
    match state {
        ProtectionState::Protected => ("Protected", Tone::Good),
        ProtectionState::LastFailed => ("Failing", Tone::Bad),
        ProtectionState::NeverBackedUp => ("No backup yet", Tone::Warn),
        ProtectionState::Unprotected => ("Unprotected", Tone::Quiet),
    }
}

/// Label of a phase's state.
pub(crate) fn phase_state(state: PhaseState) -> &'static str {
    match state {
        PhaseState::InProgress => "in progress",
        PhaseState::Completed => "completed",
        PhaseState::Failed => "failed",
        PhaseState::Skipped => "skipped",
    }
}

/// Phases of a backup in the order they are shown.
pub(crate) const BACKUP_PHASES: [(BackupPhase, &str, &str); 7] = [
    (
        BackupPhase::Validate,
        "Validate",
        "Plan, target, rights and volumes are checked.",
    ),
    (
        BackupPhase::CaptureMetadata,
        "Capture metadata",
        "Objects are listed and read, volumes found.",
    ),
    (
        BackupPhase::SnapshotVolumes,
        "Snapshot volumes",
        "Every volume gets its snapshot.",
    ),
    (
        BackupPhase::UploadVolumes,
        "Upload volumes",
        "Movers write images to the target.",
    ),
    (
        BackupPhase::UploadMetadata,
        "Upload metadata",
        "The captured objects are written to the target.",
    ),
    (
        BackupPhase::Commit,
        "Commit",
        "The object that makes the point valid is written last.",
    ),
    (
        BackupPhase::CleanUp,
        "Clean up",
        "Everything temporary is removed.",
    ),
];

/// Phases of a restore in the order they are shown.
pub(crate) const RESTORE_PHASES: [(RestorePhase, &str, &str); 7] = [
    (
        RestorePhase::Validate,
        "Validate",
        "Target, point, rights, conflicts and storage classes are checked.",
    ),
    (
        RestorePhase::Plan,
        "Plan",
        "What will be created, and in which order.",
    ),
    (
        RestorePhase::Primitives,
        "Primitives",
        "The namespace and the definitions it needs.",
    ),
    (RestorePhase::Volumes, "Volumes", "Movers write the volumes."),
    (
        RestorePhase::Objects,
        "Objects",
        "Objects are written in dependency order, as the requester.",
    ),
    (
        RestorePhase::Report,
        "Report",
        "The report per object is written.",
    ),
    (
        RestorePhase::CleanUp,
        "Clean up",
        "Everything temporary is removed.",
    ),
];

/// Label of a backup phase.
pub(crate) fn backup_phase(phase: BackupPhase) -> &'static str {
    BACKUP_PHASES
        .iter()
        .find(|(p, _, _)| *p == phase)
        .map_or("Working", |(_, label, _)| label)
}

/// Label of a restore phase.
pub(crate) fn restore_phase(phase: RestorePhase) -> &'static str {
    RESTORE_PHASES
        .iter()
        .find(|(p, _, _)| *p == phase)
        .map_or("Working", |(_, label, _)| label)
}

/// A stage of a volume-transfer in words.
pub(crate) fn stage(stage: &str) -> (&str, Tone) {
    match stage {
        "Pending" | "" => ("Pending", Tone::Quiet),
        "Snapshotting" => ("Taking the snapshot", Tone::Busy),
        "Snapshotted" => ("Snapshot taken", Tone::Busy),
        "Queued" => ("Waiting for a free place", Tone::Quiet),
        "Running" => ("Moving data", Tone::Busy),
        "HandingOver" => ("Handing over", Tone::Busy),
        "Succeeded" => ("Done", Tone::Good),
        "Failed" => ("Failed", Tone::Bad),
        "Canceled" => ("Canceled", Tone::Quiet),
        other => (other, Tone::Quiet),
    }
}

/// What kind of storage a target is.
pub(crate) fn target_type(kind: TargetType) -> &'static str {
    match kind {
        TargetType::ObjectStore => "Object store",
        TargetType::NFS => "NFS",
        TargetType::PersistentVolumeClaim => "Claim",
    }
}

/// What a condition's reason means for a person, as a short title and a next step. The server's own message is
/// always shown beside it; reasons not listed need no more than that message.
pub(crate) fn reason(reason: &str) -> Option<(&'static str, &'static str)> {
    Some(match reason {
        "WrongCredentials" => (
            "The store refused the key pair",
            "Put a valid access key and secret key into the Secret; the target is probed again by itself.",
        ),
        "CredentialsMissing" => (
            "The Secret with the key pair is missing",
            "Create the Secret with the keys accessKey and secretKey in the target's namespace.",
        ),
        "BucketMissing" => (
            "The bucket does not exist",
            "Create the bucket, or create a target with the right name. Holdfast never creates buckets.",
        ),
        "Unreachable" => (
            "The endpoint does not answer",
            "Check the URL, DNS and network policies between the install namespace and the store.",
        ),
        "UntrustedCertificate" => (
            "The endpoint's certificate is not trusted",
            "Put the store's certificate authority into a ConfigMap and name it in sslCertConfig.",
        ),
        "TargetFull" => (
            "The store has no room",
            "Raise the quota or delete backups whose deletion policy is Delete, then start the backup again.",
        ),
        "TargetError" => (
            "The store answered with an error",
            "See the message; the store's own log has the cause.",
        ),
        "NotMounted" => (
            "The folder is not the store that it was",
            "Bring back the volume that the target's status names. Until then nothing is read or written there.",
        ),
        "DepotNotReady" => (
            "The pod that opens the folder does not run yet",
            "It may just be starting. If it stays so, the message says what the cluster waits for.",
        ),
        "TargetNotReady" => (
            "The target cannot be used",
            "Open the target: its Accepted condition says why.",
        ),
        "ObjectLockMissing" => (
            "The bucket cannot lock what is stored",
            "Switch versions and object lock of the bucket on, or take objectLockingEnabled off the target.",
        ),
        "LockMismatch" => (
            "The plan's lock does not fit the target",
            "See the message: either the plan says for how long points are locked and the target locks, or neither.",
        ),
        "Locked" => (
            "The data is locked",
            "Nobody can delete it before the date in the message, not even the owner of the store.",
        ),
        "SnapshotClassMissing" => (
            "No VolumeSnapshotClass fits the volume's driver",
            "Create one for the driver, or mark one of several as the default.",
        ),
        "VolumeUnreadable" => (
            "A claim cannot be read",
            "It is not bound or its driver takes no snapshots. Exclude it by name in the plan if it may be left out.",
        ),
        "SnapshotFailed" => (
            "The driver did not take the snapshot",
            "The driver's log has the cause; then try again.",
        ),
        "TransferFailed" => (
            "A volume's data did not get through",
            "See the volume's problem below; then try again.",
        ),
        "CaptureIncomplete" => (
            "Not everything could be captured",
            "An API group did not answer or volumes changed meanwhile. The backup does not count; try again.",
        ),
        "Damaged" => (
            "Bytes on the target are not what was written",
            "Do not rely on this point. Back up again now: what is damaged is stored anew. Other points may be whole.",
        ),
        "Conflict" => (
            "Something that would be written exists already",
            "Restore into a new namespace, or remove the named objects first. Nothing was changed.",
        ),
        "Forbidden" => (
            "A Kubernetes right is missing",
            "Ask for the right the message names, or let somebody who has it start the run.",
        ),
        "NotAllowed" => (
            "The reference is not allowed",
            "The target must list the namespace in allowedNamespaces.",
        ),
        "NotFound" => (
            "Something referred to does not exist",
            "Check the name the message gives.",
        ),
        "InvalidSpec" => ("A field is wrong", "Correct the field the message names."),
        "ApplyFailed" => (
            "The API server refused an object",
            "See the problems below for each object.",
        ),
        "ProvisionFailed" => (
            "A volume could not be provisioned",
            "Check the storage class and the driver's log; then try again.",
        ),
        "NoProgress" => (
            "Nothing moved for too long",
            "Check the node, the driver and the way to the store; then try again.",
        ),
        "Canceled" => ("Stopped by a person", "Nothing half-written is kept."),
        "Internal" => ("A fault inside Holdfast", "The operator's log has the details."),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_of_a_newer_operator_still_has_a_label() {
        assert_eq!(backup_phase(BackupPhase::Unknown), "Working");
        assert_eq!(restore_phase(RestorePhase::Objects), "Objects");
    }

    #[test]
    fn unknown_words_are_shown_as_they_are() {
        assert_eq!(stage("Teleporting"), ("Teleporting", Tone::Quiet));
        assert_eq!(reason("Teleported"), None);
    }
}
