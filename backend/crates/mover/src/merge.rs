//! One image instead of neighbouring ones of a chain, made inside the store.

mod members;
mod pieces;
mod plan;
mod resume;
mod store;
mod survey;

use std::{collections::BTreeSet, sync::Arc};

use holdfast_qcow2::{ImageName, IndexMerge, MergeOutcome};
use holdfast_seal::KeyRing;
use holdfast_target::{
    Target,
    layout::{Digest, ImageKind, ImageRecord, ShardRecord},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

pub use self::survey::{MergeGain, survey};
use self::{
    members::Members,
    plan::{Plan, Transport},
    resume::{IndexMade, MergeState, earlier, work},
    store::{Failure, Store},
};
use crate::{
    Damage, MoverError, Progress,
    buffer::Pool,
    checkpoint::Keeper,
    job::MergeJob,
    ledger::Ledger,
    limits,
    remote::Remote,
    threads::join,
    upload::{ObjectUpload, Uploaded},
};

/// Makes one image out of the run of `job` and returns its record. It reads the tables and indexes of the run, and what is
/// too short to be copied by the store; all else is copied inside it.
///
/// Nothing of the run is changed or removed, and nothing is read from it that is not what its records bind. On failure or
/// cancellation what was begun is removed again, as far as the store can be reached; all of it is called after
/// [`MergeJob::files`]. A merge that was killed or dropped leaves checkpoints: the same job goes on where it stopped, but
/// never two of them at once. An object of these names that no checkpoint knows is an `Exists` error, which another
/// generation's names avoid. Content that was damaged before stays damaged: that is what [`crate::verify()`] finds.
///
/// # Errors
/// [`MoverError::NoKey`] before anything was read when a key is missing, [`MoverError::Damaged`] when the run is not what
/// was stored, [`MoverError::CannotMerge`] when no image can hold it, and the others.
pub async fn merge(
    target: Arc<dyn Target>,
    job: &MergeJob,
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
    let outcome = match run(&remote, job, &progress, &ledger).await {
        // Whatever a thread tripped over after the token was cancelled is the cancellation.
        Err(_) if cancel.is_cancelled() => Err(MoverError::Cancelled),
        other => other,
    };
    if outcome.is_err() {
        inner.cancel();
        ledger.take_back(&remote, &format!("{}-s", job.files)).await;
    }
    outcome
}

async fn run(
    remote: &Remote,
    job: &MergeJob,
    progress: &Arc<Progress>,
    ledger: &Arc<Ledger>,
) -> Result<ImageRecord, MoverError> {
    job.check()?;
    remote.write_key(job.seal.as_ref(), &job.files.image)?;
    remote.check_keys(&job.run)?;
    progress.total(job.run.iter().map(|record| record.stored).sum());
    remote.check_bound(&job.run).await?;
    let (newest, oldest) = (&job.run[0], &job.run[job.run.len() - 1]);
    let job = Arc::new(job.clone());
    let work = work(&job)?;
    let mut earlier = remote.unless_cancelled(earlier(remote, &job, &work)).await?;
    let seal = remote.write_key(job.seal.as_ref(), &job.files.image)?;
    let keeper = Keeper::new(remote, ledger, job.files.clone(), work, seal, earlier.as_ref());
    let mut resumed = earlier.as_mut().and_then(|found| found.checkpoint.shard.take());
    let mut shards = earlier.map_or_else(Vec::new, |found| found.checkpoint.finished);
    for (record, position) in shards.iter().zip(0..) {
        ledger.creating(&remote.key(&record.image));
        ledger.creating(&remote.key(&record.index));
        progress.done(stored_before(&job, position));
    }
    let mut transport = resumed.as_ref().map_or(Transport::Copy, |state| state.transport);
    for position in shards.len()..newest.shards.len() {
        let shard = Shard {
            remote,
            ledger,
            progress,
            job: &job,
            position,
            keeper: &keeper,
        };
        let record = shard.merge(&mut transport, resumed.take()).await?;
        if position + 1 < newest.shards.len() {
            keeper.finished(&record).await;
        }
        shards.push(record);
    }
    keeper.done().await;
    Ok(ImageRecord {
        id: newest.id.clone(),
        parent: oldest.parent.clone(),
        kind: match oldest.parent {
            Some(_) => ImageKind::Incremental,
            None => ImageKind::Full,
        },
        virtual_size: newest.virtual_size,
        cluster_size: newest.cluster_size,
        stored: shards
            .iter()
            .map(|shard| shard.image.size + shard.index.size)
            .sum(),
        shards,
    })
}

/// Bytes that the store holds of a shard of the run.
fn stored_before(job: &MergeJob, position: usize) -> u64 {
    let members = job.run.iter().map(|record| &record.shards[position]);
    members.map(|member| member.image.size + member.index.size).sum()
}

/// One shard of the run.
struct Shard<'a> {
    remote: &'a Remote,
    ledger: &'a Arc<Ledger>,
    progress: &'a Arc<Progress>,
    job: &'a Arc<MergeJob>,
    position: usize,
    keeper: &'a Keeper<'a>,
}

