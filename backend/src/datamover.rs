//! The datamover role: moves one volume, or works on its images, in a pod of its own and reports on one VolumeTransfer, nothing else.
//!
//! It reads two files that the operator wrote, runs the job and patches `status.mover`: at most every two seconds while
//! it works, and once with the outcome. Each report carries the attempt, so that one of an attempt that was given up
//! does not count.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use holdfast_controllers::failure::Failure;
use holdfast_controllers::{DatamoverTask, NEEDS_FULL};
use holdfast_crd::VolumeTransfer;
use holdfast_crd::names::reasons;
use holdfast_crd::transfer::{MoverOutcome, MoverReport};
use holdfast_k8s::Cluster;
use holdfast_mover::{Job, MoverError, Progress, ProgressSnapshot, peak_memory};
use holdfast_seal::KeyRing;
use holdfast_target::layout::ImageRecord;
use holdfast_target::{Address, Patience, Target};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Pause between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// A report that the API server does not take within this time is dropped; the next one says more.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);
/// The outcome is said again and again for this long.
const OUTCOME_DEADLINE: Duration = Duration::from_secs(120);
/// Time to hear why the pod is stopped.
const HEAR_DEADLINE: Duration = Duration::from_secs(2);
/// Time to drop an upload after the pod was told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the job that the pod's files describe.
pub(crate) async fn run(stop: CancellationToken) -> anyhow::Result<()> {
    let folder = Path::new(DatamoverTask::FOLDER);
    let task: DatamoverTask = read(&folder.join(DatamoverTask::FILE))?;
    let address: Address = read(&folder.join(DatamoverTask::TARGET_FILE))?;
    let keys = std::fs::read(folder.join(DatamoverTask::KEYS_FILE)).context("reading the data keys")?;
    let keys = Arc::new(KeyRing::from_json(&keys).context("the data keys are not valid")?);
    let client = Cluster::connect().await?.client();
    let progress = Arc::new(Progress::new());
    let mut reporter = Reporter::new(Api::namespaced(client, &task.namespace), &task);
    reporter.report(progress.snapshot(), None).await?;

    let cancel = CancellationToken::new();
    let mut work = tokio::spawn(work(task.job, address, keys, progress.clone(), cancel.clone()));
    let mut stopping = false;
    let mut ticks = interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let result = loop {
        tokio::select! {
            ended = &mut work => break ended.unwrap_or_else(|error| Err(MoverError::Internal(error.to_string()))),
            _ = ticks.tick() => {
                if let Err(error) = reporter.report(progress.snapshot(), None).await {
                    tracing::warn!(error = format!("{error:#}"), "progress not reported");
                }
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                let heard = timeout(HEAR_DEADLINE, reporter.report(progress.snapshot(), None)).await;
                if !matches!(heard, Ok(Ok(()))) {
                    tracing::warn!("nobody said why the pod is stopped");
                }
                // A job that nobody wants any more takes back what it began. That of a pod which is only evicted leaves
                // it to the attempt that follows.
                if !reporter.unwanted {
                    work.abort();
                    break Err(MoverError::Cancelled);
                }
                cancel.cancel();
            }
            () = overdue(&cancel) => break Err(MoverError::Cancelled),
        }
    };
    if let Err(error) = &result {
        tracing::error!(reason = error.reason(), %error, "job not done");
    }
    let outcome = outcome_of(&result);
    let patience = if stop.is_cancelled() {
        STOP_DEADLINE
    } else {
        OUTCOME_DEADLINE
    };
    timeout(patience, reporter.insist(progress.snapshot(), &outcome))
        .await
        .context("reporting the outcome")?;
    result.map(|_| ()).map_err(Into::into)
}

/// Ends when the job has had its time to stop.
async fn overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(STOP_DEADLINE).await;
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not valid", path.display()))
}

/// What a job made or found, as JSON.
#[derive(Debug, Default)]
struct Made {
    /// The record of an image.
    image: Option<Value>,
    /// The report of a verification.
    report: Option<Value>,
}

