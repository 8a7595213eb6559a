//! Targets that are folders: claims, and NFS exports as far as a machine without an NFS client gets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_seal::PlanKey;
use holdfast_target::{DirectoryTarget, list_all};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Resource, ResourceExt};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::app::{self, Volumes, backup, location};
use crate::cluster::{Cluster, Fault, INSTALLED, refusal, told, until};
use crate::crash::{ended, kill, reached};

const LIMIT: Duration = Duration::from_secs(90);

/// A claim in the install namespace.
async fn claim(cluster: &Cluster, name: &str, mode: &str) -> Result<()> {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": INSTALLED, "labels": {"holdfast-e2e": "true"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "sandbox-immediate", "volumeMode": mode,
            "resources": {"requests": {"storage": "512Mi"}}},
    });
    cluster.create(claim).await?;
    Ok(())
}

fn manifest(name: &str, namespace: &str, claim: &str, allowed: &[&str]) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1", "kind": "Target", "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "PersistentVolumeClaim", "vendor": "Other", "allowedNamespaces": allowed,
            "persistentVolumeClaim": {"claimName": claim}},
    })
}

fn nfs(namespace: &str, name: &str, export: &str, options: &str) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1", "kind": "Target", "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "NFS", "vendor": "Other", "nfsCredentials": {"nfsExport": export, "nfsOptions": options}},
    })
}

/// A Target on a claim of its own, both of this name, Accepted. Gives its UID.
async fn target(cluster: &Cluster, name: &str, allowed: &[&str]) -> Result<String> {
    claim(cluster, name, "Filesystem").await?;
    let made = cluster.create(manifest(name, INSTALLED, name, allowed)).await?;
    cluster.wait("Target", INSTALLED, name, "Accepted", LIMIT).await?;
    made.uid().context("a UID")
}

/// Where the folder of a Target is mounted on this machine, for its depot.
async fn mounted(cluster: &Cluster, uid: &str) -> Result<PathBuf> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), INSTALLED);
    let of_depot = ListParams::default().labels(&format!("holdfast.dev/target={uid}"));
    let list = pods.list(&of_depot).await?;
    let pod = list
        .items
        .iter()
        .find(|pod| pod.metadata.deletion_timestamp.is_none());
    let pod = pod.and_then(ResourceExt::uid).context("a depot")?;
    let home = Path::new(&cluster.sandbox.kubeconfig)
        .parent()
        .context("a folder")?;
    let volumes = home.join(format!("kubelet/pods/{pod}/volumes/kubernetes.io~csi"));
    let first = std::fs::read_dir(&volumes)
        .with_context(|| volumes.display().to_string())?
        .next()
        .context("a volume")??;
    Ok(first.path().join("mount"))
}

/// Deletes Target and claim; the depot must go by itself.
async fn remove(cluster: &Cluster, name: &str, uid: &str) -> Result<()> {
    let now = DeleteParams::default();
    cluster.ours("Target", INSTALLED).delete(name, &now).await?;
    gone(cluster, uid).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), INSTALLED);
    assert!(
        claims.get_opt(name).await?.is_some(),
        "the claim that the Target named is not ours to delete"
    );
    claims.delete(name, &now).await?;
    until("the claim to go", LIMIT, || async {
        Ok(claims.get_opt(name).await?.is_none().then_some(()))
    })
    .await
}

/// Waits until nothing of a Target is left in the cluster.
async fn gone(cluster: &Cluster, uid: &str) -> Result<()> {
    let client = || cluster.client.clone();
    until("everything of the Target to go", LIMIT, || async {
        let left = named(&Api::<Deployment>::namespaced(client(), INSTALLED), uid).await?
            + named(&Api::<Service>::namespaced(client(), INSTALLED), uid).await?
            + named(&Api::<Secret>::namespaced(client(), INSTALLED), uid).await?
            + named(
                &Api::<PersistentVolumeClaim>::namespaced(client(), INSTALLED),
                uid,
            )
            .await?
            + named(&Api::<Pod>::namespaced(client(), INSTALLED), uid).await?
            + named(&Api::<PersistentVolume>::all(client()), uid).await?;
        Ok((left == 0).then_some(()))
    })
    .await
}

async fn named<K>(api: &Api<K>, uid: &str) -> Result<usize>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let of_target = ListParams::default().labels(&format!("holdfast.dev/target={uid}"));
    Ok(api.list_metadata(&of_target).await?.items.len())
}

