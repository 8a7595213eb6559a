//! What the server says of itself.

use serde::{Deserialize, Serialize};

/// Answer of `GET /api/v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// Version of Holdfast.
    pub version: String,
    /// Name of the cluster.
    pub cluster: String,
}
