//! Where a backup goes on that an earlier attempt began.
use bytes::Bytes;
use holdfast_qcow2::codec::DEFAULT_LEVEL;
use holdfast_target::{
    ErrorKind,
    layout::{Digest, FileStem, ShardNumber},
};
use serde::{Deserialize, Serialize};

use crate::{
    BackupJob, MoverError,
    checkpoint::{Blob, Found, UploadState, are_stored, find, is_there, read_first},
    limits,
    remote::Remote,
};

/// A shard in the middle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ShardState {
    /// The first cluster that is not dealt with.
    pub(super) watermark: u64,
    /// State of the image's writer.
    pub(super) image: Blob,
    /// State of the index's writer.
    pub(super) index: Blob,
    pub(super) image_upload: UploadState,
    pub(super) index_upload: UploadState,
}

/// A shard to go on with.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) state: ShardState,
    /// The first bytes of the image's body.
    pub(super) first: Option<Bytes>,
}

/// What an earlier attempt left.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) found: Found<ShardState>,
    pub(super) shard: Option<Resumed>,
}

/// Binds the work of a job: attempts with the same one write the same image.
pub(super) fn work(job: &BackupJob, source: &str, size: u64) -> Result<Digest, MoverError> {
    let parts = (limits::IMAGE_PART, limits::INDEX_PART);
    let how = (job.cluster_size, &job.seal, DEFAULT_LEVEL, parts);
    let what = serde_json::to_vec(&(&job.home, &job.parents, &job.heal, source, size, how));
    let what = what.map_err(|error| MoverError::Internal(error.to_string()))?;
    Ok(Digest::of(&what))
}

/// Looks for the newest checkpoint of this backup that can be used: all it names is still there.
pub(super) async fn earlier(
    remote: &Remote,
    job: &BackupJob,
    work: &Digest,
) -> Result<Option<Earlier>, MoverError> {
    let ours = |files: &FileStem| {
        let image = &files.image;
        files.merged.is_none() && image.backup == job.image.backup && image.attempt <= job.image.attempt
    };
    let prefix = format!("{}-a", job.image.backup);
    let found = find::<ShardState>(remote, &prefix, ours, work, job.seal.is_some()).await?;
    for found in found {
        let files = found.checkpoint.files.clone();
        match usable(remote, found).await {
            Some(earlier) => return Ok(Some(earlier)),
            None => tracing::warn!(%files, "backup: what an earlier attempt stored is gone"),
        }
    }
    Ok(None)
}

/// A checkpoint, if the store has all it names.
async fn usable(remote: &Remote, mut found: Found<ShardState>) -> Option<Earlier> {
    let checkpoint = &mut found.checkpoint;
    if !are_stored(remote, &checkpoint.files, &checkpoint.finished).await {
        return None;
    }
    let Some(state) = checkpoint.shard.take() else {
        return Some(Earlier { found, shard: None });
    };
    // The end of a shard is not in a checkpoint: an index that is there was made by an attempt that came further, and what
    // this one would make of it has another seal.
    let number = ShardNumber(u32::try_from(checkpoint.finished.len()).ok()?);
    let index = remote.home.index_key(&checkpoint.files, number);
    match remote.target.head(&index).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        _ => return None,
    }
    for upload in [&state.image_upload, &state.index_upload] {
        if let Some(begun) = &upload.upload
            && !is_there(remote, begun, &upload.parts).await
        {
            return None;
        }
    }
    let first = match &state.image_upload.first {
        Some(first) => Some(read_first(remote, first).await?),
        None => None,
    };
    let shard = Some(Resumed { state, first });
    Some(Earlier { found, shard })
}
