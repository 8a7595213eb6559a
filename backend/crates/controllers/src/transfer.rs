//! The VolumeTransfer controller: takes one volume of one run to or from a target.
//!
//! Backup: `Pending → Snapshotting → Snapshotted → Queued → Running → Succeeded`; restore: `Pending → Queued → Running
//! → HandingOver → Succeeded`; work on the target: `Pending → Queued → Running → Succeeded`. Each reconcile reads the transfer fresh, does what its stage asks for and writes the
//! status onto the version it read. Every step may be repeated: temporaries have names derived from the transfer's
//! UID, carry its labels and belong to it. What must not be forgotten (snapshot handle, PersistentVolume manifest,
//! the mover's result) is in the status before anything that it stands for is deleted.
//!
//! | step | what makes it safe to be killed in it |
//! | --- | --- |
//! | take over a snapshot | handle in the status, then our content, then the original's `Retain`, then its deletion |
//! | start a mover | the attempt is in the status before its Job; reports of other attempts do not count |
//! | try again | the pods of the attempt before are gone first |
//! | take the result | the result is in the status before the Job goes |
//! | hand a volume over | the new manifest is in the status, then `Retain`, then claim and volume go |

mod build;
mod cleanup;
mod handover;
#[cfg(test)]
mod live;
pub(crate) mod pods;
mod progress;
mod queue;
mod running;
mod snapshot;
mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use holdfast_crd::names::{MANAGED_BY, finalizers, labels};
use holdfast_crd::{TransferStage, VolumeTransfer};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, controller, watcher};

pub use self::build::DatamoverTask;
use self::progress::ProgressWatch;
pub use self::running::NEEDS_FULL;
use self::task::Task;
use crate::Context;
use crate::contain::contained;
use crate::failure::Failure;

/// Kind, for logs and metrics.
const KIND: &str = "VolumeTransfer";
/// Value of the role label of mover pods.
const ROLE: &str = "datamover";
/// Pause after a failure that may pass.
const RETRY: Duration = Duration::from_secs(3);

/// What all transfers share.
struct Machine {
    ctx: Arc<Context>,
    /// Held while places are counted and one is taken.
    admission: tokio::sync::Mutex<()>,
    progress: ProgressWatch,
    /// Nodes that take pods, and when they were counted.
    nodes: std::sync::Mutex<Option<(Instant, usize)>>,
    /// What the watch saw: good enough to see that there is no place, not to take one.
    seen: Store<VolumeTransfer>,
}

/// Runs the controller until the process shuts down.
pub(crate) async fn run(ctx: Arc<Context>) {
    let ours = format!("{}={MANAGED_BY}", labels::MANAGED_BY);
    let ours = watcher::Config::default().labels(&ours);
    let movers = watcher::Config::default().labels(&format!("{}={ROLE}", labels::ROLE));
    let controller = Controller::new(ctx.installed::<VolumeTransfer>(), watcher::Config::default());
    let machine = Arc::new(Machine {
        admission: tokio::sync::Mutex::default(),
        progress: ProgressWatch::default(),
        nodes: std::sync::Mutex::default(),
        seen: controller.store(),
        ctx: ctx.clone(),
    });
    controller
        .with_config(controller::Config::default().concurrency(ctx.limits.reconciles))
        .owns(ctx.installed::<Job>(), ours.clone())
        .owns(ctx.installed::<PersistentVolumeClaim>(), ours)
        .watches(ctx.installed::<Pod>(), movers, |pod| transfer_of(&pod))
        .graceful_shutdown_on(ctx.stopped())
        .run(reconcile, on_error, machine)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "transfer not reconciled");
            }
        })
        .await;
}

/// A mover pod belongs to a Job that is called `<transfer>-a<attempt>`.
fn transfer_of(pod: &Pod) -> Option<ObjectRef<VolumeTransfer>> {
    let job = pod.labels().get("batch.kubernetes.io/job-name")?;
    let (transfer, _) = job.rsplit_once("-a")?;
    Some(ObjectRef::new(transfer).within(&pod.namespace()?))
}

async fn reconcile(seen: Arc<VolumeTransfer>, machine: Arc<Machine>) -> Result<Action, Failure> {
    let started = Instant::now();
    let result = contained(KIND, &seen.name_any(), Box::pin(reconcile_fresh(&seen, &machine))).await;
    machine.ctx.metrics.reconciled(KIND, started.elapsed());
    result
}

/// What the watch saw may be old: a step is decided on what the API server says now.
async fn reconcile_fresh(seen: &VolumeTransfer, machine: &Arc<Machine>) -> Result<Action, Failure> {
    let api = machine.ctx.installed::<VolumeTransfer>();
    let Some(transfer) = api.get_opt(&seen.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let has_finalizer = transfer.finalizers().iter().any(|f| f == finalizers::TRANSFER);
    let deleted = transfer.metadata.deletion_timestamp.is_some();
    let mut task = Task::new(machine.clone(), transfer);
    match (deleted, has_finalizer) {
        (true, false) => Ok(Action::await_change()),
        (true, true) => task.release().await,
        (false, false) => task.hold().await,
        (false, true) => task.advance().await,
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the signature that Controller::run asks for"
)]
fn on_error(seen: Arc<VolumeTransfer>, failure: &Failure, machine: Arc<Machine>) -> Action {
    machine.ctx.metrics.failed(KIND, failure.reason);
    tracing::warn!(transfer.name = %seen.name_any(), reason = failure.reason, error = %failure, "will try again");
    Action::requeue(RETRY)
}

impl Machine {
    /// How many transfers hold a place and how many wait, for the metrics.
    fn count_stages(&self) {
        let all = self.seen.state();
        let count = |stage| {
            all.iter()
                .filter(|t| t.status.as_ref().is_some_and(|s| s.stage == stage))
                .count()
        };
        for (name, stage) in [
            ("queued", TransferStage::Queued),
            ("running", TransferStage::Running),
        ] {
            self.ctx.metrics.transfers_in(name, count(stage));
        }
    }
}
