//! From what the SDK reports to [`TargetError`].
use std::ops::Range;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::upload_part_copy::UploadPartCopyError,
};
use http_body_util::LengthLimitError;

use super::transport::{MAX_ANSWER, TransportError, innermost};
use crate::{ErrorKind, TargetError};

/// What is being done, for the error that may come of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// A verb.
    pub verb: &'static str,
    /// Key or prefix; empty for the bucket itself.
    pub object: &'a str,
    /// Bucket and endpoint.
    pub place: &'a str,
}

impl Call<'_> {
    pub(super) fn error(&self, kind: ErrorKind, why: impl AsRef<str>) -> TargetError {
        TargetError::new(kind, self.verb, self.object, self.place, why)
    }

    /// Explains a failed request.
    pub(super) fn explain<E>(&self, error: &SdkError<E, HttpResponse>) -> TargetError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                self.answer(status, service.err().code(), service.err().message())
            }
            SdkError::ResponseError(_) if is_too_large(error) => self.too_large(),
            SdkError::ResponseError(response) => {
                let status = response.raw().status().as_u16();
                self.error(
                    ErrorKind::Unreachable,
                    format!("the answer (HTTP {status}) cannot be read"),
                )
            }
            SdkError::TimeoutError(_) => self.error(ErrorKind::Unreachable, "no answer in time"),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(error) => self.transport(error),
                None => self.error(ErrorKind::Unreachable, "the request was not sent"),
            },
            other => self.error(ErrorKind::Other, innermost(other)),
        }
    }

    /// Explains a failed copy inside the store: its condition is about the source, and not every store has the call.
    pub(super) fn explain_copy(&self, error: &SdkError<UploadPartCopyError, HttpResponse>) -> TargetError {
        let SdkError::ServiceError(service) = error else {
            return self.explain(error);
        };
        let status = service.raw().status().as_u16();
        match (status, service.err().code()) {
            (412, _) | (_, Some("PreconditionFailed")) => {
                self.error(ErrorKind::Changed, "it has another ETag now")
            }
            (405 | 501, _) | (_, Some("MethodNotAllowed" | "NotImplemented")) => self.error(
                ErrorKind::Unsupported,
                format!("the store does not copy parts of objects (HTTP {status})"),
            ),
            _ => self.explain(error),
        }
    }

    /// Explains a failed question or order about versions and locks, which not every store has.
    pub(super) fn explain_setting<E>(&self, error: &SdkError<E, HttpResponse>) -> TargetError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let explained = self.explain(error);
        let SdkError::ServiceError(service) = error else {
            return explained;
        };
        match (service.raw().status().as_u16(), service.err().code()) {
            (405 | 501, _) | (_, Some("MethodNotAllowed" | "NotImplemented")) => {
                self.error(ErrorKind::Unsupported, explained.why())
            }
            _ => explained,
        }
    }

    /// An object that is shorter than the range that was asked for.
    pub(super) fn ends_inside(&self, range: &Range<u64>, end: u64) -> TargetError {
        let why = format!(
            "it ends at byte {end}, before or inside {}..{}",
            range.start, range.end
        );
        self.error(ErrorKind::Changed, why)
    }

    fn too_large(&self) -> TargetError {
        let why = format!("the answer has more than {MAX_ANSWER} bytes");
        self.error(ErrorKind::Protocol, why)
    }

    fn transport(&self, error: &(dyn std::error::Error + 'static)) -> TargetError {
        let mut next = Some(error);
        while let Some(error) = next {
            match error.downcast_ref::<TransportError>() {
                Some(found @ TransportError::Certificate(_)) => {
                    return self.error(ErrorKind::UntrustedCertificate, found.to_string());
                }
                Some(found) => return self.error(ErrorKind::Unreachable, found.to_string()),
                None => next = error.source(),
            }
        }
        self.error(ErrorKind::Unreachable, innermost(error))
    }

    /// Explains an error answer by its code, then by its status.
    fn answer(&self, status: u16, code: Option<&str>, message: Option<&str>) -> TargetError {
        let (kind, transient) = classify(status, code);
        let why = match (code, message) {
            (Some(code), Some(message)) => format!("{code}: {message} (HTTP {status})"),
            (Some(code), None) => format!("{code} (HTTP {status})"),
            (None, _) => format!("HTTP {status}"),
        };
        self.error(kind, why).transient(transient)
    }
}

/// Whether reading the answer ended at [`MAX_ANSWER`].
fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Kind of an error answer, and whether it may pass. Codes: the list of error responses in Amazon's S3 API reference,
/// plus those of MinIO, Ceph and versitygw.
fn classify(status: u16, code: Option<&str>) -> (ErrorKind, bool) {
    use ErrorKind as K;
    match code.unwrap_or_default() {
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidToken"
        | "ExpiredToken"
        | "InvalidSecurity"
        | "NotSignedUp"
        | "XAdminUserNotFound"
        | "AccountProblem" => (K::WrongCredentials, false),
        "NoSuchBucket" => (K::BucketMissing, false),
        "NoSuchKey" | "NoSuchUpload" | "NoSuchVersion" | "NotFound" => (K::NotFound, false),
        "AccessDenied" | "AllAccessDisabled" | "MethodNotAllowed" => (K::Denied, false),
        "RequestTimeTooSkewed" => (K::Other, false),
        "PreconditionFailed" => (K::Exists, false),
        "InvalidRange" => (K::Changed, false),
        "EntityTooLarge" => (K::TooLarge, false),
        "QuotaExceeded"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "InsufficientStorage"
        | "NoSpaceLeft"
        | "StorageFull" => (K::Full, false),
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "BandwidthLimitExceeded" => (K::Throttled, true),
        "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "XMinioServerNotInitialized" => {
            (K::Unreachable, true)
        }
        // Two writers at once; the loser is told the truth when it asks again.
        "OperationAborted" | "ConditionalRequestConflict" => (K::Throttled, true),
        _ => match status {
            401 => (K::WrongCredentials, false),
            403 => (K::Denied, false),
            404 => (K::NotFound, false),
            412 => (K::Exists, false),
            416 => (K::Changed, false),
            413 => (K::TooLarge, false),
            429 => (K::Throttled, true),
            507 => (K::Full, false),
            500 | 502..=504 => (K::Unreachable, true),
            _ => (K::Other, false),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_before_statuses() {
        assert_eq!(
            classify(403, Some("SignatureDoesNotMatch")),
            (ErrorKind::WrongCredentials, false)
        );
        assert_eq!(classify(403, None), (ErrorKind::Denied, false));
        assert_eq!(
            classify(404, Some("NoSuchBucket")),
            (ErrorKind::BucketMissing, false)
        );
        assert_eq!(classify(503, Some("SlowDown")), (ErrorKind::Throttled, true));
        assert_eq!(classify(503, Some("Whatever")), (ErrorKind::Unreachable, true));
        assert_eq!(classify(501, Some("NotImplemented")), (ErrorKind::Other, false));
    }
}
