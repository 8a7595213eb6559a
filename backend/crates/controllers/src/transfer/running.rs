//! The mover at work: one Job per attempt, watched until it has said how it ended.

use std::time::{Duration, Instant};

use holdfast_crd::names::reasons;
use holdfast_crd::transfer::{MoverOutcome, MoverReport, Restored};
use holdfast_crd::{Direction, Target as TargetResource, TransferStage, VolumeTransfer};
use holdfast_k8s::create_or_get;
use holdfast_mover::{Job as MoverJob, VerifyReport};
use holdfast_repository::keys;
use holdfast_seal::KeyRing;
use holdfast_target::layout::{ImageRecord, VolumeHome};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::build::{self, DatamoverTask, PodParts};
use super::pods;
use super::task::{Step, Task};
use crate::depot::Folder;
use crate::failure::Failure;
use crate::{encryption, mounting};

/// Attempts before a transfer is given up.
const MAX_ATTEMPTS: u32 = 3;
/// A running mover is looked at this often even if it says nothing.
const LOOK: Duration = Duration::from_secs(5);
/// A mover that has not spoken after this long is looked at more closely.
const PROVISIONING: Duration = Duration::from_secs(3);

/// The reason by which a mover says that the chain cannot be continued.
pub const NEEDS_FULL: &str = "NeedsFull";

impl Task {
    /// What the mover of the attempt in force says; what an older one says does not count.
    pub(super) fn report(&self) -> Option<&MoverReport> {
        self.status
            .mover
            .as_ref()
            .filter(|report| report.attempt == self.status.attempt)
    }

    /// Stage Running.
    pub(super) async fn running(&mut self) -> Result<Step, Failure> {
        if self.status.result.is_some() {
            return self.finish().await;
        }
        if let Some(outcome) = self.report().and_then(|report| report.outcome.clone()) {
            return self.ended(outcome).await;
        }
        let all = self.mover_pods().await?;
        let name = self.names.job(self.status.attempt);
        let pod = all.iter().find(|pod| pods::is_of(pod, &name));
        match self.ctx().installed::<Job>().get_opt(&name).await? {
            Some(job) if is_over(&job) => self.lost(pods::ending(pod)).await,
            Some(_) => self.watch(pod).await,
            // Somebody deleted the Job of an attempt that had begun: it is never begun again.
            None if pod.is_some() || self.report().is_some() => self.lost(pods::ending(pod)).await,
            None => self.start(&all).await,
        }
    }

    /// Pods of every attempt.
    pub(super) async fn mover_pods(&self) -> Result<Vec<Pod>, Failure> {
        Ok(self.ctx().installed::<Pod>().list(&self.selector()).await?.items)
    }

    /// Everything of this transfer.
    pub(super) fn selector(&self) -> ListParams {
        ListParams::default().labels(&format!(
            "{}={}",
            holdfast_crd::names::labels::TRANSFER,
            self.uid()
        ))
    }

    /// Makes claim, Secret and Job of the attempt, once nothing of an earlier attempt can write any more.
    async fn start(&mut self, all: &[Pod]) -> Result<Step, Failure> {
        let name = self.names.job(self.status.attempt);
        if self.status.attempt > 1 {
            self.remove_jobs(Some(&name)).await?;
        }
        if let Some(old) = all.iter().find(|pod| !pods::is_of(pod, &name)) {
            let text = format!(
                "the pod {} of an earlier attempt has not ended yet",
                old.name_any()
            );
            self.note(reasons::IN_PROGRESS, &text);
            return self.wait_or_fail(Duration::from_millis(500), &text);
        }
        let restored = self.create_claim().await?;
        let job = build::job_for(&self.transfer, self.status.attempt, restored)?;
        let ctx = self.ctx();
        let target = ctx
            .targets
            .resource(&self.transfer.spec.target, &ctx.install_namespace)
            .await?;
        let folder = Folder::of(&target)?;
        let address = ctx.targets.address(&target, folder.as_ref()).await?;
        let task = DatamoverTask {
            transfer: self.transfer.name_any(),
            namespace: ctx.install_namespace.clone(),
            attempt: self.status.attempt,
            job,
        };
        let keys = self.keys(&target, &task.job).await?;
        let secret = build::secret(&self.transfer, &self.names, &task, &address, &keys);
        create_or_get(&ctx.installed::<Secret>(), &secret).await?;
        let mut parts = self.pod_parts().await?;
        parts.store = folder.map(|folder| folder.claim());
        let job = build::job(
            &self.transfer,
            &self.names,
            self.status.attempt,
            &ctx.mover,
            &parts,
        )?;
        create_or_get(&ctx.installed::<Job>(), &job).await?;
        Ok(Step::Stay(PROVISIONING))
    }

