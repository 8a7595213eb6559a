//! kill -9 at any point leaves either the old state or the new.

use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use crate::app::{self, Volumes, backup_manifest, location};
use crate::cluster::{Cluster, Fault, INSTALLED, until};

/// Kills every process of the pods of a role at once, as kill -9 does: no grace.
pub(crate) async fn kill(cluster: &Cluster, role: &str) -> Result<usize> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), INSTALLED);
    let list = pods
        .list(&ListParams::default().labels(&format!("holdfast.dev/role={role}")))
        .await?;
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    for pod in &list.items {
        drop(pods.delete(&pod.name_any(), &now).await);
    }
    Ok(list.items.len())
}

/// Waits for a phase, or for the end if the run was faster.
pub(crate) async fn reached(
    cluster: &Cluster,
    kind: &str,
    namespace: &str,
    name: &str,
    phase: &str,
) -> Result<()> {
    until(
        &format!("{kind} {name} to reach {phase}"),
        Duration::from_secs(90),
        || async {
            let object = cluster.ours(kind, namespace).get(name).await?;
            let phases = object
                .data
                .pointer("/status/phases")
                .and_then(|p| p.as_array())
                .cloned()
                .unwrap_or_default();
            Ok(phases.iter().any(|p| p["phase"] == phase).then_some(()))
        },
    )
    .await
}

/// Waits until a run has ended, either way; true when it is Complete.
pub(crate) async fn ended(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> Result<bool> {
    until(
        &format!("{kind} {name} to end"),
        Duration::from_secs(240),
        || async {
            let object = cluster.ours(kind, namespace).get(name).await?;
            let conditions = object
                .data
                .pointer("/status/conditions")
                .and_then(|c| c.as_array())
                .cloned()
                .unwrap_or_default();
            let is = |t: &str| conditions.iter().any(|c| c["type"] == t && c["status"] == "True");
            Ok(if is("Complete") {
                Some(true)
            } else {
                is("Failed").then_some(false)
            })
        },
    )
    .await
}

#[tokio::test]
async fn the_operator_is_killed_in_every_phase_of_a_backup_and_a_restore() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("kill").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "x").await?;
    app::vault(&cluster).await?;
    // Slow enough that a kill lands inside the phase.
    let _fault = Fault::set(
        &cluster,
        &json!({"createSnapshot": {"delayMs": 1500}, "nodePublishVolume": {"delayMs": 1500}}),
    )?;
    let mut last = None;
    for phase in [
        "Validate",
        "CaptureMetadata",
        "SnapshotVolumes",
        "UploadVolumes",
        "Commit",
        "CleanUp",
    ] {
        let name = format!("b-{}", phase.to_lowercase());
        cluster
            .create(backup_manifest(&namespace, &name, "Incremental"))
            .await?;
        reached(&cluster, "Backup", &namespace, &name, phase).await?;
        if kill(&cluster, "operator").await? == 0 {
            bail!("no operator to kill in {phase}");
        }
        let complete = ended(&cluster, "Backup", &namespace, &name).await?;
        cluster.nothing_left().await?;
        let status = cluster.ours("Backup", &namespace).get(&name).await?.data["status"].clone();
        assert!(
            complete,
            "{phase}: the backup did not survive the operator: {status:#}"
        );
        last = Some(location(&status));
    }
    let before = app::checksums(&cluster, &namespace, &pod).await?;
    let point = last.expect("at least one phase");
    for phase in ["Validate", "Primitives", "Volumes", "Objects", "CleanUp"] {
        let into = format!("{namespace}-{}", phase.to_lowercase());
        cluster
            .create(app::restore_manifest(&into, &point, &into))
            .await?;
        reached(&cluster, "Restore", INSTALLED, &into, phase).await?;
        kill(&cluster, "operator").await?;
        let complete = ended(&cluster, "Restore", INSTALLED, &into).await?;
        let status = cluster.ours("Restore", INSTALLED).get(&into).await?.data["status"].clone();
        assert!(
            complete,
            "{phase}: the restore did not survive the operator: {status:#}"
        );
        let pod = app::running(&cluster, &into).await?;
        assert_eq!(app::checksums(&cluster, &into, &pod).await?, before, "{phase}");
        cluster.nothing_left().await?;
        cluster.delete_namespace(&into).await?;
    }
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn movers_are_killed_and_the_run_goes_on() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("kill").await?;
    let pod = app::deploy(
        &cluster,
        &namespace,
        Volumes {
            size: "512Mi",
            ..Volumes::SMALL
        },
    )
    .await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "x").await?;
    cluster
        .exec(
            &namespace,
            &pod,
            "head -c 400000000 /dev/urandom > /dev/raw; sync",
        )
        .await?;
    cluster.create(backup_manifest(&namespace, "b", "Full")).await?;
    mover_killed(&cluster).await?;
    assert!(
        ended(&cluster, "Backup", &namespace, "b").await?,
        "the backup did not survive its mover"
    );
    cluster.nothing_left().await?;
    let status = cluster.ours("Backup", &namespace).get("b").await?.data["status"].clone();
    let before = app::checksums(&cluster, &namespace, &pod).await?;
    let into = format!("{namespace}-copy");
    app::vault(&cluster).await?;
    cluster
        .create(app::restore_manifest(&into, &location(&status), &into))
        .await?;
    mover_killed(&cluster).await?;
    assert!(
        ended(&cluster, "Restore", INSTALLED, &into).await?,
        "the restore did not survive its mover"
    );
    let pod = app::running(&cluster, &into).await?;
    assert_eq!(app::checksums(&cluster, &into, &pod).await?, before);
    cluster.nothing_left().await?;
    cluster.delete_namespace(&into).await?;
    cluster.delete_namespace(&namespace).await
}

/// Waits for a running mover and kills it.
async fn mover_killed(cluster: &Cluster) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), INSTALLED);
    until("a running mover", Duration::from_secs(60), || async {
        let list = pods
            .list(&ListParams::default().labels("holdfast.dev/role=datamover"))
            .await?;
        let running = |p: &&Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        Ok(list.items.iter().any(|p| running(&p)).then_some(()))
    })
    .await?;
    if kill(cluster, "datamover").await? == 0 {
        bail!("the mover was faster than its killer");
    }
    Ok(())
}
