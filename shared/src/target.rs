//! Targets.

use serde::{Deserialize, Serialize};

use crate::meta::{Condition, Metadata, ObjectRef};

/// Values of [`TargetSpec::vendor`].
pub const VENDORS: &[&str] = &[
    "AWS",
    "RedhatCeph",
    "Ceph",
    "IBMCleversafe",
    "Cloudian",
    "Scality",
    "NetApp",
    "Cohesity",
    "SwiftStack",
    "Wasabi",
    "MinIO",
    "DellEMC",
    "DigitalOcean",
    "OVH",
    "Other",
];

/// Storage that holds backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Target {
    /// Name, namespace and age.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: TargetSpec,
    /// What was found.
    #[serde(default)]
    pub status: TargetStatus,
}

/// Where the storage is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TargetSpec {
    /// Kind of storage.
    #[serde(rename = "type")]
    pub target_type: TargetType,
    /// Who makes the storage, one of [`VENDORS`].
    pub vendor: String,
    /// Where the bucket is and how to sign in.
    pub object_store_credentials: ObjectStoreCredentials,
    /// Namespaces that may use this target beside its own; `*` stands for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_namespaces: Vec<String>,
    /// Volumes moved at the same time; 4 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_transfers: Option<u32>,
}

/// Kind of storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TargetType {
    /// A bucket of an S3-compatible store.
    #[default]
    ObjectStore,
}

/// A bucket and the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreCredentials {
    /// Name of the bucket. It must exist.
    pub bucket_name: String,
    /// Region; `us-east-1` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Endpoint such as `https://s3.example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Secret with the keys `accessKey` and `secretKey`.
    pub credential_secret: ObjectRef,
    /// Accept any certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_cert_verification: bool,
    /// Certificate authority to trust beside the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssl_cert_config: Option<SslCertConfig>,
}

/// Where a certificate authority is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SslCertConfig {
    /// ConfigMap with PEM certificates.
    pub cert_config_map: ObjectRef,
    /// Key in the ConfigMap; `ca.crt` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_key: Option<String>,
}

/// What the operator found out about a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// When the target was last probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_timestamp: Option<String>,
    /// Points on the target, of every cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<u64>,
}

/// Body of `POST /api/v1/targets`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateTarget {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// What is asked for.
    pub spec: TargetSpec,
    /// When given, the Secret that the spec names is created with this first, in the target's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<TargetCredentials>,
}

/// A key pair of a store.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetCredentials {
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
}

impl std::fmt::Debug for TargetCredentials {
    /// Never prints a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TargetCredentials(..)")
    }
}