/// What the thread knows at the end that reads tables and indexes.
struct Made {
    image: MergeOutcome,
    index: IndexMade,
}

impl Shard<'_> {
    /// Merges the shard; finds out whether the store copies, and stays with what it found.
    async fn merge(
        &self,
        transport: &mut Transport,
        mut resumed: Option<MergeState>,
    ) -> Result<ShardRecord, MoverError> {
        let shard = self.job.run[0].shards[self.position].shard;
        let names = format!("{}-s{shard}.", self.job.files);
        let mut vanished = false;
        loop {
            // Only what this attempt has begun goes when another one follows.
            let ledger = Arc::new(Ledger::default());
            let ended = self.attempt(*transport, resumed.take(), &ledger).await;
            if matches!(ended, Ok(_) | Err(Failure::Error(_))) {
                self.ledger.absorb(&ledger);
            }
            match ended {
                Ok((made, image)) => return self.record(&made, &image),
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::Unsupported) if *transport == Transport::Copy => {
                    tracing::info!(files = %self.job.files, "merge: the store does not copy parts; they are read and sent");
                    *transport = Transport::Read;
                }
                Err(Failure::Vanished) if !vanished => {
                    tracing::warn!(files = %self.job.files, "merge: the store has forgotten the upload; it begins again");
                    vanished = true;
                }
                Err(_) => {
                    self.ledger.absorb(&ledger);
                    let what = "the store forgets uploads while they are under way";
                    return Err(MoverError::CannotMerge(what.to_owned()));
                }
            }
            ledger.take_back(self.remote, &names).await;
        }
    }

    async fn attempt(
        &self,
        transport: Transport,
        resumed: Option<MergeState>,
        ledger: &Arc<Ledger>,
    ) -> Result<(Made, Uploaded), Failure> {
        // An attempt has a token of its own: its thread ends with it.
        let remote = Remote {
            cancel: self.remote.cancel.child_token(),
            ..self.remote.clone()
        };
        let _stop = remote.cancel.clone().drop_guard();
        let (pieces_to, pieces) = mpsc::channel(1);
        let (plan_to, plan) = oneshot::channel();
        let out = Out {
            resumed: resumed.clone(),
            plan: plan_to,
            pieces: pieces_to,
        };
        let thread = {
            let (remote, job) = (remote.clone(), self.job.clone());
            let (ledger, progress, position) = (ledger.clone(), self.progress.clone(), self.position);
            spawn_blocking(move || make(&remote, &job, &ledger, &progress, position, transport, out))
        };
        let shard = self.job.run[0].shards[self.position].shard;
        let store = Store {
            remote: &remote,
            ledger,
            progress: self.progress,
            key: remote.home.image_key(&self.job.files, shard),
            shard,
            transport,
            keeper: self.keeper,
        };
        let stored = store.run(plan, resumed, pieces).await;
        if stored.is_err() {
            remote.cancel.cancel();
        }
        // What the thread failed of is the reason why pieces were missing.
        match (join(thread.await), stored) {
            (Ok(made), Ok(image)) => Ok((made, image)),
            (Err(MoverError::Cancelled) | Ok(_), Err(failure)) => Err(failure),
            (Err(error), _) => Err(error.into()),
        }
    }

    fn record(&self, made: &Made, image: &Uploaded) -> Result<ShardRecord, MoverError> {
        let shard = &self.job.run[0].shards[self.position];
        let (written, stored) = (made.image.image.file_size, image.file_size());
        if written != stored {
            return Err(MoverError::Internal(format!(
                "{written} bytes of an image were written, {stored} stored"
            )));
        }
        let before = stored_before(self.job, self.position);
        self.progress.done(before.saturating_sub(image.meta.size));
        Ok(ShardRecord {
            shard: shard.shard,
            virtual_size: shard.virtual_size,
            image: image.record(self.job.files.image_name(shard.shard)),
            tables: Digest(made.image.image.tables.0),
            index: made.index.object.clone(),
            index_digest: made.index.digest,
        })
    }
}

