//! An application to protect: a Deployment with a file system and a raw volume, configuration, rights and a custom
//! resource; and the resources that protect it.

use std::time::Duration;

use anyhow::Result;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, INSTALLED};

/// How the application's volumes are provisioned.
#[derive(Clone, Copy)]
pub(crate) struct Volumes {
    pub(crate) class: &'static str,
    pub(crate) size: &'static str,
}

impl Volumes {
    pub(crate) const SMALL: Self = Self {
        class: "sandbox-immediate",
        size: "64Mi",
    };
    pub(crate) const ON_FIRST_USE: Self = Self {
        class: "sandbox-wffc",
        size: "64Mi",
    };
}

/// Configuration and rights, no volumes.
fn stateless(namespace: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{name: app, namespace: {namespace}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings, namespace: {namespace}, labels: {{tier: web}}}}
data: {{greeting: hello}}
---
apiVersion: v1
kind: Secret
metadata: {{name: password, namespace: {namespace}}}
stringData: {{password: correct-horse}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: reader, namespace: {namespace}}}
rules: [{{apiGroups: [""], resources: [configmaps], verbs: [get, list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: reader, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}
subjects: [{{kind: ServiceAccount, name: app, namespace: {namespace}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#
    )
}

/// Deploys the application without volumes.
pub(crate) async fn deploy_stateless(cluster: &Cluster, namespace: &str) -> Result<()> {
    cluster.apply(&stateless(namespace)).await?;
    cluster.apply(&deployment(cluster, namespace, "", "")).await?;
    cluster
        .ready_pod(namespace, "app=web", Duration::from_secs(60))
        .await?;
    Ok(())
}

fn deployment(cluster: &Cluster, namespace: &str, uses: &str, volumes: &str) -> String {
    let image = &cluster.sandbox.images.busybox;
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}}}
spec:
  replicas: 1
  strategy: {{type: Recreate}}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      serviceAccountName: app
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: {image}
          command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]
          envFrom: [{{configMapRef: {{name: settings}}}}, {{secretRef: {{name: password}}}}]
{uses}
{volumes}
"#
    )
}

/// Deploys the application with a file system and a raw volume and waits until it runs; gives the pod.
pub(crate) async fn deploy(cluster: &Cluster, namespace: &str, volumes: Volumes) -> Result<String> {
    cluster.apply(&stateless(namespace)).await?;
    for (name, mode) in [("files", "Filesystem"), ("raw", "Block")] {
        cluster
            .apply(&format!(
                r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: {}
  volumeMode: {mode}
  resources: {{requests: {{storage: {}}}}}
"#,
                volumes.class, volumes.size
            ))
            .await?;
    }
    let uses = "          volumeMounts: [{name: files, mountPath: /data}]\n          volumeDevices: [{name: raw, devicePath: /dev/raw}]";
    let list = "      volumes:\n        - {name: files, persistentVolumeClaim: {claimName: files}}\n        - {name: raw, persistentVolumeClaim: {claimName: raw}}";
    cluster.apply(&deployment(cluster, namespace, uses, list)).await?;
    running(cluster, namespace).await
}

/// Waits until the application runs; gives the pod.
pub(crate) async fn running(cluster: &Cluster, namespace: &str) -> Result<String> {
    cluster
        .ready_pod(namespace, "app=web", Duration::from_secs(90))
        .await
}

/// Writes random data into both volumes: files in a folder of this name, and a stretch of the raw volume that depends on
/// the name.
pub(crate) async fn write(cluster: &Cluster, namespace: &str, pod: &str, name: &str) -> Result<()> {
    let block = name.bytes().map(usize::from).sum::<usize>() % 200;
    let command = format!(
        "set -e; mkdir -p /data/{name}; for i in 1 2 3 4 5; do head -c 500000 /dev/urandom > /data/{name}/$i; done; \
         echo {name} > /data/last; sync; \
         head -c 3000000 /dev/urandom | dd of=/dev/raw bs=65536 seek={block} conv=notrunc,fsync 2>/dev/null; sync"
    );
    cluster.exec(namespace, pod, &command).await?;
    Ok(())
}

/// One line per file and one for the raw device: what must be the same after a restore.
pub(crate) async fn checksums(cluster: &Cluster, namespace: &str, pod: &str) -> Result<String> {
    let command = "find /data -type f | sort | xargs sha256sum; sha256sum /dev/raw";
    cluster.exec(namespace, pod, command).await
}

