//! Points: verified when somebody asks, and marked by what was found.

use std::collections::BTreeSet;

use holdfast_crd::names::{conditions, labels, reasons};
use holdfast_crd::{Backup, BackupPlan, BackupStatus, VerifiedVolume, VolumeVerification};
use holdfast_k8s::{is_conflict, is_true, set_condition, update_status};
use holdfast_mover::VerifyScope;
use holdfast_repository::chain::ChainFile;
use holdfast_target::layout::{FileStem, ImageId, Location};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::Request;
use super::record::{Seen, harm};
use crate::failure::Failure;
use crate::restore::point;
use crate::{Context, encryption};

/// Begins what people ask for by a label.
pub(super) async fn asked(ctx: &Context) -> Result<(), Failure> {
    let marked = ListParams::default().labels(labels::VERIFY);
    for backup in ctx.cluster_wide::<Backup>().list(&marked).await?.items {
        match begin(ctx, &backup).await {
            // The store may be there again when we look next.
            Err(failure) if failure.retryable => {
                tracing::warn!(backup.name = %backup.name_any(), error = %failure, "not verified yet");
            }
            outcome => {
                match outcome {
                    Ok(Begun::Volumes) => {}
                    Ok(Begun::Everything(count)) => {
                        let text = format!("{count} objects verified; the point has no volumes");
                        judge(ctx, &backup, true, reasons::VERIFIED, &text).await?;
                    }
                    Err(failure) => {
                        let text = format!("not verified: {failure}");
                        ctx.events.warning(&backup, failure.reason, &text).await;
                        if failure.reason == reasons::DAMAGED {
                            judge(ctx, &backup, false, failure.reason, &failure.message).await?;
                        }
                    }
                }
                take_label(ctx, &backup).await?;
            }
        }
    }
    Ok(())
}

