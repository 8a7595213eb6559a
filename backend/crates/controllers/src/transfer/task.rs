//! One transfer in one reconcile: which step its stage asks for, and how the status follows.

use std::sync::Arc;
use std::time::Duration;

use holdfast_crd::names::{conditions, finalizers, reasons};
use holdfast_crd::{Direction, TransferStage, VolumeTransfer, VolumeTransferStatus};
use holdfast_k8s::{Truth, is_conflict, is_not_found, set_condition, update_status};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;

use super::Machine;
use super::build::Names;
use crate::Context;
use crate::failure::Failure;

/// Longest name of a transfer: its Jobs and pods carry it, with an attempt and a random part.
const MAX_NAME: usize = 45;

/// A driver that has not let go of a deleted snapshot after this long will not do so soon.
const RELEASE_PATIENCE: Duration = Duration::from_secs(120);

/// What a step says about the way on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing more to do until something changes; look again after this long at the latest.
    Stay(Duration),
    /// The stage is done.
    Enter(TransferStage),
}

/// One transfer, as the API server had it when the reconcile began, and the status it will get.
pub(super) struct Task {
    pub(super) machine: Arc<Machine>,
    pub(super) transfer: VolumeTransfer,
    pub(super) status: VolumeTransferStatus,
    pub(super) names: Names,
}

impl Task {
    pub(super) fn new(machine: Arc<Machine>, transfer: VolumeTransfer) -> Self {
        let status = transfer.status.clone().unwrap_or_default();
        let names = Names::of(&transfer);
        Self {
            machine,
            transfer,
            status,
            names,
        }
    }

    pub(super) fn ctx(&self) -> &Context {
        &self.machine.ctx
    }

    /// UID of the transfer.
    pub(super) fn uid(&self) -> String {
        self.transfer.uid().unwrap_or_default()
    }

    /// How long the transfer has been in its stage.
    pub(super) fn stage_age(&self) -> Duration {
        let since = self
            .status
            .stage_timestamp
            .as_ref()
            .map_or_else(Timestamp::now, |time| time.0);
        Timestamp::now()
            .duration_since(since)
            .try_into()
            .unwrap_or_default()
    }

    /// How long ago the transfer was deleted.
    fn deleted_for(&self) -> Duration {
        let deleted = self.transfer.metadata.deletion_timestamp.as_ref();
        deleted.map_or(Duration::ZERO, |at| {
            Timestamp::now().duration_since(at.0).unsigned_abs()
        })
    }

    /// Puts our finalizer on a transfer that is new.
    pub(super) async fn hold(&mut self) -> Result<Action, Failure> {
        let mut all = self.transfer.finalizers().to_vec();
        all.push(finalizers::TRANSFER.to_owned());
        self.set_finalizers(&all).await?;
        Ok(Action::requeue(Duration::from_millis(100)))
    }

    /// Cleans up after a transfer that is deleted and lets it go. The target is not asked, and what was told to go is not
    /// waited for: whoever holds it (kubelet, garbage collector) ends it without us. Only snapshots are watched for a
    /// while, because their controllers may forget them.
    pub(super) async fn release(&mut self) -> Result<Action, Failure> {
        let removed = self.remove_temporaries().await?;
        if !removed.snapshots && self.deleted_for() < RELEASE_PATIENCE {
            return Ok(Action::requeue(Duration::from_millis(500)));
        }
        self.machine.progress.forget(&self.uid());
        let kept = self
            .transfer
            .finalizers()
            .iter()
            .filter(|f| *f != finalizers::TRANSFER)
            .cloned();
        let kept: Vec<String> = kept.collect();
        self.set_finalizers(&kept).await?;
        Ok(Action::await_change())
    }

