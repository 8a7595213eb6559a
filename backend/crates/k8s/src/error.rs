//! What the API server says, in words for a condition.

use holdfast_crd::names::reasons;

/// An API error, told three ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiFailure {
    /// One of the condition reasons.
    pub reason: &'static str,
    /// What the API server said.
    pub message: String,
    /// Whether the same call may succeed later without anybody changing anything.
    pub retryable: bool,
}

/// Tells an API error.
pub fn describe(error: &kube::Error) -> ApiFailure {
    let kube::Error::Api(status) = error else {
        return ApiFailure {
            reason: reasons::INTERNAL,
            message: format!("the API server could not be asked: {error}"),
            retryable: true,
        };
    };
    let reason = match status.code {
        401 | 403 => reasons::FORBIDDEN,
        404 => reasons::NOT_FOUND,
        409 => reasons::CONFLICT,
        _ => reasons::APPLY_FAILED,
    };
    let conflict = status.code == 409 && status.reason == "Conflict";
    ApiFailure {
        reason,
        message: status.message.clone(),
        retryable: conflict || status.code == 429 || status.code >= 500,
    }
}

/// Whether the object does not exist, or its whole kind: an API server answers for a group version that is gone with a
/// plain 404 without a reason.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether an object of that name exists already.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether the object changed since it was read, or is not the one that was meant.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}
