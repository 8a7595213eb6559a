//! A mover that is killed is followed by one that goes on where it was.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};

use crate::app::{self, Volumes, backup_manifest, location};
use crate::cluster::{Cluster, INSTALLED, until};

const LARGE: Volumes = Volumes {
    class: "sandbox-immediate",
    size: "1Gi",
};

/// Kills the movers, without grace.
async fn kill_movers(cluster: &Cluster) -> Result<usize> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), INSTALLED);
    let movers = ListParams::default().labels("holdfast.dev/role=datamover");
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    let list = pods.list(&movers).await?.items;
    for pod in &list {
        drop(pods.delete(&pod.name_any(), &now).await);
    }
    Ok(list.len())
}

#[tokio::test]
async fn a_killed_backup_goes_on_with_the_image_it_began() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("resume").await?;
    let pod = app::deploy(&cluster, &namespace, LARGE).await?;
    app::protect(&cluster, &namespace).await?;
    let fill = "dd if=/dev/urandom of=/dev/raw bs=1048576 count=900 conv=notrunc,fsync 2>/dev/null; sync";
    cluster.exec(&namespace, &pod, fill).await?;
    cluster.create(backup_manifest(&namespace, "big", "Full")).await?;
    let uid = cluster
        .ours("Backup", &namespace)
        .get("big")
        .await?
        .metadata
        .uid
        .context("it has a UID")?;
    let limit = Duration::from_secs(90);
    let home = until("the volume to have a place", limit, || async {
        let transfers = cluster
            .ours("VolumeTransfer", INSTALLED)
            .list(&ListParams::default())
            .await?;
        let ours = transfers
            .items
            .into_iter()
            .map(|transfer| transfer.data["spec"].clone());
        let raw = ours
            .into_iter()
            .find(|spec| spec["run"]["uid"] == uid.as_str() && spec["claim"]["name"] == "raw");
        Ok(raw.and_then(|spec| spec["home"].as_str().map(str::to_owned)))
    })
    .await?;
    let prefix = format!("holdfast/volumes/{home}/");
    until("a checkpoint", limit, || async {
        let keys = cluster.keys(&prefix).await?;
        Ok(keys
            .iter()
            .any(|key| key.contains(".resume-") && key.ends_with(".json"))
            .then_some(()))
    })
    .await?;
    assert!(kill_movers(&cluster).await? > 0, "no mover to kill");
    let status = cluster
        .wait("Backup", &namespace, "big", "Complete", Duration::from_secs(180))
        .await?;
    let keys = cluster.keys(&prefix).await?;
    let images: Vec<&String> = keys.iter().filter(|key| key.ends_with(".qcow2")).collect();
    let first = format!("{uid}-a1-");
    assert!(
        images.iter().any(|key| key.contains(&first)),
        "the second attempt began anew: {images:?}"
    );
    assert!(!keys.iter().any(|key| key.contains(".resume-")), "{keys:?}");
    let before = cluster.exec(&namespace, &pod, "sha256sum /dev/raw").await?;

    // The same for a restore.
    app::vault(&cluster).await?;
    let copy = format!("{namespace}-copy");
    cluster
        .create(app::restore_manifest(&copy, &location(&status), &copy))
        .await?;
    let durable = || async {
        let transfers = cluster
            .ours("VolumeTransfer", INSTALLED)
            .list(&ListParams::default())
            .await?;
        let far = |t: &kube::api::DynamicObject| {
            t.data
                .pointer("/status/mover/bytesDurable")
                .and_then(serde_json::Value::as_u64)
                > Some(0)
        };
        Ok(transfers.iter().any(far).then_some(()))
    };
    // A fast machine may be through before it is killed; what comes back has to be right all the same.
    if until("a flush", Duration::from_secs(40), durable).await.is_ok() {
        kill_movers(&cluster).await?;
    }
    cluster
        .wait("Restore", INSTALLED, &copy, "Complete", Duration::from_secs(240))
        .await?;
    let restored = app::running(&cluster, &copy).await?;
    assert_eq!(
        cluster.exec(&copy, &restored, "sha256sum /dev/raw").await?,
        before
    );
    cluster.delete_namespace(&copy).await?;
    cluster.delete_namespace(&namespace).await
}
