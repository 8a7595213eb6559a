//! Encrypted plans: nothing readable on the target, nothing back without a key, and every byte with one.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_seal::{PlanKey, RecoveryKey};
use holdfast_target::Target;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Patch, PatchParams};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::app::{self, Volumes, backup, location};
use crate::cluster::{Cluster, INSTALLED, told};

const LIMIT: Duration = Duration::from_secs(180);
/// What nobody may find on the target: content of a Secret, of a ConfigMap, of a file, names of objects.
const NEEDLES: [&str; 5] = [
    "correct-horse",
    "greeting",
    "PersistentVolumeClaim",
    "managed-by",
    "accessModes",
];

async fn key_secret(cluster: &Cluster, namespace: &str, name: &str, data: Value) -> Result<()> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
        "stringData": data});
    cluster.create(secret).await?;
    Ok(())
}

fn text(key: &PlanKey) -> String {
    key.to_text().expose_secret().to_owned()
}

/// A Target and a plan that encrypts with this key.
async fn protect(cluster: &Cluster, namespace: &str, key: &PlanKey) -> Result<()> {
    app::target(cluster, namespace, &[]).await?;
    key_secret(cluster, namespace, "backup-key", json!({"planKey": text(key)})).await?;
    let mut plan = app::plan_manifest(namespace, "plan", "store", namespace);
    plan["spec"]["storeSecretsUnencrypted"] = json!(false);
    plan["spec"]["encryption"] = json!({"encryptionSecret": {"name": "backup-key"}});
    cluster.create(plan).await?;
    let limit = Duration::from_secs(30);
    cluster
        .wait("BackupPlan", namespace, "plan", "Accepted", limit)
        .await?;
    Ok(())
}

/// A restore of a location into a namespace, with a key from a Secret of the install namespace.
fn restore_with(name: &str, location: &str, into: &str, secret: &str) -> Value {
    let mut restore = app::restore_manifest(name, location, into);
    restore["spec"]["encryption"] = json!({"encryptionSecret": {"name": secret}});
    restore
}

