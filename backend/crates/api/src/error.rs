//! Errors become one envelope; what is internal is logged and not shown.

use axum::extract::rejection::{JsonDataError, JsonRejection, PathRejection, QueryRejection};
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
            JsonRejection::JsonDataError(error) => body_error(&error),
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

/// Longest path of a field that is repeated, in characters: whoever sends a body makes up its names.
const MAX_PATH: usize = 256;

/// A body that is JSON, but not the one that is expected. The parser's message quotes what it does not like, and that may
/// be a credential in the wrong place; so the field is named, and what belongs there, and never what stands there.
fn body_error(error: &JsonDataError) -> ApiError {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<serde_path_to_error::Error<serde_json::Error>>() {
            let path: String = found.path().to_string().chars().take(MAX_PATH).collect();
            let what = without_values(&found.inner().to_string());
            return match path.as_str() {
                "." => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", what),
                _ => ApiError::field(path, what),
            };
        }
        cause = error.source();
    }
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid",
        "the body is not what is expected here",
    )
}

/// What a message of serde says about the types and names that we expect; of the rest it is not known who wrote it.
fn without_values(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(text, _)| text);
    let quotes = [
        "invalid type: ",
        "invalid value: ",
        "invalid length ",
        "unknown variant `",
    ];
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
    match expected {
        _ if message.starts_with("missing field `") || message.starts_with("duplicate field `") => {
            message.to_owned()
        }
        Some(expected) if message.starts_with("unknown field `") => {
            format!(
                "unknown field; known are {}",
                expected.trim_start_matches("one of ")
            )
        }
        Some(expected) if quotes.iter().any(|start| message.starts_with(start)) => {
            format!("expected {expected}")
        }
        _ => "this cannot be used here".to_owned(),
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

#[cfg(test)]
mod tests {
    use axum::extract::Json;
    use holdfast_shared::CreateTarget;
    use serde_json::{Value, json};

    use super::*;

    fn refusal(change: impl FnOnce(&mut Value)) -> (String, Vec<ErrorDetail>) {
        let mut body = json!({"name": "t", "namespace": "n", "credentials": {"accessKey": "AKIA", "secretKey": "s"},
            "spec": {"type": "ObjectStore", "vendor": "AWS", "objectStoreCredentials":
                {"bucketName": "b", "credentialSecret": {"name": "s"}}}});
        assert!(Json::<CreateTarget>::from_bytes(body.to_string().as_bytes()).is_ok());
        change(&mut body);
        let rejection = Json::<CreateTarget>::from_bytes(body.to_string().as_bytes()).unwrap_err();
        let error = ApiError::from(rejection);
        assert_eq!(error.status, StatusCode::UNPROCESSABLE_ENTITY);
        (error.message, error.details)
    }

    #[test]
    fn a_credential_in_the_wrong_place_is_not_repeated() {
        let secret = "wJalrXUtnFEMI, expected KEY";
        for (at, field, hint) in [
            ("/credentials", "credentials", "expected struct TargetCredentials"),
            (
                "/spec/objectStoreCredentials/credentialSecret",
                "spec.objectStoreCredentials.credentialSecret",
                "expected struct",
            ),
            ("/spec/type", "spec.type", "ObjectStore"),
        ] {
            let (message, details) = refusal(|body| *body.pointer_mut(at).unwrap() = json!(secret));
            assert!(!message.contains("wJal") && !message.contains("KEY"), "{message}");
            assert!(
                message.starts_with(&format!("{field}: ")) && message.contains(hint),
                "{message}"
            );
            assert_eq!(details[0].field, field);
        }
        let (message, _) = refusal(|body| body["credentials"]["secretKey"] = json!(4_711_081_500_u64));
        assert_eq!(message, "credentials.secretKey: expected a string");
        let (message, _) =
            refusal(|body| _ = body["credentials"].as_object_mut().unwrap().remove("secretKey"));
        assert_eq!(message, "credentials: missing field `secretKey`");
        let (message, _) = refusal(|body| body["credentials"]["secret"] = json!(secret));
        assert!(
            message.contains("known are `accessKey` or `secretKey`"),
            "{message}"
        );
        assert!(!message.contains("wJal"), "{message}");
    }

    #[test]
    fn of_words_that_may_be_anybodys_none_is_passed_on() {
        assert_eq!(
            without_values("\"AKIA\" is no name, expected AKIA at line 1 column 7"),
            "this cannot be used here"
        );
        assert_eq!(
            without_values("invalid length 3, expected at most 2 at line 1 column 7"),
            "expected at most 2"
        );
    }
}
