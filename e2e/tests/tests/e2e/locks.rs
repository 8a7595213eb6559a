//! A target that locks: whatever root does to the bucket, every point restores; and people are told until when.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_seal::PlanKey;
use holdfast_target::testing::Owner;
use holdfast_target::{Prefix, S3Target, Target, list_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::app::{self, Volumes, location};
use crate::cluster::{Cluster, INSTALLED, refusal, told, until};
use crate::retention::holdfast_on;

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIMIT: Duration = Duration::from_secs(180);

/// A bucket with object lock, and the Target `store` of the namespace on it.
async fn target(cluster: &Cluster, namespace: &str, bucket: &str) -> Result<Value> {
    cluster.store_of(bucket)?.create_locking_bucket(None).await;
    let s3 = &cluster.sandbox.s3;
    app::credentials(cluster, namespace, "s3", &s3.access_key_id, &s3.secret_access_key).await?;
    let mut target = app::target_manifest(cluster, namespace, "store", &s3.endpoint, &[]);
    target["spec"]["objectStoreCredentials"]["bucketName"] = json!(bucket);
    target["spec"]["objectStoreCredentials"]["objectLockingEnabled"] = json!(true);
    cluster.create(target).await?;
    cluster
        .wait("Target", namespace, "store", "Accepted", Duration::from_secs(30))
        .await
}

/// An encrypting plan whose points are locked as told.
async fn plan(cluster: &Cluster, namespace: &str, config: Value) -> Result<()> {
    let key = PlanKey::generate().to_text();
    cluster
        .create(json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "backup-key", "namespace": namespace},
            "stringData": {"planKey": key.expose_secret()}}))
        .await?;
    let mut plan = app::plan_manifest(namespace, "plan", "store", namespace);
    plan["spec"]["storeSecretsUnencrypted"] = json!(false);
    plan["spec"]["encryption"] = json!({"encryptionSecret": {"name": "backup-key"}});
    for (field, value) in config.as_object().context("fields")? {
        plan["spec"]["backupConfig"][field] = value.clone();
    }
    cluster.create(plan).await?;
    let limit = Duration::from_secs(30);
    cluster
        .wait("BackupPlan", namespace, "plan", "Accepted", limit)
        .await?;
    Ok(())
}

async fn backup(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value> {
    let mut manifest = app::backup_manifest(namespace, name, "Incremental");
    manifest["spec"]["deletionPolicy"] = json!("Delete");
    cluster.create(manifest).await?;
    cluster.wait("Backup", namespace, name, "Complete", LIMIT).await
}

/// Restores a point of the namespace's target into a new namespace, whose volumes must hold this.
async fn comes_back(cluster: &Cluster, namespace: &str, point: &str, name: &str, held: &str) -> Result<()> {
    let into = format!("{namespace}-{name}");
    let mut restore = app::restore_manifest(&into, point, &into);
    restore["spec"]["source"]["target"] = json!({"name": "store", "namespace": namespace});
    cluster.create(restore).await?;
    cluster
        .wait("Restore", INSTALLED, &into, "Complete", LIMIT)
        .await?;
    let pod = app::running(cluster, &into).await?;
    assert_eq!(app::checksums(cluster, &into, &pod).await?, held, "{name}");
    cluster.delete_namespace(&into).await
}

/// Root overwrites, deletes, deletes by version and shortens everything there is. Returns how many objects were locked.
async fn attack(bucket: &S3Target) -> Result<usize> {
    let (root, mut locked) = (Owner(bucket), 0);
    for object in list_all(bucket, &Prefix::root(), 10_000).await? {
        let version = object.version.as_ref().context("the bucket has versions")?;
        let until = bucket.locked_until(&object.key, version).await?;
        root.overwrite(&object.key, b"theirs").await;
        root.delete(&object.key).await;
        if until.is_some() {
            locked += 1;
            assert!(!root.delete_version(&object).await, "{} was deleted", object.key);
            assert!(!root.shorten(&object).await, "{} was shortened", object.key);
        }
    }
    Ok(locked)
}

#[tokio::test]
async fn root_takes_no_point_from_a_target_that_locks() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("lock").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    let found = target(&cluster, &namespace, &namespace).await?;
    assert_eq!(
        found["immutability"],
        json!({"versioned": true, "objectLock": true}),
        "{found:#}"
    );
    let silent = app::plan_manifest(&namespace, "silent", "store", &namespace);
    let (code, message) = refusal(cluster.create(silent).await);
    assert!(
        code == 422 && message.contains("retentionDays"),
        "{code}: {message}"
    );
    let terms = json!({"objectLock": {"retentionDays": 3, "chainDays": 2}, "maxIncrBackupsPerFullBackup": 1});
    plan(&cluster, &namespace, terms).await?;

    let mut points = Vec::new();
    for (name, kind) in [("one", "Full"), ("two", "Incremental"), ("three", "Full")] {
        app::write(&cluster, &namespace, &pod, name).await?;
        let begun = Timestamp::now();
        let status = backup(&cluster, &namespace, name).await?;
        assert_eq!(status["type"], kind, "{status:#}");
        let locked: Timestamp = status["lockedUntil"].as_str().context("lockedUntil")?.parse()?;
        assert!(
            locked >= begun + 3 * DAY && locked <= Timestamp::now() + 5 * DAY + Duration::from_secs(1),
            "{locked}"
        );
        let held = app::checksums(&cluster, &namespace, &pod).await?;
        points.push((name, location(&status), locked, held));
    }
    let third = cluster.ours("Backup", &namespace).get("three").await?.data["status"].clone();
    let why = third["volumes"][0]["typeReason"].as_str().unwrap_or_default();
    assert!(why.contains("1 incrementals"), "{third:#}");

    let bucket = cluster.store_of(&namespace)?;
    let locked = attack(&bucket).await?;
    println!("{locked} locked objects: every deletion by version and every shortening was refused");
    assert!(locked > 20, "{locked}");
    for (name, point, _, held) in &points {
        comes_back(&cluster, &namespace, point, name, held).await?;
    }
    deleted(&cluster, &namespace, &points[0].1, points[0].2).await?;
    comes_back(&cluster, &namespace, &points[0].1, "again", &points[0].3).await?;

    let inspected = holdfast_on(&cluster, &namespace, "inspect", &["--json"])?;
    let plans: Value = serde_json::from_slice(&inspected.stdout)?;
    for (_, point, locked, _) in &points {
        let all = plans[0]["points"].as_array().context("points")?;
        let found = all
            .iter()
            .find(|found| found["location"] == *point)
            .context("a point")?;
        let until: Timestamp = found["lockedUntil"].as_str().context("lockedUntil")?.parse()?;
        assert!(until >= *locked && found["problem"].is_null(), "{found:#}");
    }
    cluster.nothing_left().await?;
    cluster.delete_namespace(&namespace).await
}

