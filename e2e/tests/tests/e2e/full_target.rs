//! A target without space: the backup says so and takes back what it wrote, and every older point still restores.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_target::testing::{Gateway, GatewayOptions, SmallDisk};
use holdfast_target::{Prefix, Target, list_all};
use serde_json::json;

use crate::app::{self, Volumes, backup_manifest, location};
use crate::cluster::{Cluster, INSTALLED, told};

/// Space on the target: enough for a small point, too little for a hundred MiB of random bytes.
const SPACE_MIB: u32 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_target_fails_the_backup_and_still_restores() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("full").await?;
    let pod = app::deploy(
        &cluster,
        &namespace,
        Volumes {
            size: "128Mi",
            ..Volumes::SMALL
        },
    )
    .await?;
    let disk = SmallDisk::mount(SPACE_MIB);
    let gateway = Gateway::start_with(GatewayOptions {
        data: Some(disk.path().to_owned()),
        host: Some(sandbox_host(&cluster)?),
        ..GatewayOptions::default()
    });
    protect_on(&cluster, &namespace, &gateway).await?;
    app::write(&cluster, &namespace, &pod, "small").await?;
    let before = app::checksums(&cluster, &namespace, &pod).await?;
    let point = app::backup(&cluster, &namespace, "fits", "Full").await?;
    let stored = list_all(&gateway.target(), &all()?, 1000).await?;

    let fill = "head -c 110000000 /dev/urandom | dd of=/dev/raw bs=1M iflag=fullblock conv=notrunc,fsync 2>/dev/null";
    cluster.exec(&namespace, &pod, fill).await?;
    cluster
        .create(backup_manifest(&namespace, "too-large", "Full"))
        .await?;
    let status = cluster
        .wait(
            "Backup",
            &namespace,
            "too-large",
            "Failed",
            Duration::from_secs(180),
        )
        .await?;
    let (reason, message) = told(&status, "Failed");
    assert_eq!(reason, "TargetFull", "{message}");
    assert!(
        message.contains("free space"),
        "{message} does not say what to do"
    );
    cluster.nothing_left().await?;
    let left = list_all(&gateway.target(), &all()?, 1000).await?;
    assert_eq!(left, stored, "what the failed backup wrote is gone");
    assert_eq!(gateway.target().list_uploads(&all()?).await?.len(), 0);

    // No byte is left: neither the probe nor a report can be written. Reading needs no space.
    fill_up(&disk)?;
    let into = format!("{namespace}-copy");
    let mut restore = app::restore_manifest(&into, &location(&point), &into);
    restore["spec"]["source"]["target"] = json!({"name": "store", "namespace": namespace});
    cluster.create(restore).await?;
    cluster
        .wait("Restore", INSTALLED, &into, "Complete", Duration::from_secs(120))
        .await?;
    let copy = app::running(&cluster, &into).await?;
    assert_eq!(app::checksums(&cluster, &into, &copy).await?, before);
    cluster.delete_namespace(&into).await?;
    cluster.delete_namespace(&namespace).await
}

fn all() -> Result<Prefix> {
    Ok("holdfast/".parse()?)
}

/// The address under which pods reach this machine.
fn sandbox_host(cluster: &Cluster) -> Result<std::net::IpAddr> {
    let endpoint = &cluster.sandbox.s3.endpoint;
    let host = endpoint.rsplit('/').next().and_then(|a| a.split(':').next());
    host.unwrap_or_default().parse().with_context(|| endpoint.clone())
}

/// A Target on this gateway and a plan that uses it.
async fn protect_on(cluster: &Cluster, namespace: &str, gateway: &Gateway) -> Result<()> {
    let connection = gateway.connection();
    let exposed = connection.expose_json();
    let secret = exposed["secretKey"].as_str().context("a secret key")?;
    app::credentials(cluster, namespace, "s3", &connection.access_key, secret).await?;
    let url = connection.url.unwrap_or_default();
    let mut target = app::target_manifest(cluster, namespace, "store", &url, &[]);
    target["spec"]["objectStoreCredentials"]["bucketName"] = json!(connection.bucket);
    target["spec"]["objectStoreCredentials"]["region"] = json!(connection.region);
    cluster.create(target).await?;
    app::plan(cluster, namespace).await
}

/// Writes beside the buckets until there is no space left.
fn fill_up(disk: &SmallDisk) -> Result<()> {
    use std::io::Write;
    let folder = disk.path().join(".filler");
    std::fs::create_dir(&folder)?;
    let mut file = std::fs::File::create(folder.join("bytes"))?;
    let mut size = 1 << 20;
    while size > 0 {
        match file.write_all(&vec![1; size]) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