/// Keys below a prefix, read from the folder itself.
async fn keys(folder: &Path, prefix: &str) -> Result<Vec<String>> {
    let target = DirectoryTarget::create(folder).await?;
    let objects = list_all(&target, &prefix.parse()?, 100_000).await?;
    Ok(objects.into_iter().map(|object| object.key.to_string()).collect())
}

/// An encrypted plan of `namespace` on a Target of the install namespace, and its key beside the restores.
async fn plan(cluster: &Cluster, namespace: &str, target: &str) -> Result<()> {
    let key = PlanKey::generate();
    for namespace in [namespace, INSTALLED] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": format!("{target}-key"), "namespace": namespace},
            "stringData": {"planKey": key.to_text().expose_secret()}});
        cluster.create(secret).await?;
    }
    let mut plan = app::plan_manifest(namespace, "plan", target, INSTALLED);
    plan["spec"]["storeSecretsUnencrypted"] = json!(false);
    plan["spec"]["encryption"] = json!({"encryptionSecret": {"name": format!("{target}-key")}});
    cluster.create(plan).await?;
    cluster
        .wait("BackupPlan", namespace, "plan", "Accepted", LIMIT)
        .await?;
    Ok(())
}

async fn restore(cluster: &Cluster, point: &Value, target: &str, into: &str) -> Result<()> {
    let name = format!("to-{into}");
    let mut restore = app::restore_manifest(&name, &location(point), into);
    restore["spec"]["source"]["target"]["name"] = json!(target);
    restore["spec"]["encryption"] = json!({"encryptionSecret": {"name": format!("{target}-key")}});
    cluster.create(restore).await?;
    cluster
        .wait("Restore", INSTALLED, &name, "Complete", 2 * LIMIT)
        .await?;
    Ok(())
}

async fn delete_key(cluster: &Cluster, target: &str) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), INSTALLED);
    secrets
        .delete(&format!("{target}-key"), &DeleteParams::default())
        .await?;
    Ok(())
}

#[tokio::test]
async fn an_application_comes_back_from_a_claim_and_its_deleted_points_free_the_files() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("claim").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    let uid = target(&cluster, &namespace, &[&namespace]).await?;
    plan(&cluster, &namespace, &namespace).await?;
    for name in ["first", "more", "much-more"] {
        app::write(&cluster, &namespace, &pod, name).await?;
    }
    let full = deletable(&cluster, &namespace, "full", "Full").await?;
    let after_full = app::checksums(&cluster, &namespace, &pod).await?;
    app::write(&cluster, &namespace, &pod, "second").await?;
    let incremental = deletable(&cluster, &namespace, "incremental", "Incremental").await?;
    assert_eq!(incremental["type"], "Incremental", "{incremental:#}");
    assert!(
        incremental["size"].as_u64().map(|size| size * 2) < full["size"].as_u64(),
        "an increment of a third of the data stores {} after {}",
        incremental["size"],
        full["size"]
    );
    let after_incremental = app::checksums(&cluster, &namespace, &pod).await?;
    cluster.nothing_left().await?;
    for (point, sums) in [(&incremental, after_incremental), (&full, after_full)] {
        let copy = format!(
            "{namespace}-{}",
            point["type"].as_str().unwrap_or_default().to_lowercase()
        );
        restore(&cluster, point, &namespace, &copy).await?;
        let pod = app::running(&cluster, &copy).await?;
        assert_eq!(app::checksums(&cluster, &copy, &pod).await?, sums);
        cluster.delete_namespace(&copy).await?;
    }
    cluster.nothing_left().await?;

    let folder = mounted(&cluster, &uid).await?;
    let stored = keys(&folder, "holdfast/").await?;
    assert!(stored.iter().any(|key| key.ends_with(".qcow2")), "{stored:#?}");
    for name in ["full", "incremental"] {
        let backups = cluster.ours("Backup", &namespace);
        backups.delete(name, &DeleteParams::default()).await?;
    }
    let left = async |what: &str| -> Result<bool> {
        let keys = keys(&folder, "holdfast/").await?;
        Ok(keys.iter().any(|key| key.ends_with(what)))
    };
    until("the points to leave the folder", LIMIT, || async {
        Ok((!left("backup.json").await?).then_some(()))
    })
    .await?;
    // Their images stay for the grace period, three seconds here, and go with the next look: a new leader begins with one.
    tokio::time::sleep(Duration::from_secs(4)).await;
    kill(&cluster, "operator").await?;
    until("the images to leave the folder", LIMIT, || async {
        Ok((!left(".qcow2").await?).then_some(()))
    })
    .await?;
    cluster.delete_namespace(&namespace).await?;
    delete_key(&cluster, &namespace).await?;
    remove(&cluster, &namespace, &uid).await
}