async fn take_label(ctx: &Context, backup: &Backup) -> Result<(), Failure> {
    let api = ctx.namespaced::<Backup>(&backup.namespace().unwrap_or_default());
    let patch = json!({"metadata": {
        "uid": backup.uid(), "labels": {labels::VERIFY: null},
    }});
    let params = PatchParams::default();
    match api
        .patch(&backup.name_any(), &params, &Patch::Merge(&patch))
        .await
    {
        // Changed meanwhile: the next look takes it.
        Err(error) if is_conflict(&error) => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

/// What is left to do when the point itself has been read.
enum Begun {
    /// Nothing: it has no volumes. So many objects were read.
    Everything(u64),
    /// Movers look at its volumes.
    Volumes,
}

async fn begin(ctx: &Context, backup: &Backup) -> Result<Begun, Failure> {
    let invalid = |text: String| Failure::lasting(reasons::INVALID_SPEC, text);
    let asked = backup
        .labels()
        .get(labels::VERIFY)
        .map(String::as_str)
        .unwrap_or_default();
    let scope = match asked {
        "quick" => VerifyScope::Quick,
        "full" => VerifyScope::Full {
            from: None,
            budget: None,
        },
        other => {
            let text = format!(
                "the label {} is {other:?}; it may be quick or full",
                labels::VERIFY
            );
            return Err(invalid(text));
        }
    };
    let status = backup.status.clone().unwrap_or_default();
    if !is_true(&status.conditions, conditions::COMPLETE) {
        return Err(invalid("the backup is not complete".to_owned()));
    }
    let location = status
        .location
        .as_deref()
        .and_then(|text| text.parse::<Location>().ok());
    let location = location.ok_or_else(|| invalid("the backup has no location".to_owned()))?;
    let namespace = backup.namespace().unwrap_or_default();
    let plans = ctx.namespaced::<BackupPlan>(&namespace);
    let plan = plans.get_opt(&backup.spec.backup_plan.name).await?;
    let plan = plan.filter(|plan| plan.uid().as_deref() == Some(location.plan.as_str()));
    let plan = plan.ok_or_else(|| {
        let text = "its BackupPlan is gone; `holdfast verify` looks at the point without a cluster";
        Failure::lasting(reasons::NOT_FOUND, text)
    })?;
    let target = ctx
        .targets
        .resource(&plan.spec.backup_config.target, &namespace)
        .await?;
    let store = ctx.targets.open(&target).await?;
    let identity = match &plan.spec.encryption {
        Some(encryption) => {
            let secret = encryption::secret_of(encryption, &namespace)?;
            Some(encryption::identity(ctx, &secret).await?)
        }
        None => None,
    };
    // What a restore would do first: everything but the volumes is read and decoded.
    let point = point::load(&*store, &location, identity.as_ref()).await?;
    let uid = backup.uid().unwrap_or_default();
    for volume in &point.manifest.volumes {
        let request = Request {
            ctx,
            plan: &plan,
            home: &volume.home,
            claim: Some(&volume.claim),
            of: &uid,
        };
        request.begin(&volume.chain, identity.is_some(), &scope).await?;
    }
    match point.manifest.volumes.is_empty() {
        true => Ok(Begun::Everything(point.manifest.objects.count)),
        false => Ok(Begun::Volumes),
    }
}

/// Writes the verdict on a point as a whole.
async fn judge(ctx: &Context, backup: &Backup, good: bool, reason: &str, text: &str) -> Result<(), Failure> {
    let api = ctx.namespaced::<Backup>(&backup.namespace().unwrap_or_default());
    let current = api.get(&backup.name_any()).await?;
    let old = current.status.clone().unwrap_or_default();
    let mut new = old.clone();
    let generation = current.metadata.generation;
    set_condition(
        &mut new.conditions,
        conditions::VERIFIED,
        good,
        reason,
        text,
        generation,
    );
    update_status(&api, &current, &old, &new).await?;
    Ok(())
}

/// Writes into every Backup of the plan what is known of this volume now. `pass` is when the reading of all content began
/// that has come to its end.
pub(super) async fn mark(
    ctx: &Context,
    plan: &BackupPlan,
    seen: &Seen<'_>,
    file: &ChainFile,
    known: &VolumeVerification,
    pass: Option<Timestamp>,
) -> Result<(), Failure> {
    let api = ctx.namespaced::<Backup>(&plan.namespace().unwrap_or_default());
    for backup in api.list(&ListParams::default()).await?.items {
        let status = backup.status.clone().unwrap_or_default();
        let of_plan = status.plan_uid == plan.uid() && plan.uid().is_some();
        if !of_plan || !is_true(&status.conditions, conditions::COMPLETE) {
            continue;
        }
        let Some(point) = Point::of(&backup, file) else {
            continue;
        };
        let new = point.status(&status, seen, known, pass, backup.metadata.generation);
        match update_status(&api, &backup, &status, &new).await {
            // The next look writes it.
            Err(error) if is_conflict(&error) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// What a point needs of the volume.
struct Point {
    chain: Vec<String>,
    files: BTreeSet<FileStem>,
    begun: Option<Timestamp>,
    completed: Option<Timestamp>,
}

impl Point {
    fn of(backup: &Backup, file: &ChainFile) -> Option<Self> {
        let uid = backup.uid()?;
        // Every run writes an image of its own.
        let own = |id: &&ImageId| id.backup.as_str() == uid;
        let head = file.images.iter().map(|entry| &entry.id).find(own)?;
        let chain = file.chain_of(head)?;
        let files = chain
            .iter()
            .filter_map(|entry| Some(FileStem::of_file(&entry.files.first()?.key)?.0));
        let completed = backup
            .status
            .as_ref()
            .and_then(|status| status.completion_timestamp.as_ref());
        Some(Self {
            files: files.collect(),
            chain: chain.iter().map(|entry| entry.id.to_string()).collect(),
            begun: backup.creation_timestamp().map(|time| time.0),
            completed: completed.map(|time| time.0),
        })
    }

    fn status(
        &self,
        old: &BackupStatus,
        seen: &Seen<'_>,
        known: &VolumeVerification,
        pass: Option<Timestamp>,
        generation: Option<i64>,
    ) -> BackupStatus {
        let mut new = old.clone();
        let at = new
            .verification
            .iter()
            .position(|volume| volume.claim == known.claim);
        let at = at.unwrap_or_else(|| {
            new.verification.push(VerifiedVolume {
                claim: known.claim.clone(),
                ..VerifiedVolume::default()
            });
            new.verification.len() - 1
        });
        let volume = &mut new.verification[at];
        let looked = self.files.is_subset(seen.looked);
        if looked {
            volume.checked_at = Some(Time(seen.now));
        }
        // What was stored while the pass was under way may lie behind it.
        let passed = pass.is_some_and(|begun| self.completed.is_some_and(|completed| completed <= begun));
        if looked && (seen.is_whole() || passed) {
            volume.content_checked_at = Some(Time(seen.now));
        }
        let harm = harm(&known.damage, &self.chain, self.begun);
        volume.damage = harm.map(|harm| harm.what.clone());
        conclude(&mut new, generation);
        new
    }
}

/// The condition that follows from all volumes.
fn conclude(status: &mut BackupStatus, generation: Option<i64>) {
    let volumes = &status.verification;
    let bad: Vec<String> = volumes
        .iter()
        .filter_map(|volume| Some(format!("claim {}: {}", volume.claim, volume.damage.as_ref()?)))
        .collect();
    let (good, reason, text) = match bad.is_empty() {
        true => {
            let all_read = volumes.iter().all(|volume| volume.content_checked_at.is_some());
            let how = match all_read {
                true => "objects, tables, indexes and all content",
                false => "objects, tables and indexes; not all content has been read",
            };
            let checked = volumes
                .iter()
                .filter(|volume| volume.checked_at.is_some())
                .count();
            if checked == 0 {
                return;
            }
            let noun = if checked == 1 { "volume" } else { "volumes" };
            let missing = status.volumes.len().saturating_sub(checked);
            if missing > 0 {
                // Of some volumes nothing is known yet.
                return;
            }
            (
                true,
                reasons::VERIFIED,
                format!("{checked} {noun} verified: {how}"),
            )
        }
        false => {
            let text = format!(
                "{}; other points may be whole: see their condition Verified. The next backup stores again what is damaged",
                bad.join("; ")
            );
            (false, reasons::DAMAGED, text)
        }
    };
    let all = &mut status.conditions;
    set_condition(all, conditions::VERIFIED, good, reason, &text, generation);
}
