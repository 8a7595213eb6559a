//! Why a run stops: a condition reason, words for a person, and whether trying again may help.

use holdfast_crd::names::reasons;
use holdfast_repository::RepositoryError;
use holdfast_target::{ErrorKind, TargetError};

/// A step of a run that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One of the condition reasons.
    pub reason: &'static str,
    /// What happened, where, why and what to do.
    pub message: String,
    /// Whether the same step may succeed later without anybody changing anything.
    pub retryable: bool,
}

impl Failure {
    /// A failure that stays until somebody changes something.
    pub fn lasting(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retryable: false,
        }
    }

    /// A failure that may pass.
    pub fn passing(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retryable: true,
        }
    }

    /// Says in which step it happened.
    #[must_use]
    pub fn during(mut self, step: &str) -> Self {
        self.message = format!("{step}: {}", self.message);
        self
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let told = holdfast_k8s::describe(&error);
        Self {
            reason: told.reason,
            message: told.message,
            retryable: told.retryable,
        }
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        let reason = match error.kind() {
            ErrorKind::WrongCredentials | ErrorKind::Denied => reasons::WRONG_CREDENTIALS,
            ErrorKind::BucketMissing => reasons::BUCKET_MISSING,
            ErrorKind::Unreachable | ErrorKind::Throttled => reasons::UNREACHABLE,
            ErrorKind::NotMounted => reasons::NOT_MOUNTED,
            ErrorKind::UntrustedCertificate => reasons::UNTRUSTED_CERTIFICATE,
            ErrorKind::Full => reasons::TARGET_FULL,
            ErrorKind::NotFound => reasons::NOT_FOUND,
            ErrorKind::Changed | ErrorKind::TooLarge => reasons::DAMAGED,
            ErrorKind::Exists => reasons::CONFLICT,
            ErrorKind::Locked => reasons::LOCKED,
            ErrorKind::Invalid => reasons::INVALID_SPEC,
            ErrorKind::Other | ErrorKind::Protocol | ErrorKind::Unsupported => reasons::TARGET_ERROR,
        };
        Self {
            reason,
            message: error.to_string(),
            retryable: error.is_retryable(),
        }
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        let reason = match &error {
            RepositoryError::Target(error) => return error.clone().into(),
            error if error.is_key() => reasons::KEY_MISSING,
            error if error.is_damage() => reasons::DAMAGED,
            RepositoryError::NoVersion { .. } | RepositoryError::NotLocked { .. } => {
                reasons::OBJECT_LOCK_MISSING
            }
            RepositoryError::Broken { .. } | RepositoryError::Rivals { .. } => reasons::CONFLICT,
            RepositoryError::TooLarge { .. } => reasons::CAPTURE_INCOMPLETE,
            RepositoryError::Document(_) | RepositoryError::TooMany { .. } => reasons::TARGET_ERROR,
            _ => reasons::INTERNAL,
        };
        Self {
            reason,
            message: error.to_string(),
            retryable: error.is_retryable(),
        }
    }
}
