//! Points that are deleted leave nothing behind for long: what the others still need is merged inside the store. And a
//! target tells about itself, is checked and opened without a cluster.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::app::{self, Volumes, location};
use crate::cluster::{Cluster, until};

/// The binary of the build that these tests are of, on the sandbox's bucket.
fn holdfast(cluster: &Cluster, verb: &str, more: &[&str]) -> Result<Output> {
    holdfast_on(cluster, &cluster.sandbox.s3.bucket, verb, more)
}

/// The same on another bucket of the sandbox's store.
pub(crate) fn holdfast_on(cluster: &Cluster, bucket: &str, verb: &str, more: &[&str]) -> Result<Output> {
    let tests = std::env::current_exe()?;
    let build = tests
        .parent()
        .and_then(Path::parent)
        .context("tests lie in a folder of the build")?;
    let s3 = &cluster.sandbox.s3;
    let output = Command::new(build.join("holdfast"))
        .args([
            verb,
            "--url",
            &s3.endpoint,
            "--bucket",
            bucket,
            "--region",
            &s3.region,
        ])
        .args(more)
        .env("AWS_ACCESS_KEY_ID", &s3.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", &s3.secret_access_key)
        .output()?;
    Ok(output)
}

/// What `holdfast inspect` says of the plan of this point.
fn inspect(cluster: &Cluster, location: &str) -> Result<Value> {
    let output = holdfast(cluster, "inspect", &["--json"])?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let plans: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let plan = location.split('/').nth(1).context("a location has three parts")?;
    plans
        .into_iter()
        .find(|found| found["plan"] == plan)
        .context("the plan is not on the target")
}

async fn backup(cluster: &Cluster, namespace: &str, name: &str, kind: &str) -> Result<Value> {
    let mut manifest = app::backup_manifest(namespace, name, kind);
    manifest["spec"]["deletionPolicy"] = json!("Delete");
    cluster.create(manifest).await?;
    cluster
        .wait("Backup", namespace, name, "Complete", Duration::from_secs(180))
        .await
}

#[tokio::test]
async fn deleted_points_are_merged_away_and_the_rest_restores() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("keep").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    // The same places again and again: what the older images hold of them nobody needs.
    for (name, kind) in [("one", "Full"), ("two", "Incremental"), ("three", "Incremental")] {
        app::write(&cluster, &namespace, &pod, "same").await?;
        backup(&cluster, &namespace, name, kind).await?;
    }
    let last = cluster.ours("Backup", &namespace).get("three").await?.data["status"].clone();
    let before = app::checksums(&cluster, &namespace, &pod).await?;
    let plan = inspect(&cluster, &location(&last))?;
    assert_eq!(plan["points"].as_array().map(Vec::len), Some(3), "{plan:#}");
    let images = |plan: &Value| -> Vec<usize> {
        let volumes = plan["volumes"].as_array().cloned().unwrap_or_default();
        volumes
            .iter()
            .filter_map(|volume| volume["images"].as_array().map(Vec::len))
            .collect()
    };
    assert_eq!(images(&plan), [3, 3], "{plan:#}");

    for name in ["one", "two"] {
        cluster
            .ours("Backup", &namespace)
            .delete(name, &DeleteParams::default())
            .await?;
    }
    let merged = until("the chains to be merged", Duration::from_secs(120), || async {
        let plan = inspect(&cluster, &location(&last))?;
        let one = plan["points"].as_array().map(Vec::len) == Some(1) && images(&plan) == [1, 1];
        Ok(one.then_some(plan))
    })
    .await?;
    for volume in merged["volumes"].as_array().into_iter().flatten() {
        assert_eq!(volume["hidden"], 0, "{merged:#}");
        assert!(volume["images"][0]["parent"].is_null(), "{merged:#}");
    }

    // What is left is checked byte by byte, opens without a cluster, and comes back.
    let verified = holdfast(&cluster, "verify", &["--full", &location(&last)])?;
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stdout)
    );
    let folder = tempfile::tempdir()?;
    let to = folder.path().join("point");
    let exported = holdfast(
        &cluster,
        "export",
        &[&location(&last), "--to", &to.to_string_lossy()],
    )?;
    assert!(
        exported.status.success(),
        "{}",
        String::from_utf8_lossy(&exported.stderr)
    );
    assert!(std::fs::read_to_string(to.join("objects.yaml"))?.contains("name: settings"));
    assert_eq!(
        raw_sum(&to.join("raw"))?,
        sum_of(&before, "/dev/raw"),
        "the exported image"
    );
    let copy = format!("{namespace}-copy");
    app::restore(&cluster, &location(&last), &copy).await?;
    let pod = app::running(&cluster, &copy).await?;
    assert_eq!(app::checksums(&cluster, &copy, &pod).await?, before);
    cluster.delete_namespace(&copy).await?;
    cluster.delete_namespace(&namespace).await
}

/// The line of a file in a list of checksums.
fn sum_of(sums: &str, file: &str) -> String {
    let line = sums.lines().find(|line| line.ends_with(file)).unwrap_or_default();
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Checksum of the volume that the only image of a folder holds, as stock tools see it.
fn raw_sum(folder: &Path) -> Result<String> {
    let image = std::fs::read_dir(folder)?.next().context("no image")??.path();
    let raw = folder.join("volume.raw");
    let converted = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(&image)
        .arg(&raw)
        .output()?;
    assert!(
        converted.status.success(),
        "{}",
        String::from_utf8_lossy(&converted.stderr)
    );
    let sum = Command::new("sha256sum").arg(&raw).output()?;
    Ok(String::from_utf8_lossy(&sum.stdout)
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}
