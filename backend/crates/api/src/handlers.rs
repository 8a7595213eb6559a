//! One file per resource, one function per verb.

pub(crate) mod backups;
pub(crate) mod events;
pub(crate) mod namespaces;
pub(crate) mod plans;
pub(crate) mod restores;
pub(crate) mod session;
pub(crate) mod system;
pub(crate) mod targets;
pub(crate) mod transfers;

use holdfast_shared::ErrorEnvelope;

/// Errors that every resource can answer with.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "describes answers that ApiError makes")]
pub(crate) enum Failures {
    /// Not signed in, or the session is over.
    #[response(status = 401)]
    Unauthenticated(ErrorEnvelope),
    /// Kubernetes does not allow it; the message names the missing right.
    #[response(status = 403)]
    Forbidden(ErrorEnvelope),
    /// The cluster's API server could not be asked, or failed.
    #[response(status = 502)]
    Cluster(ErrorEnvelope),
}

/// Errors of requests that name an object.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "describes answers that ApiError makes")]
pub(crate) enum ObjectFailures {
    /// Not signed in, or the session is over.
    #[response(status = 401)]
    Unauthenticated(ErrorEnvelope),
    /// Kubernetes does not allow it; the message names the missing right.
    #[response(status = 403)]
    Forbidden(ErrorEnvelope),
    /// There is no such object.
    #[response(status = 404)]
    NotFound(ErrorEnvelope),
    /// The object is another one or has changed.
    #[response(status = 409)]
    Conflict(ErrorEnvelope),
    /// The cluster's API server could not be asked, or failed.
    #[response(status = 502)]
    Cluster(ErrorEnvelope),
}

/// Errors of requests that create something.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "describes answers that ApiError makes")]
pub(crate) enum CreateFailures {
    /// Not signed in, or the session is over.
    #[response(status = 401)]
    Unauthenticated(ErrorEnvelope),
    /// Kubernetes does not allow it; the message names the missing right.
    #[response(status = 403)]
    Forbidden(ErrorEnvelope),
    /// The namespace does not exist.
    #[response(status = 404)]
    NotFound(ErrorEnvelope),
    /// An object of this name exists.
    #[response(status = 409)]
    Conflict(ErrorEnvelope),
    /// A field is wrong (`invalid`), or admission refused it (`refused`).
    #[response(status = 422)]
    Invalid(ErrorEnvelope),
    /// The cluster's API server could not be asked, or failed.
    #[response(status = 502)]
    Cluster(ErrorEnvelope),
}
