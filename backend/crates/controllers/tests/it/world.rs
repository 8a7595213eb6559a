//! An API server, a store and an operator, shared by all tests; each test has a namespace of its own.

use std::fmt::Debug;
use std::io::Read;
use std::time::{Duration, Instant};

use holdfast_controllers::{Config, Limits, Metrics, MoverSettings};
use holdfast_crd::{Backup, BackupPlan, Target};
use holdfast_k8s::Cluster;
use holdfast_target::layout::{BackupManifest, Location};
use holdfast_target::testing::Gateway;
use holdfast_target::{S3Target, Target as _};
use holdfast_testkit::ControlPlane;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Namespace that the operator is installed in.
pub(crate) const INSTALLED: &str = "holdfast-system";

pub(crate) struct Shared {
    pub(crate) plane: ControlPlane,
    pub(crate) gateway: Gateway,
}

async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let plane = ControlPlane::start().await.unwrap();
            plane.install_crds().await.unwrap();
            plane.namespace(INSTALLED).await.unwrap();
            let client = plane.client().unwrap();
            let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": "owners"}, "rules": [{"apiGroups": [""], "verbs": ["get", "list"],
                "resources": ["secrets", "persistentvolumeclaims"]}]});
            let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": "owners"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "owners"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "anna"}]});
            make(&client, &role).await;
            make(&client, &binding).await;
            operate(plane.admin_config().unwrap());
            Shared {
                plane,
                gateway: Gateway::start(),
            }
        })
        .await
}

/// Runs the operator on a thread of its own: tests come and go with their runtimes.
fn operate(config: kube::Config) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async move {
            let config = Config {
                cluster: Cluster::with_config(config).unwrap(),
                install_namespace: INSTALLED.to_owned(),
                instance: "test".to_owned(),
                mover: MoverSettings::of_image("none"),
                limits: Limits {
                    removal_grace_seconds: 0,
                    ..Limits::default()
                },
                recovery: Vec::new(),
                metrics: Metrics::register(&Default::default()).unwrap(),
            };
            holdfast_controllers::run(config, Default::default())
                .await
                .unwrap();
        });
    });
}

