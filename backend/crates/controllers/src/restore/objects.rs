//! Objects and Report: what remains once the volumes are there.

use std::time::{Duration, Instant};

use holdfast_crd::names::{conditions, reasons};
use holdfast_crd::restore::ObjectCounts;
use holdfast_crd::{ObjectRef, PhaseState, RestorePhase, RestoreStatus};
use holdfast_k8s::set_condition;
use holdfast_target::layout::report_key;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::Action;

use super::Run;
use super::report::{self, Action as Deed, Entry};
use crate::failure::Failure;
use crate::phases;

/// How often the status says how far the objects are.
const TELL: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Writes every level, then the report. Repeated after a restart: objects of this run are recognised.
    pub(super) async fn objects(&self, mut status: RestoreStatus) -> Result<Action, Failure> {
        let (mut point, target) = self.point(&status).await?;
        let destination = self.destination();
        let plan = self.plan_of(&mut point).await?.objects;
        let writer = self.writer(&destination)?;
        let mut entries: Vec<Entry> = plan
            .skipped
            .iter()
            .map(|(key, why)| Entry::new(key, Deed::Skipped).because(why))
            .collect();
        let mut counts = ObjectCounts {
            planned: plan.len() as u64,
            ..ObjectCounts::default()
        };
        for definition in &plan.definitions {
            entries.push(writer.define(definition).await);
        }
        count(&mut counts, &entries);
        let mut told = Instant::now();
        for level in &plan.levels {
            let written = writer.write_level(level).await;
            count(&mut counts, &written);
            entries.extend(written);
            status.objects = Some(counts);
            // A line of owners makes as many levels as there are objects.
            if told.elapsed() >= TELL {
                self.save(&status).await?;
                told = Instant::now();
            }
        }
        status.objects = Some(counts);
        status.problems = report::problems(&entries);
        let outcome = if counts.failed == 0 {
            PhaseState::Completed
        } else {
            PhaseState::Failed
        };
        phases::end(&mut status.phases, RestorePhase::Objects, outcome);
        self.enter(&mut status, RestorePhase::Report);
        self.save(&status).await?;
        self.store_report(&mut status, &target, &entries).await?;
        phases::end(&mut status.phases, RestorePhase::Report, PhaseState::Completed);
        if counts.failed > 0 {
            let first = status.problems.first().cloned().unwrap_or_default();
            let text = format!(
                "{} of {} objects were not restored; first: {}: {}; the report {} names all",
                counts.failed,
                counts.planned,
                first.object,
                first.message,
                status.report.as_deref().unwrap_or_default()
            );
            return self
                .fail(status, Failure::lasting(reasons::APPLY_FAILED, text))
                .await;
        }
        self.complete(status).await
    }

    async fn store_report(
        &self,
        status: &mut RestoreStatus,
        target: &ObjectRef,
        entries: &[Entry],
    ) -> Result<(), Failure> {
        let internal =
            |e: &dyn std::fmt::Display| Failure::lasting(reasons::INTERNAL, format!("report: {e}"));
        let cluster = self.ctx.cluster_uid.parse().map_err(|e| internal(&e))?;
        let uid = self.uid().parse().map_err(|e| internal(&e))?;
        let bytes = report::encode(entries).map_err(|e| internal(&e))?;
        let key = report_key(&cluster, &uid);
        let store = self.store(target).await?;
        match store.put_new(&key, bytes.into()).await {
            Ok(_) => status.report = Some(key.to_string()),
            // The objects are there; that the report could not be kept is a problem to show, not a failed restore.
            Err(error) => status.problems.push(holdfast_crd::Problem {
                object: key.to_string(),
                reason: reasons::TARGET_ERROR.to_owned(),
                message: error.to_string(),
            }),
        }
        status.problems.truncate(holdfast_crd::status::MAX_PROBLEMS);
        Ok(())
    }

    async fn complete(&self, mut status: RestoreStatus) -> Result<Action, Failure> {
        let counts = status.objects.unwrap_or_default();
        let text = format!(
            "{} objects and {} volumes restored",
            counts.created,
            status.volumes.len()
        );
        let generation = self.generation();
        set_condition(
            &mut status.conditions,
            conditions::COMPLETE,
            true,
            reasons::SUCCEEDED,
            &text,
            generation,
        );
        set_condition(
            &mut status.conditions,
            conditions::FAILED,
            false,
            reasons::SUCCEEDED,
            "",
            generation,
        );
        status.percentage_completion = Some(100);
        status.completion_timestamp = Some(Time(Timestamp::now()));
        self.save(&status).await?;
        self.ctx
            .events
            .normal(self.restore, reasons::SUCCEEDED, &text)
            .await;
        Ok(Action::requeue(Duration::ZERO))
    }
}

/// Adds what became of these to the counts.
fn count(counts: &mut ObjectCounts, entries: &[Entry]) {
    for entry in entries {
        *match entry.action {
            Deed::Created => &mut counts.created,
            Deed::Skipped => &mut counts.skipped,
            Deed::Failed => &mut counts.failed,
        } += 1;
    }
}
