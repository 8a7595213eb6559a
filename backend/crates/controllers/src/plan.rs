//! BackupPlan: can it run, and how well is it doing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use holdfast_core::spec::target_allows;
use holdfast_crd::names::{conditions, reasons};
use holdfast_crd::{Backup, BackupPlan, BackupPlanStatus, ObjectRef as Reference, Target};
use holdfast_k8s::{Truth, condition, is_true, set_condition, update_status};
use kube::api::ListParams;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{controller, watcher};
use kube::{Api, ResourceExt};

use crate::Context;
use crate::contain::contained;
use crate::failure::Failure;
use crate::{encryption, locks, spec_check};

/// Kind, for logs and metrics.
const KIND: &str = "BackupPlan";
/// Changes of a run's progress arrive in bursts; a plan looks once for all of them.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Pause after a failure that may pass.
const RETRY: Duration = Duration::from_secs(3);
/// How soon a plan notices that the key in its Secret was exchanged.
const KEY_CHECK: Duration = Duration::from_secs(30);
/// Plans looked at at the same time.
const CONCURRENCY: u16 = 8;

/// Runs the controller until the process shuts down.
pub(crate) async fn run(ctx: Arc<Context>) {
    let controller = Controller::new(ctx.cluster_wide::<BackupPlan>(), watcher::Config::default());
    let seen = controller.store();
    let config = controller::Config::default()
        .concurrency(CONCURRENCY)
        .debounce(DEBOUNCE);
    controller
        .with_config(config)
        .watches(
            ctx.cluster_wide::<Backup>(),
            watcher::Config::default(),
            |backup| {
                let namespace = backup.namespace()?;
                Some(ObjectRef::new(&backup.spec.backup_plan.name).within(&namespace))
            },
        )
        .watches(
            ctx.cluster_wide::<Target>(),
            watcher::Config::default(),
            move |target| users(&seen, &target),
        )
        .graceful_shutdown_on(ctx.stopped())
        .run(reconcile, on_error, ctx)
        .for_each(|_| async {})
        .await;
}

fn users(plans: &Store<BackupPlan>, target: &Target) -> Vec<ObjectRef<BackupPlan>> {
    let uses = |plan: &Arc<BackupPlan>| {
        let reference = &plan.spec.backup_config.target;
        let home = reference.namespace.clone().or_else(|| plan.namespace());
        reference.name == target.name_any() && home == target.namespace()
    };
    plans
        .state()
        .iter()
        .filter(|p| uses(p))
        .map(|p| ObjectRef::from_obj(&**p))
        .collect()
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the signature that Controller::run asks for"
)]
fn on_error(plan: Arc<BackupPlan>, failure: &Failure, ctx: Arc<Context>) -> Action {
    ctx.metrics.failed(KIND, failure.reason);
    tracing::warn!(plan.name = %plan.name_any(), reason = failure.reason, error = %failure, "will try again");
    Action::requeue(RETRY)
}

async fn reconcile(plan: Arc<BackupPlan>, ctx: Arc<Context>) -> Result<Action, Failure> {
    let started = Instant::now();
    let look = async {
        look(&plan, &ctx).await?;
        // Secrets are not watched: there may be very many that have nothing to do with us.
        Ok(match plan.spec.encryption {
            Some(_) => Action::requeue(KEY_CHECK),
            None => Action::await_change(),
        })
    };
    let result = contained(KIND, &plan.name_any(), look).await;
    ctx.metrics.reconciled(KIND, started.elapsed());
    result
}

async fn look(plan: &BackupPlan, ctx: &Context) -> Result<(), Failure> {
    let namespace = plan.namespace().unwrap_or_default();
    if plan.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let verdict = match check(ctx, plan).await {
        Err(failure) if failure.retryable && failure.reason != reasons::IN_PROGRESS => return Err(failure),
        other => other,
    };
    let backups = ctx
        .namespaced::<Backup>(&namespace)
        .list(&ListParams::default())
        .await?
        .items;
    let name = plan.name_any();
    let own: Vec<&Backup> = backups
        .iter()
        .filter(|b| b.spec.backup_plan.name == name)
        .collect();
    let api: Api<BackupPlan> = ctx.namespaced(&namespace);
    let Some(current) = api.get_opt(&name).await? else {
        return Ok(());
    };
    let old = current.status.clone().unwrap_or_default();
    let new = next_status(&old, plan.metadata.generation, &verdict, &own);
    if let Some(time) = newest(&own, is_complete).and_then(completed) {
        ctx.metrics.plan_succeeded(&namespace, &name, time.as_second());
    }
    let reason =
        |s: &BackupPlanStatus| condition(&s.conditions, conditions::ACCEPTED).map(|c| c.reason.clone());
    let changed = reason(&old) != reason(&new);
    update_status(&api, &current, &old, &new).await?;
    if let (true, Err(failure)) = (changed, &verdict)
        && !failure.retryable
    {
        ctx.events.warning(plan, failure.reason, &failure.message).await;
    }
    Ok(())
}