/// A backup whose data goes when it is deleted.
async fn deletable(cluster: &Cluster, namespace: &str, name: &str, kind: &str) -> Result<Value> {
    let mut manifest = app::backup_manifest(namespace, name, kind);
    manifest["spec"]["deletionPolicy"] = json!("Delete");
    cluster.create(manifest).await?;
    cluster
        .wait("Backup", namespace, name, "Complete", 2 * LIMIT)
        .await
}

#[tokio::test]
async fn a_depot_that_is_killed_in_every_phase_does_not_cost_the_backup() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("depot").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::write(&cluster, &namespace, &pod, "x").await?;
    let uid = target(&cluster, &namespace, &[&namespace]).await?;
    plan(&cluster, &namespace, &namespace).await?;
    let fault = Fault::set(
        &cluster,
        &json!({"createSnapshot": {"delayMs": 1500}, "nodePublishVolume": {"delayMs": 1500}}),
    )?;
    let mut last = Value::Null;
    for phase in ["CaptureMetadata", "SnapshotVolumes", "UploadVolumes", "Commit"] {
        let name = format!("b-{}", phase.to_lowercase());
        let manifest = app::backup_manifest(&namespace, &name, "Incremental");
        cluster.create(manifest).await?;
        reached(&cluster, "Backup", &namespace, &name, phase).await?;
        assert_eq!(kill(&cluster, "metamover").await?, 1, "one depot to kill");
        let complete = ended(&cluster, "Backup", &namespace, &name).await?;
        let status = cluster.ours("Backup", &namespace).get(&name).await?.data["status"].clone();
        assert!(complete, "{phase}: {status:#}");
        last = status;
        cluster
            .wait("Target", INSTALLED, &namespace, "Accepted", LIMIT)
            .await?;
    }
    drop(fault);
    let sums = app::checksums(&cluster, &namespace, &pod).await?;
    let copy = format!("{namespace}-copy");
    restore(&cluster, &last, &namespace, &copy).await?;
    let pod = app::running(&cluster, &copy).await?;
    assert_eq!(app::checksums(&cluster, &copy, &pod).await?, sums);
    cluster.delete_namespace(&copy).await?;
    cluster.delete_namespace(&namespace).await?;
    cluster.nothing_left().await?;
    delete_key(&cluster, &namespace).await?;
    remove(&cluster, &namespace, &uid).await
}

#[tokio::test]
async fn a_folder_that_is_not_the_store_is_not_written_to() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("lost").await?;
    app::deploy_stateless(&cluster, &namespace).await?;
    let uid = target(&cluster, &namespace, &[&namespace]).await?;
    plan(&cluster, &namespace, &namespace).await?;
    backup(&cluster, &namespace, "good", "Full").await?;
    let status = cluster.ours("Target", INSTALLED).get(&namespace).await?.data["status"].clone();
    let store = status["directory"]["store"]
        .as_str()
        .context("a store")?
        .to_owned();

    // As when another volume is mounted there.
    let folder = mounted(&cluster, &uid).await?;
    let marker = folder.join("holdfast/.store.json");
    let kept = std::fs::read(&marker)?;
    let other = String::from_utf8(kept.clone())?.replace(&store, "0a0b0c0d-0000-4000-8000-000000000001");
    std::fs::write(&marker, other)?;
    kill(&cluster, "metamover").await?;
    let status = cluster
        .wait_refused("Target", INSTALLED, &namespace, "NotMounted")
        .await?;
    let (_, message) = told(&status, "Accepted");
    assert!(
        message.contains(&store) && message.contains("mount the volume"),
        "{message}"
    );
    // The killed depot's mount is gone with it.
    let folder = mounted(&cluster, &uid).await?;
    let marker = folder.join("holdfast/.store.json");
    let before = keys(&folder, "holdfast/").await?;
    cluster
        .create(app::backup_manifest(&namespace, "refused", "Full"))
        .await?;
    let status = cluster
        .wait("Backup", &namespace, "refused", "Failed", LIMIT)
        .await?;
    let (reason, message) = told(&status, "Failed");
    assert_eq!(reason, "TargetNotReady", "{message}");
    assert!(message.contains("NotMounted"), "{message}");
    assert_eq!(keys(&folder, "holdfast/").await?, before, "something was written");

    std::fs::write(&marker, kept)?;
    cluster
        .wait("Target", INSTALLED, &namespace, "Accepted", LIMIT)
        .await?;
    cluster
        .wait("BackupPlan", &namespace, "plan", "Accepted", LIMIT)
        .await?;
    backup(&cluster, &namespace, "again", "Full").await?;
    cluster.delete_namespace(&namespace).await?;
    delete_key(&cluster, &namespace).await?;
    remove(&cluster, &namespace, &uid).await
}