/// One test's namespace with a target and a plan in it.
pub(crate) struct World {
    pub(crate) shared: &'static Shared,
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl World {
    /// A namespace without anything.
    pub(crate) async fn bare(namespace: &str) -> Self {
        let shared = shared().await;
        shared.plane.namespace(namespace).await.unwrap();
        Self {
            shared,
            client: shared.plane.client().unwrap(),
            namespace: namespace.to_owned(),
        }
    }

    /// A namespace with the target `t` and the plan `p`, both usable.
    pub(crate) async fn new(namespace: &str) -> Self {
        let world = Self::bare(namespace).await;
        world.secret("keys", None).await;
        world.target("t", json!({})).await;
        world.plan("p", json!({})).await;
        world
            .until::<Target>("t", |t| {
                truth(t.status.map(|s| s.conditions), "Accepted") == Some(true)
            })
            .await;
        world
            .until::<BackupPlan>("p", |p| {
                truth(p.status.map(|s| s.conditions), "Accepted") == Some(true)
            })
            .await;
        world
    }

    pub(crate) async fn make(&self, mut manifest: Value) -> DynamicObject {
        manifest["metadata"]["namespace"] = json!(self.namespace);
        make(&self.client, &manifest).await
    }

    pub(crate) async fn secret(&self, name: &str, secret_key: Option<&str>) {
        let connection = self.shared.gateway.connection().expose_json();
        let secret_key = secret_key.unwrap_or_else(|| connection["secretKey"].as_str().unwrap());
        self.make(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "stringData": {"accessKey": connection["accessKey"], "secretKey": secret_key}}),
        )
        .await;
    }

    /// A target on the gateway, its credentials changed as given.
    pub(crate) async fn target(&self, name: &str, changes: Value) {
        let connection = self.shared.gateway.connection();
        let mut store = json!({"bucketName": connection.bucket, "url": connection.url,
            "credentialSecret": {"name": "keys"}});
        store
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        self.make(
            json!({"apiVersion": "holdfast.dev/v1", "kind": "Target", "metadata": {"name": name},
            "spec": {"type": "ObjectStore", "vendor": "Other", "objectStoreCredentials": store}}),
        )
        .await;
    }

    pub(crate) async fn plan(&self, name: &str, more: Value) {
        let mut spec = json!({"backupConfig": {"target": {"name": "t"}}, "storeSecretsUnencrypted": true});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.make(json!({"apiVersion": "holdfast.dev/v1", "kind": "BackupPlan", "metadata": {"name": name}, "spec": spec}))
            .await;
    }

    /// A full backup of the plan `p` by anna, its spec changed as given.
    pub(crate) async fn backup(&self, name: &str, changes: Value) {
        let mut spec = json!({"type": "Full", "backupPlan": {"name": "p"},
            "requester": {"user": "anna", "groups": ["system:authenticated"]}});
        spec.as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        self.make(json!({"apiVersion": "holdfast.dev/v1", "kind": "Backup", "metadata": {"name": name}, "spec": spec}))
            .await;
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until the resource looks as wanted.
    pub(crate) async fn until<K>(&self, name: &str, wanted: impl Fn(K) -> bool) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let found = self.api::<K>().get(name).await.unwrap();
            if wanted(found.clone()) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{name} does not become what it should: {found:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn completed(&self, name: &str) -> Backup {
        let over = |b: Backup| truth(b.status.map(|s| s.conditions), "Complete").is_some();
        let backup = self.until::<Backup>(name, over).await;
        let conditions = backup.status.clone().unwrap().conditions;
        assert_eq!(
            truth(Some(conditions.clone()), "Complete"),
            Some(true),
            "{conditions:#?}"
        );
        backup
    }

    /// Waits for the end and returns reason and message of the failure.
    pub(crate) async fn failed(&self, name: &str) -> (String, String) {
        let backup = self
            .until::<Backup>(name, |b| {
                truth(b.status.map(|s| s.conditions), "Failed") == Some(true)
            })
            .await;
        let status = backup.status.unwrap();
        let failed = status
            .conditions
            .into_iter()
            .find(|c| c.type_ == "Failed")
            .unwrap();
        (failed.reason, failed.message)
    }

    pub(crate) async fn cleaned_up(&self, name: &str) -> Backup {
        let done = |b: Backup| {
            let phases = b.status.unwrap_or_default().phases;
            phases
                .iter()
                .any(|p| format!("{:?}{:?}", p.phase, p.state) == "CleanUpCompleted")
        };
        self.until::<Backup>(name, done).await
    }

    pub(crate) fn store(&self) -> S3Target {
        self.shared.gateway.target()
    }

    /// Reads the point of a complete backup: its commit object and its objects.
    pub(crate) async fn point(&self, backup: &Backup) -> (BackupManifest, Vec<Value>) {
        let location: Location = backup.status.clone().unwrap().location.unwrap().parse().unwrap();
        let store = self.store();
        let body = store.get(&location.commit_key(), 1 << 20).await.unwrap().body;
        let manifest = BackupManifest::parse(&location, &body).unwrap();
        let file = store
            .get(&location.objects_key(manifest.attempt), 1 << 24)
            .await
            .unwrap()
            .body;
        assert_eq!(manifest.objects.size, file.len() as u64);
        let mut text = String::new();
        zstd::stream::read::Decoder::new(&*file)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        let objects: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(manifest.objects.count, objects.len() as u64);
        (manifest, objects)
    }

    /// Cancels or otherwise changes a spec.
    pub(crate) async fn merge<K>(&self, name: &str, change: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        self.api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .unwrap();
    }
}

/// What a condition says; `None` when it is not decided.
pub(crate) fn truth(conditions: Option<Vec<Condition>>, kind: &str) -> Option<bool> {
    match conditions?.iter().find(|c| c.type_ == kind)?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

pub(crate) async fn make(client: &Client, manifest: &Value) -> DynamicObject {
    let object: DynamicObject = serde_json::from_value(manifest.clone()).unwrap();
    let api_version = manifest["apiVersion"].as_str().unwrap();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = manifest["kind"].as_str().unwrap();
    let plural = format!("{}s", kind.to_lowercase()).replace("storageclasss", "storageclasses");
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural,
    };
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &object).await.unwrap()
}