    /// The data keys that the mover needs, unwrapped; a mover never sees what wraps them.
    async fn keys(&self, target: &TargetResource, job: &MoverJob) -> Result<KeyRing, Failure> {
        let Some(encryption) = &self.transfer.spec.encryption else {
            return Ok(KeyRing::default());
        };
        let home: VolumeHome = self.transfer.spec.home.parse().map_err(|e| {
            Failure::lasting(reasons::INVALID_SPEC, format!("spec.home of the transfer: {e}"))
        })?;
        let ctx = self.ctx();
        let identity = encryption::identity(ctx, &encryption.secret).await?;
        let store = ctx.targets.open(target).await?;
        let ids = build::keys_of(job);
        Ok(keys::ring(&*store, &home.cluster, &home.plan, &ids, &identity).await?)
    }

    /// Makes the mover's claim, where there is a volume. Says how much of it earlier attempts have restored.
    async fn create_claim(&self) -> Result<u64, Failure> {
        let claim = match self.transfer.spec.direction {
            Direction::Verify | Direction::Merge => return Ok(0),
            Direction::Backup => {
                let restore_size = self
                    .status
                    .snapshot
                    .as_ref()
                    .and_then(|snapshot| snapshot.restore_size);
                build::claim_from_snapshot(&self.transfer, &self.names, restore_size)
            }
            Direction::Restore => build::claim_for_restore(&self.transfer, &self.names),
        };
        let provision =
            |error: kube::Error| Failure::from(error).during("the mover's claim was not accepted");
        let claim = create_or_get(&self.ctx().installed::<PersistentVolumeClaim>(), &claim)
            .await
            .map_err(provision)?;
        // Another claim is another volume.
        let restored = self.status.restored.as_ref();
        let same = restored.filter(|restored| claim.uid().as_ref() == Some(&restored.claim_uid));
        Ok(same.map_or(0, |restored| restored.bytes))
    }

    /// Where the pod must run. The volume that is backed up may be gone by now; the claim made from its snapshot then
    /// decides alone.
    async fn pod_parts(&self) -> Result<PodParts, Failure> {
        if self.transfer.spec.direction != Direction::Backup {
            return Ok(PodParts {
                placement: self.transfer.spec.placement.clone(),
                ..PodParts::default()
            });
        }
        let source = &self.transfer.spec.claim;
        let claims = self.ctx().namespaced::<PersistentVolumeClaim>(&source.namespace);
        let claim = claims
            .get_opt(&source.name)
            .await?
            .filter(|claim| claim.uid().as_ref() == Some(&source.uid));
        let Some(volume) = claim.and_then(|claim| claim.spec?.volume_name) else {
            return Ok(PodParts::default());
        };
        let volume = self
            .ctx()
            .cluster_wide::<PersistentVolume>()
            .get_opt(&volume)
            .await?;
        let affinity = volume
            .and_then(|volume| volume.spec?.node_affinity)
            .map(|affinity| json!(affinity));
        Ok(PodParts {
            volume_affinity: affinity,
            ..PodParts::default()
        })
    }

