//! Whose points a person may restore.

use holdfast_crd::names::GROUP;
use holdfast_crd::{Backup, BackupPlan, ObjectRef, Requester, RestoreSpec, SourceType};
use holdfast_k8s::Access;
use kube::Api;

use super::{Refusal, Reviewer};

impl Reviewer {
    /// A source in another namespace, or a point of another cluster, needs the verb `restore` on its Target. A location
    /// of this cluster may be the namespace's own point, which only its commit object tells: the run checks that.
    pub(super) async fn check_restore(
        &self,
        spec: &RestoreSpec,
        namespace: &str,
        requester: &Requester,
    ) -> Result<(), Refusal> {
        let source = &spec.source;
        match source.source_type {
            SourceType::Backup => match foreign(source.backup.as_ref(), namespace) {
                Some((home, name)) => self.check_foreign_backup(home, name, requester).await,
                None => Ok(()),
            },
            SourceType::BackupPlan => match foreign(source.backup_plan.as_ref(), namespace) {
                Some((home, name)) => self.check_foreign_plan(home, name, requester).await,
                None => Ok(()),
            },
            SourceType::Location => self.check_location(spec, namespace, requester).await,
        }
    }

    async fn check_location(
        &self,
        spec: &RestoreSpec,
        namespace: &str,
        requester: &Requester,
    ) -> Result<(), Refusal> {
        let Some(target) = &spec.source.target else {
            return Ok(());
        };
        if namespace != self.install_namespace {
            self.check_target_use(target, namespace).await?;
        }
        let location = spec.source.location.as_deref().unwrap_or_default();
        let own_cluster = location.split('/').next() == Some(self.cluster_uid().await?);
        if own_cluster && spec.restore_namespace.is_none() {
            return Ok(());
        }
        let home = target.namespace.as_deref().unwrap_or(namespace);
        self.need_restore(home, &target.name, requester).await
    }

    async fn check_foreign_backup(
        &self,
        home: &str,
        name: &str,
        requester: &Requester,
    ) -> Result<(), Refusal> {
        let api: Api<Backup> = Api::namespaced(self.client.clone(), home);
        let found = api.get_opt(name).await?;
        let target = found.and_then(|b| b.status).and_then(|s| s.target);
        let Some(target) = target else {
            return self
                .hide_or_name("backups", "Backup", home, name, requester)
                .await;
        };
        self.need_restore(
            target.namespace.as_deref().unwrap_or(home),
            &target.name,
            requester,
        )
        .await
    }

    async fn check_foreign_plan(&self, home: &str, name: &str, requester: &Requester) -> Result<(), Refusal> {
        let api: Api<BackupPlan> = Api::namespaced(self.client.clone(), home);
        let Some(plan) = api.get_opt(name).await? else {
            return self
                .hide_or_name("backupplans", "BackupPlan", home, name, requester)
                .await;
        };
        let target = plan.spec.backup_config.target;
        self.need_restore(
            target.namespace.as_deref().unwrap_or(home),
            &target.name,
            requester,
        )
        .await
    }

    /// Says that something is not there, or no point yet, to those who may know; the others learn nothing.
    async fn hide_or_name(
        &self,
        resource: &str,
        kind: &str,
        home: &str,
        name: &str,
        requester: &Requester,
    ) -> Result<(), Refusal> {
        let access = Access::new("get", GROUP, resource).in_namespace(home).named(name);
        if holdfast_k8s::review(&self.client, requester, &access)
            .await?
            .allowed
        {
            let text = format!("spec.source: {kind} {home}/{name} does not exist or has no point yet");
            return Err(Refusal::invalid(text));
        }
        Err(Refusal::forbidden(format!(
            "{} may not restore from {kind} {home}/{name}: points of another namespace need the verb \"restore\" on \
             targets.{GROUP}",
            requester.user
        )))
    }

    async fn need_restore(&self, home: &str, target: &str, requester: &Requester) -> Result<(), Refusal> {
        let access = Access::new("restore", GROUP, "targets")
            .in_namespace(home)
            .named(target);
        if holdfast_k8s::review(&self.client, requester, &access)
            .await?
            .allowed
        {
            return Ok(());
        }
        Err(Refusal::forbidden(format!(
            "{} may not restore points of other namespaces or clusters from Target {home}/{target}: this needs the verb \
             \"restore\" on targets.{GROUP}; ask whoever administers {home} for a Role with it",
            requester.user
        )))
    }
}

/// Namespace and name of a reference that leaves `namespace`.
fn foreign<'a>(reference: Option<&'a ObjectRef>, namespace: &str) -> Option<(&'a str, &'a str)> {
    let reference = reference?;
    let home = reference.namespace.as_deref()?;
    (home != namespace).then_some((home, reference.name.as_str()))
}
