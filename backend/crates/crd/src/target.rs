//! Target: where backups are stored.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::ObjectRef;

/// Storage that holds backups: self-describing, so that everything restores from it alone.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1",
    kind = "Target",
    namespaced,
    status = "TargetStatus",
    shortname = "hft",
    category = "holdfast",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Vendor", type_ = "string", json_path = ".spec.vendor"),
    printcolumn(
        name = "Bucket",
        type_ = "string",
        json_path = ".spec.objectStoreCredentials.bucketName"
    ),
    printcolumn(
        name = "Claim",
        type_ = "string",
        priority = 1,
        json_path = ".spec.persistentVolumeClaim.claimName"
    ),
    printcolumn(
        name = "Export",
        type_ = "string",
        priority = 1,
        json_path = ".spec.nfsCredentials.nfsExport"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TargetSpec {
    /// Kind of storage.
    #[serde(rename = "type")]
    pub target_type: TargetType,
    /// Who makes the storage; for people, it changes nothing.
    pub vendor: Vendor,
    /// Where the bucket is and how to sign in; of type `ObjectStore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store_credentials: Option<ObjectStoreCredentials>,
    /// Which export is mounted; of type `NFS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs_credentials: Option<NfsCredentials>,
    /// Which claim is mounted; of type `PersistentVolumeClaim`, which only a Target of the install namespace can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<TargetClaim>,
    /// Namespaces whose plans and restores may use this target beside its own; `*` stands for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 63)))]
    pub allowed_namespaces: Vec<String>,
    /// Volumes moved to or from this target at the same time; 4 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max_concurrent_transfers: Option<u32>,
}

/// Kind of storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetType {
    /// A bucket of an S3-compatible store.
    ObjectStore,
    /// A folder that an NFS server exports.
    NFS,
    /// A folder in a PersistentVolumeClaim of the install namespace.
    PersistentVolumeClaim,
}

/// Types of targets, and the block of the spec that says where such a target is.
pub const BLOCKS: [(&str, &str); 3] = [
    ("ObjectStore", "objectStoreCredentials"),
    ("NFS", "nfsCredentials"),
    ("PersistentVolumeClaim", "persistentVolumeClaim"),
];

/// Makers of storage, as users of such products know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "product names")]
pub enum Vendor {
    AWS,
    RedhatCeph,
    Ceph,
    IBMCleversafe,
    Cloudian,
    Scality,
    NetApp,
    Cohesity,
    SwiftStack,
    Wasabi,
    MinIO,
    DellEMC,
    DigitalOcean,
    OVH,
    Other,
}

/// A bucket and the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreCredentials {
    /// Name of the bucket. It must exist.
    #[schemars(length(min = 3, max = 63))]
    pub bucket_name: String,
    /// Region; `us-east-1` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub region: Option<String>,
    /// Endpoint such as `https://s3.example.com`; that of AWS for the region when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,
    /// Secret with the keys `accessKey` and `secretKey`.
    pub credential_secret: ObjectRef,
    /// Accept any certificate. Anyone on the path can then read and change what is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_cert_verification: bool,
    /// Certificate authority to trust beside the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssl_cert_config: Option<SslCertConfig>,
    /// Lock what is stored, in compliance mode, for as long as plans say: nobody can delete it before, not even the owner
    /// of the store. The bucket must have object lock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub object_locking_enabled: bool,
}

/// A folder of an NFS server. NFS knows no passwords: whoever may mount it, may read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NfsCredentials {
    /// `server:/path`, an IPv6 address in brackets. Uid 0 must be able to write there.
    #[schemars(length(min = 3, max = 1280))]
    pub nfs_export: String,
    /// Mount options separated by commas, such as `nfsvers=4.1,hard`; what the node takes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub nfs_options: Option<String>,
}

/// A claim in the Target's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetClaim {
    /// Name of the PersistentVolumeClaim. Its volume mode must be Filesystem, and movers on several nodes at once need the
    /// access mode ReadWriteMany.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}

/// Where a certificate authority is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SslCertConfig {
    /// ConfigMap with PEM certificates.
    pub cert_config_map: ObjectRef,
    /// Key in the ConfigMap; `ca.crt` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub cert_key: Option<String>,
}

/// What the operator found out about a target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the target was last probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_timestamp: Option<Time>,
    /// Points on the target, of every cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<u64>,
    /// What was found in the folder of a target of type `NFS` or `PersistentVolumeClaim`: from then on nothing else is
    /// written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryStatus>,
    /// What the store does against deletion, as it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutability: Option<Immutability>,
}

/// The store in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryStatus {
    /// Id in `holdfast/.store.json`.
    #[schemars(length(max = 64))]
    pub store: String,
    /// Claim or export in which it was found. Another one is looked at anew.
    #[schemars(length(max = 1400))]
    pub place: String,
}

/// What a store does against deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Immutability {
    /// Names may stand for several versions: what is overwritten or deleted is still there.
    pub versioned: bool,
    /// Versions can be locked.
    pub object_lock: bool,
    /// `Compliance` or `Governance`: how the bucket locks every new object by itself; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_mode: Option<String>,
    /// Days for which it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_retention_period: Option<u32>,
}
