//! How a run ends: failed, cleaned up, deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_crd::names::{conditions, finalizers, reasons};
use holdfast_crd::{BackupPhase, DeletionPolicy, ObjectRef, PhaseState};
use holdfast_k8s::{is_true, set_condition};
use holdfast_repository::point;
use holdfast_repository::removal::{self, Rules};
use holdfast_target::layout::{ImageId, VolumeHome};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::transfers::ENDING;
use super::{Run, Stop};
use crate::failure::Failure;
use crate::phases;
use crate::sweep::Tombstone;

impl Run {
    /// Ends the run as failed, unless its point turns out to be committed.
    pub(super) async fn fail(&mut self, failure: Failure) -> Result<Action, Stop> {
        // What the failed step had prepared is dropped, but for the problems it found.
        let problems = std::mem::take(&mut self.status.problems);
        self.status = self.backup.status.clone().unwrap_or_default();
        self.status.problems = problems;
        if self.status.phase == Some(BackupPhase::Commit) && self.is_committed().await? {
            self.advance_committed().await?;
            return self.clean_up().await;
        }
        let generation = self.backup.metadata.generation;
        let (reason, text) = (failure.reason, failure.message.as_str());
        let all = &mut self.status.conditions;
        if !is_true(all, conditions::ACCEPTED) {
            set_condition(all, conditions::ACCEPTED, false, reason, text, generation);
        }
        set_condition(all, conditions::COMPLETE, false, reason, text, generation);
        set_condition(all, conditions::FAILED, true, reason, text, generation);
        phases::end_all(&mut self.status.phases, PhaseState::Failed);
        self.status.completion_timestamp = Some(Time(Timestamp::now()));
        if self.status.phase.is_some() {
            self.status.phase = Some(BackupPhase::CleanUp);
            phases::start(&mut self.status.phases, BackupPhase::CleanUp);
        }
        self.save().await?;
        self.machine.captured().remove(&self.uid());
        self.ctx().events.warning(&self.backup, reason, text).await;
        self.count(if reason == reasons::CANCELED {
            "canceled"
        } else {
            "failed"
        });
        self.clean_up().await
    }

    async fn is_committed(&self) -> Result<bool, Failure> {
        Ok(point::is_committed(&*self.store().await?, &self.location()?).await?)
    }

    /// The commit object was written before the run was stopped: the point stands.
    async fn advance_committed(&mut self) -> Result<(), Stop> {
        self.commit().await.map(|_| ())
    }

    /// Counts the run in the metrics.
    pub(super) fn count(&self, result: &str) {
        let started = self.status.start_timestamp.as_ref();
        let took = started
            .map(|t| Timestamp::now().duration_since(t.0).unsigned_abs())
            .unwrap_or_default();
        self.ctx()
            .metrics
            .backup_ended(result, took, self.status.size.unwrap_or_default());
    }

    /// Phase CleanUp: the transfers go, and with them everything temporary in the cluster; then what a failed run left
    /// on the target.
    pub(super) async fn clean_up(&mut self) -> Result<Action, Stop> {
        let state = phases::record(&self.status.phases, BackupPhase::CleanUp).map(|r| r.state);
        if self.status.phase.is_none() || state == Some(PhaseState::Completed) {
            return Ok(Action::await_change());
        }
        let homes = self.homes().await?;
        if !self.ctx().drop_transfers_of(&self.uid()).await? {
            return Ok(Action::requeue(ENDING));
        }
        if is_true(&self.status.conditions, conditions::FAILED)
            && let Err(failure) = self.take_back(&homes).await
        {
            // The target may be away for long; the sweeper comes by again, the run does not wait for it.
            tracing::warn!(
                backup.namespace = self.namespace(), backup.name = %self.backup.name_any(), error = %failure,
                "what the failed run left on the target is left to the sweeper"
            );
        }
        phases::end(
            &mut self.status.phases,
            BackupPhase::CleanUp,
            PhaseState::Completed,
        );
        self.save().await?;
        Ok(Action::await_change())
    }

    /// Where the run's images lie. The transfers are gone when it is asked again, so claims that the plan knows count
    /// too: every volume of the plan is looked at.
    async fn homes(&self) -> Result<BTreeSet<VolumeHome>, Failure> {
        let transfers = self.transfers().await?;
        Ok(transfers
            .iter()
            .filter_map(|t| t.spec.home.parse().ok())
            .collect())
    }

