//! The cluster under test: apply, wait, exec, look at the target.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use holdfast_target::{Connection, S3Target, SecretKey};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, AttachParams, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::Scope;
use kube::{Client, Config, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

/// Where the charts install the product.
pub(crate) const INSTALLED: &str = "holdfast-system";

/// What `cargo xtask up` says of itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sandbox {
    pub(crate) kubeconfig: String,
    pub(crate) s3: S3,
    pub(crate) csi: Csi,
    pub(crate) images: Images,
    /// Private half of the installation's recovery key.
    pub(crate) recovery_key: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct S3 {
    pub(crate) endpoint: String,
    pub(crate) tls_endpoint: String,
    pub(crate) ca_file: String,
    pub(crate) wrong_ca_file: String,
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Csi {
    pub(crate) faults_file: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Images {
    pub(crate) busybox: String,
}

/// A client of the cluster, and the sandbox's facts.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) config: Config,
    pub(crate) sandbox: Sandbox,
}

impl Cluster {
    /// Connects as administrator.
    pub(crate) async fn connect() -> Result<Self> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let path = std::env::var("HOLDFAST_SANDBOX").or_else(|_| default_facts())?;
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{path}: bring the sandbox up with `cargo xtask up`"))?;
        let sandbox: Sandbox = serde_json::from_str(&text).context("sandbox.json")?;
        let kubeconfig = Kubeconfig::read_from(&sandbox.kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Self {
            client: Client::try_from(config.clone())?,
            config,
            sandbox,
        })
    }

    /// The same cluster as somebody else, by impersonation.
    pub(crate) fn as_user(&self, user: &str) -> Result<Self> {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(vec!["system:authenticated".to_owned()]);
        Ok(Self {
            client: Client::try_from(config.clone())?,
            config,
            sandbox: self.sandbox.clone(),
        })
    }

    /// A namespace of a new name, labelled so that a later run can sweep it.
    pub(crate) async fn namespace(&self, what: &str) -> Result<String> {
        let name = format!("{what}-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
        self.namespace_named(&name).await?;
        Ok(name)
    }

    pub(crate) async fn namespace_named(&self, name: &str) -> Result<()> {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"holdfast-e2e": "true"}}}))?;
        Api::<Namespace>::all(self.client.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(self.client.clone(), name);
        until("the default service account", Duration::from_secs(20), || async {
            Ok(accounts.get_opt("default").await?)
        })
        .await?;
        Ok(())
    }

    async fn api_of(&self, object: &Value) -> Result<(Api<DynamicObject>, DynamicObject)> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let types = object
            .types
            .clone()
            .ok_or_else(|| anyhow!("no apiVersion or kind"))?;
        let gvk = GroupVersionKind::try_from(&types)?;
        let (resource, capabilities) = kube::discovery::pinned_kind(&self.client, &gvk).await?;
        let api = match capabilities.scope {
            Scope::Namespaced => Api::namespaced_with(
                self.client.clone(),
                &object.namespace().unwrap_or_else(|| "default".to_owned()),
                &resource,
            ),
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
        };
        Ok((api, object))
    }

    /// Creates an object; the error is the API server's, for tests of refusals.
    pub(crate) async fn create(&self, object: Value) -> Result<DynamicObject> {
        let (api, object) = self.api_of(&object).await?;
        Ok(api.create(&PostParams::default(), &object).await?)
    }

    /// Server-side apply of every document of a YAML text.
    pub(crate) async fn apply(&self, yaml: &str) -> Result<()> {
        for document in yaml.split("\n---") {
            if document.trim().is_empty() {
                continue;
            }
            let value: Value = serde_saphyr::from_str(document).with_context(|| document.to_owned())?;
            let (api, object) = self.api_of(&value).await?;
            let params = PatchParams::apply("holdfast-e2e").force();
            api.patch(&object.name_any(), &params, &Patch::Apply(&object))
                .await
                .with_context(|| format!("applying {}", object.name_any()))?;
        }
        Ok(())
    }

    /// An API of one of our kinds.
    pub(crate) fn ours(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let version = if kind == "VolumeTransfer" {
            "v1alpha1"
        } else {
            "v1"
        };
        let gvk = GroupVersionKind::gvk("holdfast.dev", version, kind);
        Api::namespaced_with(
            self.client.clone(),
            namespace,
            &kube::core::ApiResource::from_gvk(&gvk),
        )
    }

    /// Waits until a condition of one of our resources is True and gives its status. Ends early, with all conditions,
    /// when the run ends the other way.
    pub(crate) async fn wait(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        condition: &str,
        limit: Duration,
    ) -> Result<Value> {
        let api = self.ours(kind, namespace);
        let opposite = match condition {
            "Complete" => "Failed",
            "Failed" => "Complete",
            _ => "",
        };
        let started = tokio::time::Instant::now();
        loop {
            let status = api
                .get(name)
                .await?
                .data
                .get("status")
                .cloned()
                .unwrap_or_default();
            if truth(&status, condition) == Some("True".to_owned()) {
                return Ok(status);
            }
            let other = truth(&status, opposite) == Some("True".to_owned());
            if other || started.elapsed() > limit {
                bail!(
                    "{kind} {namespace}/{name} is not {condition} after {:?}: {status:#}",
                    started.elapsed()
                );
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    /// Waits until a condition is False for this reason.
    pub(crate) async fn wait_refused(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        reason: &str,
    ) -> Result<Value> {
        let api = self.ours(kind, namespace);
        let what = format!("{kind} {name} Accepted=False because {reason}");
        until(&what, Duration::from_secs(45), || async {
            let status = api
                .get(name)
                .await?
                .data
                .get("status")
                .cloned()
                .unwrap_or_default();
            let found = condition(&status, "Accepted").cloned().unwrap_or_default();
            Ok((found["status"] == "False" && found["reason"] == reason).then_some(status))
        })
        .await
    }

    /// Waits until the pods of a selector are Ready and gives the name of the first.
    pub(crate) async fn ready_pod(&self, namespace: &str, selector: &str, limit: Duration) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        until(
            &format!("a Ready pod {selector} in {namespace}"),
            limit,
            || async {
                let list = pods.list(&ListParams::default().labels(selector)).await?;
                let ready = |p: &&Pod| {
                    let conditions = p.status.as_ref().and_then(|s| s.conditions.as_ref());
                    p.metadata.deletion_timestamp.is_none()
                        && conditions
                            .into_iter()
                            .flatten()
                            .any(|c| c.type_ == "Ready" && c.status == "True")
                };
                Ok(list.items.iter().find(ready).map(ResourceExt::name_any))
            },
        )
        .await
    }

    /// Runs a shell command in a pod and gives what it printed.
    pub(crate) async fn exec(&self, namespace: &str, pod: &str, command: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = AttachParams::default().stdout(true).stderr(true);
        let mut process = pods.exec(pod, ["sh", "-c", command], &params).await?;
        let mut out = String::new();
        let mut err = String::new();
        let mut stdout = process.stdout().ok_or_else(|| anyhow!("no stdout"))?;
        let mut stderr = process.stderr().ok_or_else(|| anyhow!("no stderr"))?;
        let status = process.take_status().ok_or_else(|| anyhow!("no status"))?;
        let (a, b) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        a?;
        b?;
        match status.await {
            Some(status) if status.status.as_deref() == Some("Success") => Ok(out.trim().to_owned()),
            other => bail!("{command}: {other:?}: {err}"),
        }
    }

    /// Deletes a namespace and waits until it is gone.
    pub(crate) async fn delete_namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        drop(api.delete(name, &DeleteParams::default()).await);
        until(
            &format!("namespace {name} to go"),
            Duration::from_secs(120),
            || async { Ok(api.get_opt(name).await?.is_none().then_some(())) },
        )
        .await
    }

    /// The sandbox's target, opened as the product opens it.
    pub(crate) fn store(&self) -> Result<S3Target> {
        self.store_of(&self.sandbox.s3.bucket)
    }

    /// A bucket of the sandbox's store, which need not be there.
    pub(crate) fn store_of(&self, bucket: &str) -> Result<S3Target> {
        let s3 = &self.sandbox.s3;
        Ok(S3Target::connect(&Connection {
            url: Some(s3.endpoint.clone()),
            region: s3.region.clone(),
            bucket: bucket.to_owned(),
            access_key: s3.access_key_id.clone(),
            secret_key: SecretKey::new(s3.secret_access_key.clone()),
            ca: None,
            skip_cert_verification: false,
        })?)
    }

    /// Keys under a prefix.
    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let objects = holdfast_target::list_all(&self.store()?, &prefix.parse()?, 100_000).await?;
        Ok(objects.into_iter().map(|o| o.key.to_string()).collect())
    }

    /// Waits until nothing temporary is left anywhere: no transfer, Job, mover pod, claim, snapshot, content.
    pub(crate) async fn nothing_left(&self) -> Result<()> {
        let limit = Duration::from_secs(90);
        let started = tokio::time::Instant::now();
        loop {
            let left = self.temporaries().await?;
            if left.is_empty() {
                return Ok(());
            }
            if started.elapsed() > limit {
                bail!("left behind after {limit:?}: {left:#?}");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn temporaries(&self) -> Result<Vec<String>> {
        const KINDS: [(&str, &str, &str); 7] = [
            ("holdfast.dev", "v1alpha1", "VolumeTransfer"),
            ("batch", "v1", "Job"),
            ("", "v1", "PersistentVolumeClaim"),
            ("", "v1", "Secret"),
            ("snapshot.storage.k8s.io", "v1", "VolumeSnapshot"),
            ("snapshot.storage.k8s.io", "v1", "VolumeSnapshotContent"),
            ("", "v1", "PersistentVolume"),
        ];
        let mut left = Vec::new();
        for (group, version, kind) in KINDS {
            let gvk = GroupVersionKind::gvk(group, version, kind);
            let resource = kube::core::ApiResource::from_gvk(&gvk);
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            for object in api.list(&ListParams::default()).await?.items {
                let ours = object
                    .labels()
                    .get("app.kubernetes.io/managed-by")
                    .is_some_and(|v| v == "holdfast");
                let temporary = match kind {
                    "Job" => object.namespace().as_deref() == Some(INSTALLED),
                    "PersistentVolumeClaim" => {
                        object.namespace().as_deref() == Some(INSTALLED)
                            && is_of_a_transfer(&object.name_any())
                    }
                    "Secret" => ours && object.labels().contains_key("holdfast.dev/transfer"),
                    // A volume that was handed over is the application's; one that waits or was released is ours.
                    "PersistentVolume" => {
                        let claim = object.data.pointer("/spec/claimRef/name");
                        object.data.pointer("/spec/claimRef/namespace") == Some(&json!(INSTALLED))
                            && claim.and_then(Value::as_str).is_some_and(is_of_a_transfer)
                            || object.data.pointer("/status/phase") == Some(&json!("Released"))
                    }
                    _ => true,
                };
                if temporary {
                    left.push(format!(
                        "{kind} {}/{}",
                        object.namespace().unwrap_or_default(),
                        object.name_any()
                    ));
                }
            }
        }
        Ok(left)
    }
}

/// Whether a claim of the install namespace is a mover's: those of targets that are folders stay.
fn is_of_a_transfer(claim: &str) -> bool {
    claim.starts_with("hf-") && !claim.starts_with("hf-nfs-")
}

fn default_facts() -> Result<String> {
    let cache =
        std::env::var("XDG_CACHE_HOME").or_else(|_| std::env::var("HOME").map(|h| format!("{h}/.cache")))?;
    Ok(format!("{cache}/holdfast/sandbox/clusters/main/sandbox.json"))
}

/// A condition of a status.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status
        .get("conditions")?
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)
}

