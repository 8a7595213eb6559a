//! What a mover is told, and what it tells at the end. The operator writes a [`Job`] into the Secret that the mover's
//! pod mounts.
mod merge;
mod verify;

use std::{ops::Range, path::PathBuf, time::Duration};

use holdfast_qcow2::ClusterSize;
use holdfast_seal::KeyId;
use holdfast_target::layout::{
    FileStem, ImageId, ImageKind, ImageRecord, SHARD_SIZE, ShardNumber, VolumeHome,
};
use serde::{Deserialize, Serialize};

pub use self::merge::MergeJob;
pub use self::verify::{Problem, VerifyJob, VerifyPosition, VerifyReport, VerifyScope};
use crate::MoverError;

/// Store one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupJob {
    /// Block device, or a file that stands for one; read whole, its size is the image's virtual size.
    pub device: PathBuf,
    /// Where the images of the volume lie.
    pub home: VolumeHome,
    /// Id of the image to write.
    pub image: ImageId,
    /// The chain to continue, newest first; empty for a full backup.
    #[serde(default)]
    pub parents: Vec<ImageRecord>,
    /// Bytes of a cluster, 16 KiB to 2 MiB, a power of two; that of the chain where there is one.
    #[serde(default = "default_cluster_size")]
    pub cluster_size: u32,
    /// The data key under which image and index are sealed; absent: they are stored in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<KeyId>,
    /// Clusters of the chain whose stored content is damaged: they are stored again although the chain has their hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heal: Vec<ShardClusters>,
    /// What the device shows, as the handle of a snapshot names it: with the same text the same bytes. Attempts of a
    /// backup with the same source go on where an earlier one stopped; absent: each begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Clusters of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardClusters {
    /// The shard.
    pub shard: ShardNumber,
    /// Numbers of clusters in it.
    pub clusters: Range<u64>,
}

/// Write one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreJob {
    /// Block device, or an existing file that stands for one. What lies behind the end of the image is left alone.
    pub device: PathBuf,
    /// Where the images of the volume lie.
    pub home: VolumeHome,
    /// Newest first, down to a full image: the point is the first one.
    pub chain: Vec<ImageRecord>,
    /// Bytes at the start of the device that an earlier attempt has restored of this very chain, as
    /// [`ProgressSnapshot::bytes_durable`](crate::ProgressSnapshot) told.
    #[serde(default)]
    pub from: u64,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Job {
    /// Store one volume.
    Backup(BackupJob),
    /// Write one volume.
    Restore(RestoreJob),
    /// Look whether images are what was written.
    Verify(VerifyJob),
    /// Make one image of neighbouring ones.
    Merge(MergeJob),
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSummary {
    /// Bytes of the volume, all of them written or zeroed, by this attempt or the one it went on from.
    pub virtual_size: u64,
    /// Bytes written as content, each cluster checked against its hash.
    pub data: u64,
    /// Bytes zeroed.
    pub zeroed: u64,
    /// How the empty ranges were zeroed.
    pub zeroing: Zeroing,
    /// How long it took.
    #[serde(with = "seconds")]
    pub took: Duration,
}

/// How empty ranges are made to read as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Zeroing {
    /// The kernel zeroed and unmapped them, and samples read back as zeroes.
    Punched,
    /// Zeroes were written.
    Written,
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(took.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// 64 KiB, the cluster size of new chains.
fn default_cluster_size() -> u32 {
    1 << ClusterSize::DEFAULT.bits()
}

/// Virtual bytes of every shard of a volume.
pub(crate) fn shard_sizes(virtual_size: u64) -> impl ExactSizeIterator<Item = u64> + Clone {
    let shards = usize::try_from(virtual_size.div_ceil(SHARD_SIZE))
        .expect("a volume has fewer shards than memory bytes");
    (0..shards as u64)
        .map(move |shard| (virtual_size - shard * SHARD_SIZE).min(SHARD_SIZE))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Checks that records describe one chain of one volume, newest first, and returns its cluster size.
pub(crate) fn check_chain(chain: &[ImageRecord]) -> Result<ClusterSize, MoverError> {
    let cluster_size = check_run(chain)?;
    match chain.last() {
        Some(ImageRecord {
            id, parent: Some(_), ..
        }) => Err(MoverError::Job(format!(
            "image {id} is not followed by what it lies upon"
        ))),
        _ => Ok(cluster_size),
    }
}

/// The same for neighbours in a chain, the oldest of which may lie upon another image.
pub(crate) fn check_run(run: &[ImageRecord]) -> Result<ClusterSize, MoverError> {
    let invalid = |why: String| Err(MoverError::Job(why));
    let Some(newest) = run.first() else {
        return invalid("the chain is empty".to_owned());
    };
    for (position, record) in run.iter().enumerate() {
        let id = &record.id;
        let follows = match run.get(position + 1) {
            Some(parent) => record.parent.as_ref() == Some(&parent.id),
            None => true,
        };
        if !follows || (record.kind == ImageKind::Full) != record.parent.is_none() {
            return invalid(format!("image {id} is not followed by what it lies upon"));
        }
        if (record.virtual_size, record.cluster_size) != (newest.virtual_size, newest.cluster_size) {
            return invalid(format!(
                "image {id} has another size than the newest of its chain"
            ));
        }
        check_files(record)?;
    }
    cluster_size(newest.cluster_size)
}

/// Checks that the shards of a record make up its volume, and that they name files of this image.
pub(crate) fn check_files(record: &ImageRecord) -> Result<FileStem, MoverError> {
    let id = &record.id;
    let sizes = record
        .shards
        .iter()
        .enumerate()
        .map(|(n, shard)| (n as u32 == shard.shard.0, shard.virtual_size));
    if !sizes.eq(shard_sizes(record.virtual_size).map(|size| (true, size))) {
        return Err(MoverError::Job(format!(
            "the shards of image {id} do not make up its {} bytes",
            record.virtual_size
        )));
    }
    record
        .stem()
        .ok_or_else(|| MoverError::Job(format!("image {id} names files of another image")))
}

/// A cluster size that chains may have.
pub(crate) fn cluster_size(bytes: u32) -> Result<ClusterSize, MoverError> {
    match ClusterSize::new(bytes.into()) {
        Ok(size) if (16 << 10..=2 << 20).contains(&bytes) => Ok(size),
        _ => Err(MoverError::Job(format!(
            "a cluster of {bytes} bytes: it must be a power of two, 16 KiB to 2 MiB"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_make_up_the_volume() {
        let sizes = |size| shard_sizes(size).collect::<Vec<_>>();
        assert_eq!(sizes(512), [512]);
        assert_eq!(sizes(SHARD_SIZE), [SHARD_SIZE]);
        assert_eq!(sizes(2 * SHARD_SIZE + 512), [SHARD_SIZE, SHARD_SIZE, 512]);
    }

    #[test]
    fn a_job_says_only_what_differs_from_the_defaults() {
        let json = serde_json::json!({"backup": {"device": "/dev/volume", "home": "c/p/v", "image": "b-a1"}});
        let Job::Backup(job) = serde_json::from_value(json).unwrap() else {
            panic!("it is a backup")
        };
        assert_eq!((job.cluster_size, &job.parents), (65536, &Vec::new()));
        let again: Job =
            serde_json::from_value(serde_json::to_value(Job::Backup(job.clone())).unwrap()).unwrap();
        assert_eq!(again, Job::Backup(job));
        let unknown =
            serde_json::json!({"restore": {"device": "/d", "home": "c/p/v", "chain": [], "speed": 1}});
        assert!(serde_json::from_value::<Job>(unknown).is_err());
    }
}
