//! The sweeper: removes from targets what a person asked to be removed, and what dead runs left.
//!
//! A deletion that was asked for is written down as a ConfigMap in the install namespace (a tombstone) before the Backup
//! goes, and is repeated until it is done. Leftovers are found by looking: what lies on a target of this cluster's, has
//! no commit object and no run that is still at work. What belongs to another cluster is never looked at.
//!
//! Order that makes this safe beside running backups: the target is listed first, the runs are asked after that, the
//! points are listed again and their commit objects read last. What a run wrote before the list is either of a run that is still there, or committed, or dead.

mod tombstone;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use holdfast_crd::names::{conditions, labels, reasons};
use holdfast_crd::{Backup, BackupPlan, Direction, Restore, Target, VolumeTransfer};
use holdfast_k8s::is_true;
use holdfast_repository::sweep::{self, AtWork};
use holdfast_repository::{lock, point};
use holdfast_target::Target as Store;
use holdfast_target::layout::{ImageId, Location, Uid, VolumeHome};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

pub(crate) use self::tombstone::Tombstone;
use self::turns::{Bookmarks, Turn};
use crate::failure::Failure;
use crate::{Context, backup, restore, upkeep};

/// Time between looks for what dead runs left.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Time to the next try of a deletion that did not succeed.
const RETRY: Duration = Duration::from_secs(30);

/// Runs until the process shuts down. Deletions and looks go on side by side: both only ever remove what nothing needs.
pub(crate) async fn run(ctx: Arc<Context>) {
    tokio::select! {
        () = ctx.shutdown.cancelled() => {}
        () = bury_when_asked(&ctx) => {}
        () = look_hourly(&ctx) => {}
    }
}

async fn bury_when_asked(ctx: &Context) {
    let graves: Api<PartialObjectMeta<ConfigMap>> = ctx.installed();
    let config = watcher::Config::default().labels(labels::TOMBSTONE);
    let mut asked = watcher(graves, config)
        .default_backoff()
        .applied_objects()
        .boxed();
    for round in 0.. {
        let pause = match bury_all(ctx, round).await {
            true => RETRY,
            false => INTERVAL,
        };
        tokio::select! {
            _ = asked.next() => {}
            () = tokio::time::sleep(pause) => {}
        }
        // What was asked for meanwhile is found by the same list.
        while asked.next().now_or_never().is_some() {}
    }
}

async fn look_hourly(ctx: &Context) {
    let mut hourly = tokio::time::interval(INTERVAL);
    let bookmarks = Bookmarks::default();
    loop {
        hourly.tick().await;
        sweep_targets(ctx, &bookmarks).await;
    }
}

/// Works on every tombstone; true when some have to be tried again. Those of one target follow each other, beginning
/// with another one in every round.
async fn bury_all(ctx: &Context, round: usize) -> bool {
    let found = match Tombstone::all(ctx).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "tombstones not read");
            return true;
        }
    };
    let mut by_target: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (map, tombstone) in found {
        let target = (tombstone.target.namespace.clone(), tombstone.target.name.clone());
        by_target.entry(target).or_default().push((map, tombstone));
    }
    let jobs = by_target.into_values().map(|mut graves| {
        let first = round % graves.len();
        graves.rotate_left(first);
        bury_of_target(ctx, graves).boxed()
    });
    let counts = turns::all(jobs.collect()).await;
    let left: usize = counts.iter().map(|(left, _)| left).sum();
    ctx.metrics.deletions_pending(left);
    ctx.metrics
        .deletions_locked(counts.iter().map(|(_, locked)| locked).sum());
    left > 0
}