    /// The mover runs, or tries to.
    async fn watch(&mut self, pod: Option<&Pod>) -> Result<Step, Failure> {
        if let Some(node) = pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()) {
            self.status.node = Some(node);
        }
        let idle = self.idle();
        // Every claim is unbound and every pod unscheduled for a moment: that is not worth a word.
        let mut problem = None;
        if self.report().is_none() && idle > PROVISIONING {
            if self.transfer.spec.direction.has_volume() {
                problem = self.provisioning_problem().await?;
            }
            problem = problem.or(pod.and_then(pods::problem));
            if let (None, Some(pod)) = (&problem, pod) {
                problem = mounting::problem(self.ctx(), &pod.name_any()).await?;
            }
        }
        let Some(text) = problem else {
            self.note(reasons::IN_PROGRESS, "");
            if idle > self.ctx().mover.progress_deadline() {
                let text = format!("nothing was moved for {} seconds", idle.as_secs());
                return self
                    .attempt_failed(&Failure::passing(reasons::NO_PROGRESS, text))
                    .await;
            }
            return Ok(Step::Stay(LOOK));
        };
        self.note(reasons::IN_PROGRESS, &text);
        self.wait_or_fail(LOOK, &text)
    }

    /// For how long nothing has moved.
    fn idle(&self) -> Duration {
        let moved = self.report().map_or(0, |report| {
            report
                .bytes_done
                .wrapping_add(report.bytes_transferred)
                .wrapping_add(report.bytes_device)
        });
        self.machine
            .progress
            .idle(&self.uid(), self.status.attempt, moved, Instant::now())
    }

    /// Waits for what another attempt would not change either, up to the progress deadline.
    fn wait_or_fail(&self, pause: Duration, text: &str) -> Result<Step, Failure> {
        if self.idle() > self.ctx().mover.progress_deadline() {
            return Err(Failure::lasting(
                reasons::PROVISION_FAILED,
                format!("the mover did not start: {text}"),
            ));
        }
        Ok(Step::Stay(pause))
    }

    /// What the provisioner says of a claim that does not come: it speaks in Events only.
    async fn provisioning_problem(&self) -> Result<Option<String>, Failure> {
        let claim = self
            .ctx()
            .installed::<PersistentVolumeClaim>()
            .get_opt(&self.names.claim())
            .await?;
        let Some(claim) = claim else {
            return Ok(Some("the mover's claim is gone".to_owned()));
        };
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound") {
            return Ok(None);
        }
        let about = ListParams::default().fields(&format!(
            "involvedObject.name={},reason=ProvisioningFailed",
            self.names.claim()
        ));
        let events = self.ctx().installed::<Event>().list(&about).await?.items;
        let last = events
            .into_iter()
            .max_by_key(|event| event.last_timestamp.clone());
        Ok(last
            .and_then(|event| event.message)
            .map(|why| format!("the mover's volume is not provisioned: {why}")))
    }

    /// The mover has spoken.
    async fn ended(&mut self, outcome: MoverOutcome) -> Result<Step, Failure> {
        if !outcome.succeeded {
            let reason = known_reason(outcome.reason.as_deref());
            let text = outcome
                .message
                .unwrap_or_else(|| "the mover gave no reason".to_owned());
            let failure = Failure {
                reason,
                message: text,
                retryable: outcome.retryable,
            };
            if self.chain_is_the_trouble(outcome.reason.as_deref()) {
                return self.take_full(&failure).await;
            }
            return self.attempt_failed(&failure).await;
        }
        if self.transfer.spec.direction == Direction::Restore {
            return Ok(Step::Enter(TransferStage::HandingOver));
        }
        self.status.result = Some(self.result_of(outcome)?);
        Ok(Step::Stay(Duration::ZERO))
    }

    /// What the mover made or found, if it is what it was told to make or look at.
    fn result_of(&self, outcome: MoverOutcome) -> Result<Value, Failure> {
        let internal = |why: String| {
            let text = format!("the mover's result is not what it was told to do: {why}");
            Failure::lasting(reasons::INTERNAL, text)
        };
        let missing = || internal("it is missing".to_owned());
        if self.transfer.spec.direction == Direction::Verify {
            let report = outcome.report.ok_or_else(missing)?;
            serde_json::from_value::<VerifyReport>(report.clone())
                .map_err(|error| internal(error.to_string()))?;
            return Ok(report);
        }
        let image = outcome.image.ok_or_else(missing)?;
        let record: ImageRecord =
            serde_json::from_value(image.clone()).map_err(|error| internal(error.to_string()))?;
        if self.transfer.spec.direction == Direction::Merge {
            let expected = build::files_of(&self.transfer)?;
            return match record.stem() {
                Some(files) if files == expected => Ok(image),
                _ => Err(internal(format!(
                    "image {} has other files than {expected}",
                    record.id
                ))),
            };
        }
        let expected = build::image_of(&self.transfer, self.status.attempt)?;
        // An attempt may go on with the image that an earlier one began.
        let ours =
            record.id.backup == expected.backup && (1..=expected.attempt.0).contains(&record.id.attempt.0);
        match ours {
            true => Ok(image),
            false => Err(internal(format!("it is {}, not {expected}", record.id))),
        }
    }

    /// The pod ended without a word. It may have spoken after we read the transfer: that is looked up first.
    async fn lost(&mut self, how: String) -> Result<Step, Failure> {
        let now = self
            .ctx()
            .installed::<VolumeTransfer>()
            .get(&self.transfer.name_any())
            .await?;
        let report = now
            .status
            .and_then(|status| status.mover)
            .filter(|r| r.attempt == self.status.attempt);
        if report.is_some_and(|report| report.outcome.is_some()) {
            return Ok(Step::Stay(Duration::ZERO));
        }
        self.attempt_failed(&Failure::passing(reasons::TRANSFER_FAILED, how))
            .await
    }

    /// The next attempt, or the end. The number of the next attempt is stored before anything of it is made.
    async fn attempt_failed(&mut self, failure: &Failure) -> Result<Step, Failure> {
        let attempt = self.status.attempt;
        if !failure.retryable || attempt >= MAX_ATTEMPTS {
            let text = if failure.retryable {
                format!("given up after {attempt} attempts: {}", failure.message)
            } else {
                failure.message.clone()
            };
            return Err(Failure::lasting(failure.reason, text));
        }
        let text = format!(
            "attempt {attempt} of {MAX_ATTEMPTS} failed: {}; trying again",
            failure.message
        );
        self.ctx()
            .events
            .warning(&self.transfer, failure.reason, &text)
            .await;
        self.note(reasons::IN_PROGRESS, &text);
        self.keep_restored().await?;
        self.status.attempt += 1;
        self.status.node = None;
        Ok(Step::Stay(Duration::ZERO))
    }

    /// Remembers how far the attempt in force has restored the claim: the next one goes on from there.
    async fn keep_restored(&mut self) -> Result<(), Failure> {
        let bytes = self.report().map_or(0, |report| report.bytes_durable);
        if self.transfer.spec.direction != Direction::Restore || bytes == 0 {
            return Ok(());
        }
        let claims = self.ctx().installed::<PersistentVolumeClaim>();
        let claim = claims.get_opt(&self.names.claim()).await?;
        self.status.restored = claim
            .and_then(|claim| claim.uid())
            .map(|claim_uid| Restored { claim_uid, bytes });
        Ok(())
    }

    /// Whether a full image is the way out.
    fn chain_is_the_trouble(&self, reason: Option<&str>) -> bool {
        let backup = self.transfer.spec.direction == Direction::Backup;
        backup && matches!(reason, Some(NEEDS_FULL | reasons::DAMAGED))
    }

    /// Goes on with a full image, and says why. The spec is changed first: killed in between, the next leader finds it
    /// changed and goes on to the next attempt.
    async fn take_full(&mut self, failure: &Failure) -> Result<Step, Failure> {
        if self.transfer.spec.chain.is_some() {
            let patch = json!({"spec": {"chain": null, "fullReason": failure.message}});
            let api = self.ctx().installed::<VolumeTransfer>();
            let name = self.transfer.name_any();
            self.transfer = api
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await?;
        }
        self.attempt_failed(&Failure {
            retryable: true,
            ..failure.clone()
        })
        .await
    }

    /// The result is stored: everything temporary may go.
    async fn finish(&mut self) -> Result<Step, Failure> {
        self.remove_temporaries().await?;
        self.sweep_target().await;
        Ok(Step::Enter(TransferStage::Succeeded))
    }
}