#[tokio::test]
async fn claims_that_cannot_be_a_target_are_refused_with_the_reason() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("noclaim").await?;
    let name = namespace.as_str();
    // Elsewhere than in the install namespace.
    let (code, message) = refusal(cluster.create(manifest(name, name, name, &[])).await);
    assert!((400..500).contains(&code), "{code}");
    assert!(message.contains("allowedNamespaces"), "{message}");
    // Without the block of its type, or with another one.
    let mut both = manifest(name, INSTALLED, name, &[]);
    both["spec"]["nfsCredentials"] = json!({"nfsExport": "nas:/x"});
    let (code, message) = refusal(cluster.create(both).await);
    assert_eq!(code, 422, "{message}");

    cluster.create(manifest(name, INSTALLED, name, &[])).await?;
    let status = cluster
        .wait_refused("Target", INSTALLED, name, "NotFound")
        .await?;
    let (_, message) = told(&status, "Accepted");
    assert!(message.contains("create it"), "{message}");
    claim(&cluster, name, "Block").await?;
    let status = cluster
        .wait_refused("Target", INSTALLED, name, "InvalidSpec")
        .await?;
    let (_, message) = told(&status, "Accepted");
    assert!(message.contains("volumeMode Filesystem"), "{message}");
    let now = DeleteParams::default();
    cluster.ours("Target", INSTALLED).delete(name, &now).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), INSTALLED);
    claims.delete(name, &now).await?;
    cluster.delete_namespace(name).await
}

#[tokio::test]
async fn an_export_becomes_a_volume_and_a_claim_and_a_failed_mount_is_told() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("nfs").await?;
    // A documentation address: nobody answers there.
    let made = cluster
        .create(nfs(
            &namespace,
            "nas",
            "192.0.2.1:/export/kubedata",
            "nfsvers=4.1,timeo=50,retrans=1,retry=0",
        ))
        .await?;
    let uid = made.uid().context("a UID")?;
    let status = cluster
        .wait_refused("Target", &namespace, "nas", "DepotNotReady")
        .await?;
    let (_, message) = told(&status, "Accepted");
    assert!(message.contains("192.0.2.1:/export/kubedata"), "{message}");
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let of_target = ListParams::default().labels(&format!("holdfast.dev/target={uid}"));
    let volume = volumes.list(&of_target).await?.items.pop().context("a volume")?;
    let spec = volume.spec.clone().unwrap_or_default();
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    let options = spec.mount_options.unwrap_or_default();
    assert!(options.contains(&"nosuid".to_owned()) && options.contains(&"nfsvers=4.1".to_owned()));
    until("the claim to be bound", LIMIT, || async {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), INSTALLED);
        let claim = claims.get(&volume.name_any()).await?;
        Ok((claim.status.and_then(|status| status.phase).as_deref() == Some("Bound")).then_some(()))
    })
    .await?;
    // Here the node has no NFS client, elsewhere the server does not answer: the kubelet's words are in the condition.
    let message = until("the failed mount to be told", 2 * LIMIT, || async {
        let status = cluster.ours("Target", &namespace).get("nas").await?.data["status"].clone();
        let (_, message) = told(&status, "Accepted");
        Ok(message.contains("FailedMount").then_some(message))
    })
    .await?;
    println!("{message}");
    assert!(message.contains("NFS client"), "{message}");

    let (code, message) = refusal(cluster.create(nfs(&namespace, "bad", "nas:/x", "nolock")).await);
    assert!(
        (400..500).contains(&code) && message.contains("different nodes"),
        "{code} {message}"
    );
    // Who may not create volumes may not name an export either.
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "tenant", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nora"}],
    });
    cluster.create(binding).await?;
    let nora = cluster.as_user("nora")?;
    let (code, message) = refusal(nora.create(nfs(&namespace, "hers", "nas:/x", "hard")).await);
    assert_eq!(code, 403, "{message}");
    assert!(message.contains("PersistentVolumes"), "{message}");
    let now = DeleteParams::default();
    cluster.ours("Target", &namespace).delete("nas", &now).await?;
    gone(&cluster, &uid).await?;
    cluster.delete_namespace(&namespace).await
}