/// Works on the tombstones of one target until its turn is over; returns how many are left to be tried soon, and how many
/// wait for the end of a lock.
async fn bury_of_target(ctx: &Context, graves: Vec<(ConfigMap, Tombstone)>) -> (usize, usize) {
    let turn = Turn::begin();
    let (mut left, mut locked) = (0, 0);
    for (map, tombstone) in &graves {
        if turn.is_over() {
            left += 1;
            tracing::warn!(location = %tombstone.location, "its target takes too long, so it waits for the next turn");
            continue;
        }
        // Asking the store every half minute for what it does not do for months helps nobody.
        if tombstone
            .locked_until
            .is_some_and(|until| until > Timestamp::now())
        {
            locked += 1;
            continue;
        }
        match turn.spend(bury(ctx, tombstone)).await {
            Ok(Some(until)) => {
                locked += 1;
                let text = tombstone.waits(until);
                tracing::info!(backup = tombstone.backup, "{text}");
                ctx.events.normal(map, reasons::LOCKED, &text).await;
                if let Err(error) = tombstone.postpone(ctx, until).await {
                    tracing::warn!(%error, "tombstone not postponed");
                }
            }
            Ok(None) => {
                tracing::info!(location = %tombstone.location, "point removed from its target");
                ctx.merging.ask();
                if let Err(error) = tombstone.remove(ctx).await {
                    tracing::warn!(%error, "tombstone not removed");
                    left += 1;
                }
            }
            Err(failure) => {
                left += 1;
                let text = format!(
                    "the point {} of Backup {} is not removed yet: {failure}",
                    tombstone.location, tombstone.backup
                );
                tracing::warn!(reason = failure.reason, "{text}");
                // Waiting for a run that is at work is nothing a person has to know of.
                if failure.reason != reasons::IN_PROGRESS {
                    ctx.events.warning(map, failure.reason, &text).await;
                }
            }
        }
    }
    (left, locked)
}

/// Removes a point and the images that only it needed; or says until when it is locked.
async fn bury(ctx: &Context, tombstone: &Tombstone) -> Result<Option<Timestamp>, Failure> {
    let resource = ctx
        .targets
        .resource(&tombstone.target, &ctx.install_namespace)
        .await?;
    let store = ctx.targets.open(&resource).await?;
    let location = &tombstone.location;
    if own_cluster(ctx)? != location.cluster {
        return Err(Failure::lasting(
            reasons::NOT_ALLOWED,
            "the point is of another cluster",
        ));
    }
    let held = lock::held_until(&*store, location, Timestamp::now()).await?;
    if held.is_some() {
        return Ok(held);
    }
    let users = Users::of(ctx, &location.plan).await?;
    if let Some(user) = users.at_work {
        return Err(wait_for(&user));
    }
    point::erase(&*store, location).await?;
    sweep_plan(ctx, &*store, &location.cluster, &location.plan)
        .await
        .map(|_| None)
}

/// Looks for leftovers on every target that can be used.
async fn sweep_targets(ctx: &Context, bookmarks: &Bookmarks) {
    let targets = match ctx.cluster_wide::<Target>().list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => return tracing::warn!(%error, "targets not listed"),
    };
    let usable = |target: &Target| {
        target
            .status
            .as_ref()
            .is_some_and(|s| is_true(&s.conditions, conditions::ACCEPTED))
    };
    let jobs = targets.into_iter().filter(usable).map(|target| {
        async move {
            let turn = Turn::begin();
            if let Err(error) = turn.spend(sweep_target(ctx, &target, bookmarks)).await {
                tracing::warn!(target.name = %target.name_any(), %error, "target not swept to the end");
            }
        }
        .boxed()
    });
    turns::all(jobs.collect()).await;
}

async fn sweep_target(ctx: &Context, target: &Target, bookmarks: &Bookmarks) -> Result<(), Failure> {
    let store = ctx.targets.open(target).await?;
    let cluster = own_cluster(ctx)?;
    let id = target.uid().unwrap_or_default();
    for plan in bookmarks.order(&id, point::plans(&*store, &cluster).await?) {
        bookmarks.set(&id, &plan);
        match sweep_plan(ctx, &*store, &cluster, &plan).await {
            Ok(0) => {}
            Ok(gone) => {
                tracing::info!(target.name = %target.name_any(), %plan, objects = gone, "leftovers removed")
            }
            // One plan with a damaged point keeps its leftovers; the others do not suffer from it.
            Err(failure) => {
                tracing::warn!(target.name = %target.name_any(), %plan, error = %failure, "plan not swept")
            }
        }
    }
    bookmarks.forget(&id);
    Ok(())
}

fn wait_for(user: &str) -> Failure {
    let text = format!("{user} is at work with images of the same plan");
    Failure::passing(reasons::IN_PROGRESS, text)
}

