//! From a device to images on the target.

mod pipeline;
mod plan;

use std::sync::Arc;

use holdfast_qcow2::{ClusterSize, MergedIndex};
use holdfast_seal::KeyRing;
use holdfast_target::{
    Key, Target,
    layout::{FileStem, ImageKind, ImageRecord, ShardNumber, ShardRecord},
};
use tokio::{runtime::Handle, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::pipeline::ShardBackup;
use crate::{
    BackupJob, MoverError, Progress,
    buffer::Pool,
    device::Device,
    job::{check_chain, cluster_size, shard_sizes},
    ledger::Ledger,
    limits,
    remote::Remote,
    threads::join,
};

/// Stores the device of `job` as one image and returns its record, which is what commits it.
///
/// `keys` holds the data keys of everything sealed that the job reads, and the one it seals with. With parents, only
/// clusters whose hash differs from the chain's indexes are stored. The objects of the parents are
/// checked against their records first. Each object is uploaded under a name with the attempt in it and never overwrites
/// another; on failure or cancellation they and their uploads are removed again, as far as the store can be reached.
///
/// # Errors
/// [`MoverError::NeedsFull`] when the device or the cluster size no longer fits the chain,
/// [`MoverError::NoKey`] when a key is missing, [`MoverError::Damaged`] when the chain is not what was stored, and the
/// others.
pub async fn backup(
    target: Arc<dyn Target>,
    job: &BackupJob,
    keys: Arc<KeyRing>,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> Result<ImageRecord, MoverError> {
    let inner = cancel.child_token();
    // A dropped future must stop the threads too.
    let _stop = inner.clone().drop_guard();
    let remote = Remote {
        target,
        home: job.home.clone(),
        runtime: Handle::current(),
        cancel: inner.clone(),
        keys,
    };
    let ledger = Arc::new(Ledger::default());
    let outcome = run(&remote, job, &progress, &ledger).await;
    let outcome = match outcome {
        // Whatever a thread tripped over after the token was cancelled is the cancellation.
        Err(_) if cancel.is_cancelled() => Err(MoverError::Cancelled),
        other => other,
    };
    if outcome.is_err() {
        inner.cancel();
        ledger
            .take_back(&remote, &format!("{}-s", FileStem::from(&job.image)))
            .await;
    }
    outcome
}

async fn run(
    remote: &Remote,
    job: &BackupJob,
    progress: &Arc<Progress>,
    ledger: &Arc<Ledger>,
) -> Result<ImageRecord, MoverError> {
    let cluster_size = cluster_size(job.cluster_size)?;
    let path = job.device.clone();
    let device = join(spawn_blocking(move || Device::open(&path)).await)?;
    progress.total(device.size());
    check_parents(job, &device)?;
    remote.write_key(job.seal.as_ref(), &job.image)?;
    remote.check_keys(&job.parents)?;
    remote.check_bound(&job.parents).await?;
    let (remote, job, progress, ledger) = (remote.clone(), job.clone(), progress.clone(), ledger.clone());
    join(spawn_blocking(move || store(&remote, &job, &device, cluster_size, &progress, &ledger)).await)
}

fn check_parents(job: &BackupJob, device: &Device) -> Result<(), MoverError> {
    let Some(parent) = job.parents.first() else {
        return Ok(());
    };
    check_chain(&job.parents)?;
    if parent.virtual_size != device.size() {
        let (was, is) = (parent.virtual_size, device.size());
        return Err(MoverError::NeedsFull(format!(
            "its volume has {was} bytes, the device has {is}"
        )));
    }
    if parent.cluster_size != job.cluster_size {
        let (was, is) = (parent.cluster_size, job.cluster_size);
        return Err(MoverError::NeedsFull(format!(
            "its clusters have {was} bytes, {is} are asked for"
        )));
    }
    if job.parents.iter().any(|parent| parent.id == job.image) {
        return Err(MoverError::Job(format!(
            "image {} would be its own parent",
            job.image
        )));
    }
    Ok(())
}

/// Stores shard after shard. Blocks.
fn store(
    remote: &Remote,
    job: &BackupJob,
    device: &Device,
    cluster_size: ClusterSize,
    progress: &Arc<Progress>,
    ledger: &Arc<Ledger>,
) -> Result<ImageRecord, MoverError> {
    let image_parts = Pool::new(limits::IMAGE_PART, limits::IMAGE_BUFFERS);
    let index_parts = Pool::new(limits::INDEX_PART, limits::INDEX_BUFFERS);
    let seal = remote.write_key(job.seal.as_ref(), &job.image)?;
    let mut shards: Vec<ShardRecord> = Vec::new();
    let mut offset = 0;
    for (number, size) in (0..).map(ShardNumber).zip(shard_sizes(device.size())) {
        let backing = job.parents.first().map(|parent| parent.id.file_name(number));
        let parents = open_parents(remote, job, number)?;
        let shard = ShardBackup {
            remote,
            ledger,
            progress,
            device,
            image_parts: &image_parts,
            index_parts: &index_parts,
            image: &job.image,
            number,
            offset,
            size,
            cluster_size,
            backing,
            seal,
        };
        shards.push(shard.store(parents.as_ref())?);
        offset += size;
    }
    let stored = shards
        .iter()
        .map(|shard| shard.image.size + shard.index.size)
        .sum();
    Ok(ImageRecord {
        id: job.image.clone(),
        parent: job.parents.first().map(|parent| parent.id.clone()),
        kind: if job.parents.is_empty() {
            ImageKind::Full
        } else {
            ImageKind::Incremental
        },
        virtual_size: device.size(),
        cluster_size: job.cluster_size,
        shards,
        stored,
    })
}

/// Indexes of one shard of a chain with their keys, newest first.
pub(crate) struct Parents {
    pub(crate) keys: Vec<Key>,
    pub(crate) index: MergedIndex<crate::remote::RemoteFile>,
}

fn open_parents(
    remote: &Remote,
    job: &BackupJob,
    number: ShardNumber,
) -> Result<Option<Parents>, MoverError> {
    if job.parents.is_empty() {
        return Ok(None);
    }
    open_indexes(remote, &job.parents, number).map(Some)
}

/// Opens the indexes of one shard of a chain, each bound by its record.
pub(crate) fn open_indexes(
    remote: &Remote,
    chain: &[ImageRecord],
    number: ShardNumber,
) -> Result<Parents, MoverError> {
    let mut keys = Vec::new();
    let mut indexes = Vec::new();
    for image in chain {
        let shard = &image.shards[number.0 as usize];
        keys.push(remote.key(&shard.index));
        indexes.push(remote.open_index(image, shard)?);
    }
    let index = MergedIndex::new(indexes).map_err(|error| MoverError::chain(&keys, &error))?;
    Ok(Parents { keys, index })
}
