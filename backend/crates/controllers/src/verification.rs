//! Verification: looks whether what lies on a target is still what was written there.
//!
//! Each plan's volumes are looked at in turn, as its `spec.verification` says, and a point when somebody puts the label
//! [`labels::VERIFY`] on its Backup. A mover pod does the work for each volume; what it found is remembered in the plan's
//! status, and every Backup that uses something damaged says so in its condition `Verified`. The next backup stores
//! damaged clusters again, or takes a full image.

mod point;
mod record;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_core::quantity;
use holdfast_crd::names::{conditions, reasons};
use holdfast_crd::{
    BackupPlan, BackupPlanStatus, Direction, ImageDamage, TransferStage, Verification, VolumeTransfer,
    VolumeVerification,
};
use holdfast_k8s::{create_or_get, hashed, is_conflict, is_true, update_status};
use holdfast_mover::{VerifyReport, VerifyScope};
use holdfast_repository::chain::{self, Entry};
use holdfast_repository::{RepositoryError, point as points};
use holdfast_target::layout::{FileStem, ImageRecord, VolumeHome};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::ListParams;

use self::record::Seen;
pub(crate) use self::record::{Remedy, remedy};
use crate::failure::Failure;
use crate::upkeep::{self, Work};
use crate::{Context, encryption, sweep};

/// Pause between two looks at verifications that are under way or asked for.
const TICK: Duration = Duration::from_secs(5);
/// Pause between two looks at which plans are due.
const DUE: Duration = Duration::from_secs(60);
/// Most bytes of image records that one transfer is given: a resource has room for little more.
const MAX_RECORDS: usize = 700 << 10;
/// Times that a status which somebody else changed is written again.
const RIVALS: usize = 5;

