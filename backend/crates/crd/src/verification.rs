//! Verification: how often a plan's points are looked at, and what was found.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a plan's points are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Hours from one look to the next: whether every object is there, and tables and index are what was written. 168 when
    /// absent; 0: only when somebody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 8760))]
    pub every_hours: Option<u32>,
    /// Stored content that each look reads of every volume, as a quantity such as `20Gi`; the next one goes on where it
    /// stopped. Absent: none is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub content_budget: Option<String>,
}

impl Verification {
    /// Hours from one look to the next when the plan does not say.
    pub const EVERY_HOURS: u32 = 168;
}

/// What is known of a plan's images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanVerification {
    /// When the last look at all volumes began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<Time>,
    /// Volumes whose images were looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub volumes: Vec<VolumeVerification>,
}

/// What is known of the images of one volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeVerification {
    /// Where the images lie on the target.
    pub home: String,
    /// Name of the claim.
    pub claim: String,
    /// When objects, tables and indexes were looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Time>,
    /// When the reading of all content that is under way began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_begun_at: Option<Time>,
    /// Where that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::generate::any_value")]
    pub position: Option<serde_json::Value>,
    /// Images in which something is damaged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub damage: Vec<ImageDamage>,
}

/// What is damaged of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageDamage {
    /// Id of the image.
    pub image: String,
    /// What its files are called.
    pub files: String,
    /// Clusters that the next backup stores again. Empty when more than content is damaged, or too much of it: then the
    /// next backup is a full one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub clusters: Vec<ClusterRange>,
    /// The first of what was found.
    pub what: String,
    /// When it was found. Backups that began later do not use what is damaged.
    pub found_at: Time,
}

/// Neighbouring clusters of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRange {
    /// The shard.
    pub shard: u32,
    /// Number of the first cluster.
    pub first: u64,
    /// Number of the cluster behind the last one.
    pub end: u64,
}

/// What is known of one volume of a point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedVolume {
    /// Name of the claim.
    pub claim: String,
    /// When objects, tables and indexes of all its images were looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Time>,
    /// When all its content had been read and compared with its hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_checked_at: Option<Time>,
    /// What is damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}
