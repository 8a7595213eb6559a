//! Validate, Plan, Primitives: everything that can be refused is refused here, before any data moves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::restore::ObjectPlan;
use holdfast_crd::Target as TargetResource;
use holdfast_crd::names::{annotations, conditions, reasons};
use holdfast_crd::restore::ObjectCounts;
use holdfast_crd::status::{MAX_PROBLEMS, MAX_VOLUMES, Problem};
use holdfast_crd::{BackupPlan, ObjectRef, PhaseState, RestorePhase, RestoreStatus};
use holdfast_k8s::{Access, set_condition};
use holdfast_repository::keys::Identity;
use holdfast_repository::point::CommitObject;
use holdfast_target::Target;
use holdfast_target::layout::{Location, VolumeHome};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, PostParams};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};

use super::planned::{self, Planned, Terms};
use super::point::Point;
use super::preflight::Verdict;
use super::report::{self, Entry};
use super::source::{self, Address};
use super::writer::Writer;
use super::{Run, point, volumes};
use crate::failure::Failure;
use crate::{encryption, phases};

/// A label that the API server sets itself.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Run<'_> {
    pub(super) async fn prepare(&self, mut status: RestoreStatus) -> Result<Action, Failure> {
        if status.phase.is_none() {
            status.start_timestamp = Some(Time(Timestamp::now()));
            status.attempt = 1;
            self.enter(&mut status, RestorePhase::Validate);
            self.save(&status).await?;
        }
        let destination = self.destination();
        let address = source::resolve(self.ctx, self.restore).await?;
        let (mut point, secret) = self.validate(&address, &destination).await?;
        status.encryption_secret = secret;
        status.location = Some(address.location.to_string());
        status.target = Some(address.target);
        status.restore_namespace = Some(destination.clone());
        phases::end(&mut status.phases, RestorePhase::Validate, PhaseState::Completed);
        self.enter(&mut status, RestorePhase::Plan);

        let plan = self.plan_of(&mut point).await?;
        let writer = self.writer(&destination)?;
        let exists = self.ctx_namespace(&destination).await?.is_some();
        if exists {
            self.refuse_problems(&mut status, &writer, &plan).await?;
        }
        status.volumes = volumes::expected(&self.uid(), &point.manifest.volumes);
        status.objects = Some(ObjectCounts {
            planned: plan.objects.len() as u64,
            ..ObjectCounts::default()
        });
        phases::end(&mut status.phases, RestorePhase::Plan, PhaseState::Completed);
        self.enter(&mut status, RestorePhase::Primitives);
        set_condition(
            &mut status.conditions,
            conditions::ACCEPTED,
            true,
            reasons::VALID,
            "",
            self.generation(),
        );
        status.created_namespace = !exists || self.made_by_us(&destination).await?;
        self.save(&status).await?;

        if !exists {
            self.create_namespace(&destination, &point.manifest.namespace)
                .await?;
            self.refuse_problems(&mut status, &writer, &plan).await?;
        }
        self.define(&mut status, &writer, &plan.objects).await?;
        phases::end(
            &mut status.phases,
            RestorePhase::Primitives,
            PhaseState::Completed,
        );
        let next = if status.volumes.is_empty() {
            phases::end(&mut status.phases, RestorePhase::Volumes, PhaseState::Skipped);
            RestorePhase::Objects
        } else {
            RestorePhase::Volumes
        };
        self.enter(&mut status, next);
        self.save(&status).await?;
        Ok(Action::requeue(Duration::ZERO))
    }

    /// Everything that can be known without writing: target, right, point, rights on claims, storage classes.
    async fn validate(
        &self,
        address: &Address,
        destination: &str,
    ) -> Result<(Point, Option<ObjectRef>), Failure> {
        if self
            .restore
            .spec
            .requester
            .as_ref()
            .is_none_or(|r| r.user.is_empty())
        {
            let text = "admission did not record who asked for this restore: install the webhooks, then create it again";
            return Err(Failure::lasting(reasons::FORBIDDEN, text));
        }
        let own = self.restore.namespace().unwrap_or_default();
        if destination != own && own != self.ctx.install_namespace {
            let text = format!(
                "only a restore in {} may name another namespace",
                self.ctx.install_namespace
            );
            return Err(Failure::lasting(reasons::NOT_ALLOWED, text));
        }
        let target = self.ctx.targets.resource(&address.target, &own).await?;
        source::check_allowed(&target, &own, &self.ctx.install_namespace)?;
        let store = self.ctx.targets.open(&target).await?;
        let found = point::commit_object(store.as_ref(), &address.location).await?;
        let secret = self.key_secret(&address.location, &found).await?;
        let identity = self.identity(secret.as_ref()).await?;
        let (manifest, _) =
            point::manifest(store.as_ref(), found, &address.location, identity.as_ref()).await?;
        source::check_right(self.ctx, self.restore, &target, &manifest).await?;
        if manifest.volumes.len() > MAX_VOLUMES {
            let text = format!(
                "the point has {} volumes, more than {MAX_VOLUMES}",
                manifest.volumes.len()
            );
            return Err(Failure::lasting(reasons::INVALID_SPEC, text));
        }
        volumes::check_names(&manifest.volumes)?;
        if destination != own
            && self.ctx_namespace(destination).await?.is_some()
            && !self.made_by_us(destination).await?
        {
            let text = format!("namespace {destination} exists; a restore into another namespace creates it");
            return Err(Failure::lasting(reasons::CONFLICT, text));
        }
        if !manifest.volumes.is_empty() {
            self.check_claim_right(destination).await?;
            volumes::check(self.ctx, &self.uid(), destination, &manifest.volumes).await?;
        }
        let point = point::load(store.as_ref(), &address.location, identity.as_ref()).await?;
        Ok((point, secret))
    }

    /// The Secret that opens the point: the one the Restore names, or that of the point's plan if it is here still and the
    /// requester may read it. None for a point in clear.
    async fn key_secret(
        &self,
        location: &Location,
        found: &CommitObject,
    ) -> Result<Option<ObjectRef>, Failure> {
        let own = self.restore.namespace().unwrap_or_default();
        if let Some(encryption) = &self.restore.spec.encryption {
            return encryption::secret_of(encryption, &own).map(Some);
        }
        if found.key().is_none() {
            return Ok(None);
        }
        let missing = |why: &str| {
            let text = format!(
                "the point {location} is encrypted, and {why}; put the plan's key or a recovery key into a Secret in \
                 namespace {own} and name it in spec.encryption.encryptionSecret"
            );
            Failure::lasting(reasons::KEY_MISSING, text)
        };
        let plans = self
            .ctx
            .cluster_wide::<BackupPlan>()
            .list(&ListParams::default())
            .await?;
        let plan = plans
            .items
            .into_iter()
            .find(|p| p.uid().as_deref() == Some(location.plan.as_str()));
        let (Some(plan), true) = (plan, location.cluster.as_str() == self.ctx.cluster_uid) else {
            return Err(missing("its plan is not in this cluster"));
        };
        let namespace = plan.namespace().unwrap_or_default();
        let Some(encryption) = &plan.spec.encryption else {
            return Err(missing("its plan names no key any more"));
        };
        let secret = encryption::secret_of(encryption, &namespace)?;
        let requester = self.restore.spec.requester.clone().unwrap_or_default();
        let access = Access::new("get", "", "secrets")
            .in_namespace(&namespace)
            .named(&secret.name);
        let review = holdfast_k8s::review(&self.ctx.client.clone(), &requester, &access).await?;
        if !review.allowed {
            let user = &requester.user;
            return Err(missing(&format!("{user} may not read the Secret of its plan")));
        }
        Ok(Some(secret))
    }

    /// What opens the point.
    async fn identity(&self, secret: Option<&ObjectRef>) -> Result<Option<Identity>, Failure> {
        let Some(secret) = secret else { return Ok(None) };
        let identity = encryption::identity(self.ctx, secret).await?;
        if matches!(identity, Identity::Recovery(_)) {
            let text = "the point is opened with a recovery key, so nothing but the rights on the target proves who made it";
            self.ctx
                .events
                .warning(self.restore, reasons::KEY_MISSING, text)
                .await;
        }
        Ok(Some(identity))
    }

    /// The operator creates claims itself, so it must ask whether the requester could.
    async fn check_claim_right(&self, namespace: &str) -> Result<(), Failure> {
        let requester = self.restore.spec.requester.clone().unwrap_or_default();
        let access = Access::new("create", "", "persistentvolumeclaims").in_namespace(namespace);
        if holdfast_k8s::review(&self.ctx.client.clone(), &requester, &access)
            .await?
            .allowed
        {
            return Ok(());
        }
        let text = format!(
            "{} may not create persistentvolumeclaims in namespace {namespace}",
            requester.user
        );
        Err(Failure::lasting(reasons::FORBIDDEN, text))
    }

    /// A client that acts as the requester.
    pub(super) fn client(&self) -> Result<kube::Client, Failure> {
        let requester = self.restore.spec.requester.clone().unwrap_or_default();
        let client = self.ctx.cluster.client_as(&requester);
        client.map_err(|e| {
            Failure::lasting(
                reasons::INTERNAL,
                format!("cannot act as {}: {e}", requester.user),
            )
        })
    }

    /// The objects of a point, planned for the destination. What the Targets of that namespace sign in with stays as it
    /// is: it must be there for the restore to run at all, and it may have been rotated since. So do the keys of its plans
    /// and of this restore.
    pub(super) async fn plan_of(&self, point: &mut Point) -> Result<Planned, Failure> {
        let destination = self.destination();
        let targets: Api<TargetResource> = Api::namespaced(self.ctx.client.clone(), &destination);
        let mut in_use = BTreeSet::new();
        for target in targets.list(&ListParams::default()).await?.items {
            let Some(store) = target.spec.object_store_credentials else {
                continue;
            };
            in_use.insert(("Secret", store.credential_secret.name));
            in_use.extend(
                store
                    .ssl_cert_config
                    .map(|c| ("ConfigMap", c.cert_config_map.name)),
            );
        }
        let plans: Api<BackupPlan> = Api::namespaced(self.ctx.client.clone(), &destination);
        let plans = plans.list(&ListParams::default()).await?.items;
        let keys = plans.into_iter().filter_map(|plan| plan.spec.encryption);
        let own = self.restore.spec.encryption.clone();
        in_use.extend(keys.chain(own).map(|key| ("Secret", key.encryption_secret.name)));
        let terms = Terms {
            destination,
            run_uid: self.uid(),
            in_use,
        };
        let objects = std::mem::take(&mut point.objects);
        let volumes = point.manifest.volumes.clone();
        tokio::task::spawn_blocking(move || planned::plan(objects, &volumes, &terms))
            .await
            .map_err(|e| {
                Failure::passing(
                    reasons::INTERNAL,
                    format!("planning the objects was interrupted: {e}"),
                )
            })?
    }

    pub(super) fn writer(&self, destination: &str) -> Result<Writer, Failure> {
        let client = self.client()?;
        Ok(Writer::new(
            client,
            self.ctx.client.clone(),
            destination,
            &self.uid(),
        ))
    }

    /// Asks the API server what it would say; one refusal stops the run before anything is written.
    async fn refuse_problems(
        &self,
        status: &mut RestoreStatus,
        writer: &Writer,
        plan: &Planned,
    ) -> Result<(), Failure> {
        let mut problems = Vec::new();
        let mut verdicts = writer.preflight_claims(&plan.claims_to_ask()).await;
        verdicts.extend(writer.preflight(&plan.objects).await);
        for (key, verdict) in verdicts {
            let (reason, message) = match verdict {
                Verdict::Free | Verdict::Same | Verdict::Unknown => continue,
                Verdict::Exists => (
                    reasons::CONFLICT,
                    "an object of this name exists already".to_owned(),
                ),
                Verdict::Refused(reason, message) => (reason, message),
                Verdict::NoKind => (
                    reasons::APPLY_FAILED,
                    format!("the cluster has no kind {}", key.kind),
                ),
            };
            problems.push(Problem {
                object: key.to_string(),
                reason: reason.to_owned(),
                message: report::brief(&message),
            });
        }
        let Some(first) = problems.first() else {
            return Ok(());
        };
        let reason = [reasons::FORBIDDEN, reasons::CONFLICT]
            .into_iter()
            .find(|r| problems.iter().any(|p| p.reason == *r))
            .unwrap_or(reasons::APPLY_FAILED);
        let first = problems.iter().find(|p| p.reason == reason).unwrap_or(first);
        let text = format!(
            "{} of {} objects cannot be restored, nothing was written; first: {}: {}",
            problems.len(),
            plan.len(),
            first.object,
            first.message
        );
        problems.truncate(MAX_PROBLEMS);
        status.problems = problems;
        self.save(status).await?;
        Err(Failure::lasting(reason, text))
    }

    pub(super) async fn ctx_namespace(&self, name: &str) -> Result<Option<Namespace>, Failure> {
        Ok(Api::<Namespace>::all(self.ctx.client.clone())
            .get_opt(name)
            .await?)
    }

    pub(super) async fn made_by_us(&self, namespace: &str) -> Result<bool, Failure> {
        let found = self.ctx_namespace(namespace).await?;
        Ok(found.is_some_and(|n| n.annotations().get(annotations::RESTORED_BY) == Some(&self.uid())))
    }

    /// Creates the namespace as the requester, with the labels and annotations it had.
    async fn create_namespace(
        &self,
        name: &str,
        record: &holdfast_target::layout::NamespaceRecord,
    ) -> Result<(), Failure> {
        let requester = self.restore.spec.requester.clone().unwrap_or_default();
        let client = self.client()?;
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        let mut labels = record.labels.clone();
        labels.remove(NAME_LABEL);
        let mut marks = record.annotations.clone();
        marks.insert(annotations::RESTORED_BY.to_owned(), self.uid());
        namespace.metadata.labels = Some(labels);
        namespace.metadata.annotations = Some(marks);
        let created = Api::<Namespace>::all(client)
            .create(&PostParams::default(), &namespace)
            .await;
        match created {
            Ok(_) => Ok(()),
            Err(error) if holdfast_k8s::is_already_exists(&error) && self.made_by_us(name).await? => Ok(()),
            Err(error) => {
                Err(Failure::from(error).during(&format!("creating namespace {name} as {}", requester.user)))
            }
        }
    }

    async fn define(
        &self,
        status: &mut RestoreStatus,
        writer: &Writer,
        plan: &ObjectPlan,
    ) -> Result<(), Failure> {
        let mut entries: Vec<Entry> = Vec::new();
        for definition in &plan.definitions {
            entries.push(writer.define(definition).await);
        }
        let problems = report::problems(&entries);
        let Some(first) = problems.first() else {
            return Ok(());
        };
        let text = format!("{}: {}", first.object, first.message);
        let reason = if first.reason == reasons::FORBIDDEN {
            reasons::FORBIDDEN
        } else {
            reasons::APPLY_FAILED
        };
        status.problems = problems;
        self.save(status).await?;
        Err(Failure::lasting(reason, text))
    }

    /// Creates the transfers of these claims.
    pub(super) async fn create_transfers(
        &self,
        status: &mut RestoreStatus,
        claims: &[String],
    ) -> Result<(), Failure> {
        let (mut point, target) = self.point(status).await?;
        let homes: Vec<VolumeHome> = point.manifest.volumes.iter().map(|v| v.home.clone()).collect();
        self.say_reading(status, &homes).await;
        let destination = self.destination();
        let mut plan = self.plan_of(&mut point).await?;
        let order = volumes::Order {
            ctx: self.ctx,
            restore: self.restore,
            target: &target,
            secret: status.encryption_secret.as_ref(),
            namespace: &destination,
        };
        let api = Api::namespaced(self.ctx.client.clone(), &self.ctx.install_namespace);
        for volume in point
            .manifest
            .volumes
            .iter()
            .filter(|v| claims.contains(&v.claim))
        {
            let Some(claim) = plan.claims.remove(&volume.claim) else {
                continue;
            };
            let transfer = order.transfer(volume, claim).await?;
            holdfast_k8s::create_or_get(&api, &transfer).await?;
        }
        Ok(())
    }

    /// The target of this reference, open.
    pub(super) async fn store(&self, target: &ObjectRef) -> Result<Arc<dyn Target>, Failure> {
        let resource = self
            .ctx
            .targets
            .resource(target, &self.restore.namespace().unwrap_or_default())
            .await?;
        self.ctx.targets.open(&resource).await
    }

    /// The point this run restores, as its status records it.
    pub(super) async fn point(&self, status: &RestoreStatus) -> Result<(Point, ObjectRef), Failure> {
        let target = status.target.clone().unwrap_or_default();
        let location = status.location.clone().unwrap_or_default();
        let location = location
            .parse()
            .map_err(|e| Failure::lasting(reasons::INTERNAL, format!("status.location: {e}")))?;
        let store = self.store(&target).await?;
        let identity = match &status.encryption_secret {
            Some(secret) => Some(encryption::identity(self.ctx, secret).await?),
            None => None,
        };
        let point = point::load(store.as_ref(), &location, identity.as_ref()).await?;
        Ok((point, target))
    }
}