/// Runs until the process shuts down.
pub(crate) async fn run(ctx: Arc<Context>) {
    let mut looked: Option<Instant> = None;
    loop {
        let all = looked.is_none_or(|looked| looked.elapsed() >= DUE);
        if all {
            looked = Some(Instant::now());
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = look(&ctx, all) => {}
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// What is known to be damaged of a volume.
pub(crate) fn damage_of(plan: &BackupPlan, home: &VolumeHome) -> Vec<ImageDamage> {
    let known = plan
        .status
        .as_ref()
        .and_then(|status| status.verification.as_ref());
    let volume = known.and_then(|known| known.volumes.iter().find(|v| v.home == home.to_string()));
    volume.map(|volume| volume.damage.clone()).unwrap_or_default()
}

async fn look(ctx: &Context, all: bool) {
    match upkeep::all(ctx, Direction::Verify).await {
        Ok(transfers) => {
            for transfer in transfers.iter().filter(|transfer| upkeep::is_over(transfer)) {
                if let Err(error) = fold(ctx, transfer).await {
                    tracing::warn!(transfer.name = %transfer.name_any(), %error, "verification not recorded yet");
                }
            }
        }
        Err(error) => tracing::warn!(%error, "verifications not listed"),
    }
    if let Err(error) = point::asked(ctx).await {
        tracing::warn!(%error, "points to verify not listed");
    }
    if !all {
        return;
    }
    let plans = match ctx
        .cluster_wide::<BackupPlan>()
        .list(&ListParams::default())
        .await
    {
        Ok(plans) => plans.items,
        Err(error) => return tracing::warn!(%error, "plans not listed"),
    };
    let now = Timestamp::now();
    for plan in plans.iter().filter(|plan| is_due(plan, now)) {
        if let Err(failure) = begin(ctx, plan).await {
            let (namespace, name) = (plan.namespace(), plan.name_any());
            tracing::warn!(plan.namespace = namespace, plan.name = %name, error = %failure, "plan not verified");
            ctx.events
                .warning(plan, failure.reason, &format!("not verified: {failure}"))
                .await;
        }
    }
}

/// Whether the time for a look at all volumes has come. A plan that has stored nothing has nothing to look at.
fn is_due(plan: &BackupPlan, now: Timestamp) -> bool {
    let config = plan.spec.verification.clone().unwrap_or_default();
    let hours = config.every_hours.unwrap_or(Verification::EVERY_HOURS);
    let status = plan.status.clone().unwrap_or_default();
    let usable = is_true(&status.conditions, conditions::ACCEPTED) && status.points.unwrap_or(0) > 0;
    let begun = status
        .verification
        .and_then(|known| known.begun_at)
        .map(|time| time.0);
    let since = begun.or(plan.creation_timestamp().map(|time| time.0));
    let past = since.map(|since| now.duration_since(since));
    usable && hours > 0 && past.is_some_and(|past| past >= SignedDuration::from_hours(hours.into()))
}

/// Begins a look at every volume of a plan.
async fn begin(ctx: &Context, plan: &BackupPlan) -> Result<(), Failure> {
    // First of all: a plan that cannot be looked at is tried again when it is due again, not every minute.
    change(ctx, plan, |status| {
        status.verification.get_or_insert_default().begun_at = Some(Time(Timestamp::now()));
    })
    .await?;
    let namespace = plan.namespace().unwrap_or_default();
    let target = ctx
        .targets
        .resource(&plan.spec.backup_config.target, &namespace)
        .await?;
    let store = ctx.targets.open(&target).await?;
    let (cluster, id) = (sweep::own_cluster(ctx)?, sweep::uid_of(plan)?);
    for home in points::homes(&*store, &cluster, &id).await? {
        let known = plan
            .status
            .as_ref()
            .and_then(|status| status.verification.as_ref());
        let known = known.and_then(|known| known.volumes.iter().find(|v| v.home == home.to_string()));
        let scope = scope_of(plan, known)?;
        let chain = chain::newest(&*store, &home).await?;
        let Some(file) = chain.file else { continue };
        let entries: Vec<&Entry> = file.images.iter().collect();
        let request = Request {
            ctx,
            plan,
            home: &home,
            claim: None,
            of: "",
        };
        let ring = encryption::chain_ring(ctx, plan, &*store, &home, &file).await?;
        let records: Result<Vec<ImageRecord>, RepositoryError> = entries
            .iter()
            .map(|entry| entry.open(&home, ring.as_ref()))
            .collect();
        let (records, sealed) = (records?, ring.is_some());
        if !records.is_empty() {
            request.begin(&records, sealed, &scope).await?;
        }
    }
    Ok(())
}

/// How much the next look at a volume reads.
fn scope_of(plan: &BackupPlan, known: Option<&VolumeVerification>) -> Result<VerifyScope, Failure> {
    let config = plan.spec.verification.clone().unwrap_or_default();
    let Some(budget) = &config.content_budget else {
        return Ok(VerifyScope::Quick);
    };
    let bytes = quantity::bytes(budget).ok_or_else(|| {
        let text = format!("spec.verification.contentBudget {budget:?} is no quantity of bytes such as 20Gi");
        Failure::lasting(reasons::INVALID_SPEC, text)
    })?;
    let position = known.and_then(|known| known.position.clone());
    Ok(VerifyScope::Full {
        // One that does not read any more: from the beginning.
        from: position.and_then(|position| serde_json::from_value(position).ok()),
        budget: Some(bytes),
    })
}

/// A verification of images of one volume.
struct Request<'a> {
    ctx: &'a Context,
    plan: &'a BackupPlan,
    home: &'a VolumeHome,
    /// Name of the claim, where it is known.
    claim: Option<&'a str>,
    /// UID of the Backup whose point was asked for; empty for looks in turn.
    of: &'a str,
}

impl Request<'_> {
    async fn begin(&self, records: &[ImageRecord], sealed: bool, scope: &VerifyScope) -> Result<(), Failure> {
        let images = upkeep::encode(records)?;
        let size = images.to_string().len();
        if size > MAX_RECORDS {
            let text = format!(
                "volume {} has {} images, whose records take {size} bytes, more than one verification is given; verify \
                 points of it by the label {} on their Backups, or all of it with `holdfast verify`",
                self.home,
                records.len(),
                holdfast_crd::names::labels::VERIFY
            );
            return Err(Failure::lasting(reasons::INTERNAL, text));
        }
        let claim = match self.claim {
            Some(claim) => claim.to_owned(),
            None => upkeep::claim_name(self.ctx, self.plan, self.home).await?,
        };
        let work = Work {
            plan: self.plan,
            direction: Direction::Verify,
            home: self.home,
            claim,
            images: records,
            files: None,
            scope: Some(upkeep::encode(scope)?),
            sealed: sealed.then_some(None),
        };
        let name = hashed("hf", &["verify", &self.home.to_string(), self.of]);
        let transfer = work.transfer(self.ctx, &name)?;
        create_or_get(&self.ctx.installed::<VolumeTransfer>(), &transfer).await?;
        Ok(())
    }
}

/// Remembers what a verification found, and removes it.
async fn fold(ctx: &Context, transfer: &VolumeTransfer) -> Result<(), Failure> {
    let run = &transfer.spec.run;
    let plans = ctx.namespaced::<BackupPlan>(&run.namespace);
    let plan = plans.get_opt(&run.name).await?;
    if let Some(plan) = plan.filter(|plan| plan.uid().as_deref() == Some(run.uid.as_str())) {
        match report_of(transfer) {
            Ok(report) => remember(ctx, &plan, transfer, &report).await?,
            Err(failure) => {
                let text = format!("claim {} not verified: {failure}", transfer.spec.claim.name);
                ctx.events.warning(&plan, failure.reason, &text).await;
                tracing::warn!(plan.name = %plan.name_any(), reason = failure.reason, "{text}");
            }
        }
    }
    upkeep::remove(ctx, transfer).await
}

fn report_of(transfer: &VolumeTransfer) -> Result<VerifyReport, Failure> {
    let status = transfer.status.clone().unwrap_or_default();
    let failed = |text: String| Failure::lasting(reasons::TRANSFER_FAILED, text);
    match status.result.filter(|_| status.stage == TransferStage::Succeeded) {
        Some(report) => serde_json::from_value(report).map_err(|error| failed(error.to_string())),
        None => Err(failed(
            status.message.unwrap_or_else(|| "it was stopped".to_owned()),
        )),
    }
}

async fn remember(
    ctx: &Context,
    plan: &BackupPlan,
    transfer: &VolumeTransfer,
    report: &VerifyReport,
) -> Result<(), Failure> {
    let spec = &transfer.spec;
    let internal = |text: String| Failure::lasting(reasons::INTERNAL, text);
    let home: VolumeHome = spec
        .home
        .parse()
        .map_err(|error| internal(format!("spec.home: {error}")))?;
    let scope = serde_json::from_value(spec.scope.clone().unwrap_or_default());
    let scope: VerifyScope = scope.map_err(|error| internal(format!("spec.scope: {error}")))?;
    let images = serde_json::from_value(spec.chain.clone().unwrap_or_default());
    let images: Vec<ImageRecord> = images.map_err(|error| internal(format!("spec.chain: {error}")))?;
    let looked: BTreeSet<FileStem> = images.iter().filter_map(ImageRecord::stem).collect();
    let target = ctx.targets.resource(&spec.target, &ctx.install_namespace).await?;
    let store = ctx.targets.open(&target).await?;
    let file = chain::newest(&*store, &home).await?.file;
    let entries = file.iter().flat_map(|file| &file.images);
    let stem = |entry: &Entry| Some(FileStem::of_file(&entry.files.first()?.key)?.0);
    let current: BTreeSet<FileStem> = entries.filter_map(stem).collect();
    let begun = transfer
        .creation_timestamp()
        .map_or_else(Timestamp::now, |time| time.0);
    let of_all = hashed("hf", &["verify", &spec.home, ""]);
    let seen = Seen {
        report,
        scope: &scope,
        looked: &looked,
        current: &current,
        in_turn: transfer.name_any() == of_all,
        begun,
        now: Timestamp::now(),
    };
    let mut known = VolumeVerification::default();
    let mut pass = None;
    let plan = change(ctx, plan, |status| {
        let volumes = &mut status.verification.get_or_insert_default().volumes;
        let at = volumes.iter().position(|volume| volume.home == spec.home);
        let at = at.unwrap_or_else(|| {
            volumes.push(VolumeVerification {
                home: spec.home.clone(),
                ..VolumeVerification::default()
            });
            volumes.len() - 1
        });
        pass = seen.pass(&volumes[at]);
        volumes[at] = seen.record(&volumes[at]);
        // Of a claim that is gone only the UID is left, and its name may be known from before.
        if volumes[at].claim.is_empty() || spec.claim.name != spec.claim.uid {
            volumes[at].claim.clone_from(&spec.claim.name);
        }
        known = volumes[at].clone();
    })
    .await?;
    if !report.is_sound() {
        let text = format!(
            "verification found {} damaged objects or clusters of claim {}: {}",
            report.damaged,
            spec.claim.name,
            known
                .damage
                .first()
                .map(|damage| damage.what.as_str())
                .unwrap_or_default()
        );
        ctx.events.warning(&plan, reasons::DAMAGED, &text).await;
    }
    if let Some(file) = &file {
        point::mark(ctx, &plan, &seen, file, &known, pass).await?;
    }
    Ok(())
}

/// Changes a plan's status, again when somebody else did at the same time.
async fn change(
    ctx: &Context,
    plan: &BackupPlan,
    mut change: impl FnMut(&mut BackupPlanStatus),
) -> Result<BackupPlan, Failure> {
    let api = ctx.namespaced::<BackupPlan>(&plan.namespace().unwrap_or_default());
    for rival in 0.. {
        let current = api.get(&plan.name_any()).await?;
        let old = current.status.clone().unwrap_or_default();
        let mut new = old.clone();
        change(&mut new);
        match update_status(&api, &current, &old, &new).await {
            Ok(written) => return Ok(written.unwrap_or(current)),
            Err(error) if is_conflict(&error) && rival < RIVALS => {}
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the loop ends by returning")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plan(verification: &Value, begun: Option<&str>) -> BackupPlan {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1", "kind": "BackupPlan",
            "metadata": {"name": "p", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"backupConfig": {"target": {"name": "t"}}, "verification": verification},
            "status": {"points": 1, "verification": {"begunAt": begun}, "conditions": [{"type": "Accepted",
                "status": "True", "reason": "Valid", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_plan_is_due_when_its_time_has_passed_since_the_last_look() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let weekly = plan(&Value::Null, None);
        assert!(!is_due(&weekly, at("2026-01-07T23:59:59Z")));
        assert!(is_due(&weekly, at("2026-01-08T00:00:00Z")));
        let hourly = plan(&json!({"everyHours": 1}), Some("2026-01-03T00:00:00Z"));
        assert!(!is_due(&hourly, at("2026-01-03T00:59:59Z")));
        assert!(is_due(&hourly, at("2026-01-03T01:00:00Z")));
        assert!(!is_due(
            &plan(&json!({"everyHours": 0}), None),
            at("2030-01-01T00:00:00Z")
        ));
        let mut empty = weekly;
        empty.status.as_mut().unwrap().points = Some(0);
        assert!(!is_due(&empty, at("2030-01-01T00:00:00Z")));
    }

    #[test]
    fn content_is_read_within_the_budget_from_where_it_stopped() {
        let known = VolumeVerification {
            position: Some(json!({"files": "b-a1", "shard": 0, "cluster": 7})),
            ..VolumeVerification::default()
        };
        let some = plan(&json!({"contentBudget": "1Gi"}), None);
        let VerifyScope::Full { from, budget } = scope_of(&some, Some(&known)).unwrap() else {
            panic!("it reads content")
        };
        assert_eq!((from.unwrap().cluster, budget), (7, Some(1 << 30)));
        assert_eq!(
            scope_of(&plan(&Value::Null, None), Some(&known)).unwrap(),
            VerifyScope::Quick
        );
        let bad = scope_of(&plan(&json!({"contentBudget": "much"}), None), None).unwrap_err();
        assert!(bad.message.contains("contentBudget"));
    }
}
