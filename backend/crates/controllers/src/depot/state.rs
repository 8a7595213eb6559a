//! Whether a depot runs, and what it waits for.

use std::time::{Duration, Instant};

use holdfast_crd::names::{labels, reasons};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::ListParams;

use super::{Folder, Source};
use crate::failure::Failure;
use crate::transfer::pods;
use crate::{Context, mounting};

/// Pause between two looks at a depot that is waited for.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether the claim can be mounted as a folder at all.
pub(super) async fn check_claim(ctx: &Context, folder: &Folder) -> Result<(), Failure> {
    let name = folder.claim();
    let claim = ctx.installed::<PersistentVolumeClaim>().get_opt(&name).await?;
    let namespace = &ctx.install_namespace;
    let Some(claim) = claim else {
        let text = format!(
            "there is no PersistentVolumeClaim {name} in namespace {namespace}; create it with volumeMode Filesystem"
        );
        return Err(Failure::lasting(reasons::NOT_FOUND, text));
    };
    if claim.metadata.deletion_timestamp.is_some() {
        let text = format!("the PersistentVolumeClaim {name} in namespace {namespace} is being deleted");
        return Err(Failure::lasting(reasons::NOT_FOUND, text));
    }
    let spec = claim.spec.unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        let text = format!(
            "the PersistentVolumeClaim {name} in namespace {namespace} is a raw device (volumeMode Block); a target is a \
             folder: name a claim with volumeMode Filesystem"
        );
        return Err(Failure::lasting(reasons::INVALID_SPEC, text));
    }
    if claim.status.and_then(|status| status.phase).as_deref() == Some("Lost") {
        let text = format!(
            "the volume of the PersistentVolumeClaim {name} in namespace {namespace} is gone (phase Lost); bring the \
             PersistentVolume back or name another claim"
        );
        return Err(Failure::lasting(reasons::NOT_FOUND, text));
    }
    Ok(())
}

/// Succeeds when the pod of the manifest in force serves, and says since when; waits up to `patience` for it.
pub(super) async fn ready(
    ctx: &Context,
    folder: &Folder,
    patience: Duration,
) -> Result<Option<Timestamp>, Failure> {
    let begun = Instant::now();
    loop {
        let deployment = ctx.installed::<Deployment>().get_opt(&folder.depot()).await?;
        if let Some(deployment) = deployment.filter(serves) {
            return Ok(since(&deployment));
        }
        if begun.elapsed() >= patience {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let why = match problem(ctx, folder).await? {
        Some(why) => why,
        None => "its pod is starting".to_owned(),
    };
    let text = format!("the depot that opens the {folder} does not run yet: {why}");
    Err(Failure::passing(reasons::DEPOT_NOT_READY, text))
}

fn serves(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(1)
        && status.replicas == Some(1)
        && status.available_replicas == Some(1)
}

/// When the depot became available last.
fn since(deployment: &Deployment) -> Option<Timestamp> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let available = conditions
        .iter()
        .find(|condition| condition.type_ == "Available")?;
    available.last_transition_time.as_ref().map(|time| time.0)
}

/// What the depot waits for, as far as anybody says.
async fn problem(ctx: &Context, folder: &Folder) -> Result<Option<String>, Failure> {
    if let Some(why) = unbound(ctx, folder).await? {
        return Ok(Some(why));
    }
    let of_depot = ListParams::default().labels(&format!(
        "{}={},{}={}",
        labels::TARGET,
        folder.uid,
        labels::ROLE,
        super::ROLE
    ));
    for pod in ctx.installed::<Pod>().list(&of_depot).await?.items {
        if pod.metadata.deletion_timestamp.is_some() || is_ready(&pod) {
            continue;
        }
        if let Some(why) = pods::problem(&pod) {
            return Ok(Some(why));
        }
        if let Some(why) = mounting::problem(ctx, &pod.name_any()).await? {
            return Ok(Some(format!("{why}{}", advice(folder))));
        }
    }
    Ok(None)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn advice(folder: &Folder) -> &'static str {
    match folder.source {
        Source::Nfs { .. } => {
            "; check that the server exports the path to every node, that nodes have an NFS client, and nfsOptions"
        }
        Source::Claim { .. } => "",
    }
}

/// Why the claim is not bound: its provisioner says so in Events.
async fn unbound(ctx: &Context, folder: &Folder) -> Result<Option<String>, Failure> {
    let name = folder.claim();
    let claim = ctx.installed::<PersistentVolumeClaim>().get_opt(&name).await?;
    let phase = claim.and_then(|claim| claim.status?.phase);
    if phase.as_deref() != Some("Pending") {
        return Ok(None);
    }
    let about = ListParams::default().fields(&format!(
        "involvedObject.kind=PersistentVolumeClaim,involvedObject.name={name}"
    ));
    let events = ctx.installed::<Event>().list(&about).await?.items;
    let told = events
        .into_iter()
        .filter(|event| event.type_.as_deref() == Some("Warning"))
        .max_by_key(|event| event.last_timestamp.clone())
        .and_then(|event| event.message);
    Ok(told.map(|why| format!("the PersistentVolumeClaim {name} is not bound: {why}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_depot_serves_when_the_pod_in_force_is_available() {
        let deployment = |status| -> Deployment {
            serde_json::from_value(json!({"metadata": {"generation": 2}, "status": status})).unwrap()
        };
        let good =
            json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1});
        assert!(serves(&deployment(good.clone())));
        for (field, value) in [
            ("observedGeneration", 1),
            ("replicas", 2),
            ("updatedReplicas", 0),
            ("availableReplicas", 0),
        ] {
            let mut bad = good.clone();
            bad[field] = json!(value);
            assert!(!serves(&deployment(bad)), "{field}");
        }
    }
}