/// What the thread is told and tells while it plans and hands out pieces.
struct Out {
    /// What an earlier attempt stored.
    resumed: Option<MergeState>,
    plan: oneshot::Sender<(Digest, IndexMade)>,
    pieces: mpsc::Sender<pieces::Piece>,
}

/// Reads the run, hands out the pieces of the image, and stores the index. Blocks.
fn make(
    remote: &Remote,
    job: &MergeJob,
    ledger: &Arc<Ledger>,
    progress: &Arc<Progress>,
    position: usize,
    transport: Transport,
    out: Out,
) -> Result<Made, MoverError> {
    let number = job.run[0].shards[position].shard;
    let seal = remote.write_key(job.seal.as_ref(), &job.files.image)?;
    let members = Members::open(remote, &job.run, number)?;
    let plan = Plan::new(&members, seal.is_some(), transport)?;
    let fingerprint = Digest(plan.merge.fingerprint().0);
    let resumed = out.resumed.filter(|state| state.plan == fingerprint);
    let stored = resumed.as_ref().map_or_else(BTreeSet::new, MergeState::numbers);
    // The index comes first: then every checkpoint knows it.
    let index = match resumed {
        Some(state) => state.index,
        None => {
            let key = remote.home.index_key(&job.files, number);
            let pool = Pool::new(limits::INDEX_PART, limits::INDEX_BUFFERS);
            let upload = ObjectUpload::new(remote, ledger, progress, key, &pool, 0, seal)?;
            merge_index(
                &members,
                &job.files.image_name(number),
                job.files.index_name(number),
                upload,
            )?
        }
    };
    // Nobody listens any more when the merge was stopped.
    let told = out.plan.send((fingerprint, index.clone()));
    told.map_err(|_| MoverError::Cancelled)?;
    let image = pieces::send(remote, &members, plan, stored, seal, &out.pieces)?;
    // A full image holds no empty clusters.
    let empty = match job.run[job.run.len() - 1].parent {
        Some(_) => index.empty,
        None => 0,
    };
    if (index.data, empty) != (image.image.data_clusters, image.image.zero_clusters) {
        let what = "images and indexes of the run do not hold the same clusters";
        return Err(MoverError::damaged_by(
            Damage::Unfitting,
            &members.index_keys[0],
            what,
        ));
    }
    Ok(Made { image, index })
}

/// Merges the indexes of the run into one object. Blocks.
fn merge_index(
    members: &Members,
    image: &str,
    name: String,
    mut upload: ObjectUpload,
) -> Result<IndexMade, MoverError> {
    let mut merge = IndexMerge::new(&members.index, image.parse::<ImageName>()?, &mut upload);
    loop {
        let more = merge.next_span(&mut upload);
        let more = more.map_err(|error| MoverError::index_member(&members.index_keys, error))?;
        upload.drain()?;
        if !more {
            break;
        }
    }
    let summary = merge.finish(&mut upload);
    let object = upload.finish(&[])?;
    if summary.size != object.file_size() {
        let what = format!(
            "{} bytes of an index were written, {} stored",
            summary.size,
            object.file_size()
        );
        return Err(MoverError::Internal(what));
    }
    Ok(IndexMade {
        object: object.record(name),
        digest: Digest(summary.digest.0),
        data: summary.data_clusters,
        empty: summary.zero_clusters + summary.trimmed_clusters,
    })
}
