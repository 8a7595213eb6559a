//! The one shape of every error answer.

use serde::{Deserialize, Serialize};

/// Body of every answer whose status is 400 or above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorEnvelope {
    /// The error.
    pub error: ErrorBody,
}

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// One word for programs, such as `forbidden`, `notFound`, `invalid`.
    pub code: String,
    /// For people: what happened and, where possible, what to do.
    pub message: String,
    /// Fields at fault, where fields are at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ErrorDetail>,
    /// Finds the request in the server's log.
    pub request_id: String,
}

/// A field at fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ErrorDetail {
    /// Path of the field, such as `spec.objectStoreCredentials.url`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}
