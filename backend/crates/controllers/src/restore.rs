//! Restore: brings a point back, phase by phase.
//!
//! `Validate → Plan → Primitives → Volumes → Objects → Report → CleanUp`. Every phase may be repeated: what a run
//! writes carries its UID, so a restarted operator recognises its own work. Until the Objects phase a run that fails
//! takes back what it made; from then on it leaves what it wrote and names each object that did not come back.

mod objects;
mod placement;
mod planned;
pub(crate) mod point;
mod preflight;
mod prepare;
mod reading;
mod report;
mod source;
mod undo;
mod volumes;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use holdfast_crd::names::{conditions, finalizers, reasons};
use holdfast_crd::{PhaseState, Restore, RestorePhase, RestoreStatus, TransferStage, VolumeTransfer};
use holdfast_k8s::{Truth, is_true, set_condition, update_status};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{controller, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::Context;
use crate::contain::contained;
use crate::failure::Failure;
use crate::phases;

/// Runs that are worked on at the same time.
const CONCURRENCY: u16 = 16;
/// How long a step may go on failing for passing reasons before the run fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the controller until the context's stop token is set.
pub(crate) async fn run(ctx: Arc<Context>) {
    let restores: Api<Restore> = Api::all(ctx.client.clone());
    let transfers: Api<VolumeTransfer> = Api::namespaced(ctx.client.clone(), &ctx.install_namespace);
    Controller::new(restores, watcher::Config::default())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .watches(transfers, watcher::Config::default(), |t| {
            let run = t.spec.run;
            (run.kind == "Restore").then(|| ObjectRef::new(&run.name).within(&run.namespace))
        })
        .graceful_shutdown_on(ctx.stopped())
        .run(reconcile, |_, failure, _| retry_later(failure), ctx)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "restore not reconciled");
            }
        })
        .await;
}

fn retry_later(failure: &Failure) -> Action {
    tracing::warn!(reason = failure.reason, error = %failure.message, "restore will be tried again");
    Action::requeue(Duration::from_secs(2))
}

async fn reconcile(seen: Arc<Restore>, ctx: Arc<Context>) -> Result<Action, Failure> {
    contained("Restore", &seen.name_any(), reconcile_fresh(&seen, &ctx).boxed()).await
}

/// What the watch saw may be old, and a step taken on it would write the run's status back to where it was.
async fn reconcile_fresh(seen: &Restore, ctx: &Context) -> Result<Action, Failure> {
    let api: Api<Restore> = ctx.namespaced(&seen.namespace().unwrap_or_default());
    let Some(restore) = api.get_opt(&seen.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let run = Run {
        restore: &restore,
        ctx,
    };
    if restore.metadata.deletion_timestamp.is_some() {
        return run.release().await;
    }
    let status = restore.status.clone().unwrap_or_default();
    if is_over(&status) {
        return run.clean_up(status).await;
    }
    if !restore.finalizers().iter().any(|f| f == finalizers::RUN) {
        run.hold().await?;
        return Ok(Action::await_change());
    }
    if restore.spec.cancel {
        let canceled = Failure::lasting(reasons::CANCELED, "the restore was stopped by spec.cancel");
        return run.fail(status, canceled).await;
    }
    let step = run.step(status.clone()).boxed();
    let outcome = tokio::select! {
        outcome = step => outcome,
        () = run.canceled() => return Ok(Action::requeue(Duration::ZERO)),
    };
    let uid = run.uid();
    match outcome {
        Ok(action) => {
            ctx.streaks.ended(&uid);
            Ok(action)
        }
        Err(failure) if failure.retryable && ctx.streaks.patient(&uid, PATIENCE) => Err(failure),
        Err(failure) => {
            ctx.streaks.ended(&uid);
            run.fail(run.current().await?, failure).await
        }
    }
}

/// Whether a run has ended, either way.
pub(crate) fn is_over(status: &RestoreStatus) -> bool {
    is_true(&status.conditions, conditions::COMPLETE) || is_true(&status.conditions, conditions::FAILED)
}

/// One pass over one Restore.
struct Run<'a> {
    restore: &'a Restore,
    ctx: &'a Context,
}