/// Removes what no point of the plan needs. A plan that is being written or read waits for the next time.
async fn sweep_plan(ctx: &Context, store: &dyn Store, cluster: &Uid, plan: &Uid) -> Result<usize, Failure> {
    let look = sweep::look(store, cluster, plan).await?;
    let users = Users::of(ctx, plan).await?;
    if let Some(user) = users.at_work {
        return Err(wait_for(&user));
    }
    let at_work = AtWork {
        runs: &users.runs,
        images: &|home, image| users.images.contains(&(home.clone(), image.clone())),
        plan_lives: users.plan_lives,
    };
    let grace = ctx.limits.removal_grace();
    let gone = sweep::sweep(store, &look, &at_work, grace, Timestamp::now()).await?;
    complete_locks(store, cluster, plan).await?;
    Ok(gone)
}

/// Locks commit objects whose writer died before he could, and says which points claim a lock that they do not have.
async fn complete_locks(store: &dyn Store, cluster: &Uid, plan: &Uid) -> Result<(), Failure> {
    let done = lock::complete_all(store, cluster, plan, Timestamp::now()).await?;
    for location in &done.locked {
        tracing::info!(%location, "locked the commit object of a point whose run was cut off");
    }
    for location in &done.doubtful {
        tracing::warn!(%location, "the point says that it is locked, and is not: it was not stored by this program so");
    }
    Ok(())
}

pub(crate) fn own_cluster(ctx: &Context) -> Result<Uid, Failure> {
    ctx.cluster_uid
        .parse()
        .map_err(|e| Failure::lasting(reasons::INTERNAL, format!("{e}")))
}

/// The UID of a plan, as targets spell it.
pub(crate) fn uid_of(plan: &BackupPlan) -> Result<Uid, Failure> {
    let uid = plan.uid().unwrap_or_default().parse();
    uid.map_err(|e| Failure::lasting(reasons::INTERNAL, format!("{e}")))
}

/// Whether a run of this cluster writes to or reads from a plan's place on a target.
pub(crate) async fn is_at_work(ctx: &Context, plan: &Uid) -> Result<bool, Failure> {
    Ok(Users::of(ctx, plan).await?.at_work.is_some())
}

/// Who in this cluster has to do with a plan's place on a target.
struct Users {
    /// A run that writes there or reads from there, if any.
    at_work: Option<String>,
    /// UIDs of all Backups that are not over.
    runs: BTreeSet<Uid>,
    /// Images that are looked at or merged.
    images: BTreeSet<(VolumeHome, ImageId)>,
    /// Whether the plan still exists.
    plan_lives: bool,
}

impl Users {
    async fn of(ctx: &Context, plan: &Uid) -> Result<Self, Failure> {
        let mut users = Self {
            at_work: None,
            runs: BTreeSet::new(),
            images: BTreeSet::new(),
            plan_lives: false,
        };
        for run in ctx.cluster_wide::<Backup>().list(&ListParams::default()).await? {
            let status = run.status.clone().unwrap_or_default();
            if !backup::is_busy(&status) {
                continue;
            }
            if status.plan_uid.as_deref() == Some(plan.as_str()) {
                users.at_work = Some(format!(
                    "Backup {}/{}",
                    run.namespace().unwrap_or_default(),
                    run.name_any()
                ));
            }
            users.runs.extend(run.uid().and_then(|uid| uid.parse().ok()));
        }
        for run in ctx.cluster_wide::<Restore>().list(&ListParams::default()).await? {
            let status = run.status.clone().unwrap_or_default();
            let over = restore::is_over(&status);
            let location = status.location.and_then(|l| l.parse::<Location>().ok());
            if !over && location.is_some_and(|l| l.plan == *plan) {
                users.at_work = Some(format!(
                    "Restore {}/{}",
                    run.namespace().unwrap_or_default(),
                    run.name_any()
                ));
            }
        }
        let transfers = ctx
            .installed::<VolumeTransfer>()
            .list(&ListParams::default())
            .await?
            .items;
        users.images = upkeep::images_at_work(&transfers);
        for transfer in transfers {
            let home = transfer.spec.home.parse::<VolumeHome>();
            let over = transfer.status.as_ref().is_some_and(|s| s.stage.is_final());
            let reads = transfer.spec.direction == Direction::Restore;
            if reads && !over && home.is_ok_and(|h| h.plan == *plan) {
                users.at_work = Some(format!(
                    "Restore {}/{}",
                    transfer.spec.run.namespace, transfer.spec.run.name
                ));
            }
        }
        let plans = ctx
            .cluster_wide::<BackupPlan>()
            .list(&ListParams::default())
            .await?;
        users.plan_lives = plans.iter().any(|p| p.uid().as_deref() == Some(plan.as_str()));
        Ok(users)
    }
}
