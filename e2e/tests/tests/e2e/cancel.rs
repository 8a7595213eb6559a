//! `spec.cancel` works in every phase and leaves nothing behind.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::app::{self, Volumes, backup_manifest, cancel, location};
use crate::cluster::{Cluster, Fault, INSTALLED, told, until};

/// A canceled run is over within this time.
const PROMPT: Duration = Duration::from_secs(8);

async fn in_phase(cluster: &Cluster, kind: &str, namespace: &str, name: &str, phase: &str) -> Result<()> {
    until(
        &format!("{kind} {name} in {phase}"),
        Duration::from_secs(60),
        || async {
            let object = cluster.ours(kind, namespace).get(name).await?;
            Ok((object.data.pointer("/status/phase") == Some(&json!(phase))).then_some(()))
        },
    )
    .await
}

async fn stop(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> Result<()> {
    let asked = Instant::now();
    cancel(cluster, kind, namespace, name).await?;
    let status = cluster
        .wait(kind, namespace, name, "Failed", Duration::from_secs(60))
        .await?;
    assert_eq!(told(&status, "Failed").0, "Canceled", "{status:#}");
    assert!(asked.elapsed() <= PROMPT, "stopping took {:?}", asked.elapsed());
    cluster.nothing_left().await
}

#[tokio::test]
async fn a_backup_stops_while_snapshots_are_taken_and_while_data_moves() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("stop").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "x").await?;
    let matching = format!("namespace={namespace}");
    {
        let slow = json!({"createSnapshot": {"delayMs": 6000, "match": [matching]}});
        let _fault = Fault::set(&cluster, &slow)?;
        cluster
            .create(backup_manifest(&namespace, "in-snapshots", "Full"))
            .await?;
        in_phase(&cluster, "Backup", &namespace, "in-snapshots", "SnapshotVolumes").await?;
        stop(&cluster, "Backup", &namespace, "in-snapshots").await?;
    }
    {
        let slow = json!({"nodePublishVolume": {"delayMs": 20000}});
        let _fault = Fault::set(&cluster, &slow)?;
        cluster
            .create(backup_manifest(&namespace, "in-upload", "Full"))
            .await?;
        in_phase(&cluster, "Backup", &namespace, "in-upload", "UploadVolumes").await?;
        stop(&cluster, "Backup", &namespace, "in-upload").await?;
    }
    let plan = cluster
        .ours("BackupPlan", &namespace)
        .get("plan")
        .await?
        .metadata
        .uid
        .unwrap_or_default();
    let committed = cluster
        .keys("holdfast/points/")
        .await?
        .into_iter()
        .filter(|k| k.contains(&plan));
    assert_eq!(committed.filter(|k| k.ends_with("backup.json")).count(), 0);
    // The plan is not hurt.
    app::backup(&cluster, &namespace, "after", "Full").await?;
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn a_restore_stops_while_volumes_are_written() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("stop").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "x").await?;
    let point = app::backup(&cluster, &namespace, "b", "Full").await?;
    app::vault(&cluster).await?;
    let into = format!("{namespace}-copy");
    {
        let _fault = Fault::set(&cluster, &json!({"nodePublishVolume": {"delayMs": 20000}}))?;
        cluster
            .create(app::restore_manifest(&into, &location(&point), &into))
            .await?;
        in_phase(&cluster, "Restore", INSTALLED, &into, "Volumes").await?;
        stop(&cluster, "Restore", INSTALLED, &into).await?;
    }
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(cluster.client.clone());
    until(
        "the half-restored namespace to go",
        Duration::from_secs(60),
        || async { Ok(namespaces.get_opt(&into).await?.is_none().then_some(())) },
    )
    .await?;
    cluster.delete_namespace(&namespace).await
}