impl Run<'_> {
    fn api(&self) -> Api<Restore> {
        Api::namespaced(
            self.ctx.client.clone(),
            &self.restore.namespace().unwrap_or_default(),
        )
    }

    fn uid(&self) -> String {
        self.restore.uid().unwrap_or_default()
    }

    fn generation(&self) -> Option<i64> {
        self.restore.metadata.generation
    }

    /// The namespace that is restored into.
    fn destination(&self) -> String {
        let own = self.restore.namespace().unwrap_or_default();
        self.restore.spec.restore_namespace.clone().unwrap_or(own)
    }

    async fn step(&self, status: RestoreStatus) -> Result<Action, Failure> {
        match status.phase {
            None | Some(RestorePhase::Validate | RestorePhase::Plan | RestorePhase::Primitives) => {
                self.prepare(status).await
            }
            Some(RestorePhase::Volumes) => self.volumes(status).await,
            Some(RestorePhase::Objects | RestorePhase::Report) => self.objects(status).await,
            Some(RestorePhase::CleanUp) => self.clean_up(status).await,
        }
    }

    /// Waits for all volumes; they bring themselves along, this only looks and adds up.
    async fn volumes(&self, mut status: RestoreStatus) -> Result<Action, Failure> {
        let transfers = self.transfers().await?;
        let missing: Vec<String> = status
            .volumes
            .iter()
            .filter(|v| transfers.iter().all(|t| t.name_any() != v.transfer))
            .map(|v| v.claim.clone())
            .collect();
        if !missing.is_empty() {
            self.create_transfers(&mut status, &missing).await?;
            self.save(&status).await?;
            return Ok(Action::requeue(Duration::from_secs(1)));
        }
        self.say_reading(&mut status, &reading::homes_of(&transfers))
            .await;
        let mut done = 0;
        for volume in &mut status.volumes {
            let Some(transfer) = transfers.iter().find(|t| t.name_any() == volume.transfer) else {
                continue;
            };
            let state = transfer.status.clone().unwrap_or_default();
            if matches!(state.stage, TransferStage::Failed | TransferStage::Canceled) {
                let reason = known_reason(state.reason.as_deref());
                let text = state
                    .message
                    .unwrap_or_else(|| "the transfer was stopped".to_owned());
                return Err(Failure::lasting(
                    reason,
                    format!("claim {}: {text}", volume.claim),
                ));
            }
            volume.stage = format!("{:?}", state.stage);
            if let Some(mover) = state.mover.filter(|m| m.attempt == state.attempt) {
                volume.bytes_done = mover.bytes_done;
                volume.bytes_total = mover.bytes_total.max(volume.bytes_total);
                volume.bytes_transferred = mover.bytes_transferred;
            }
            if state.stage == TransferStage::Succeeded {
                volume.bytes_done = volume.bytes_total;
                done += 1;
            }
        }
        status.percentage_completion = Some(percent(&status.volumes));
        if done < status.volumes.len() {
            self.save(&status).await?;
            return Ok(Action::requeue(Duration::from_secs(30)));
        }
        phases::end(&mut status.phases, RestorePhase::Volumes, PhaseState::Completed);
        self.enter(&mut status, RestorePhase::Objects);
        self.save(&status).await?;
        Ok(Action::requeue(Duration::ZERO))
    }

    /// Ends the run as failed. What it holds is given back in the clean-up that follows.
    async fn fail(&self, mut status: RestoreStatus, failure: Failure) -> Result<Action, Failure> {
        let generation = self.generation();
        if !is_true(&status.conditions, conditions::ACCEPTED) {
            set_condition(
                &mut status.conditions,
                conditions::ACCEPTED,
                false,
                failure.reason,
                &failure.message,
                generation,
            );
        }
        set_condition(
            &mut status.conditions,
            conditions::COMPLETE,
            false,
            failure.reason,
            &failure.message,
            generation,
        );
        set_condition(
            &mut status.conditions,
            conditions::FAILED,
            true,
            failure.reason,
            &failure.message,
            generation,
        );
        phases::end_all(&mut status.phases, PhaseState::Failed);
        status.completion_timestamp = Some(Time(Timestamp::now()));
        self.save(&status).await?;
        self.ctx
            .events
            .warning(self.restore, failure.reason, &failure.message)
            .await;
        Ok(Action::requeue(Duration::ZERO))
    }

    /// After the end: transfers go, and what an early failure left behind is taken back.
    async fn clean_up(&self, mut status: RestoreStatus) -> Result<Action, Failure> {
        if phases::record(&status.phases, RestorePhase::CleanUp)
            .is_some_and(|r| r.state == PhaseState::Completed)
        {
            return Ok(Action::await_change());
        }
        if phases::record(&status.phases, RestorePhase::CleanUp).is_none() {
            self.enter(&mut status, RestorePhase::CleanUp);
            self.save(&status).await?;
            return Ok(Action::requeue(Duration::ZERO));
        }
        self.say_done(&self.transfers().await?).await;
        if !self.ctx.drop_transfers_of(&self.uid()).await? {
            return Ok(Action::requeue(Duration::from_secs(2)));
        }
        if is_true(&status.conditions, conditions::FAILED)
            && phases::record(&status.phases, RestorePhase::Objects).is_none()
        {
            self.undo(&status).await?;
        }
        phases::end(&mut status.phases, RestorePhase::CleanUp, PhaseState::Completed);
        self.save(&status).await?;
        Ok(Action::await_change())
    }

    /// The Restore is being deleted: its transfers go first, then it may.
    async fn release(&self) -> Result<Action, Failure> {
        if !self.restore.finalizers().iter().any(|f| f == finalizers::RUN) {
            return Ok(Action::await_change());
        }
        self.say_done(&self.transfers().await?).await;
        if !self.ctx.drop_transfers_of(&self.uid()).await? {
            return Ok(Action::requeue(Duration::from_secs(2)));
        }
        let status = self.restore.status.clone().unwrap_or_default();
        if !is_true(&status.conditions, conditions::COMPLETE)
            && phases::record(&status.phases, RestorePhase::Objects).is_none()
        {
            self.undo(&status).await?;
        }
        let rest: Vec<&String> = self
            .restore
            .finalizers()
            .iter()
            .filter(|f| *f != finalizers::RUN)
            .collect();
        self.patch_finalizers(&json!(rest)).await?;
        Ok(Action::await_change())
    }

    async fn hold(&self) -> Result<(), Failure> {
        let mut all = self.restore.finalizers().to_vec();
        all.push(finalizers::RUN.to_owned());
        self.patch_finalizers(&json!(all)).await
    }

    async fn patch_finalizers(&self, list: &serde_json::Value) -> Result<(), Failure> {
        let version = self.restore.resource_version();
        let body = json!({"metadata": {"resourceVersion": version, "finalizers": list}});
        self.api()
            .patch(
                &self.restore.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&body),
            )
            .await?;
        Ok(())
    }

    async fn transfers(&self) -> Result<Vec<VolumeTransfer>, Failure> {
        Ok(self.ctx.transfers_of(&self.uid()).await?)
    }

    fn enter(&self, status: &mut RestoreStatus, phase: RestorePhase) {
        status.phase = Some(phase);
        phases::start(&mut status.phases, phase);
        if !is_over(status) {
            let text = format!("{phase:?}");
            let generation = self.generation();
            set_condition(
                &mut status.conditions,
                conditions::COMPLETE,
                Truth::Unknown,
                reasons::IN_PROGRESS,
                &text,
                generation,
            );
            set_condition(
                &mut status.conditions,
                conditions::FAILED,
                false,
                reasons::IN_PROGRESS,
                &text,
                generation,
            );
        }
    }

    async fn save(&self, status: &RestoreStatus) -> Result<(), Failure> {
        let api = self.api();
        let current = api.get_status(&self.restore.name_any()).await?;
        let old = current.status.clone().unwrap_or_default();
        let mut new = status.clone();
        new.observed_generation = self.generation();
        update_status(&api, &current, &old, &new).await?;
        Ok(())
    }

    /// The status as it is now, after a step may have written it.
    async fn current(&self) -> Result<RestoreStatus, Failure> {
        Ok(self
            .api()
            .get_status(&self.restore.name_any())
            .await?
            .status
            .unwrap_or_default())
    }

    /// Resolves when a person stops or deletes the run while a step is under way.
    async fn canceled(&self) {
        let stopped =
            |r: Option<&Restore>| r.is_none_or(|r| r.spec.cancel || r.metadata.deletion_timestamp.is_some());
        let name = self.restore.name_any();
        if kube::runtime::wait::await_condition(self.api(), &name, stopped)
            .await
            .is_err()
        {
            // The watch broke: the next pass looks at spec.cancel again, and the step goes on.
            std::future::pending::<()>().await;
        }
    }
}

fn percent(volumes: &[holdfast_crd::VolumeProgress]) -> u8 {
    // Sizes come from the commit object, which may say anything.
    let total: u128 = volumes.iter().map(|v| u128::from(v.bytes_total)).sum();
    let done: u128 = volumes
        .iter()
        .map(|v| u128::from(v.bytes_done.min(v.bytes_total)))
        .sum();
    (done * 100)
        .checked_div(total)
        .map_or(100, |share| u8::try_from(share).unwrap_or(100))
}

/// A transfer's reason as one of ours.
fn known_reason(reason: Option<&str>) -> &'static str {
    const KNOWN: [&str; 10] = [
        reasons::DAMAGED,
        reasons::UNREACHABLE,
        reasons::WRONG_CREDENTIALS,
        reasons::UNTRUSTED_CERTIFICATE,
        reasons::BUCKET_MISSING,
        reasons::TARGET_FULL,
        reasons::TARGET_ERROR,
        reasons::PROVISION_FAILED,
        reasons::NO_PROGRESS,
        reasons::CONFLICT,
    ];
    KNOWN
        .into_iter()
        .find(|k| Some(*k) == reason)
        .unwrap_or(reasons::TRANSFER_FAILED)
}