    /// Removes what a run without commit wrote.
    async fn take_back(&self, seen: &BTreeSet<VolumeHome>) -> Result<(), Failure> {
        if self.status.target.is_none() || self.status.plan_uid.is_none() {
            return Ok(());
        }
        let (store, location) = (self.store().await?, self.location()?);
        if point::is_committed(&*store, &location).await? {
            // The commit reached the store though its answer did not reach us: it is a point, and keeps its images.
            return Ok(());
        }
        point::erase_uncommitted(&*store, &location).await?;
        let mut homes = seen.clone();
        homes.extend(point::homes(&*store, &location.cluster, &location.plan).await?);
        // Everything but what this run made is somebody's; nobody has read what this run made.
        let others = |image: &ImageId| image.backup != location.backup;
        for home in &homes {
            let seen = removal::look(&*store, home).await?;
            let rules = Rules {
                points: &[],
                busy: &others,
                seen: &seen,
                grace: Duration::ZERO,
                now: Timestamp::now(),
            };
            removal::tidy(&*store, home, &rules).await?;
        }
        if self.status.encryption_secret.is_some() {
            let own = location.backup.as_str();
            let (cluster, plan) = (&location.cluster, &location.plan);
            removal::erase_keys(&*store, cluster, plan, |key| key.as_str() != own).await?;
        }
        Ok(())
    }

    /// The Backup is being deleted: its transfers go first, then it may. The target is not asked; what is to be removed
    /// there is written down for the sweeper.
    pub(super) async fn release(&mut self) -> Result<Action, Stop> {
        if !self.backup.finalizers().iter().any(|f| f == finalizers::RUN) {
            return Ok(Action::await_change());
        }
        if !self.ctx().drop_transfers_of(&self.uid()).await? {
            return Ok(Action::requeue(ENDING));
        }
        if self.data_goes_too().await? {
            self.bury().await?;
        }
        self.machine.captured().remove(&self.uid());
        let rest: Vec<String> = self
            .backup
            .finalizers()
            .iter()
            .filter(|f| *f != finalizers::RUN)
            .cloned()
            .collect();
        self.set_finalizers(&rest).await?;
        Ok(Action::await_change())
    }

    /// Whether a person asked for the data to go: neither the namespace nor our definitions are what is going away.
    async fn data_goes_too(&self) -> Result<bool, Failure> {
        if self.backup.spec.deletion_policy != DeletionPolicy::Delete
            || self.status.target.is_none()
            || self.status.plan_uid.is_none()
        {
            return Ok(false);
        }
        let namespace = self
            .ctx()
            .cluster_wide::<Namespace>()
            .get_opt(&self.namespace())
            .await?;
        let definitions = self.ctx().cluster_wide::<CustomResourceDefinition>();
        let definition = definitions.get_opt("backups.holdfast.dev").await?;
        let stays = |deleted: Option<Option<Time>>| deleted.is_some_and(|d| d.is_none());
        Ok(stays(namespace.map(|n| n.metadata.deletion_timestamp))
            && stays(definition.map(|d| d.metadata.deletion_timestamp)))
    }

    async fn bury(&self) -> Result<(), Failure> {
        let target = self.status.target.clone().unwrap_or_default();
        let tombstone = Tombstone {
            location: self.location()?,
            target: ObjectRef {
                namespace: target.namespace.or_else(|| self.backup.namespace()),
                ..target
            },
            backup: format!("{}/{}", self.namespace(), self.backup.name_any()),
            locked_until: None,
        };
        tombstone.write(self.ctx()).await?;
        let locked = self.status.locked_until.as_ref().map(|until| until.0);
        let (reason, text) = match locked.filter(|until| *until > Timestamp::now()) {
            Some(until) => (reasons::LOCKED, tombstone.waits(until)),
            None => {
                let text = format!("the point {} will be removed from the target", tombstone.location);
                (reasons::IN_PROGRESS, text)
            }
        };
        self.ctx().events.normal(&self.backup, reason, &text).await;
        Ok(())
    }
}
