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
    /// Where the bucket is and how to sign in; of type `ObjectStore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store_credentials: Option<ObjectStoreCredentials>,
    /// Which export is mounted; of type `NFS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs_credentials: Option<NfsCredentials>,
    /// Which claim is mounted; of type `PersistentVolumeClaim`, only in the install namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<TargetClaim>,
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
    /// A folder that an NFS server exports.
    NFS,
    /// A folder in a PersistentVolumeClaim of the install namespace.
    PersistentVolumeClaim,
}

impl TargetType {
    /// Every type, in the order in which people are asked.
    pub const ALL: [Self; 3] = [Self::ObjectStore, Self::NFS, Self::PersistentVolumeClaim];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ObjectStore => "ObjectStore",
            Self::NFS => "NFS",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
        }
    }
}

impl TargetSpec {
    /// Where it is, in two parts: bucket and endpoint (or region), path and server, claim and nothing.
    pub fn place(&self) -> (String, String) {
        if let Some(bucket) = &self.object_store_credentials {
            let at = bucket.url.clone().or_else(|| bucket.region.clone());
            return (bucket.bucket_name.clone(), at.unwrap_or_default());
        }
        if let Some(nfs) = &self.nfs_credentials {
            let (server, path) = nfs.nfs_export.rsplit_once(':').unwrap_or_default();
            return (path.to_owned(), server.to_owned());
        }
        let claim = self.persistent_volume_claim.as_ref();
        (
            claim.map_or_else(String::new, |claim| claim.claim_name.clone()),
            String::new(),
        )
    }
}

/// A folder of an NFS server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NfsCredentials {
    /// `server:/path`.
    pub nfs_export: String,
    /// Mount options separated by commas, such as `nfsvers=4.1,hard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs_options: Option<String>,
}

/// A claim in the Target's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TargetClaim {
    /// Name of the PersistentVolumeClaim.
    pub claim_name: String,
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
    /// Lock what is stored for as long as plans say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub object_locking_enabled: bool,
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
    /// What was found in the folder of a target that is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryStatus>,
    /// What the store does against deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutability: Option<Immutability>,
}

/// The store in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DirectoryStatus {
    /// Its id: nothing is written into a folder that holds another one.
    pub store: String,
    /// Claim or export in which it was found.
    pub place: String,
}

/// What a store does against deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Immutability {
    /// What is overwritten or deleted is still there.
    pub versioned: bool,
    /// Versions can be locked.
    pub object_lock: bool,
    /// `Compliance` or `Governance`: how the bucket locks every new object by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_mode: Option<String>,
    /// Days for which it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_retention_period: Option<u32>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_place() {
        let place = |json: &str| serde_json::from_str::<TargetSpec>(json).unwrap().place();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            place(
                r#"{"type": "ObjectStore", "vendor": "Other", "objectStoreCredentials":
                    {"bucketName": "b", "region": "r", "credentialSecret": {"name": "s"}}}"#
            ),
            pair("b", "r")
        );
        assert_eq!(
            place(
                r#"{"type": "NFS", "vendor": "Other", "nfsCredentials": {"nfsExport": "[2001:db8::1]:/x"}}"#
            ),
            pair("/x", "[2001:db8::1]")
        );
        assert_eq!(
            place(
                r#"{"type": "PersistentVolumeClaim", "vendor": "Other", "persistentVolumeClaim": {"claimName": "c"}}"#
            ),
            pair("c", "")
        );
    }

    #[test]
    fn types_are_written_as_resources_have_them() {
        for kind in TargetType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
