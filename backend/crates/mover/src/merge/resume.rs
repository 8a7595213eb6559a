//! Where a merge goes on that was interrupted.
use std::collections::BTreeSet;

use holdfast_seal::Layout;
use holdfast_target::{
    Part, Upload,
    layout::{Digest, FileStem, ObjectRecord},
};
use serde::{Deserialize, Serialize};

use super::plan::Transport;
use crate::{
    MoverError,
    checkpoint::{Checkpoint, Found, are_stored, find, is_there},
    job::MergeJob,
    remote::Remote,
};

/// An object on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MergeState {
    /// Binds the plan, and with it what each part holds.
    pub(super) plan: Digest,
    pub(super) transport: Transport,
    pub(super) upload: Upload,
    /// The index, which is stored first.
    pub(super) index: IndexMade,
    /// Pieces that the store has.
    pub(super) pieces: Vec<Stored>,
}

/// The stored index of the merged image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IndexMade {
    pub(super) object: ObjectRecord,
    pub(super) digest: Digest,
    /// Clusters with content, and those that are empty.
    pub(super) data: u64,
    pub(super) empty: u64,
}

/// A piece that the store has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    pub(super) part: Part,
    /// How it is sealed.
    pub(super) seal: Option<Layout>,
}

impl MergeState {
    /// Numbers of the pieces that need not be made again.
    pub(super) fn numbers(&self) -> BTreeSet<u32> {
        self.pieces.iter().map(|stored| stored.part.number.0).collect()
    }
}

/// Binds the work of a job.
pub(super) fn work(job: &MergeJob) -> Result<Digest, MoverError> {
    let what = serde_json::to_vec(job);
    let what = what.map_err(|error| MoverError::Internal(error.to_string()))?;
    Ok(Digest::of(&what))
}

/// Looks for what an interrupted merge under the same names left.
pub(super) async fn earlier(
    remote: &Remote,
    job: &MergeJob,
    work: &Digest,
) -> Result<Option<Found<MergeState>>, MoverError> {
    let ours = |files: &FileStem| *files == job.files;
    let prefix = format!("{}-s", job.files);
    let found = find::<MergeState>(remote, &prefix, ours, work, job.seal.is_some()).await?;
    for found in found {
        if is_usable(remote, job, &found.checkpoint).await {
            return Ok(Some(found));
        }
        tracing::warn!(files = %job.files, "merge: what an earlier attempt stored is gone");
    }
    Ok(None)
}

/// Whether the store has all that a checkpoint names.
async fn is_usable(remote: &Remote, job: &MergeJob, checkpoint: &Checkpoint<MergeState>) -> bool {
    if !are_stored(remote, &job.files, &checkpoint.finished).await {
        return false;
    }
    let Some(state) = &checkpoint.shard else {
        return true;
    };
    let parts: Vec<Part> = state.pieces.iter().map(|stored| stored.part.clone()).collect();
    let position = checkpoint.finished.len();
    let named = job.run[0]
        .shards
        .get(position)
        .map(|shard| job.files.index_name(shard.shard));
    named.as_ref() == Some(&state.index.object.key)
        && remote.is_bound(&state.index.object).await.is_ok()
        && is_there(remote, &state.upload, &parts).await
}