/// Every byte on the target below the prefixes of this point's plan.
async fn everything(cluster: &Cluster, location: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let plan = location.rsplit_once('/').context("a location has three parts")?.0;
    let store = cluster.store()?;
    let mut found = Vec::new();
    for folder in ["points", "volumes", "keys"] {
        for key in cluster.keys(&format!("holdfast/{folder}/{plan}/")).await? {
            let object = store.get(&key.parse()?, 1 << 30).await?;
            found.push((key, object.body.to_vec()));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn an_encrypted_application_comes_back_and_the_target_shows_nothing_of_it() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("seal").await?;
    let key = PlanKey::generate();
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    protect(&cluster, &namespace, &key).await?;
    cluster
        .exec(
            &namespace,
            &pod,
            "yes correct-horse | head -c 2000000 > /data/marked; sync",
        )
        .await?;
    app::write(&cluster, &namespace, &pod, "first").await?;
    let full = backup(&cluster, &namespace, "full", "Full").await?;
    app::write(&cluster, &namespace, &pod, "second").await?;
    let point = backup(&cluster, &namespace, "incremental", "Incremental").await?;
    assert_eq!(point["type"], "Incremental", "{point:#}");
    let before = app::checksums(&cluster, &namespace, &pod).await?;

    let stored = everything(&cluster, &location(&point)).await?;
    assert!(
        stored.iter().filter(|(key, _)| key.ends_with(".age")).count() == 2,
        "a key for each backup"
    );
    for (name, bytes) in &stored {
        for needle in NEEDLES.iter().chain([&namespace.as_str()]) {
            let found = bytes
                .windows(needle.len())
                .any(|window| window == needle.as_bytes());
            assert!(!found, "{name} shows {needle}");
        }
    }

    // With the plan's key, which the operator finds by itself: the plan is still here.
    let beside = format!("{namespace}-copy");
    app::restore(&cluster, &location(&point), &beside).await?;
    let copy = app::running(&cluster, &beside).await?;
    assert_eq!(app::checksums(&cluster, &beside, &copy).await?, before);
    cluster.delete_namespace(&beside).await?;

    // Without plan and key nothing is made; with another key neither; with the recovery key everything comes back.
    cluster.delete_namespace(&namespace).await?;
    app::vault(&cluster).await?;
    let keyless = format!("{namespace}-keyless");
    cluster
        .create(app::restore_manifest(&keyless, &location(&point), &namespace))
        .await?;
    refused(&cluster, &keyless, "its plan is not in this cluster").await?;
    let wrong = format!("{namespace}-wrong");
    key_secret(
        &cluster,
        INSTALLED,
        &wrong,
        json!({"planKey": text(&PlanKey::generate())}),
    )
    .await?;
    cluster
        .create(restore_with(&wrong, &location(&point), &namespace, &wrong))
        .await?;
    refused(&cluster, &wrong, "cannot be unwrapped").await?;
    let namespaces: kube::Api<Namespace> = kube::Api::all(cluster.client.clone());
    assert!(
        namespaces.get_opt(&namespace).await?.is_none(),
        "a refused restore made the namespace"
    );

    let recovery = format!("{namespace}-recovery");
    key_secret(
        &cluster,
        INSTALLED,
        &recovery,
        json!({"recoveryKey": cluster.sandbox.recovery_key}),
    )
    .await?;
    cluster
        .create(restore_with(&recovery, &location(&point), &namespace, &recovery))
        .await?;
    cluster
        .wait("Restore", INSTALLED, &recovery, "Complete", LIMIT)
        .await?;
    let pod = app::running(&cluster, &namespace).await?;
    assert_eq!(app::checksums(&cluster, &namespace, &pod).await?, before);
    assert_eq!(
        cluster.exec(&namespace, &pod, "echo $password").await?,
        "correct-horse"
    );
    assert_ne!(location(&full), location(&point));
    cluster.nothing_left().await?;
    cluster.delete_namespace(&namespace).await
}

async fn refused(cluster: &Cluster, restore: &str, why: &str) -> Result<()> {
    let status = cluster
        .wait("Restore", INSTALLED, restore, "Failed", LIMIT)
        .await?;
    let (reason, message) = told(&status, "Failed");
    assert_eq!(reason, "KeyMissing", "{message}");
    assert!(message.contains(why), "{message}");
    Ok(())
}

#[tokio::test]
async fn an_exchanged_key_moves_no_data_and_opens_the_older_points() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("rotate").await?;
    let (former, next) = (PlanKey::generate(), PlanKey::generate());
    app::deploy_stateless(&cluster, &namespace).await?;
    protect(&cluster, &namespace, &former).await?;
    let point = backup(&cluster, &namespace, "full", "Full").await?;
    let data = |all: Vec<(String, Vec<u8>)>| -> Vec<(String, Vec<u8>)> {
        all.into_iter()
            .filter(|(key, _)| !key.starts_with("holdfast/keys/"))
            .collect()
    };
    let before = data(everything(&cluster, &location(&point)).await?);

    // Another key without the former one beside it is refused, and nothing is stored under it.
    exchange(&cluster, &namespace, json!({"planKey": text(&next)})).await?;
    let status = cluster
        .wait_refused("BackupPlan", &namespace, "plan", "KeyMissing")
        .await?;
    let (_, message) = told(&status, "Accepted");
    assert!(message.contains("formerPlanKey"), "{message}");
    exchange(
        &cluster,
        &namespace,
        json!({"planKey": text(&next), "formerPlanKey": text(&former)}),
    )
    .await?;
    crate::cluster::until("the plan to follow its key", LIMIT, || async {
        let plan = cluster.ours("BackupPlan", &namespace).get("plan").await?;
        let recipient =
            plan.data["status"]["encryptionRecipient"].as_str() == Some(&next.recipient().to_string());
        Ok(recipient.then_some(()))
    })
    .await?;
    let after = everything(&cluster, &location(&point)).await?;
    let keys: Vec<&str> = after
        .iter()
        .map(|(key, _)| key.as_str())
        .filter(|key| key.ends_with(".age"))
        .collect();
    assert!(
        keys.len() == 1 && keys[0].ends_with("/key-0000000002.age"),
        "{keys:?}"
    );
    assert!(data(after) == before, "a rotation changed data");

    let copy = format!("{namespace}-copy");
    app::restore(&cluster, &location(&point), &copy).await?;
    cluster.delete_namespace(&copy).await?;
    let old = format!("{namespace}-old");
    key_secret(&cluster, INSTALLED, &old, json!({"planKey": text(&former)})).await?;
    cluster
        .create(restore_with(&old, &location(&point), &copy, &old))
        .await?;
    refused(&cluster, &old, "cannot be unwrapped").await?;
    assert!(RecoveryKey::parse(&cluster.sandbox.recovery_key).is_ok());
    cluster.delete_namespace(&namespace).await
}

async fn exchange(cluster: &Cluster, namespace: &str, data: Value) -> Result<()> {
    let api: kube::Api<Secret> = kube::Api::namespaced(cluster.client.clone(), namespace);
    let patch = Patch::Merge(json!({"stringData": data}));
    api.patch("backup-key", &PatchParams::default(), &patch).await?;
    Ok(())
}

#[tokio::test]
async fn secrets_are_not_stored_in_clear_unless_somebody_says_so() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("clear").await?;
    app::deploy_stateless(&cluster, &namespace).await?;
    app::target(&cluster, &namespace, &[]).await?;
    let mut plan = app::plan_manifest(&namespace, "plan", "store", &namespace);
    plan["spec"]["storeSecretsUnencrypted"] = json!(false);
    cluster.create(plan).await?;
    cluster
        .wait("BackupPlan", &namespace, "plan", "Accepted", LIMIT)
        .await?;
    cluster
        .create(app::backup_manifest(&namespace, "b", "Full"))
        .await?;
    let status = cluster.wait("Backup", &namespace, "b", "Failed", LIMIT).await?;
    let (reason, message) = told(&status, "Failed");
    assert_eq!(reason, "SecretsInClear", "{message}");
    for part in ["Secret", "spec.encryption", "storeSecretsUnencrypted"] {
        assert!(message.contains(part), "{message}");
    }
    cluster.nothing_left().await?;
    cluster.delete_namespace(&namespace).await
}
