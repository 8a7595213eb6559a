//! Retention of chains: images that no point is any more are merged with the one above them, inside the store.
//!
//! Lazily: when that frees a quarter of what it moves, or when the chain is almost as long as it may get. A point keeps its
//! image's id, so nothing of it is written anew; the files of before wait for the sweeper. A mover does the work; a merge
//! that it does not finish leaves files that no chain names, which the sweeper takes for what they are.
//!
//! Where objects are locked nothing is merged: a chain ends by rule there, and goes as a whole when its lock has ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use holdfast_core::chain::{Link, MAX_CHAIN, mergeable};
use holdfast_crd::names::{conditions, reasons};
use holdfast_crd::{BackupPlan, Direction, Target as TargetResource, TransferStage, VolumeTransfer};
use holdfast_k8s::{create_or_get, hashed, is_true};
use holdfast_mover::{MergeJob, MoverError};
use holdfast_repository::chain::{self, Chain, ChainFile, Sealing};
use holdfast_repository::sweep::Survey;
use holdfast_repository::{RepositoryError, lock, point};
use holdfast_seal::{KeyId, KeyRing, NameError};
use holdfast_target::Target as Store;
use holdfast_target::layout::{FileStem, ImageId, ImageRecord, VolumeHome};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use tokio::sync::Notify;

use crate::failure::Failure;
use crate::upkeep::{self, Work};
use crate::{Context, encryption, locks, sweep, verification};

/// Time between looks for what can be merged.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Chains of so many images are merged whatever that frees: a few more incrementals, and a full one would be due.
const LONG: usize = MAX_CHAIN - 10;
/// Pause between two looks at a merge that a mover is doing.
const POLL: Duration = Duration::from_secs(2);
/// Plans whose chains are merged at the same time.
const PLANS: usize = 4;

/// The wish that somebody looks.
#[derive(Default)]
pub(crate) struct Merging(Notify);

impl Merging {
    /// Points were removed: there may be something to merge.
    pub(crate) fn ask(&self) {
        self.0.notify_one();
    }
}

