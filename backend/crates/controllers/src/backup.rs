//! Backup: one run of a plan, phase by phase.
//!
//! `Validate → CaptureMetadata → SnapshotVolumes → (UploadVolumes ∥ UploadMetadata) → Commit → CleanUp`. Each reconcile
//! reads the Backup fresh, goes on from the phase its status names and writes the status onto the version it read: of
//! two operators only one gets on.
//!
//! | step | what makes it safe to be killed in it |
//! | --- | --- |
//! | capture | the file is only in memory until it is uploaded; a new operator captures again under a new attempt |
//! | snapshots | transfers have names derived from run and claim: making them twice makes them once |
//! | upload | the transfers go on by themselves; the objects file has the attempt in its name |
//! | commit | an image is put on its chain once, the commit object is created only if there is none |
//! | after the end | what a failed run left on the target is removed here, else by the sweeper |

mod capture;
mod commit;
mod ending;
mod sealing;
mod transfers;
mod validate;
mod volumes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use holdfast_crd::names::{conditions, finalizers, reasons};
use holdfast_crd::{Backup, BackupPhase, BackupPlan, BackupStatus, PhaseState, VolumeTransfer};
use holdfast_k8s::{Truth, is_conflict, is_true, set_condition, update_status};
use holdfast_target::Target as Store;
use holdfast_target::layout::{Location, Uid};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store as Seen};
use kube::runtime::{controller, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::capture::Captured;
use crate::Context;
use crate::contain::contained;
use crate::failure::Failure;
use crate::phases;

/// Kind, for logs and metrics.
const KIND: &str = "Backup";
/// Pause after a failure that may pass.
const RETRY: Duration = Duration::from_secs(2);
/// A run that waits for another one, or for its transfers, looks by itself after this long.
const LOOK: Duration = Duration::from_secs(15);

/// A step that takes longer is stopped when the run is canceled; a shorter one ends by itself.
const LONG_STEP: Duration = Duration::from_millis(700);

/// What all runs share.
struct Machine {
    ctx: Arc<Context>,
    /// Objects that were captured and are not uploaded yet, by run.
    captured: Mutex<HashMap<String, Arc<Captured>>>,
}

impl Machine {
    fn captured(&self) -> MutexGuard<'_, HashMap<String, Arc<Captured>>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the controller until the process shuts down.
pub(crate) async fn run(ctx: Arc<Context>) {
    let machine = Arc::new(Machine {
        ctx: ctx.clone(),
        captured: Mutex::default(),
    });
    let controller = Controller::new(ctx.cluster_wide::<Backup>(), watcher::Config::default());
    let seen = controller.store();
    controller
        .with_config(controller::Config::default().concurrency(ctx.limits.reconciles))
        .watches(
            ctx.installed::<VolumeTransfer>(),
            watcher::Config::default(),
            |transfer| {
                let run = &transfer.spec.run;
                (run.kind == KIND).then(|| ObjectRef::new(&run.name).within(&run.namespace))
            },
        )
        .watches(
            ctx.cluster_wide::<Backup>(),
            watcher::Config::default(),
            move |ended| waiting_for(&seen, &ended),
        )
        .graceful_shutdown_on(ctx.stopped())
        .run(reconcile, on_error, machine)
        .for_each(|_| async {})
        .await;
}

/// Runs that wait for one that has ended: they look again.
fn waiting_for(seen: &Seen<Backup>, ended: &Backup) -> Vec<ObjectRef<Backup>> {
    if is_busy(&ended.status.clone().unwrap_or_default()) && ended.metadata.deletion_timestamp.is_none() {
        return Vec::new();
    }
    let waits = |other: &Arc<Backup>| {
        let status = other.status.as_ref();
        other.namespace() == ended.namespace()
            && other.spec.backup_plan.name == ended.spec.backup_plan.name
            && status.is_none_or(|s| s.phase.is_none() && !is_over(s))
    };
    seen.state()
        .iter()
        .filter(|other| waits(other))
        .map(|other| ObjectRef::from_obj(&**other))
        .collect()
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the signature that Controller::run asks for"
)]
fn on_error(backup: Arc<Backup>, failure: &Failure, machine: Arc<Machine>) -> Action {
    machine.ctx.metrics.failed(KIND, failure.reason);
    tracing::warn!(
        backup.namespace = backup.namespace(), backup.name = %backup.name_any(), reason = failure.reason,
        error = %failure, "will try again"
    );
    Action::requeue(RETRY)
}

async fn reconcile(seen: Arc<Backup>, machine: Arc<Machine>) -> Result<Action, Failure> {
    let started = Instant::now();
    let result = contained(KIND, &seen.name_any(), Box::pin(reconcile_fresh(&seen, &machine))).await;
    machine.ctx.metrics.reconciled(KIND, started.elapsed());
    result
}

/// What the watch saw may be old: a step is decided on what the API server says now.
async fn reconcile_fresh(seen: &Backup, machine: &Arc<Machine>) -> Result<Action, Failure> {
    let api: Api<Backup> = machine.ctx.namespaced(&seen.namespace().unwrap_or_default());
    let Some(backup) = api.get_opt(&seen.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let mut run = Run::new(machine.clone(), backup);
    let result = run.go_on().await;
    match result {
        // Somebody wrote in between, a person who cancels for instance: look again at what is there now.
        Err(Stop::Changed) => Ok(Action::requeue(Duration::ZERO)),
        Err(Stop::Failed(failure)) => Err(failure),
        Ok(action) => Ok(action),
    }
}

/// Why a pass over a run stopped.
#[derive(Debug)]
enum Stop {
    /// The resource has changed since it was read.
    Changed,
    /// A step failed.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<kube::Error> for Stop {
    fn from(error: kube::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// What a phase says about the way on.
enum Step {
    /// The phase is done.
    Next(BackupPhase),
    /// Nothing to do until something changes; look again after this long at the latest.
    Wait(Duration),
    /// The run is over.
    Over,
}

/// One pass over one Backup.
struct Run {
    machine: Arc<Machine>,
    backup: Backup,
    /// The status as it will be written; `backup.status` is what was read.
    status: BackupStatus,
}

impl Run {
    fn new(machine: Arc<Machine>, backup: Backup) -> Self {
        let status = backup.status.clone().unwrap_or_default();
        Self {
            machine,
            backup,
            status,
        }
    }

    fn ctx(&self) -> &Context {
        &self.machine.ctx
    }

    fn namespace(&self) -> String {
        self.backup.namespace().unwrap_or_default()
    }

    fn uid(&self) -> String {
        self.backup.uid().unwrap_or_default()
    }

    fn api(&self) -> Api<Backup> {
        self.ctx().namespaced(&self.namespace())
    }

    fn is_over(&self) -> bool {
        is_over(&self.status)
    }

    async fn go_on(&mut self) -> Result<Action, Stop> {
        if self.backup.metadata.deletion_timestamp.is_some() {
            return self.release().await;
        }
        if self.is_over() {
            return self.clean_up().await;
        }
        if !self.backup.finalizers().iter().any(|f| f == finalizers::RUN) {
            self.hold().await?;
        }
        if self.backup.spec.cancel {
            let canceled = Failure::lasting(reasons::CANCELED, "the backup was stopped by spec.cancel");
            return self.fail(canceled).await;
        }
        if self.status.phase.is_none()
            && let Some(ahead) = self.run_ahead().await?
        {
            return self.queue(&ahead).await;
        }
        let canceled = canceled(self.api(), self.backup.name_any());
        let outcome = tokio::select! {
            outcome = self.advance() => outcome,
            () = canceled => return Err(Stop::Changed),
        };
        let failure = match outcome {
            Err(Stop::Failed(failure)) => failure,
            other => {
                self.ctx().streaks.ended(&self.uid());
                return other;
            }
        };
        if failure.retryable && self.ctx().streaks.patient(&self.uid(), self.patience()) {
            self.mention(&failure).await?;
            return Ok(Action::requeue(RETRY));
        }
        self.ctx().streaks.ended(&self.uid());
        self.fail(failure).await
    }

    /// Goes through the phases until one has to wait.
    async fn advance(&mut self) -> Result<Action, Stop> {
        loop {
            let step = match self.status.phase {
                None => Step::Next(BackupPhase::Validate),
                Some(BackupPhase::Validate) => self.validate().await?,
                Some(BackupPhase::CaptureMetadata) => self.capture().await?,
                Some(BackupPhase::SnapshotVolumes) => self.snapshot_volumes().await?,
                Some(BackupPhase::UploadVolumes | BackupPhase::UploadMetadata) => self.upload().await?,
                Some(BackupPhase::Commit) => self.commit().await?,
                Some(BackupPhase::CleanUp) => Step::Over,
            };
            match step {
                Step::Next(phase) => self.enter(phase).await?,
                Step::Wait(longest) => {
                    // Whatever was mentioned has passed.
                    self.progress(
                        reasons::IN_PROGRESS,
                        &format!("{:?}", self.status.phase.unwrap_or(BackupPhase::Validate)),
                    );
                    self.save().await?;
                    return Ok(Action::requeue(longest));
                }
                Step::Over => return self.clean_up().await,
            }
        }
    }

    /// Ends the phase under way and begins another.
    async fn enter(&mut self, phase: BackupPhase) -> Result<(), Stop> {
        if let Some(done) = self.status.phase.filter(|done| *done != phase) {
            phases::end(&mut self.status.phases, done, PhaseState::Completed);
        }
        self.status.phase = Some(phase);
        phases::start(&mut self.status.phases, phase);
        if self.status.start_timestamp.is_none() {
            self.status.start_timestamp = Some(Time(Timestamp::now()));
        }
        self.progress(reasons::IN_PROGRESS, &format!("{phase:?}"));
        self.save().await
    }

    /// Says what the run is doing; neither Complete nor Failed is decided.
    fn progress(&mut self, reason: &str, message: &str) {
        let generation = self.backup.metadata.generation;
        let all = &mut self.status.conditions;
        set_condition(
            all,
            conditions::COMPLETE,
            Truth::Unknown,
            reason,
            message,
            generation,
        );
        set_condition(
            all,
            conditions::FAILED,
            false,
            reasons::IN_PROGRESS,
            "",
            generation,
        );
    }

    /// A failure that may pass is told while it is tried again.
    async fn mention(&mut self, failure: &Failure) -> Result<(), Stop> {
        // What a step had prepared and not written is dropped with it.
        self.status = self.backup.status.clone().unwrap_or_default();
        self.progress(failure.reason, &format!("trying again: {}", failure.message));
        self.save().await
    }

    /// Writes the status onto the version that was read.
    async fn save(&mut self) -> Result<(), Stop> {
        self.status.observed_generation = self.backup.metadata.generation;
        let old = self.backup.status.clone().unwrap_or_default();
        match update_status(&self.api(), &self.backup, &old, &self.status).await {
            Ok(None) => Ok(()),
            Ok(Some(written)) => {
                self.backup = written;
                self.backup.status = Some(self.status.clone());
                Ok(())
            }
            Err(error) if is_conflict(&error) => Err(Stop::Changed),
            Err(error) => Err(error.into()),
        }
    }

    async fn hold(&mut self) -> Result<(), Stop> {
        let mut all = self.backup.finalizers().to_vec();
        all.push(finalizers::RUN.to_owned());
        self.set_finalizers(&all).await
    }

    async fn set_finalizers(&mut self, all: &[String]) -> Result<(), Stop> {
        let body =
            json!({"metadata": {"resourceVersion": self.backup.resource_version(), "finalizers": all}});
        let patch = Patch::Merge(&body);
        match self
            .api()
            .patch(&self.backup.name_any(), &PatchParams::default(), &patch)
            .await
        {
            Ok(written) => {
                self.backup = written;
                Ok(())
            }
            Err(error) if is_conflict(&error) => Err(Stop::Changed),
            Err(error) => Err(error.into()),
        }
    }

    /// The run of the same plan that goes first: one that has started, or an older one; also a failed one that has not
    /// taken its images back yet.
    async fn run_ahead(&self) -> Result<Option<String>, Stop> {
        let all = self.api().list(&ListParams::default()).await?.items;
        let plan = &self.backup.spec.backup_plan.name;
        let age = |b: &Backup| (b.creation_timestamp().map(|t| t.0), b.name_any());
        let own = age(&self.backup);
        let goes_first = |b: &&Backup| {
            let status = b.status.clone().unwrap_or_default();
            b.uid() != self.backup.uid()
                && b.spec.backup_plan.name == *plan
                && is_busy(&status)
                && (status.phase.is_some() || age(b) < own)
        };
        Ok(all
            .iter()
            .filter(goes_first)
            .min_by_key(|b| age(b))
            .map(ResourceExt::name_any))
    }

    async fn queue(&mut self, ahead: &str) -> Result<Action, Stop> {
        let text = format!("waits for Backup {ahead}: runs of a plan go one after the other");
        self.progress(reasons::QUEUED, &text);
        self.save().await?;
        Ok(Action::requeue(LOOK))
    }

    /// How long a step that fails for passing reasons is repeated before the run fails.
    fn patience(&self) -> Duration {
        // What lies uploaded is worth waiting for.
        match self.status.phase {
            None | Some(BackupPhase::Validate) => Duration::from_secs(30),
            Some(BackupPhase::UploadVolumes | BackupPhase::UploadMetadata | BackupPhase::Commit) => {
                Duration::from_secs(900)
            }
            Some(_) => Duration::from_secs(120),
        }
    }

    async fn plan(&self) -> Result<BackupPlan, Failure> {
        let name = &self.backup.spec.backup_plan.name;
        let api: Api<BackupPlan> = self.ctx().namespaced(&self.namespace());
        let found = api
            .get_opt(name)
            .await?
            .filter(|p| p.metadata.deletion_timestamp.is_none());
        // Applied together with its plan, a Backup can be there first.
        found.ok_or_else(|| {
            let text = format!("there is no BackupPlan {name} in namespace {}", self.namespace());
            Failure::passing(reasons::NOT_FOUND, text)
        })
    }

    /// The target the run has resolved, open.
    async fn store(&self) -> Result<Arc<dyn Store>, Failure> {
        let reference = self.status.target.clone().unwrap_or_default();
        let resource = self.ctx().targets.resource(&reference, &self.namespace()).await?;
        self.ctx().targets.open(&resource).await
    }

    /// Where the point will be.
    fn location(&self) -> Result<Location, Failure> {
        Ok(Location {
            cluster: uid(&self.ctx().cluster_uid)?,
            plan: uid(self.status.plan_uid.as_deref().unwrap_or_default())?,
            backup: uid(&self.uid())?,
        })
    }

    /// The run's transfers.
    async fn transfers(&self) -> Result<Vec<VolumeTransfer>, Failure> {
        Ok(self.ctx().transfers_of(&self.uid()).await?)
    }
}

/// Whether Complete or Failed is True.
pub(crate) fn is_over(status: &BackupStatus) -> bool {
    is_true(&status.conditions, conditions::COMPLETE) || is_true(&status.conditions, conditions::FAILED)
}

/// Whether a run may still be writing to its plan's place on the target, or taking back what it wrote.
pub(crate) fn is_busy(status: &BackupStatus) -> bool {
    if is_true(&status.conditions, conditions::COMPLETE) {
        return false;
    }
    let cleaned = phases::record(&status.phases, BackupPhase::CleanUp).map(|r| r.state);
    !(is_over(status) && (status.phase.is_none() || cleaned == Some(PhaseState::Completed)))
}

fn uid(text: &str) -> Result<Uid, Failure> {
    text.parse()
        .map_err(|e| Failure::lasting(reasons::INTERNAL, format!("{e}")))
}

/// Resolves when a person stops or deletes the run while a step is under way. Most steps are over before it is worth
/// asking.
async fn canceled(api: Api<Backup>, name: String) {
    tokio::time::sleep(LONG_STEP).await;
    let stopped =
        |b: Option<&Backup>| b.is_none_or(|b| b.spec.cancel || b.metadata.deletion_timestamp.is_some());
    if kube::runtime::wait::await_condition(api, &name, stopped)
        .await
        .is_err()
    {
        // The watch broke: the next pass looks at spec.cancel again, and the step goes on.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_run_is_busy_until_it_has_cleaned_up() {
        let mut status = BackupStatus::default();
        assert!(is_busy(&status), "a new one may start any time");
        status.phase = Some(BackupPhase::SnapshotVolumes);
        assert!(is_busy(&status));
        set_condition(&mut status.conditions, conditions::FAILED, true, "r", "", None);
        assert!(is_over(&status) && is_busy(&status));
        phases::end(&mut status.phases, BackupPhase::CleanUp, PhaseState::Completed);
        assert!(!is_busy(&status));

        let mut good = BackupStatus {
            phase: Some(BackupPhase::Commit),
            ..Default::default()
        };
        set_condition(&mut good.conditions, conditions::COMPLETE, true, "r", "", None);
        assert!(!is_busy(&good), "a committed point changes no more");
    }
}
