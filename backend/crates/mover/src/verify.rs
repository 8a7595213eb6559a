//! Looks whether what lies on the target is still what was written there.

mod content;
mod findings;
mod walk;
mod window;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Instant,
};

use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use holdfast_qcow2::ClusterIndex;
use holdfast_seal::KeyRing;
use holdfast_target::{
    Target,
    layout::{FileStem, ImageRecord, ObjectRecord, ShardRecord},
};
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    content::{Counters, check_all, fetch_all},
    findings::{Findings, Kind, Object},
    walk::Walk,
    window::Window,
};
use crate::{
    Damage, MoverError, Progress,
    job::{Problem, VerifyJob, VerifyPosition, VerifyReport, VerifyScope, check_files, cluster_size},
    limits,
    remote::Remote,
    threads::join_all,
};

/// Checks the images of `job` and reports everything that is wrong with them; damage of one ends nothing.
///
/// `keys` holds the data keys of everything sealed. Only images are checked, not the documents that name them; and not
/// what an older image below those would give, which is a matter of that image.
///
/// # Errors
/// [`MoverError::NoKey`] before anything was read when a key is missing, [`MoverError::Job`] for records that contradict
/// themselves, and the failures of the store that say nothing about its objects.
pub async fn verify(
    target: Arc<dyn Target>,
    job: &VerifyJob,
    keys: Arc<KeyRing>,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> Result<VerifyReport, MoverError> {
    let inner = cancel.child_token();
    // A dropped future must stop the threads too.
    let _stop = inner.clone().drop_guard();
    let remote = Remote {
        target,
        home: job.home.clone(),
        runtime: Handle::current(),
        cancel: inner,
        keys,
    };
    match run(&remote, job, &progress).await {
        // Whatever a thread tripped over after the token was cancelled is the cancellation.
        Err(_) if cancel.is_cancelled() => Err(MoverError::Cancelled),
        other => other,
    }
}

/// One shard of an image.
#[derive(Debug)]
struct Unit {
    record: Arc<ImageRecord>,
    files: FileStem,
    /// Position in the record.
    shard: usize,
    /// Where the shard begins on the volume.
    offset: u64,
    /// Whether the objects have size and entity tag of the record; others are not read.
    image_is_bound: bool,
    index_is_bound: bool,
}

impl Unit {
    fn shard(&self) -> &ShardRecord {
        &self.record.shards[self.shard]
    }

    fn position(&self, cluster: ClusterIndex) -> VerifyPosition {
        VerifyPosition {
            files: self.files.clone(),
            shard: self.shard().shard,
            cluster: cluster.0,
        }
    }
}

/// What all threads share.
#[derive(Debug, Default)]
struct Shared {
    /// In the order of positions.
    units: Vec<Unit>,
    findings: Findings,
    counters: Counters,
}

async fn run(remote: &Remote, job: &VerifyJob, progress: &Arc<Progress>) -> Result<VerifyReport, MoverError> {
    let begun = Instant::now();
    let mut shared = Shared {
        units: units(&job.images)?,
        ..Shared::default()
    };
    check_keys(remote, &shared.units)?;
    let sizes = shared
        .units
        .iter()
        .map(|unit| unit.shard().image.size + unit.shard().index.size);
    progress.total(sizes.sum());
    check_bound(remote, &mut shared).await?;
    check_parents(&shared);
    let window = match &job.scope {
        VerifyScope::Quick => None,
        VerifyScope::Full { from, budget } => Some(Window::new(from.clone(), *budget)),
    };
    let shared = Arc::new(shared);
    let window = pass(remote, &shared, window, progress).await?;
    let mut report = report(remote, &shared, window);
    report.took = begun.elapsed();
    Ok(report)
}

/// Every shard once, in the order of positions.
fn units(images: &[ImageRecord]) -> Result<Vec<Unit>, MoverError> {
    let mut units: Vec<Unit> = Vec::new();
    let mut seen = BTreeSet::new();
    for record in images {
        let files = check_files(record)?;
        cluster_size(record.cluster_size)?;
        if !seen.insert(files.clone()) {
            continue;
        }
        let record = Arc::new(record.clone());
        let mut offset = 0;
        for shard in 0..record.shards.len() {
            units.push(Unit {
                record: record.clone(),
                files: files.clone(),
                shard,
                offset,
                image_is_bound: false,
                index_is_bound: false,
            });
            offset += record.shards[shard].virtual_size;
        }
    }
    units.sort_by(|a, b| (&a.files, a.shard).cmp(&(&b.files, b.shard)));
    Ok(units)
}

/// Without all keys nothing is read. What else is wrong with a layout is found when its object is opened.
fn check_keys(remote: &Remote, units: &[Unit]) -> Result<(), MoverError> {
    let objects = units
        .iter()
        .flat_map(|unit| [&unit.shard().image, &unit.shard().index]);
    for object in objects {
        if let Err(error @ MoverError::NoKey { .. }) = remote.unlock(&remote.key(object), object) {
            return Err(error);
        }
    }
    Ok(())
}

/// One look at an object: whose it is, which one, and whether it is the one of the record.
type Look<'a> = BoxFuture<'a, Result<(usize, Object, bool), MoverError>>;

/// Finds which objects are there with size and entity tag of their records.
async fn check_bound(remote: &Remote, shared: &mut Shared) -> Result<(), MoverError> {
    let (units, findings) = (&shared.units, &shared.findings);
    let check = async |at: usize, object: Object, record: &ObjectRecord| {
        let bound = remote.is_bound(record).await;
        bind(findings, at, object, bound).map(|bound| (at, object, bound))
    };
    let mut checks: Vec<Look<'_>> = Vec::new();
    for (at, unit) in units.iter().enumerate() {
        checks.push(Box::pin(check(at, Object::Image, &unit.shard().image)));
        checks.push(Box::pin(check(at, Object::Index, &unit.shard().index)));
    }
    let checks = stream::iter(checks)
        .buffer_unordered(limits::RANGES)
        .try_collect::<Vec<_>>();
    let bound = tokio::select! {
        () = remote.cancel.cancelled() => return Err(MoverError::Cancelled),
        outcome = checks => outcome?,
    };
    for (at, object, bound) in bound {
        match object {
            Object::Image => shared.units[at].image_is_bound = bound,
            Object::Index => shared.units[at].index_is_bound = bound,
        }
    }
    Ok(())
}

fn bind(
    findings: &Findings,
    unit: usize,
    object: Object,
    bound: Result<(), MoverError>,
) -> Result<bool, MoverError> {
    match bound {
        Ok(()) => Ok(true),
        Err(MoverError::Damaged { damage, what, .. }) => {
            let kind = Kind {
                unit,
                object,
                damage,
                what,
            };
            findings.object(kind);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// An image and the one below it must be able to lie upon each other.
fn check_parents(shared: &Shared) {
    for (unit, child) in shared
        .units
        .iter()
        .enumerate()
        .filter(|(_, unit)| unit.shard == 0)
    {
        let mut parents = shared.units.iter().map(|unit| &unit.record);
        let parent = parents.find(|other| Some(&other.id) == child.record.parent.as_ref());
        let fits = parent.is_none_or(|parent| {
            parent.cluster_size == child.record.cluster_size
                && parent.virtual_size == child.record.virtual_size
        });
        if !fits {
            let what = "it has another size than the image it lies upon".to_owned();
            let (object, damage) = (Object::Image, Damage::Unfitting);
            shared.findings.object(Kind {
                unit,
                object,
                damage,
                what,
            });
        }
    }
}

/// Walks over tables and indexes, and fetches and checks content behind it; returns how far the window came.
async fn pass(
    remote: &Remote,
    shared: &Arc<Shared>,
    window: Option<Window>,
    progress: &Arc<Progress>,
) -> Result<Option<Window>, MoverError> {
    let (batches_to, batches) = mpsc::channel(2);
    let (work_to, work) = mpsc::channel(1);
    let work = Arc::new(Mutex::new(work));
    let mut threads: JoinSet<Result<Option<Window>, MoverError>> = JoinSet::new();
    {
        let (remote, shared, progress) = (remote.clone(), shared.clone(), progress.clone());
        threads.spawn_blocking(move || {
            let walk = Walk {
                remote: &remote,
                shared: &shared,
                progress: &progress,
                window,
                out: batches_to,
            };
            walk.run()
        });
    }
    for _ in 0..limits::workers() {
        let (remote, shared, work, progress) =
            (remote.clone(), shared.clone(), work.clone(), progress.clone());
        threads.spawn_blocking(move || check_all(&remote, &shared, &work, &progress).map(|()| None));
    }
    drop(work);
    {
        let (remote, progress) = (remote.clone(), progress.clone());
        threads.spawn(async move {
            fetch_all(&remote, batches, &work_to, &progress)
                .await
                .map(|()| None)
        });
    }
    let ended = join_all(threads, &remote.cancel, |error| {
        matches!(error, MoverError::Cancelled)
    })
    .await?;
    Ok(ended.into_iter().flatten().next())
}

fn report(remote: &Remote, shared: &Shared, window: Option<Window>) -> VerifyReport {
    let found = shared.findings.take();
    let problem = |(kind, clusters): (&Kind, _)| {
        let unit = &shared.units[kind.unit];
        let object = match kind.object {
            Object::Image => &unit.shard().image,
            Object::Index => &unit.shard().index,
        };
        Problem {
            files: unit.files.clone(),
            shard: unit.shard().shard,
            key: remote.key(object).to_string(),
            damage: kind.damage,
            clusters,
            what: kind.what.clone(),
        }
    };
    let damaged_images: BTreeSet<&FileStem> = found
        .units
        .iter()
        .map(|unit| &shared.units[*unit].files)
        .collect();
    VerifyReport {
        problems: found.named().into_iter().map(problem).collect(),
        damaged: found.damaged,
        damaged_images: damaged_images.into_iter().cloned().collect(),
        clusters_read: shared.counters.clusters.load(Ordering::Relaxed),
        bytes_read: shared.counters.bytes.load(Ordering::Relaxed),
        next: window.and_then(|window| window.next),
        took: std::time::Duration::ZERO,
    }
}
