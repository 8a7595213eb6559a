//! What a job has begun on the target, so that it can be taken back.
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use holdfast_target::{Key, Prefix, TargetError, Upload};
use tokio::time::timeout;

use crate::remote::Remote;

/// Longest time spent on removing what a failed or cancelled job had begun.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// Uploads and objects.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    uploads: Vec<Upload>,
    keys: Vec<Key>,
}

impl Ledger {
    fn with<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn begun(&self, upload: &Upload) {
        self.with(|entries| entries.uploads.push(upload.clone()));
    }

    /// The object may exist from now on.
    pub(crate) fn creating(&self, key: &Key) {
        self.with(|entries| entries.keys.push(key.clone()));
    }

    pub(crate) fn not_ours(&self, key: &Key) {
        self.with(|entries| entries.keys.retain(|ours| ours != key));
    }

    /// Adds what another one has.
    pub(crate) fn absorb(&self, other: &Self) {
        let mut more = other.with(std::mem::take);
        self.with(|entries| {
            entries.uploads.append(&mut more.uploads);
            entries.keys.append(&mut more.keys);
        });
    }

    /// Takes back what was begun under names that begin so. What cannot be reached now is left to the sweeper, which tells it by
    /// its name.
    pub(crate) async fn take_back(&self, remote: &Remote, files: &str) {
        match timeout(CLEAN_UP, self.remove(remote, files)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%files, %error, "leftovers stay on the target"),
            Err(_) => tracing::warn!(%files, "leftovers stay on the target, it does not answer"),
        }
    }

    async fn remove(&self, remote: &Remote, files: &str) -> Result<(), TargetError> {
        let target = &remote.target;
        let (mut uploads, keys) = self.with(|entries| (entries.uploads.clone(), entries.keys.clone()));
        let prefix = format!("{}{files}", remote.home.prefix()).parse::<Prefix>();
        // A part that was on the wire may bring an aborted upload back, so it is looked for again.
        for _ in 0..3 {
            for upload in &uploads {
                target.abort_upload(upload).await?;
            }
            // An upload that was begun while its answer was lost is in no ledger.
            let Ok(prefix) = &prefix else { break };
            uploads = target
                .list_uploads(prefix)
                .await?
                .into_iter()
                .map(|open| open.upload)
                .collect();
            if uploads.is_empty() {
                break;
            }
        }
        target.delete(&keys).await
    }
}