/// Does the job.
async fn work(
    job: Job,
    address: Address,
    keys: Arc<KeyRing>,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<Made, MoverError> {
    // Hours of transfer should survive a restart of the store.
    let target: Arc<dyn Target> = address.open(Patience::TRANSFER).await?;
    match job {
        Job::Backup(job) => {
            let image = holdfast_mover::backup(target, &job, keys, progress, stop).await?;
            made_image(&image)
        }
        Job::Restore(job) => {
            let summary = holdfast_mover::restore(target, &job, keys, progress, stop).await?;
            tracing::info!(bytes_written = summary.data, bytes_zeroed = summary.zeroed, zeroing = ?summary.zeroing,
                duration_ms = summary.took.as_millis(), "volume restored");
            Ok(Made::default())
        }
        Job::Merge(job) => {
            let image = holdfast_mover::merge(target, &job, keys, progress, stop).await?;
            made_image(&image)
        }
        Job::Verify(job) => {
            let report = holdfast_mover::verify(target, &job, keys, progress, stop).await?;
            tracing::info!(
                bytes_read = report.bytes_read,
                damaged = report.damaged,
                duration_ms = report.took.as_millis(),
                "images verified"
            );
            let report = as_json(&report)?;
            Ok(Made {
                report: Some(report),
                ..Made::default()
            })
        }
    }
}

fn made_image(image: &ImageRecord) -> Result<Made, MoverError> {
    Ok(Made {
        image: Some(as_json(image)?),
        ..Made::default()
    })
}

fn as_json<T: Serialize>(value: &T) -> Result<Value, MoverError> {
    serde_json::to_value(value).map_err(|error| MoverError::Internal(error.to_string()))
}

fn outcome_of(result: &Result<Made, MoverError>) -> MoverOutcome {
    match result {
        Ok(made) => MoverOutcome {
            succeeded: true,
            image: made.image.clone(),
            report: made.report.clone(),
            ..MoverOutcome::default()
        },
        Err(error) => MoverOutcome {
            succeeded: false,
            // A pod that is told to stop was evicted, or its transfer is over anyway.
            retryable: error.is_retryable() || matches!(error, MoverError::Cancelled),
            reason: Some(reason_of(error)),
            message: Some(error.to_string()),
            ..MoverOutcome::default()
        },
    }
}

/// The condition reason that says what happened.
fn reason_of(error: &MoverError) -> String {
    let reason = match error {
        MoverError::Target(error) => Failure::from(error.clone()).reason,
        MoverError::Damaged { .. } | MoverError::DamagedCluster { .. } => reasons::DAMAGED,
        MoverError::NeedsFull(_) => NEEDS_FULL,
        MoverError::DeviceTooSmall { .. } => reasons::PROVISION_FAILED,
        MoverError::Device { .. } => reasons::TRANSFER_FAILED,
        MoverError::Cancelled => reasons::CANCELED,
        // The operator gives a job its keys, so that one is missing is our mistake.
        MoverError::NoKey { .. }
        | MoverError::CannotMerge(_)
        | MoverError::Job(_)
        | MoverError::Internal(_) => reasons::INTERNAL,
    };
    reason.to_owned()
}

/// Writes `status.mover` of one transfer.
struct Reporter {
    api: Api<VolumeTransfer>,
    transfer: String,
    attempt: u32,
    last: (Instant, u64),
    /// Whether the transfer was cancelled or deleted when it was last heard of.
    unwanted: bool,
}

impl Reporter {
    fn new(api: Api<VolumeTransfer>, task: &DatamoverTask) -> Self {
        Self {
            api,
            transfer: task.transfer.clone(),
            attempt: task.attempt,
            last: (Instant::now(), 0),
            unwanted: false,
        }
    }

    /// Says how far the job is.
    async fn report(&mut self, now: ProgressSnapshot, outcome: Option<&MoverOutcome>) -> anyhow::Result<()> {
        let (since, before) = self.last;
        let elapsed = since.elapsed().as_millis().max(1);
        let rate = u128::from(now.bytes_done.saturating_sub(before)) * 1000 / elapsed;
        self.last = (Instant::now(), now.bytes_done);
        let report = MoverReport {
            attempt: self.attempt,
            bytes_total: now.bytes_total,
            bytes_done: now.bytes_done,
            bytes_transferred: now.bytes_transferred,
            bytes_device: now.bytes_device,
            bytes_durable: now.bytes_durable,
            rate: u64::try_from(rate).unwrap_or(u64::MAX),
            peak_memory: peak_memory(),
            timestamp: Some(Time(Timestamp::now())),
            outcome: outcome.cloned(),
        };
        let patch = Patch::Merge(patch_of(&report)?);
        let params = PatchParams::default();
        let call = self.api.patch_status(&self.transfer, &params, &patch);
        let transfer = timeout(REPORT_DEADLINE, call)
            .await
            .context("no answer in time")??;
        self.unwanted = transfer.spec.cancel || transfer.metadata.deletion_timestamp.is_some();
        Ok(())
    }

    /// Says how the job ended until the API server has heard it.
    async fn insist(&mut self, now: ProgressSnapshot, outcome: &MoverOutcome) {
        while let Err(error) = self.report(now, Some(outcome)).await {
            tracing::warn!(error = format!("{error:#}"), "outcome not reported yet");
            sleep(REPORT_EVERY).await;
        }
    }
}

/// A merge patch that replaces the report as a whole: what an earlier attempt said about its end must not stay.
fn patch_of(report: &MoverReport) -> serde_json::Result<Value> {
    let mut report = serde_json::to_value(report)?;
    match report.get_mut("outcome") {
        None => report["outcome"] = Value::Null,
        Some(outcome) => {
            for field in ["retryable", "reason", "message", "image", "report"] {
                if outcome.get(field).is_none() {
                    outcome[field] = Value::Null;
                }
            }
        }
    }
    Ok(json!({ "status": { "mover": report } }))
}

#[cfg(test)]
mod tests {
    use holdfast_mover::Damage;

    use super::*;

    #[test]
    fn a_report_takes_back_what_an_earlier_attempt_said() {
        let patch = patch_of(&MoverReport {
            attempt: 2,
            ..MoverReport::default()
        })
        .unwrap();
        assert_eq!(patch["status"]["mover"]["outcome"], Value::Null);
        assert!(
            patch["status"]["mover"]
                .as_object()
                .unwrap()
                .contains_key("outcome")
        );
        let outcome = MoverOutcome {
            succeeded: true,
            ..MoverOutcome::default()
        };
        let patch = patch_of(&MoverReport {
            outcome: Some(outcome),
            ..MoverReport::default()
        })
        .unwrap();
        let outcome = patch["status"]["mover"]["outcome"].as_object().unwrap();
        assert!(outcome.contains_key("reason") && outcome["reason"].is_null());
    }

    #[test]
    fn a_stopped_pod_may_be_tried_again_and_damage_may_not() {
        assert!(outcome_of(&Err(MoverError::Cancelled)).retryable);
        let damaged = MoverError::Damaged {
            damage: Damage::Altered,
            key: "k".into(),
            what: "short".into(),
        };
        let outcome = outcome_of(&Err(damaged));
        assert!(!outcome.retryable && !outcome.succeeded);
        assert_eq!(outcome.reason.as_deref(), Some(reasons::DAMAGED));
        assert!(outcome_of(&Ok(Made::default())).succeeded);
    }
}