/// Whether the plan can run, and the public half of the key it encrypts with.
async fn check(ctx: &Context, plan: &BackupPlan) -> Result<Option<String>, Failure> {
    let target = usable_target(ctx, plan).await?;
    let store = ctx.targets.open(&target).await?;
    locks::terms(plan, &target, &*store).await?;
    encryption::follow(ctx, plan, &*store).await
}

/// The plan's target, if the plan can run on it now.
///
/// # Errors
/// Lasting with `InvalidSpec`, `NotFound`, `NotAllowed` or `TargetNotReady`; passing with `InProgress` while the target
/// has not been probed yet.
pub(crate) async fn usable_target(ctx: &Context, plan: &BackupPlan) -> Result<Target, Failure> {
    spec_check::check_spec(ctx, plan).await?;
    let namespace = plan.namespace().unwrap_or_default();
    let reference = &plan.spec.backup_config.target;
    let target = ctx.targets.resource(reference, &namespace).await?;
    let home = target.namespace().unwrap_or_default();
    let address = format!("{home}/{}", target.name_any());
    if !target_allows(&home, &target.spec.allowed_namespaces, &namespace) {
        let text = format!(
            "the Target {address} may not be used from namespace {namespace}; add it to the target's \
             spec.allowedNamespaces"
        );
        return Err(Failure::lasting(reasons::NOT_ALLOWED, text));
    }
    let status = target.status.clone().unwrap_or_default();
    match condition(&status.conditions, conditions::ACCEPTED) {
        Some(accepted) if accepted.observed_generation == target.metadata.generation => {
            if accepted.status == "True" {
                return Ok(target);
            }
            let text = format!(
                "the Target {address} is not usable ({}): {}",
                accepted.reason, accepted.message
            );
            Err(Failure::lasting(reasons::TARGET_NOT_READY, text))
        }
        _ => Err(Failure::passing(
            reasons::IN_PROGRESS,
            format!("the Target {address} has not been probed yet"),
        )),
    }
}

fn next_status(
    old: &BackupPlanStatus,
    generation: Option<i64>,
    verdict: &Result<Option<String>, Failure>,
    backups: &[&Backup],
) -> BackupPlanStatus {
    let mut new = old.clone();
    new.observed_generation = generation;
    let (good, reason, message) = match verdict {
        Ok(_) => (Truth::True, reasons::VALID, "the plan can run"),
        // The target has not been probed yet: the next look is when it has.
        Err(failure) if failure.retryable => (Truth::Unknown, failure.reason, failure.message.as_str()),
        Err(failure) => (Truth::False, failure.reason, failure.message.as_str()),
    };
    let bad = if good == Truth::False {
        Truth::True
    } else {
        Truth::False
    };
    for (kind, truth) in [
        (conditions::ACCEPTED, good),
        (conditions::COMPLETE, good),
        (conditions::FAILED, bad),
    ] {
        set_condition(&mut new.conditions, kind, truth, reason, message, generation);
    }
    let name = |b: &Backup| Reference {
        name: b.name_any(),
        namespace: None,
    };
    // Kept when the encryption is taken out of the plan: what was stored until then still is under that key.
    if let Ok(Some(recipient)) = verdict {
        new.encryption_recipient = Some(recipient.clone());
    }
    new.points = Some(backups.iter().filter(|b| is_complete(b)).count() as u64);
    new.last_successful_backup = newest(backups, is_complete).map(name);
    new.latest_backup = newest(backups, |_| true).map(name);
    new
}

fn newest<'a>(backups: &[&'a Backup], test: impl Fn(&Backup) -> bool) -> Option<&'a Backup> {
    let of_interest = backups.iter().copied().filter(|b| test(b));
    of_interest.max_by_key(|b| (b.creation_timestamp().map(|t| t.0), b.name_any()))
}

fn is_complete(backup: &Backup) -> bool {
    backup
        .status
        .as_ref()
        .is_some_and(|s| is_true(&s.conditions, conditions::COMPLETE))
}

fn completed(backup: &Backup) -> Option<jiff::Timestamp> {
    Some(backup.status.as_ref()?.completion_timestamp.as_ref()?.0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn backup(name: &str, created: &str, complete: bool) -> Backup {
        let condition = json!({"type": "Complete", "status": if complete { "True" } else { "False" }, "reason": "r",
            "message": "", "lastTransitionTime": created});
        let value: Value = json!({"apiVersion": "holdfast.dev/v1", "kind": "Backup",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"type": "Full", "backupPlan": {"name": "p"}}, "status": {"conditions": [condition]}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_last_good_point_is_not_the_latest_run() {
        let all = [
            backup("a", "2026-01-01T00:00:00Z", true),
            backup("b", "2026-01-02T00:00:00Z", true),
            backup("c", "2026-01-03T00:00:00Z", false),
        ];
        let all: Vec<&Backup> = all.iter().collect();
        let status = next_status(&BackupPlanStatus::default(), Some(1), &Ok(None), &all);
        assert_eq!(status.points, Some(2));
        assert_eq!(status.last_successful_backup.unwrap().name, "b");
        assert_eq!(status.latest_backup.unwrap().name, "c");
        assert!(is_true(&status.conditions, conditions::ACCEPTED));
    }
}
