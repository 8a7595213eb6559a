//! Retention of chains: images that no point is any more are merged with the one above them, inside the store.
//!
//! Lazily: when that frees a quarter of what it moves, or when the chain is almost as long as it may get. A point keeps its
//! image's id, so nothing of it is written anew; the files of before wait for the sweeper. A merge that is interrupted
//! leaves files that no chain names, which the sweeper takes for what they are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::chain::{Link, MAX_CHAIN, mergeable};
use holdfast_crd::names::{conditions, reasons};
use holdfast_crd::{BackupPlan, Target as TargetResource};
use holdfast_k8s::is_true;
use holdfast_mover::{MergeJob, MoverError, Progress};
use holdfast_repository::chain::{self, Chain, ChainFile, Sealing};
use holdfast_repository::keys;
use holdfast_repository::sweep::Survey;
use holdfast_repository::{RepositoryError, point};
use holdfast_seal::{KeyId, KeyRing, NameError};
use holdfast_target::Target as Store;
use holdfast_target::layout::{FileStem, ImageId, ImageRecord, VolumeHome};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::{Context, encryption, sweep};

/// Time between looks for what can be merged.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Chains of so many images are merged whatever that frees: a few more incrementals, and a full one would be due.
const LONG: usize = MAX_CHAIN - 10;
/// Longest time that one merge may take; it goes on with another one later.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Images that are being merged, and the wish that somebody looks.
#[derive(Default)]
pub(crate) struct Merging {
    images: Mutex<BTreeSet<(VolumeHome, ImageId)>>,
    asked: Notify,
}

impl Merging {
    /// Whether an image is being merged: its files are not to be touched.
    pub(crate) fn is_at_work(&self, home: &VolumeHome, image: &ImageId) -> bool {
        self.images().contains(&(home.clone(), image.clone()))
    }

    /// Points were removed: there may be something to merge.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    fn images(&self) -> MutexGuard<'_, BTreeSet<(VolumeHome, ImageId)>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the images of a merge from the sweeper as long as it lives.
struct AtWork<'m> {
    merging: &'m Merging,
    home: &'m VolumeHome,
    run: &'m [ImageRecord],
}

impl<'m> AtWork<'m> {
    fn begin(merging: &'m Merging, home: &'m VolumeHome, run: &'m [ImageRecord]) -> Self {
        let ids = run.iter().map(|record| (home.clone(), record.id.clone()));
        merging.images().extend(ids);
        Self { merging, home, run }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut images = self.merging.images();
        for record in self.run {
            images.remove(&(self.home.clone(), record.id.clone()));
        }
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
            () = ctx.merging.asked.notified() => {}
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
    for plan in plans {
        if let Err(failure) = merge_plan(ctx, &plan).await {
            let (namespace, name) = (plan.namespace(), plan.name_any());
            tracing::warn!(plan.namespace = namespace, plan.name = %name, error = %failure, "chains not merged");
        }
    }
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
            let Some((run, length)) = next_run(file, heads, &tried) else {
                return Ok(());
            };
            tried.insert(run[0].to_string());
            let ring = self.ring(file).await?;
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
        let gain = holdfast_mover::survey(self.store.clone(), &job, keys.clone(), stop.clone()).await;
        let gain = gain.map_err(failed)?;
        if !gain.is_worth_it() && length < LONG {
            return Ok(());
        }
        let _at_work = AtWork::begin(&self.ctx.merging, self.home, run);
        let merged = self.work(&job, keys, stop).await?;
        let sealing = ring
            .as_deref()
            .zip(key.as_ref())
            .map(|(ring, key)| Sealing { ring, key });
        let now = Timestamp::now();
        let generation = chain::replace(&**self.store, self.home, run, &merged, sealing, now).await?;
        tracing::info!(
            plan.name = %self.plan.name_any(), volume = %self.home, images = run.len(), %generation,
            bytes_moved = gain.moved, bytes_freed = gain.freed, "images merged"
        );
        Ok(())
    }

    async fn work(
        &self,
        job: &MergeJob,
        keys: Arc<KeyRing>,
        stop: CancellationToken,
    ) -> Result<ImageRecord, Failure> {
        let progress = Arc::new(Progress::new());
        let merge = holdfast_mover::merge(self.store.clone(), job, keys, progress, stop);
        let merged = tokio::time::timeout(LIMIT, Box::pin(merge)).await;
        let late = |_| {
            let text = format!("a merge took longer than {} hours", LIMIT.as_secs() / 3600);
            Failure::passing(reasons::NO_PROGRESS, text)
        };
        merged.map_err(late)?.map_err(failed)
    }

    /// The keys of a chain, where it is sealed.
    async fn ring(&self, file: &ChainFile) -> Result<Option<Arc<KeyRing>>, Failure> {
        if !file.images.iter().any(chain::Entry::is_sealed) {
            return Ok(None);
        }
        let Some(encryption) = &self.plan.spec.encryption else {
            return Err(RepositoryError::NeedsKey {
                document: self.home.chain_key(file.generation).to_string(),
            }
            .into());
        };
        let secret = encryption::secret_of(encryption, &self.plan.namespace().unwrap_or_default())?;
        let identity = encryption::identity(self.ctx, &secret).await?;
        let (cluster, plan) = (&self.home.cluster, &self.home.plan);
        let ring = keys::ring(&**self.store, cluster, plan, file.keys(), &identity).await?;
        Ok(Some(Arc::new(ring)))
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
