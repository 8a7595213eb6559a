//! Bad input gets a clear condition and leaves nothing behind.

use std::time::Duration;

use anyhow::Result;
use bytes_of::flip_one_byte;
use serde_json::json;

use crate::app::{self, Volumes, backup_manifest, location};
use crate::cluster::{Cluster, INSTALLED, told, until};

#[tokio::test]
async fn a_target_says_what_is_wrong_with_it() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("bad").await?;
    let s3 = cluster.sandbox.s3.clone();
    app::credentials(
        &cluster,
        &namespace,
        "s3",
        &s3.access_key_id,
        &s3.secret_access_key,
    )
    .await?;
    app::credentials(
        &cluster,
        &namespace,
        "wrong",
        &s3.access_key_id,
        "not-the-secret-key",
    )
    .await?;
    let wrong_ca = std::fs::read_to_string(&s3.wrong_ca_file)?;
    let right_ca = std::fs::read_to_string(&s3.ca_file)?;
    for (name, pem) in [("wrong-ca", wrong_ca), ("right-ca", right_ca)] {
        cluster
            .create(json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace}, "data": {"ca.crt": pem}}))
            .await?;
    }
    let target = |name: &str, url: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest = app::target_manifest(&cluster, &namespace, name, url, &[]);
        change(&mut manifest["spec"]["objectStoreCredentials"]);
        manifest
    };
    let secret =
        |name: &'static str| move |t: &mut serde_json::Value| t["credentialSecret"]["name"] = json!(name);
    let ca = |name: &'static str| {
        move |t: &mut serde_json::Value| t["sslCertConfig"] = json!({"certConfigMap": {"name": name}})
    };
    let cases = [
        (
            "credentials",
            target("credentials", &s3.endpoint, &secret("wrong")),
            "WrongCredentials",
        ),
        (
            "missing-secret",
            target("missing-secret", &s3.endpoint, &secret("none")),
            "CredentialsMissing",
        ),
        (
            "bucket",
            target("bucket", &s3.endpoint, &|t| {
                t["bucketName"] = json!("no-such-bucket")
            }),
            "BucketMissing",
        ),
        (
            "unreachable",
            target("unreachable", "http://127.0.0.1:9", &|_| ()),
            "Unreachable",
        ),
        (
            "wrong-ca",
            target("wrong-ca", &s3.tls_endpoint, &ca("wrong-ca")),
            "UntrustedCertificate",
        ),
        (
            "no-ca",
            target("no-ca", &s3.tls_endpoint, &|_| ()),
            "UntrustedCertificate",
        ),
    ];
    for (_, manifest, _) in &cases {
        cluster.create(manifest.clone()).await?;
    }
    cluster
        .create(target("good-ca", &s3.tls_endpoint, &ca("right-ca")))
        .await?;
    for (name, _, reason) in &cases {
        let status = cluster.wait_refused("Target", &namespace, name, reason).await?;
        let (_, message) = told(&status, "Accepted");
        assert!(message.len() > 20, "{name}: {message:?} does not help");
        assert!(
            !message.contains("not-the-secret-key") && !message.contains(&s3.secret_access_key),
            "{message}"
        );
    }
    cluster
        .wait(
            "Target",
            &namespace,
            "good-ca",
            "Accepted",
            Duration::from_secs(30),
        )
        .await?;
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn a_claim_that_cannot_be_read_fails_the_backup_unless_excluded_by_name() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("bad").await?;
    app::deploy_stateless(&cluster, &namespace).await?;
    let volume = format!("{namespace}-host");
    cluster
        .apply(&format!(
            r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {volume}, labels: {{holdfast-e2e: "true"}}}}
spec:
  capacity: {{storage: 10Mi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  hostPath: {{path: /tmp}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: host, namespace: {namespace}}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: "", volumeName: {volume}, resources: {{requests: {{storage: 10Mi}}}}}}
