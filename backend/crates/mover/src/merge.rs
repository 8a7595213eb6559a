//! One image instead of neighbouring ones of a chain, made inside the store.

mod members;
mod pieces;
mod plan;
mod store;
mod survey;

use std::sync::Arc;

use holdfast_qcow2::{ImageName, IndexMerge, IndexSummary, MergeOutcome};
use holdfast_seal::KeyRing;
use holdfast_target::{
    Target,
    layout::{Digest, ImageKind, ImageRecord, ShardRecord},
};
use tokio::{runtime::Handle, sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

pub use self::survey::{MergeGain, survey};
use self::{
    members::Members,
    plan::{Plan, Transport},
    store::{Failure, Store},
};
use crate::{
    Damage, MoverError, Progress,
    buffer::Pool,
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
/// [`MergeJob::files`]. Content that was damaged before stays damaged: that is what [`crate::verify()`] finds.
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
    let mut transport = Transport::Copy;
    let mut shards = Vec::new();
    for position in 0..newest.shards.len() {
        let shard = Shard {
            remote,
            ledger,
            progress,
            job: &job,
            position,
        };
        shards.push(shard.merge(&mut transport).await?);
    }
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

/// One shard of the run.
struct Shard<'a> {
    remote: &'a Remote,
    ledger: &'a Arc<Ledger>,
    progress: &'a Arc<Progress>,
    job: &'a Arc<MergeJob>,
    position: usize,
}

/// What the thread knows at the end that reads tables and indexes.
struct Made {
    image: MergeOutcome,
    index: IndexSummary,
    index_object: Uploaded,
}

impl Shard<'_> {
    /// Merges the shard; finds out whether the store copies, and stays with what it found.
    async fn merge(&self, transport: &mut Transport) -> Result<ShardRecord, MoverError> {
        let shard = self.job.run[0].shards[self.position].shard;
        let names = format!("{}-s{shard}.", self.job.files);
        let mut vanished = false;
        loop {
            // Only what this attempt has begun goes when another one follows.
            let ledger = Arc::new(Ledger::default());
            let ended = self.attempt(*transport, &ledger).await;
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

    async fn attempt(&self, transport: Transport, ledger: &Arc<Ledger>) -> Result<(Made, Uploaded), Failure> {
        // An attempt has a token of its own: its thread ends with it.
        let remote = Remote {
            cancel: self.remote.cancel.child_token(),
            ..self.remote.clone()
        };
        let _stop = remote.cancel.clone().drop_guard();
        let (pieces_to, pieces) = mpsc::channel(1);
        let thread = {
            let (remote, job) = (remote.clone(), self.job.clone());
            let (ledger, progress, position) = (ledger.clone(), self.progress.clone(), self.position);
            spawn_blocking(move || make(&remote, &job, &ledger, &progress, position, transport, &pieces_to))
        };
        let store = Store {
            remote: &remote,
            ledger,
            progress: self.progress,
            key: remote
                .home
                .image_key(&self.job.files, self.job.run[0].shards[self.position].shard),
            transport,
        };
        let stored = store.run(pieces).await;
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
        let sizes = [
            (made.index.size, made.index_object.file_size()),
            (made.image.image.file_size, image.file_size()),
        ];
        if sizes.iter().any(|(written, stored)| written != stored) {
            return Err(MoverError::Internal(format!(
                "written and stored sizes differ: {sizes:?}"
            )));
        }
        let files = &self.job.files;
        let index = made.index_object.record(files.index_name(shard.shard));
        let members = self.job.run.iter().map(|record| &record.shards[self.position]);
        let before: u64 = members.map(|member| member.image.size + member.index.size).sum();
        self.progress.done(before.saturating_sub(image.meta.size));
        Ok(ShardRecord {
            shard: shard.shard,
            virtual_size: shard.virtual_size,
            image: image.record(files.image_name(shard.shard)),
            tables: Digest(made.image.image.tables.0),
            index,
            index_digest: Digest(made.index.digest.0),
        })
    }
}

/// Reads the run, hands out the pieces of the image, and stores the index. Blocks.
fn make(
    remote: &Remote,
    job: &MergeJob,
    ledger: &Arc<Ledger>,
    progress: &Arc<Progress>,
    position: usize,
    transport: Transport,
    pieces_to: &mpsc::Sender<pieces::Piece>,
) -> Result<Made, MoverError> {
    let number = job.run[0].shards[position].shard;
    let seal = remote.write_key(job.seal.as_ref(), &job.files.image)?;
    let members = Members::open(remote, &job.run, number)?;
    let plan = Plan::new(&members, seal.is_some(), transport)?;
    let image = pieces::send(remote, &members, plan, seal, pieces_to)?;
    let key = remote.home.index_key(&job.files, number);
    let pool = Pool::new(limits::INDEX_PART, limits::INDEX_BUFFERS);
    let mut upload = ObjectUpload::new(remote, ledger, progress, key, &pool, 0, seal)?;
    let name = job.files.image_name(number).parse::<ImageName>()?;
    let mut merge = IndexMerge::new(&members.index, name, &mut upload);
    loop {
        let more = merge.next_span(&mut upload);
        let more = more.map_err(|error| MoverError::index_member(&members.index_keys, error))?;
        upload.drain()?;
        if !more {
            break;
        }
    }
    let index = merge.finish(&mut upload);
    let overlay = job.run[job.run.len() - 1].parent.is_some();
    let empty = if overlay {
        index.zero_clusters + index.trimmed_clusters
    } else {
        0
    };
    if (index.data_clusters, empty) != (image.image.data_clusters, image.image.zero_clusters) {
        let what = "images and indexes of the run do not hold the same clusters";
        return Err(MoverError::damaged_by(
            Damage::Unfitting,
            &members.index_keys[0],
            what,
        ));
    }
    let index_object = upload.finish(&[])?;
    Ok(Made {
        image,
        index,
        index_object,
    })
}