/// Runs until the process shuts down.
pub(crate) async fn run(ctx: Arc<Context>) {
    loop {
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = look(&ctx) => {}
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = ctx.merging.0.notified() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn look(ctx: &Context) {
    let plans = match ctx
        .cluster_wide::<BackupPlan>()
        .list(&ListParams::default())
        .await
    {
        Ok(list) => list.items,
        Err(error) => return tracing::warn!(%error, "plans not listed"),
    };
    let work = plans.iter().map(|plan| {
        async move {
            if let Err(failure) = merge_plan(ctx, plan).await {
                let (namespace, name) = (plan.namespace(), plan.name_any());
                tracing::warn!(plan.namespace = namespace, plan.name = %name, error = %failure, "chains not merged");
            }
        }
        .boxed()
    });
    stream::iter(work.collect::<Vec<_>>())
        .buffer_unordered(PLANS)
        .collect::<()>()
        .await;
}

async fn merge_plan(ctx: &Context, plan: &BackupPlan) -> Result<(), Failure> {
    let namespace = plan.namespace().unwrap_or_default();
    let target = ctx
        .targets
        .resource(&plan.spec.backup_config.target, &namespace)
        .await?;
    let usable = |target: &TargetResource| {
        let status = target.status.as_ref();
        status.is_some_and(|s| is_true(&s.conditions, conditions::ACCEPTED))
    };
    if !usable(&target) {
        return Ok(());
    }
    let store = ctx.targets.open(&target).await?;
    if !locks::merges(&target, &store.immutability().await?) {
        return Ok(());
    }
    let (cluster, id) = (sweep::own_cluster(ctx)?, sweep::uid_of(plan)?);
    let points = point::points(&*store, &cluster, &id).await?;
    let survey = Survey::read(&*store, &points).await?;
    for home in point::homes(&*store, &cluster, &id).await? {
        // Between two merges a backup may begin; what it goes on top of stays readable whatever is merged here, but its
        // images are not counted among the points yet.
        if sweep::is_at_work(ctx, &id).await? {
            return Ok(());
        }
        let heads: BTreeSet<String> = survey
            .points_of(&home)
            .iter()
            .filter_map(|images| images.first())
            .map(|image| image.to_string())
            .collect();
        let volume = Volume {
            ctx,
            plan,
            store: &store,
            home: &home,
        };
        volume.merge_all(&heads).await?;
    }
    Ok(())
}

/// A volume whose chains are looked at.
struct Volume<'a> {
    ctx: &'a Context,
    plan: &'a BackupPlan,
    store: &'a Arc<dyn Store>,
    home: &'a VolumeHome,
}

impl Volume<'_> {
    /// Merges what can be, one run after the other: each changes the chain.
    async fn merge_all(&self, heads: &BTreeSet<String>) -> Result<(), Failure> {
        let mut tried: BTreeSet<String> = BTreeSet::new();
        loop {
            let chain = chain::newest(&**self.store, self.home).await?;
            let (Some(file), None) = (&chain.file, &chain.damage) else {
                return Ok(());
            };
            self.drop_outdated(&chain).await?;
            let Some((run, length)) = next_run(file, heads, &tried) else {
                return Ok(());
            };
            tried.insert(run[0].to_string());
            if self.is_damaged(&run) {
                continue;
            }
            let ring = encryption::chain_ring(self.ctx, self.plan, &**self.store, self.home, file).await?;
            let ring = ring.map(Arc::new);
            let records = opened(file, &run, self.home, ring.as_deref())?;
            self.merge(&chain, &records, length, ring).await?;
        }
    }

    async fn merge(
        &self,
        chain: &Chain,
        run: &[ImageRecord],
        length: usize,
        ring: Option<Arc<KeyRing>>,
    ) -> Result<(), Failure> {
        // Locked while the target was another: as long as that lasts, points are read as they were committed.
        if lock::any_locked(&**self.store, self.home, run, Timestamp::now()).await? {
            return Ok(());
        }
        let newest = &run[0].id;
        let key: Option<KeyId> = match &ring {
            Some(_) => Some(newest.backup.as_str().parse().map_err(internal)?),
            None => None,
        };
        let job = MergeJob {
            home: self.home.clone(),
            run: run.to_vec(),
            files: FileStem {
                image: newest.clone(),
                merged: Some(chain.next_generation()),
            },
            seal: key.clone(),
        };
        let keys = ring.clone().unwrap_or_default();
        let stop = self.ctx.shutdown.child_token();
        let gain = holdfast_mover::survey(self.store.clone(), &job, keys, stop).await;
        let gain = gain.map_err(failed)?;
        if !gain.is_worth_it() && length < LONG {
            return Ok(());
        }
        let transfer = self.transfer(&job).await?;
        let api = self.ctx.installed::<VolumeTransfer>();
        let transfer = create_or_get(&api, &transfer).await?;
        let Some(ended) = self.wait(&transfer).await? else {
            return Ok(());
        };
        let merged = match merged_by(&ended) {
            Ok(merged) => merged,
            Err(failure) => {
                upkeep::remove(self.ctx, &ended).await?;
                self.ctx
                    .events
                    .warning(self.plan, failure.reason, &failure.message)
                    .await;
                return Err(failure);
            }
        };
        let sealing = ring
            .as_deref()
            .zip(key.as_ref())
            .map(|(ring, key)| Sealing { ring, key });
        let now = Timestamp::now();
        let generation = chain::replace(&**self.store, self.home, run, &merged, sealing, now).await?;
        upkeep::remove(self.ctx, &ended).await?;
        tracing::info!(
            plan.name = %self.plan.name_any(), volume = %self.home, images = run.len(), %generation,
            bytes_moved = gain.moved, bytes_freed = gain.freed, "images merged"
        );
        Ok(())
    }

    async fn transfer(&self, job: &MergeJob) -> Result<VolumeTransfer, Failure> {
        let files = job.files.to_string();
        let name = hashed("hf", &["merge", &self.home.to_string(), &files]);
        let work = Work {
            plan: self.plan,
            direction: Direction::Merge,
            home: self.home,
            claim: upkeep::claim_name(self.ctx, self.plan, self.home).await?,
            images: &job.run,
            files: Some(files),
            scope: None,
            sealed: job.seal.as_ref().map(|key| Some(key.to_string())),
        };
        work.transfer(self.ctx, &name)
    }

    /// The transfer when it is over; `None` when the process shuts down before, or somebody removed it. The next leader, or
    /// the next look, finds it by its name.
    async fn wait(&self, transfer: &VolumeTransfer) -> Result<Option<VolumeTransfer>, Failure> {
        let api = self.ctx.installed::<VolumeTransfer>();
        loop {
            let now = api.get_opt(&transfer.name_any()).await?;
            match now {
                Some(now) if upkeep::is_over(&now) => return Ok(Some(now)),
                Some(_) => {}
                None => return Ok(None),
            }
            tokio::select! {
                () = self.ctx.shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Removes merges that were begun for a generation that somebody else has made meanwhile.
    async fn drop_outdated(&self, chain: &Chain) -> Result<(), Failure> {
        let home = self.home.to_string();
        for transfer in upkeep::all(self.ctx, Direction::Merge).await? {
            let files = transfer
                .spec
                .files
                .as_deref()
                .and_then(|f| f.parse::<FileStem>().ok());
            let fits = files.is_some_and(|files| files.merged == Some(chain.next_generation()));
            if transfer.spec.home == home && !fits {
                upkeep::remove(self.ctx, &transfer).await?;
            }
        }
        Ok(())
    }

    /// What is damaged stays where it was found: under other names nobody would know of it.
    fn is_damaged(&self, run: &[ImageId]) -> bool {
        let damaged = verification::damage_of(self.plan, self.home);
        damaged
            .iter()
            .any(|damage| run.iter().any(|id| id.to_string() == damage.image))
    }
}

/// What a merge has made.
fn merged_by(transfer: &VolumeTransfer) -> Result<ImageRecord, Failure> {
    let status = transfer.status.clone().unwrap_or_default();
    let failed =
        |text: String| Failure::lasting(reasons::TRANSFER_FAILED, format!("images not merged: {text}"));
    match status.result.filter(|_| status.stage == TransferStage::Succeeded) {
        Some(result) => serde_json::from_value(result).map_err(|error| failed(error.to_string())),
        None => Err(failed(
            status
                .message
                .unwrap_or_else(|| "the transfer was stopped".to_owned()),
        )),
    }
}

/// The next run that was not tried yet, and how long its chain is.
fn next_run(
    file: &ChainFile,
    heads: &BTreeSet<String>,
    tried: &BTreeSet<String>,
) -> Option<(Vec<ImageId>, usize)> {
    let text = |id: &ImageId| id.to_string();
    let ids: Vec<(String, Option<String>)> = file
        .images
        .iter()
        .map(|entry| (text(&entry.id), entry.parent.as_ref().map(text)))
        .collect();
    let links: Vec<Link<'_>> = ids
        .iter()
        .map(|(id, parent)| Link {
            id,
            parent: parent.as_deref(),
            wanted: heads.contains(id),
        })
        .collect();
    let found = mergeable(&links);
    let next = found
        .into_iter()
        .find(|mergeable| !tried.contains(mergeable.run[0]))?;
    let run = next.run.iter().filter_map(|id| id.parse().ok()).collect();
    Some((run, next.chain))
}

fn opened(
    file: &ChainFile,
    run: &[ImageId],
    home: &VolumeHome,
    ring: Option<&KeyRing>,
) -> Result<Vec<ImageRecord>, Failure> {
    let entries = run.iter().filter_map(|id| file.entry(id));
    let records: Result<Vec<ImageRecord>, RepositoryError> =
        entries.map(|entry| entry.open(home, ring)).collect();
    Ok(records?)
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn internal(error: NameError) -> Failure {
    Failure::lasting(reasons::INTERNAL, error.to_string())
}

fn failed(error: MoverError) -> Failure {
    match error {
        MoverError::Target(error) => error.into(),
        other => Failure {
            retryable: other.is_retryable(),
            reason: reasons::TRANSFER_FAILED,
            message: other.to_string(),
        },
    }
}