"#
        ))
        .await?;
    app::protect(&cluster, &namespace).await?;
    cluster
        .create(backup_manifest(&namespace, "refused", "Full"))
        .await?;
    let status = cluster
        .wait("Backup", &namespace, "refused", "Failed", Duration::from_secs(60))
        .await?;
    let (reason, message) = told(&status, "Failed");
    assert_eq!(reason, "VolumeUnreadable", "{message}");
    assert!(
        message.contains("host") && message.contains("exclude"),
        "{message}"
    );
    cluster.nothing_left().await?;

    let mut plan = cluster.ours("BackupPlan", &namespace).get("plan").await?;
    plan.data["spec"]["excludeResources"] = json!({"gvkSelector": [
        {"groupVersionKind": {"group": "", "version": "v1", "kind": "PersistentVolumeClaim"}, "objects": ["host"]}]});
    cluster
        .ours("BackupPlan", &namespace)
        .replace("plan", &kube::api::PostParams::default(), &plan)
        .await?;
    let status = app::backup(&cluster, &namespace, "excluded", "Full").await?;
    assert_eq!(status["excludedClaims"], json!(["host"]));
    cluster.delete_namespace(&namespace).await?;
    let volumes: kube::Api<k8s_openapi::api::core::v1::PersistentVolume> =
        kube::Api::all(cluster.client.clone());
    volumes
        .delete(&volume, &kube::api::DeleteParams::default())
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_conflict_is_named_and_nothing_is_written() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("bad").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "x").await?;
    let point = app::backup(&cluster, &namespace, "b", "Full").await?;
    // In place, over the living application.
    cluster
        .create(json!({"apiVersion": "holdfast.dev/v1", "kind": "Restore",
            "metadata": {"name": "over", "namespace": namespace},
            "spec": {"source": {"type": "Backup", "backup": {"name": "b"}}}}))
        .await?;
    let status = cluster
        .wait("Restore", &namespace, "over", "Failed", Duration::from_secs(60))
        .await?;
    assert_eq!(told(&status, "Failed").0, "Conflict", "{status:#}");
    // Into a namespace that exists.
    app::vault(&cluster).await?;
    cluster
        .create(app::restore_manifest(
            &format!("{namespace}-exists"),
            &location(&point),
            &namespace,
        ))
        .await?;
    let status = cluster
        .wait(
            "Restore",
            INSTALLED,
            &format!("{namespace}-exists"),
            "Failed",
            Duration::from_secs(60),
        )
        .await?;
    assert_eq!(told(&status, "Failed").0, "Conflict", "{status:#}");
    cluster.nothing_left().await?;
    assert_eq!(
        cluster.exec(&namespace, &pod, "cat /data/last").await?,
        "x",
        "the living application was touched"
    );
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn a_damaged_image_is_found_named_and_nothing_is_left() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("bad").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "x").await?;
    let point = app::backup(&cluster, &namespace, "b", "Full").await?;
    let volumes = location(&point)
        .rsplit_once('/')
        .map(|(plan, _)| format!("holdfast/volumes/{plan}/"))
        .unwrap();
    let image = cluster
        .keys(&volumes)
        .await?
        .into_iter()
        .find(|k| k.ends_with(".qcow2"))
        .expect("an image");
    flip_one_byte(&cluster, &image).await?;
    let into = format!("{namespace}-copy");
    app::vault(&cluster).await?;
    cluster
        .create(app::restore_manifest(&into, &location(&point), &into))
        .await?;
    let status = cluster
        .wait("Restore", INSTALLED, &into, "Failed", Duration::from_secs(120))
        .await?;
    assert_eq!(told(&status, "Failed").0, "Damaged", "{status:#}");
    cluster.nothing_left().await?;
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(cluster.client.clone());
    until(
        "the half-restored namespace to go",
        Duration::from_secs(60),
        || async { Ok(namespaces.get_opt(&into).await?.is_none().then_some(())) },
    )
    .await?;
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn a_missing_snapshot_class_is_named() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("bad").await?;
    app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    let resource = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
        "snapshot.storage.k8s.io",
        "v1",
        "VolumeSnapshotClass",
    ));
    let classes: kube::Api<kube::api::DynamicObject> = kube::Api::all_with(cluster.client.clone(), &resource);
    let mut class = classes.get("sandbox").await?;
    classes
        .delete("sandbox", &kube::api::DeleteParams::default())
        .await?;
    let outcome = async {
        cluster.create(backup_manifest(&namespace, "b", "Full")).await?;
        cluster
            .wait("Backup", &namespace, "b", "Failed", Duration::from_secs(60))
            .await
    }
    .await;
    class.metadata.resource_version = None;
    class.metadata.uid = None;
    class.metadata.managed_fields = None;
    classes.create(&kube::api::PostParams::default(), &class).await?;
    let status = outcome?;
    let (reason, message) = told(&status, "Failed");
    assert_eq!(reason, "SnapshotClassMissing", "{message}");
    assert!(message.contains("csi.sandbox.holdfast.dev"), "{message}");
    cluster.nothing_left().await?;
    cluster.delete_namespace(&namespace).await
}

mod bytes_of {
    use anyhow::Result;
    use holdfast_target::Target;

    use crate::cluster::Cluster;

    /// Replaces an object by itself with one byte changed in the middle, past any table.
    pub(super) async fn flip_one_byte(cluster: &Cluster, key: &str) -> Result<()> {
        let store = cluster.store()?;
        let key = key.parse()?;
        let mut bytes = store.get(&key, 1 << 30).await?.body.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x01;
        store.delete(std::slice::from_ref(&key)).await?;
        store.put(&key, bytes.into()).await?;
        Ok(())
    }
}
