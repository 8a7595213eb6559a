//! From a device to images on the target.

mod pipeline;
mod plan;
mod resume;

use std::sync::Arc;

use holdfast_qcow2::{ClusterSize, MergedIndex};
use holdfast_seal::KeyRing;
use holdfast_target::{
    Key, Target,
    layout::{Digest, FileStem, ImageKind, ImageRecord, ShardNumber, ShardRecord},
};
use tokio::{runtime::Handle, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::{
    pipeline::ShardBackup,
    resume::{Earlier, earlier, work},
};
use crate::{
    BackupJob, MoverError, Progress,
    buffer::Pool,
    checkpoint::Keeper,
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
/// A job that says what its device shows ([`BackupJob::source`]) leaves checkpoints. A failure that may pass, a dropped
/// future and a killed process then leave what was stored, and a later attempt of the same backup goes on from there: its
/// record names the image that the earlier attempt began.
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
    let mut files = FileStem::from(&job.image);
    let outcome = run(&remote, job, &progress, &ledger, &mut files).await;
    let outcome = match outcome {
        // Whatever a thread tripped over after the token was cancelled is the cancellation.
        Err(_) if cancel.is_cancelled() => Err(MoverError::Cancelled),
        other => other,
    };
    if let Err(error) = &outcome {
        inner.cancel();
        // What another attempt can go on with stays.
        if job.source.is_none() || !error.is_retryable() {
            ledger.take_back(&remote, &format!("{files}-s")).await;
        }
    }
    outcome
}

async fn run(
    remote: &Remote,
    job: &BackupJob,
    progress: &Arc<Progress>,
    ledger: &Arc<Ledger>,
    files: &mut FileStem,
) -> Result<ImageRecord, MoverError> {
    let cluster_size = cluster_size(job.cluster_size)?;
    let path = job.device.clone();
    let device = join(spawn_blocking(move || Device::open(&path)).await)?;
    progress.total(device.size());
    check_parents(job, &device)?;
    remote.write_key(job.seal.as_ref(), &job.image)?;
    remote.check_keys(&job.parents)?;
    remote.check_bound(&job.parents).await?;
    let mut job = job.clone();
    let mut kept = None;
    if let Some(source) = &job.source {
        let work = work(&job, source, device.size())?;
        let earlier = remote.unless_cancelled(earlier(remote, &job, &work)).await?;
        if let Some(earlier) = &earlier {
            files.clone_from(&earlier.found.checkpoint.files);
            tracing::info!(%files, "backup: goes on where an earlier attempt stopped");
            job.image.clone_from(&files.image);
            for record in &earlier.found.checkpoint.finished {
                ledger.creating(&remote.key(&record.image));
                ledger.creating(&remote.key(&record.index));
            }
        }
        kept = Some((work, earlier));
    }
    let (remote, progress, ledger) = (remote.clone(), progress.clone(), ledger.clone());
    let thread = move || {
        store(
            &remote,
            &job,
            &device,
            cluster_size,
            &progress,
            &ledger,
            kept.as_ref(),
        )
    };
    join(spawn_blocking(thread).await)
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
    kept: Option<&(Digest, Option<Earlier>)>,
) -> Result<ImageRecord, MoverError> {
    let image_parts = Pool::new(limits::IMAGE_PART, limits::IMAGE_BUFFERS);
    let index_parts = Pool::new(limits::INDEX_PART, limits::INDEX_BUFFERS);
    let seal = remote.write_key(job.seal.as_ref(), &job.image)?;
    let earlier = kept.and_then(|(_, earlier)| earlier.as_ref());
    let keeper = kept.map(|(work, earlier)| {
        let found = earlier.as_ref().map(|earlier| &earlier.found);
        Keeper::new(remote, ledger, FileStem::from(&job.image), *work, seal, found)
    });
    let mut shards: Vec<ShardRecord> = Vec::new();
    if let Some(earlier) = earlier {
        shards.clone_from(&earlier.found.checkpoint.finished);
    }
    let mut resumed = earlier.and_then(|earlier| earlier.shard.as_ref());
    let finished = shards.len();
    let mut offset = 0;
    for (number, size) in (0..).map(ShardNumber).zip(shard_sizes(device.size())) {
        if (number.0 as usize) < finished {
            progress.done(size);
            offset += size;
            continue;
        }
        let backing = job.parents.first().map(|parent| parent.id.file_name(number));
        let parents = open_parents(remote, job, number)?;
        let resumed = resumed.take();
        if let Some(resumed) = resumed {
            progress.done(
                resumed
                    .state
                    .watermark
                    .saturating_mul(cluster_size.bytes())
                    .min(size),
            );
        }
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
            keeper: keeper.as_ref(),
            heal: job
                .heal
                .iter()
                .filter(|bad| bad.shard == number)
                .map(|bad| bad.clusters.clone())
                .collect(),
            resumed,
        };
        let record = shard.store(parents.as_ref())?;
        offset += size;
        if let Some(keeper) = &keeper
            && offset < device.size()
        {
            remote.runtime.block_on(keeper.finished(&record));
        }
        shards.push(record);
    }
    if let Some(keeper) = &keeper {
        remote.runtime.block_on(keeper.done());
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
