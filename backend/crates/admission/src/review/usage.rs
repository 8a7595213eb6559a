//! Who uses a target or a plan: what is used cannot be moved or removed.

use holdfast_crd::names::conditions;
use holdfast_crd::{Backup, BackupPlan, ObjectRef, Restore, SourceType, TargetSpec};
use holdfast_k8s::is_true;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{Refusal, Request, Reviewer, change};

/// Users named in a refusal; more are counted.
const NAMED: usize = 10;

impl Reviewer {
    /// A target that plans use stays where it is.
    pub(super) async fn check_target_change(
        &self,
        request: &Request,
        old: &TargetSpec,
        new: &TargetSpec,
    ) -> Result<(), Refusal> {
        let moved = change::moved(old, new);
        if moved.is_empty() {
            return Ok(());
        }
        let address = format!(
            "{}/{}",
            request.namespace.as_deref().unwrap_or_default(),
            request.name
        );
        let users = self.users_of_target(&address).await?;
        if users.is_empty() {
            return Ok(());
        }
        Err(Refusal::forbidden(format!(
            "{}: Target {address} cannot move while it is used by {}; create another Target for the other place",
            moved.join(", "),
            named(&users)
        )))
    }

    pub(super) async fn check_target_unused(&self, namespace: &str, name: &str) -> Result<(), Refusal> {
        let address = format!("{namespace}/{name}");
        let users = self.users_of_target(&address).await?;
        if users.is_empty() {
            return Ok(());
        }
        Err(Refusal::forbidden(format!(
            "Target {address} is used by {}; delete these plans or let these runs end first (the data on the target \
             stays in any case)",
            named(&users)
        )))
    }

    pub(super) async fn check_plan_unused(&self, namespace: &str, name: &str) -> Result<(), Refusal> {
        let address = format!("{namespace}/{name}");
        let backups: Api<Backup> = Api::namespaced(self.client.clone(), namespace);
        let mut users: Vec<String> = Vec::new();
        for backup in backups.list(&ListParams::default()).await? {
            if backup.spec.backup_plan.name == name && !ended(backup.status.as_ref().map(|s| &s.conditions)) {
                users.push(format!("Backup {namespace}/{}", backup.name_any()));
            }
        }
        let restores: Api<Restore> = Api::all(self.client.clone());
        for restore in restores.list(&ListParams::default()).await? {
            let own = restore.namespace().unwrap_or_default();
            let plan = restore
                .spec
                .source
                .backup_plan
                .as_ref()
                .map(|p| change::resolved(p, &own));
            if plan.as_ref() == Some(&address) && !ended(restore.status.as_ref().map(|s| &s.conditions)) {
                users.push(format!("Restore {own}/{}", restore.name_any()));
            }
        }
        if users.is_empty() {
            return Ok(());
        }
        Err(Refusal::forbidden(format!(
            "BackupPlan {address} is used by {}; let these runs end or cancel them first",
            named(&users)
        )))
    }

    /// Plans that write to a target, and runs that are reading or writing it.
    async fn users_of_target(&self, address: &str) -> Result<Vec<String>, Refusal> {
        let means = |reference: Option<&ObjectRef>, own: &str| {
            reference.is_some_and(|r| change::resolved(r, own) == address)
        };
        let mut users = Vec::new();
        let plans: Api<BackupPlan> = Api::all(self.client.clone());
        for plan in plans.list(&ListParams::default()).await? {
            let own = plan.namespace().unwrap_or_default();
            if plan.metadata.deletion_timestamp.is_none()
                && means(Some(&plan.spec.backup_config.target), &own)
            {
                users.push(format!("BackupPlan {own}/{}", plan.name_any()));
            }
        }
        let backups: Api<Backup> = Api::all(self.client.clone());
        for backup in backups.list(&ListParams::default()).await? {
            let own = backup.namespace().unwrap_or_default();
            let Some(status) = &backup.status else { continue };
            if means(status.target.as_ref(), &own) && !ended(Some(&status.conditions)) {
                users.push(format!("Backup {own}/{}", backup.name_any()));
            }
        }
        let restores: Api<Restore> = Api::all(self.client.clone());
        for restore in restores.list(&ListParams::default()).await? {
            let own = restore.namespace().unwrap_or_default();
            let by_location = restore.spec.source.source_type == SourceType::Location;
            let asked = restore.spec.source.target.as_ref().filter(|_| by_location);
            let resolved = restore.status.as_ref().and_then(|s| s.target.as_ref());
            let conditions = restore.status.as_ref().map(|s| &s.conditions);
            if (means(asked, &own) || means(resolved, &own)) && !ended(conditions) {
                users.push(format!("Restore {own}/{}", restore.name_any()));
            }
        }
        Ok(users)
    }
}

fn ended(found: Option<&Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>>) -> bool {
    found.is_some_and(|c| is_true(c, conditions::COMPLETE) || is_true(c, conditions::FAILED))
}

fn named(users: &[String]) -> String {
    let first = users.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match users.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_users_is_counted() {
        let users: Vec<String> = (0..12).map(|i| format!("BackupPlan a/{i}")).collect();
        assert!(named(&users).ends_with("BackupPlan a/9 and 2 more"));
        assert_eq!(named(&users[..2]), "BackupPlan a/0, BackupPlan a/1");
    }
}
