//! What lies on the target is looked at again: damage is found and named, every point that uses it says so, and the next
//! backup heals it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::app::{self, Volumes, backup, location};
use crate::cluster::{Cluster, condition, until};

const LIMIT: Duration = Duration::from_secs(120);

/// Asks for a verification of a point, as `kubectl label` does, and waits for the verdict.
async fn verify(cluster: &Cluster, namespace: &str, name: &str, how: &str) -> Result<Value> {
    let api = cluster.ours("Backup", namespace);
    let label = json!({"metadata": {"labels": {"holdfast.dev/verify": how}}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&label))
        .await?;
    let none = json!({"status": {"verification": null}});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&none))
        .await?;
    until(&format!("{name} to be verified"), LIMIT, || async {
        let backup = api.get(name).await?;
        let asked = backup
            .metadata
            .labels
            .unwrap_or_default()
            .contains_key("holdfast.dev/verify");
        let volumes = backup.data["status"]["verification"]
            .as_array()
            .map_or(0, Vec::len);
        Ok((!asked && volumes == 2).then(|| backup.data["status"].clone()))
    })
    .await
}

fn verdict(status: &Value) -> (Value, Value, String) {
    let found = condition(status, "Verified").cloned().unwrap_or_default();
    let message = found["message"].as_str().unwrap_or_default().to_owned();
    (found["status"].clone(), found["reason"].clone(), message)
}

/// The stored files of an image of this point that end so, as the store's own disk has them, the largest first.
fn files(cluster: &Cluster, status: &Value, end: &str) -> Result<Vec<PathBuf>> {
    let location = location(status);
    let (plan, backup) = location.rsplit_once('/').context("a location has three parts")?;
    let home = Path::new(&cluster.sandbox.kubeconfig)
        .parent()
        .context("the sandbox has a folder")?;
    let volumes = home
        .join("s3/data")
        .join(&cluster.sandbox.s3.bucket)
        .join("holdfast/volumes")
        .join(plan);
    let mut found = Vec::new();
    for volume in std::fs::read_dir(&volumes)? {
        for file in std::fs::read_dir(volume?.path())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            if name.starts_with(backup) && name.ends_with(end) {
                found.push((file.metadata()?.len(), file.path()));
            }
        }
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

/// One bit of a file turns over on the store's disk; what the store says of it stays the same.
fn rot(file: &Path) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(std::fs::write(file, bytes)?)
}

#[tokio::test]
async fn damage_is_found_by_every_point_that_uses_it_and_healed_by_the_next_backup() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("rot").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "one").await?;
    let one = backup(&cluster, &namespace, "one", "Full").await?;
    app::write(&cluster, &namespace, &pod, "two").await?;
    let two = backup(&cluster, &namespace, "two", "Incremental").await?;
    assert_eq!(two["type"], "Incremental", "{two:#}");

    let good = verify(&cluster, &namespace, "two", "full").await?;
    let (truth, _, message) = verdict(&good);
    assert_eq!(truth, "True", "{good:#}");
    assert!(message.contains("all content"), "{message}");

    let image = &files(&cluster, &one, ".qcow2")?[0];
    rot(image)?;
    let quick = verify(&cluster, &namespace, "two", "quick").await?;
    assert_eq!(
        verdict(&quick).0,
        "True",
        "a quick look reads no content: {quick:#}"
    );
    let full = verify(&cluster, &namespace, "two", "full").await?;
    let (truth, reason, message) = verdict(&full);
    assert_eq!((truth, reason), (json!("False"), json!("Damaged")), "{full:#}");
    let name = image.file_name().context("a file has a name")?.to_string_lossy();
    assert!(message.contains(&*name), "{message} does not name {name}");
    // Nobody asked about the other point, and it is no better.
    let older = cluster.ours("Backup", &namespace).get("one").await?.data["status"].clone();
    assert_eq!(verdict(&older).1, "Damaged", "{older:#}");

    // Times of the cluster are whole seconds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let three = backup(&cluster, &namespace, "three", "Incremental").await?;
    assert_eq!(three["type"], "Incremental", "{three:#}");
    let before = app::checksums(&cluster, &namespace, &pod).await?;
    let copy = format!("{namespace}-copy");
    app::vault(&cluster).await?;
    app::restore(&cluster, &location(&three), &copy).await?;
    let restored = app::running(&cluster, &copy).await?;
    assert_eq!(app::checksums(&cluster, &copy, &restored).await?, before);
    let healed = verify(&cluster, &namespace, "three", "full").await?;
    assert_eq!(verdict(&healed).0, "True", "{healed:#}");

    // What is no content is not healed in part.
    rot(&files(&cluster, &three, ".index")?[0])?;
    let index = verify(&cluster, &namespace, "three", "quick").await?;
    assert_eq!(verdict(&index).1, "Damaged", "{index:#}");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let four = backup(&cluster, &namespace, "four", "Incremental").await?;
    let reasons: Vec<&str> = four["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["typeReason"].as_str())
        .collect();
    assert!(
        reasons
            .iter()
            .any(|why| why.contains("verification found damage")),
        "{four:#}"
    );
    let whole = verify(&cluster, &namespace, "four", "full").await?;
    assert_eq!(verdict(&whole).0, "True", "{whole:#}");
    cluster.delete_namespace(&copy).await?;
    cluster.delete_namespace(&namespace).await
}
