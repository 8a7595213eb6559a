//! What a verification is told, and what it tells.
use std::{ops::Range, time::Duration};

use holdfast_target::layout::{FileStem, ImageRecord, ShardNumber, VolumeHome};
use serde::{Deserialize, Serialize};

use crate::Damage;

/// Look whether images are still what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyJob {
    /// Where the images of the volume lie.
    pub home: VolumeHome,
    /// The images to look at, in any order. Each is checked by itself, and against its parent where that is here too.
    pub images: Vec<ImageRecord>,
    /// How much of them.
    pub scope: VerifyScope,
}

/// How thoroughly images are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum VerifyScope {
    /// Every object is there and the one that was recorded; tables and index are what was written; they agree, cluster
    /// by cluster. No content is read.
    Quick,
    /// The same, and stored clusters are read, unpacked and compared with their hashes.
    Full {
        /// Where the verification before this one stopped; absent: at the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<VerifyPosition>,
        /// Content is read until it was so many stored bytes, one cluster at least; absent: to the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget: Option<u64>,
    },
}

/// A cluster of an image. Images are gone through in the order of their files' names, so that a position keeps its
/// meaning when images come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyPosition {
    /// The image's files.
    pub files: FileStem,
    /// The shard.
    pub shard: ShardNumber,
    /// Number of the cluster in the shard.
    pub cluster: u64,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// What is wrong, by files, shard, object and cluster; at most [`crate::limits::PROBLEMS`].
    pub problems: Vec<Problem>,
    /// Objects and clusters that are damaged, those that are not named above included.
    pub damaged: u64,
    /// Files of every image in which something is damaged. Points that use one of them are.
    pub damaged_images: Vec<FileStem>,
    /// Clusters whose content was read, good or bad.
    pub clusters_read: u64,
    /// Their stored bytes.
    pub bytes_read: u64,
    /// Where the next full verification goes on; absent where this one came to the end, or read no content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<VerifyPosition>,
    /// How long it took, in seconds.
    #[serde(with = "super::seconds")]
    pub took: Duration,
}

impl VerifyReport {
    /// Whether nothing was found to be wrong.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0
    }
}

/// An object, or clusters next to each other, with the same damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Files of the image it is a part of.
    pub files: FileStem,
    /// The shard.
    pub shard: ShardNumber,
    /// Key of the object on the target.
    pub key: String,
    /// In which way it is damaged.
    pub damage: Damage,
    /// The clusters of the shard that it concerns; absent: the object as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Range<u64>>,
    /// What is wrong.
    pub what: String,
}
