//! What lies on the target, read without us.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use holdfast_target::Target;
use serde_json::Value;

use crate::app::{self, Volumes, backup, location};
use crate::cluster::Cluster;

fn run(directory: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .current_dir(directory)
        .args(arguments)
        .output()?;
    if !output.status.success() {
        bail!(
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn a_volume_comes_back_by_hand_with_qemu_img_and_jq_alone() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("hand").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "first").await?;
    backup(&cluster, &namespace, "full", "Full").await?;
    app::write(&cluster, &namespace, &pod, "second").await?;
    let point = backup(&cluster, &namespace, "incremental", "Incremental").await?;
    let raw = cluster.exec(&namespace, &pod, "sha256sum /dev/raw").await?;

    // Plain downloads, side by side, as docs/FORMAT.md tells.
    let place = tempfile::tempdir()?;
    let store = cluster.store()?;
    let commit = format!("holdfast/points/{}/backup.json", location(&point));
    let manifest = store.get(&commit.parse()?, 1 << 24).await?.body;
    std::fs::write(place.path().join("backup.json"), &manifest)?;
    let list = run(
        place.path(),
        "jq",
        &[
            "-r",
            ".volumes[] | select(.claim == \"raw\") | .home as $h | .chain[].shards[].image.key | \"\\($h) \\(.)\"",
            "backup.json",
        ],
    )?;
    let mut names = Vec::new();
    for line in list.lines() {
        let (home, name) = line.split_once(' ').expect("two words");
        let key = format!(
            "holdfast/volumes/{}/{name}",
            home.trim_start_matches("holdfast/volumes/").trim_end_matches('/')
        );
        let image = store.get(&key.parse()?, 1 << 30).await?.body;
        std::fs::write(place.path().join(name), &image)?;
        names.push(name);
    }
    for name in &names {
        run(place.path(), "qemu-img", &["check", name])?;
    }
    assert_eq!(names.len(), 2, "a full and an overlay: {list}");
    let newest = names[0];
    let info: Value = serde_json::from_str(&run(
        place.path(),
        "qemu-img",
        &["info", "--output=json", newest],
    )?)?;
    assert!(
        info["backing-filename"].is_string(),
        "the newest image is no overlay: {info}"
    );
    run(
        place.path(),
        "qemu-img",
        &["convert", "-O", "raw", newest, "raw.img"],
    )?;
    let by_hand = run(place.path(), "sha256sum", &["raw.img"])?;
    assert_eq!(by_hand.split_whitespace().next(), raw.split_whitespace().next());
    cluster.delete_namespace(&namespace).await
}
