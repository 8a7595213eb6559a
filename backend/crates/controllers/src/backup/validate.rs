//! Validate and CaptureMetadata: everything that can be refused is refused here, before anything is made.

use std::sync::Arc;

use holdfast_crd::names::{conditions, reasons};
use holdfast_crd::status::{MAX_PROBLEMS, MAX_VOLUMES};
use holdfast_crd::{BackupPhase, BackupPlan, ObjectRef, Requester, VolumeProgress};
use holdfast_k8s::{Access, set_condition};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use super::volumes::{Survey, survey};
use super::{Run, Step, Stop, capture, transfers, uid};
use crate::failure::Failure;
use crate::{encryption, locks, plan, spec_check};

impl Run {
    /// Phase Validate.
    pub(super) async fn validate(&mut self) -> Result<Step, Stop> {
        spec_check::check_spec(self.ctx(), &self.backup).await?;
        let plan = self.plan().await?;
        self.check_namespace().await?;
        let target = plan::usable_target(self.ctx(), &plan).await?;
        self.check_requester().await?;
        let store = self.ctx().targets.open(&target).await?;
        self.status.lock_terms = locks::terms(&plan, &target, &*store).await?;
        encryption::follow(self.ctx(), &plan, &*store).await?;
        let survey = survey(self.ctx(), &self.namespace(), &plan).await?;
        self.refuse_unreadable(&survey)?;
        self.resolve(&plan, &target, survey)?;
        let generation = self.backup.metadata.generation;
        let text = "plan, target, rights and volumes were checked";
        set_condition(
            &mut self.status.conditions,
            conditions::ACCEPTED,
            true,
            reasons::VALID,
            text,
            generation,
        );
        Ok(Step::Next(BackupPhase::CaptureMetadata))
    }

    async fn check_namespace(&self) -> Result<(), Failure> {
        let name = self.namespace();
        let namespace = self.ctx().cluster_wide::<Namespace>().get(&name).await?;
        if namespace.metadata.deletion_timestamp.is_some() {
            let text =
                format!("namespace {name} is being deleted: what is left of it is not a whole application");
            return Err(Failure::lasting(reasons::NOT_ALLOWED, text));
        }
        Ok(())
    }

    /// A backup shows every Secret to whoever may restore it: who asks must be able to read them anyway.
    async fn check_requester(&self) -> Result<(), Failure> {
        let requester = self.requester()?;
        let namespace = self.namespace();
        let needed = [
            ("get", "secrets"),
            ("list", "secrets"),
            ("list", "persistentvolumeclaims"),
        ];
        for (verb, resource) in needed {
            let access = Access::new(verb, "", resource).in_namespace(&namespace);
            if !holdfast_k8s::review(&self.ctx().client, requester, &access)
                .await?
                .allowed
            {
                let text = format!(
                    "{} may not {verb} {resource} in namespace {namespace}, which a backup of it shows; ask for a Role \
                     with this right",
                    requester.user
                );
                return Err(Failure::lasting(reasons::FORBIDDEN, text));
            }
        }
        Ok(())
    }

    fn requester(&self) -> Result<&Requester, Failure> {
        let recorded = self.backup.spec.requester.as_ref().filter(|r| !r.user.is_empty());
        recorded.ok_or_else(|| {
            let text = "spec.requester is empty: the resource was created past the admission of Holdfast; delete it \
                        and create it again while the operator is ready";
            Failure::lasting(reasons::INVALID_SPEC, text)
        })
    }

    fn refuse_unreadable(&mut self, survey: &Survey) -> Result<(), Failure> {
        self.status.problems = survey.problems.iter().take(MAX_PROBLEMS).cloned().collect();
        if let Some(first) = survey.problems.first() {
            let more = match survey.problems.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more, see status.problems)"),
            };
            let reason = match first.reason.as_str() {
                reasons::SNAPSHOT_CLASS_MISSING => reasons::SNAPSHOT_CLASS_MISSING,
                _ => reasons::VOLUME_UNREADABLE,
            };
            return Err(Failure::lasting(reason, format!("{}{more}", first.message)));
        }
        if survey.volumes.len() > MAX_VOLUMES {
            let text = format!(
                "the namespace has {} volumes, at most {MAX_VOLUMES} are backed up",
                survey.volumes.len()
            );
            return Err(Failure::lasting(reasons::VOLUME_UNREADABLE, text));
        }
        Ok(())
    }

    /// Writes down what the rest of the run goes by.
    fn resolve(
        &mut self,
        plan: &BackupPlan,
        target: &holdfast_crd::Target,
        survey: Survey,
    ) -> Result<(), Failure> {
        let plan_uid = plan.uid().unwrap_or_default();
        uid(&plan_uid)?;
        self.status.plan_uid = Some(plan_uid);
        self.status.target = Some(ObjectRef {
            name: target.name_any(),
            namespace: target.namespace(),
        });
        self.status.encryption_secret = match &plan.spec.encryption {
            Some(encryption) => Some(encryption::secret_of(encryption, &self.namespace())?),
            None => None,
        };
        self.status.attempt = self.status.attempt.max(1);
        self.note_volumes(&survey);
        if !survey.empty.is_empty() {
            tracing::info!(
                backup.namespace = self.namespace(), backup.name = %self.backup.name_any(), claims = ?survey.empty,
                "claims that were never bound hold no data; their objects are stored"
            );
        }
        self.status.excluded_claims = survey.excluded;
        Ok(())
    }

    /// One progress record per volume; they also say which transfers belong to the run.
    pub(super) fn note_volumes(&mut self, survey: &Survey) {
        let run = self.uid();
        let record = |v: &super::volumes::Volume| VolumeProgress {
            claim: v.claim.clone(),
            transfer: transfers::name(&run, &v.claim),
            stage: "Pending".to_owned(),
            bytes_total: v.spec.capacity,
            ..VolumeProgress::default()
        };
        self.status.volumes = survey.volumes.iter().map(record).collect();
    }

    /// Phase CaptureMetadata.
    pub(super) async fn capture(&mut self) -> Result<Step, Stop> {
        let plan = self.plan().await?;
        let exclude = plan.spec.exclude_resources.as_ref();
        let captured = capture::capture(self.ctx(), &self.namespace(), exclude).await?;
        self.refuse_clear_secrets(&plan, &captured.secrets)?;
        // A key that cannot be made is told before anything is cut.
        self.seal().await?;
        self.status.objects = Some(captured.count);
        self.machine.captured().insert(self.uid(), Arc::new(captured));
        Ok(Step::Next(BackupPhase::SnapshotVolumes))
    }

    /// Secrets are never stored in clear unless a person said so.
    pub(super) fn refuse_clear_secrets(&self, plan: &BackupPlan, secrets: &[String]) -> Result<(), Failure> {
        let (Some(first), false, None) = (
            secrets.first(),
            plan.spec.store_secrets_unencrypted,
            &self.status.encryption_secret,
        ) else {
            return Ok(());
        };
        let more = match secrets.len() - 1 {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let text = format!(
            "the Secret {first}{more} would be stored in clear on the target: give the plan a key (spec.encryption), leave \
             Secrets out (spec.excludeResources), or allow it (spec.storeSecretsUnencrypted)"
        );
        Err(Failure::lasting(reasons::SECRETS_IN_CLEAR, text))
    }
}
