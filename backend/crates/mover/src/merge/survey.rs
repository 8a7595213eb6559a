//! What a merge would move and free, before anything moves.
use std::sync::Arc;

use holdfast_qcow2::MergeRules;
use holdfast_seal::KeyRing;
use holdfast_target::Target;
use tokio::{runtime::Handle, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::members::Members;
use crate::{MergeJob, MoverError, remote::Remote, threads::join};

/// What a merge would move and free, in bytes, over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeGain {
    /// What the store holds less when the members are gone.
    pub freed: u64,
    /// What is copied inside the store, or read and packed.
    pub moved: u64,
}

impl MergeGain {
    /// Whether the merge frees at least a quarter of what it moves: the rule for merging before the chain is too long.
    pub fn is_worth_it(&self) -> bool {
        self.freed > 0 && self.freed >= self.moved / 4
    }
}

/// Finds out what [`merge`](super::merge()) of this job would gain. Reads the tables and indexes of the run, nothing else.
///
/// # Errors
/// As those of a merge.
pub async fn survey(
    target: Arc<dyn Target>,
    job: &MergeJob,
    keys: Arc<KeyRing>,
    cancel: CancellationToken,
) -> Result<MergeGain, MoverError> {
    job.check()?;
    let inner = cancel.child_token();
    let _stop = inner.clone().drop_guard();
    let remote = Remote {
        target,
        home: job.home.clone(),
        runtime: Handle::current(),
        cancel: inner,
        keys,
    };
    remote.check_keys(&job.run)?;
    remote.check_bound(&job.run).await?;
    let run = job.run.clone();
    let thread = spawn_blocking(move || {
        let mut gain = MergeGain::default();
        for shard in &run[0].shards {
            let members = Members::open(&remote, &run, shard.shard)?;
            let survey = members.run.survey(&MergeRules::STORE);
            let survey = survey.map_err(|error| members.error(error))?;
            gain.freed += survey.freed();
            gain.moved += survey.moved();
        }
        Ok(gain)
    });
    join(thread.await)
}