/// A Backup that is deleted goes; its point stays, and people are told until when.
async fn deleted(cluster: &Cluster, namespace: &str, point: &str, locked: Timestamp) -> Result<()> {
    let backups = cluster.ours("Backup", namespace);
    backups.delete("one", &DeleteParams::default()).await?;
    until("the Backup to go", Duration::from_secs(30), || async {
        Ok(backups.get_opt("one").await?.is_none().then_some(()))
    })
    .await?;
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), namespace);
    let graves: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), INSTALLED);
    let marked = ListParams::default().labels("holdfast.dev/tombstone");
    let told = until(
        "the deletion to be postponed",
        Duration::from_secs(60),
        || async {
            let all = graves.list(&marked).await?.items.into_iter();
            let mut data = all.filter_map(|grave| grave.data);
            let own = data.find(|data| data.get("location").is_some_and(|at| at == point));
            Ok(own.and_then(|data| data.get("lockedUntil").cloned()))
        },
    )
    .await?;
    assert!(told.parse::<Timestamp>()? >= locked, "{told}");
    let notes = events.list(&ListParams::default()).await?.items;
    let said = notes
        .into_iter()
        .find(|event| event.reason.as_deref() == Some("Locked"));
    let said = said.and_then(|event| event.message).context("no Event says so")?;
    assert!(said.contains(&locked.to_string()), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_plan_that_contradicts_its_target_does_not_run() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("contradict").await?;
    let mut early = app::plan_manifest(&namespace, "early", "store", &namespace);
    early["spec"]["backupConfig"]["objectLock"] = json!({"retentionDays": 3});
    cluster.create(early).await?;
    // The plan was there before its target, which does not lock.
    app::target(&cluster, &namespace, &[]).await?;
    let status = cluster
        .wait_refused("BackupPlan", &namespace, "early", "LockMismatch")
        .await?;
    let (_, message) = told(&status, "Accepted");
    assert!(message.contains("objectLockingEnabled"), "{message}");
    // A bucket without object lock is no target that locks.
    let s3 = &cluster.sandbox.s3;
    let mut target = app::target_manifest(&cluster, &namespace, "locks", &s3.endpoint, &[]);
    target["spec"]["objectStoreCredentials"]["objectLockingEnabled"] = json!(true);
    cluster.create(target).await?;
    cluster
        .wait_refused("Target", &namespace, "locks", "ObjectLockMissing")
        .await?;
    cluster.delete_namespace(&namespace).await
}