    async fn set_finalizers(&self, all: &[String]) -> Result<(), Failure> {
        let patch = json!({"metadata": {
            "resourceVersion": self.transfer.resource_version(), "finalizers": all,
        }});
        let api = self.ctx().installed::<VolumeTransfer>();
        let written = api
            .patch(
                &self.transfer.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await;
        match written {
            // Changed or gone meanwhile: the next reconcile sees it as it is.
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// Does what the stage asks for and writes the status.
    pub(super) async fn advance(&mut self) -> Result<Action, Failure> {
        let step = match self.step().await {
            Ok(step) => step,
            Err(failure) if failure.retryable => return Err(failure),
            Err(failure) => self.give_up(&failure),
        };
        match step {
            Step::Stay(pause) => {
                self.save().await?;
                Ok(Action::requeue(pause))
            }
            Step::Enter(stage) => {
                self.enter(stage);
                if self.save().await? {
                    self.entered(stage).await;
                }
                Ok(Action::requeue(Duration::ZERO))
            }
        }
    }

    async fn step(&mut self) -> Result<Step, Failure> {
        if self.status.stage.is_final() {
            return self.tidy().await;
        }
        if self.status.reason.is_some() || self.must_cancel() {
            return self.ending().await;
        }
        match self.status.stage {
            TransferStage::Pending => self.pending(),
            TransferStage::Snapshotting => self.snapshotting().await,
            TransferStage::Snapshotted => Ok(Step::Enter(TransferStage::Queued)),
            TransferStage::Queued => self.queued().await,
            TransferStage::Running => self.running().await,
            TransferStage::HandingOver => self.handing_over().await,
            TransferStage::Succeeded | TransferStage::Failed | TransferStage::Canceled => self.tidy().await,
        }
    }

    /// A result that is stored is not thrown away, and a volume that was handed over belongs to the application.
    fn must_cancel(&self) -> bool {
        self.transfer.spec.cancel && self.status.result.is_none()
    }

    fn pending(&mut self) -> Result<Step, Failure> {
        let invalid = |text: &str| Failure::lasting(reasons::INVALID_SPEC, text);
        let spec = &self.transfer.spec;
        if self.transfer.name_any().len() > MAX_NAME {
            return Err(invalid("the name of the transfer is longer than 45 characters"));
        }
        match spec.direction {
            Direction::Backup if spec.image.is_none() => Err(invalid("a backup needs spec.image")),
            Direction::Backup if spec.snapshot_class.is_none() => {
                Err(invalid("a backup needs spec.snapshotClass"))
            }
            Direction::Backup => Ok(Step::Enter(TransferStage::Snapshotting)),
            Direction::Restore if spec.chain.is_none() => Err(invalid("a restore needs spec.chain")),
            Direction::Restore if spec.claim_manifest.is_none() => {
                Err(invalid("a restore needs spec.claimManifest"))
            }
            Direction::Verify if spec.scope.is_none() => Err(invalid("a verification needs spec.scope")),
            Direction::Merge if spec.files.is_none() => Err(invalid("a merge needs spec.files")),
            Direction::Restore | Direction::Verify | Direction::Merge => {
                Ok(Step::Enter(TransferStage::Queued))
            }
        }
    }

    /// Remembers why the transfer fails. From here on every reconcile is about ending it, also after a restart.
    fn give_up(&mut self, failure: &Failure) -> Step {
        self.status.reason = Some(failure.reason.to_owned());
        self.status.message = Some(failure.message.clone());
        Step::Stay(Duration::ZERO)
    }

    /// Removes everything temporary of a transfer that failed or was cancelled, here and on the target.
    async fn ending(&mut self) -> Result<Step, Failure> {
        let removed = self.remove_temporaries().await?;
        let end = if self.status.reason.is_some() {
            TransferStage::Failed
        } else {
            TransferStage::Canceled
        };
        if !removed.movers {
            return Ok(Step::Stay(Duration::from_millis(300)));
        }
        self.sweep_target().await;
        Ok(Step::Enter(end))
    }

    /// Ends the clean-up of a transfer that is over.
    async fn tidy(&mut self) -> Result<Step, Failure> {
        let removed = self.remove_temporaries().await?;
        let pause = if removed.everything {
            Duration::from_secs(3600)
        } else {
            Duration::from_secs(1)
        };
        Ok(Step::Stay(pause))
    }

    /// Sets the stage and the conditions that go with it.
    pub(super) fn enter(&mut self, stage: TransferStage) {
        use conditions::{ACCEPTED, COMPLETE, FAILED};
        let generation = self.transfer.metadata.generation;
        self.status.stage = stage;
        self.status.stage_timestamp = Some(Time(Timestamp::now()));
        let message = self.status.message.clone().unwrap_or_default();
        let reason = self
            .status
            .reason
            .clone()
            .unwrap_or_else(|| reasons::TRANSFER_FAILED.to_owned());
        let complete = if stage == TransferStage::Succeeded {
            Truth::True
        } else {
            Truth::False
        };
        let (failed, why, text) = match stage {
            TransferStage::Succeeded => (Truth::False, reasons::SUCCEEDED, ""),
            TransferStage::Failed => (Truth::True, reason.as_str(), message.as_str()),
            TransferStage::Canceled => (Truth::True, reasons::CANCELED, "stopped by spec.cancel"),
            _ => (Truth::False, reasons::IN_PROGRESS, ""),
        };
        let all = &mut self.status.conditions;
        set_condition(all, ACCEPTED, true, reasons::VALID, "", generation);
        set_condition(all, COMPLETE, complete, why, text, generation);
        set_condition(all, FAILED, failed, why, text, generation);
    }

    /// Says what a person should know about a stage that takes its time.
    pub(super) fn note(&mut self, reason: &str, text: &str) {
        let generation = self.transfer.metadata.generation;
        let all = &mut self.status.conditions;
        set_condition(all, conditions::ACCEPTED, true, reasons::VALID, text, generation);
        set_condition(all, conditions::COMPLETE, false, reason, text, generation);
    }

    /// Writes the status if it changed. `false` when the transfer had changed meanwhile: then the step is done again
    /// on the new version, which every step allows.
    pub(super) async fn save(&mut self) -> Result<bool, Failure> {
        let old = self.transfer.status.clone().unwrap_or_default();
        let api = self.ctx().installed::<VolumeTransfer>();
        match update_status(&api, &self.transfer, &old, &self.status).await {
            Ok(Some(written)) => {
                self.transfer = written;
                Ok(true)
            }
            Ok(None) => Ok(true),
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                self.status = old;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What follows a change of stage that is stored.
    pub(super) async fn entered(&self, stage: TransferStage) {
        let name = self.transfer.name_any();
        tracing::info!(transfer.name = %name, transfer.stage = ?stage, claim = %self.transfer.spec.claim.name,
            attempt = self.status.attempt, "transfer moved on");
        if !matches!(stage, TransferStage::Snapshotting | TransferStage::Snapshotted) {
            self.machine.count_stages();
        }
        if !stage.is_final() {
            return;
        }
        self.machine.progress.forget(&self.uid());
        let moved = self.report().map_or(0, |report| report.bytes_transferred);
        let direction = format!("{:?}", self.transfer.spec.direction);
        self.ctx()
            .metrics
            .transfer_ended(&direction, &format!("{stage:?}"), moved);
        if stage == TransferStage::Failed {
            let text = self.status.message.clone().unwrap_or_default();
            let reason = self.status.reason.clone().unwrap_or_default();
            self.ctx().events.warning(&self.transfer, &reason, &text).await;
        }
    }
}
