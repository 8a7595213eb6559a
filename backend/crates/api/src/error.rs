//! Errors become one envelope; what is internal is logged and not shown.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_auth::{Refusal, SessionError, SignInError};
use holdfast_shared::{ErrorBody, ErrorDetail};
use kube::core::Status;

/// Result of a handler.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// An error on its way to the client. [`crate::middleware::observe`] adds the request id and writes the envelope.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Vec<ErrorDetail>,
    retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: Vec::new(),
            retry_after: None,
        }
    }

    /// A field of the request is wrong.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        let mut error = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            format!("{field}: {message}"),
        );
        error.details.push(ErrorDetail { field, message });
        error
    }

    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", message)
    }

    pub(crate) fn too_many(message: impl Into<String>, retry_after_seconds: u64) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "tooManyRequests", message);
        error.retry_after = Some(retry_after_seconds.max(1));
        error
    }

    pub(crate) fn timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "it took too long; whether a change was made shows in the list and in the audit",
        )
    }

    /// Something of ours failed: the cause goes to the log.
    pub(crate) fn internal(cause: &dyn std::error::Error) -> Self {
        tracing::error!(error = chain(cause), "request failed inside the server");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server failed; its log has the details",
        )
    }

    fn cluster_unavailable(cause: &dyn std::error::Error) -> Self {
        tracing::warn!(error = chain(cause), "the API server could not be asked");
        Self::new(
            StatusCode::BAD_GATEWAY,
            "clusterUnavailable",
            "the cluster's API server could not be asked",
        )
    }

    /// The word for programs.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// Whether the API server said that there is no such namespace.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            code: self.code.to_owned(),
            message: self.message,
            details: self.details,
            request_id: String::new(),
        };
        let mut response = self.status.into_response();
        response.extensions_mut().insert(body);
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What an answer without a body of ours means, such as axum's own 405.
pub(crate) fn plain(status: StatusCode) -> ErrorBody {
    let (code, message) = match status {
        StatusCode::NOT_FOUND => ("notFound", "there is nothing at this address"),
        StatusCode::METHOD_NOT_ALLOWED => ("methodNotAllowed", "this method is not offered here"),
        StatusCode::PAYLOAD_TOO_LARGE => ("tooLarge", "the request is too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupportedMediaType", "send application/json"),
        status if status.is_client_error() => ("invalid", "the request cannot be understood"),
        _ => ("internal", "the server failed; its log has the details"),
    };
    ErrorBody {
        code: code.to_owned(),
        message: message.to_owned(),
        ..ErrorBody::default()
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => from_status(*status),
            other => Self::cluster_unavailable(&other),
        }
    }
}

/// What the API server said, passed on: its words name the missing right or the field at fault.
fn from_status(status: Status) -> ApiError {
    let message = status.message.clone();
    let by_admission =
        message.contains("admission webhook ") || message.contains("ValidatingAdmissionPolicy");
    match status.code {
        401 => {
            tracing::error!(message, "the API server does not accept the server's own account");
            ApiError::new(
                StatusCode::BAD_GATEWAY,
                "serverNotAccepted",
                "the cluster does not accept the server's own account; the server's log has the details",
            )
        }
        403 if message.contains("cannot impersonate") => {
            tracing::error!(message, "the server's account lacks a right to impersonate");
            ApiError::new(StatusCode::BAD_GATEWAY, "serverMayNotImpersonate", message)
        }
        400 if by_admission => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", message),
        400 => ApiError::new(StatusCode::BAD_REQUEST, "invalid", message),
        403 => ApiError::new(StatusCode::FORBIDDEN, "forbidden", message),
        404 => ApiError::new(StatusCode::NOT_FOUND, "notFound", message),
        409 if status.reason == "AlreadyExists" => {
            ApiError::new(StatusCode::CONFLICT, "alreadyExists", message)
        }
        409 => ApiError::new(StatusCode::CONFLICT, "conflict", message),
        410 => ApiError::new(
            StatusCode::GONE,
            "expired",
            "the list has changed too much; start over",
        ),
        422 => {
            let code = if by_admission { "refused" } else { "invalid" };
            let mut error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, message);
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            error.details = causes
                .into_iter()
                .map(|c| ErrorDetail {
                    field: c.field,
                    message: c.message,
                })
                .collect();
            error
        }
        429 => ApiError::too_many("the cluster's API server is busy", 2),
        code => {
            tracing::warn!(code, message, "unexpected answer of the API server");
            ApiError::new(
                StatusCode::BAD_GATEWAY,
                "clusterFailed",
                format!("the cluster's API server failed: {message}"),
            )
        }
    }
}

impl From<SignInError> for ApiError {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Refused(refusal) => refusal.into(),
            SignInError::NotAccepted(_) | SignInError::Anonymous | SignInError::Expired(_) => {
                Self::unauthenticated(error.to_string())
            }
            SignInError::UnusableName => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string())
            }
            SignInError::Cluster(cause) => (*cause).into(),
            SignInError::Timeout => Self::cluster_unavailable(&error),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::field(refusal.field, refusal.why)
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        Self::internal(&error)
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::JsonDataError(error) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.body_text())
            }
            other => {
                let body = plain(other.status());
                let code = if body.code == "tooLarge" {
                    "tooLarge"
                } else {
                    "invalid"
                };
                Self::new(other.status(), code, other.body_text())
            }
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::NOT_FOUND, "notFound", rejection.body_text())
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