fn truth(status: &Value, kind: &str) -> Option<String> {
    Some(condition(status, kind)?.get("status")?.as_str()?.to_owned())
}

/// Reason and message of a condition.
pub(crate) fn told(status: &Value, kind: &str) -> (String, String) {
    let found = condition(status, kind).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

/// Repeats a question until it has an answer.
pub(crate) async fn until<T, F, Q>(what: &str, limit: Duration, mut question: Q) -> Result<T>
where
    Q: FnMut() -> F,
    F: Future<Output = Result<Option<T>>>,
{
    let started = tokio::time::Instant::now();
    loop {
        if let Some(answer) = question().await? {
            return Ok(answer);
        }
        if started.elapsed() > limit {
            bail!("waited {limit:?} for {what}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The API server's refusal of a write.
pub(crate) fn refusal(result: Result<DynamicObject>) -> (u16, String) {
    match result {
        Ok(object) => panic!("{} was accepted", object.name_any()),
        Err(error) => match error.downcast::<kube::Error>() {
            Ok(kube::Error::Api(status)) => (status.code, status.message.clone()),
            other => panic!("not an API refusal: {other:?}"),
        },
    }
}

/// A fault of the sandbox's CSI driver, taken back when dropped.
pub(crate) struct Fault(String);

impl Fault {
    /// Sets the fault switches to this.
    pub(crate) fn set(cluster: &Cluster, faults: &Value) -> Result<Self> {
        let path = cluster.sandbox.csi.faults_file.clone();
        let new = format!("{path}.new");
        std::fs::write(&new, faults.to_string())?;
        std::fs::rename(&new, &path)?;
        Ok(Self(path))
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}