/// Whether the Job has ended, well or not.
fn is_over(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| matches!(c.type_.as_str(), "Failed" | "Complete") && c.status == "True")
}

/// A reason that a mover reports, as one of the reasons that conditions may have.
fn known_reason(reported: Option<&str>) -> &'static str {
    const KNOWN: [&str; 13] = [
        reasons::WRONG_CREDENTIALS,
        reasons::BUCKET_MISSING,
        reasons::UNREACHABLE,
        reasons::UNTRUSTED_CERTIFICATE,
        reasons::TARGET_FULL,
        reasons::TARGET_ERROR,
        reasons::NOT_FOUND,
        reasons::CONFLICT,
        reasons::DAMAGED,
        reasons::PROVISION_FAILED,
        reasons::VOLUME_UNREADABLE,
        reasons::CANCELED,
        reasons::INTERNAL,
    ];
    KNOWN
        .into_iter()
        .find(|known| reported == Some(known))
        .unwrap_or(reasons::TRANSFER_FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_over_when_a_condition_says_so() {
        let job = |kind: &str, status: &str| -> Job {
            serde_json::from_value(json!({"status": {"conditions": [{"type": kind, "status": status}]}}))
                .unwrap()
        };
        assert!(is_over(&job("Failed", "True")) && is_over(&job("Complete", "True")));
        // FailureTarget says that it will be over, while its pods still end.
        assert!(!is_over(&job("FailureTarget", "True")) && !is_over(&job("Failed", "False")));
        assert!(!is_over(&Job::default()));
    }

    #[test]
    fn only_known_reasons_reach_a_condition() {
        assert_eq!(known_reason(Some("TargetFull")), reasons::TARGET_FULL);
        assert_eq!(known_reason(Some("anything")), reasons::TRANSFER_FAILED);
        assert_eq!(known_reason(None), reasons::TRANSFER_FAILED);
    }
}