/// Credentials and a Target on the sandbox's S3 server in `namespace`.
pub(crate) async fn target(cluster: &Cluster, namespace: &str, allowed: &[&str]) -> Result<()> {
    let s3 = &cluster.sandbox.s3;
    credentials(cluster, namespace, "s3", &s3.access_key_id, &s3.secret_access_key).await?;
    cluster
        .create(target_manifest(
            cluster,
            namespace,
            "store",
            &s3.endpoint,
            allowed,
        ))
        .await?;
    cluster
        .wait("Target", namespace, "store", "Accepted", Duration::from_secs(30))
        .await?;
    Ok(())
}

pub(crate) async fn credentials(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    access: &str,
    secret: &str,
) -> Result<()> {
    cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "stringData": {"accessKey": access, "secretKey": secret},
        }))
        .await?;
    Ok(())
}

pub(crate) fn target_manifest(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    url: &str,
    allowed: &[&str],
) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1", "kind": "Target", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "type": "ObjectStore", "vendor": "Other", "allowedNamespaces": allowed,
            "objectStoreCredentials": {
                "bucketName": cluster.sandbox.s3.bucket, "region": cluster.sandbox.s3.region, "url": url,
                "credentialSecret": {"name": "s3"},
            },
        },
    })
}

pub(crate) fn plan_manifest(namespace: &str, name: &str, target: &str, target_namespace: &str) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1", "kind": "BackupPlan", "metadata": {"name": name, "namespace": namespace},
        "spec": {"backupConfig": {"target": {"name": target, "namespace": target_namespace}},
            "storeSecretsUnencrypted": true},
    })
}

/// A Target and a plan in the application's own namespace, both Accepted.
pub(crate) async fn protect(cluster: &Cluster, namespace: &str) -> Result<()> {
    target(cluster, namespace, &[]).await?;
    plan(cluster, namespace).await
}

/// A plan on the Target `store` of the application's own namespace, Accepted.
pub(crate) async fn plan(cluster: &Cluster, namespace: &str) -> Result<()> {
    cluster
        .create(plan_manifest(namespace, "plan", "store", namespace))
        .await?;
    cluster
        .wait(
            "BackupPlan",
            namespace,
            "plan",
            "Accepted",
            Duration::from_secs(30),
        )
        .await?;
    Ok(())
}

pub(crate) fn backup_manifest(namespace: &str, name: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1", "kind": "Backup", "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": kind, "backupPlan": {"name": "plan"}},
    })
}

/// Runs a backup to its end and gives its status.
pub(crate) async fn backup(cluster: &Cluster, namespace: &str, name: &str, kind: &str) -> Result<Value> {
    cluster.create(backup_manifest(namespace, name, kind)).await?;
    cluster
        .wait("Backup", namespace, name, "Complete", Duration::from_secs(180))
        .await
}

/// Location of a Complete backup.
pub(crate) fn location(status: &Value) -> String {
    status["location"]
        .as_str()
        .expect("a Complete backup has a location")
        .to_owned()
}

/// A restore from the install namespace, by location, into a namespace that does not exist.
pub(crate) fn restore_manifest(name: &str, location: &str, into: &str) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1", "kind": "Restore", "metadata": {"name": name, "namespace": INSTALLED},
        "spec": {
            "restoreNamespace": into,
            "source": {"type": "Location", "location": location, "target": {"name": "vault", "namespace": INSTALLED}},
        },
    })
}

/// The Target `vault` in the install namespace, which outlives every application.
pub(crate) async fn vault(cluster: &Cluster) -> Result<()> {
    if cluster
        .ours("Target", INSTALLED)
        .get_opt("vault")
        .await?
        .is_none()
    {
        let s3 = &cluster.sandbox.s3;
        // The Secret may be there without its Target: our definitions come and go in these tests.
        cluster
            .apply(&format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: s3, namespace: {INSTALLED}}}\n\
                 stringData: {{accessKey: {}, secretKey: \"{}\"}}\n",
                s3.access_key_id, s3.secret_access_key
            ))
            .await?;
        cluster
            .create(target_manifest(cluster, INSTALLED, "vault", &s3.endpoint, &["*"]))
            .await?;
    }
    cluster
        .wait("Target", INSTALLED, "vault", "Accepted", Duration::from_secs(30))
        .await?;
    Ok(())
}

/// Restores by location into a new namespace and gives the status.
pub(crate) async fn restore(cluster: &Cluster, location: &str, into: &str) -> Result<Value> {
    vault(cluster).await?;
    let name = format!("to-{into}");
    cluster.create(restore_manifest(&name, location, into)).await?;
    cluster
        .wait("Restore", INSTALLED, &name, "Complete", Duration::from_secs(180))
        .await
}

/// Sets `spec.cancel`.
pub(crate) async fn cancel(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> Result<()> {
    let patch = json!({"spec": {"cancel": true}});
    cluster
        .ours(kind, namespace)
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(())
}
