//! Two namespaces on the sandbox, a target on its store, and pods that write and read volumes.

mod volumes;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_crd::names::labels;
use holdfast_crd::{TransferStage, VolumeTransfer, VolumeTransferStatus};
use holdfast_k8s::{Cluster, Events};
use holdfast_target::layout::VolumeHome;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{Context, Limits, Metrics, MoverSettings, TargetAccess};

/// Ends its task when it goes out of scope, as kill -9 would.
pub(super) struct Leader(JoinHandle<()>);

impl Drop for Leader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct World {
    cluster: Cluster,
    client: Client,
    facts: Value,
    /// Namespace of transfers.
    install: String,
    /// Namespace of the application.
    app: String,
    home: VolumeHome,
}

impl World {
    pub(super) async fn new(name: &str) -> Self {
        let path = std::env::var("HOLDFAST_SANDBOX").expect("HOLDFAST_SANDBOX names sandbox.json");
        let facts: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let kubeconfig = kube::config::Kubeconfig::read_from(facts["kubeconfig"].as_str().unwrap()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
            .await
            .unwrap();
        let cluster = Cluster::with_config(config).unwrap();
        let run = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let world = Self {
            client: cluster.client(),
            cluster,
            facts,
            install: format!("hf-it-{name}-{run}"),
            app: format!("hf-it-{name}-{run}-app"),
            home: format!("it-cluster/it-plan-{run}/it-claim").parse().unwrap(),
        };
        world.install().await;
        world
    }

    async fn install(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in holdfast_crd::generate::definitions() {
            if crds.get_opt(&definition.name_any()).await.unwrap().is_none() {
                crds.create(&PostParams::default(), &definition).await.unwrap();
            }
        }
        for namespace in [&self.install, &self.app] {
            let namespace: Namespace = from(json!({"metadata": {"name": namespace}}));
            Api::all(self.client.clone())
                .create(&PostParams::default(), &namespace)
                .await
                .unwrap();
        }
        let account = "holdfast-datamover";
        self.create::<ServiceAccount>(&self.install, json!({"metadata": {"name": account}}))
            .await;
        self.create::<Role>(
            &self.install,
            json!({"metadata": {"name": account}, "rules": [
            {"apiGroups": ["holdfast.dev"], "resources": ["volumetransfers/status"], "verbs": ["patch"]}]}),
        )
        .await;
        self.create::<RoleBinding>(
            &self.install,
            json!({"metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.install}]}),
        )
        .await;
        let s3 = &self.facts["s3"];
        self.create::<Secret>(
            &self.install,
            json!({"metadata": {"name": "keys"},
            "stringData": {"accessKey": s3["accessKeyId"], "secretKey": s3["secretAccessKey"]}}),
        )
        .await;
        let crd_ready = Duration::from_secs(20);
        let start = Instant::now();
        let target = json!({"metadata": {"name": "store"}, "spec": {"type": "ObjectStore", "vendor": "Other",
            "objectStoreCredentials": {"bucketName": s3["bucket"], "region": s3["region"], "url": s3["endpoint"],
                "credentialSecret": {"name": "keys"}}}});
        let targets: Api<holdfast_crd::Target> = Api::namespaced(self.client.clone(), &self.install);
        while let Err(error) = targets
            .create(&PostParams::default(), &typed(target.clone()))
            .await
        {
            assert!(start.elapsed() < crd_ready, "{error}");
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn create<K>(&self, namespace: &str, object: Value) -> K
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.create(&PostParams::default(), &from(object)).await.unwrap()
    }

    /// A leader until it is dropped.
    pub(super) fn leader(&self) -> Leader {
        self.leader_with(|_| {})
    }

    /// A leader with other settings.
    pub(super) fn leader_with(&self, change: impl FnOnce(&mut MoverSettings)) -> Leader {
        let mut ctx = self.context();
        change(&mut Arc::get_mut(&mut ctx).unwrap().mover);
        Leader(tokio::spawn(crate::transfer::run(ctx)))
    }

    /// The transfer fails with this reason and says so, and nothing of it is left.
    pub(super) async fn fails(&self, transfer: &str, reason: &str, text: &str) {
        let long = Duration::from_secs(150);
        let status = self
            .reached(transfer, "the end", long, |status| status.stage.is_final())
            .await;
        assert_eq!(status.stage, TransferStage::Failed, "{status:#?}");
        assert_eq!(status.reason.as_deref(), Some(reason), "{status:#?}");
        assert!(
            status.message.as_deref().unwrap_or_default().contains(text),
            "{status:#?}"
        );
        eprintln!("{transfer}: {reason}: {}", status.message.unwrap_or_default());
        self.nothing_left(transfer).await;
    }

    /// Waits until the volumes that our namespaces ever had are those of these claims of the application.
    pub(super) async fn only_volumes_of(&self, claims: &[&str]) {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let start = Instant::now();
        loop {
            let all = volumes.list(&ListParams::default()).await.unwrap().items;
            let ours = all.iter().filter_map(|volume| {
                let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
                let (namespace, name) = (claim.namespace.clone()?, claim.name.clone()?);
                let kept = namespace == self.app && claims.contains(&name.as_str());
                ([&self.app, &self.install].contains(&&namespace) && !kept).then_some((namespace, name))
            });
            let left: Vec<_> = ours.collect();
            if left.is_empty() {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "volumes left: {left:?}"
            );
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// One leader after the other, each killed after `life` or a bit more.
    pub(super) fn dying_leaders(&self, life: Duration) -> Leader {
        let contexts: Vec<_> = (0..2000).map(|_| self.context()).collect();
        Leader(tokio::spawn(async move {
            for (turn, ctx) in (0u32..).zip(contexts) {
                let leader = Leader(tokio::spawn(crate::transfer::run(ctx)));
                // Lives of different lengths, so that every step is cut somewhere.
                sleep(life + Duration::from_millis(u64::from(turn * 37 % 400))).await;
                drop(leader);
            }
        }))
    }

    fn context(&self) -> Arc<Context> {
        let image = std::env::var("HOLDFAST_IMAGE")
            .unwrap_or_else(|_| self.facts["images"]["holdfast"].as_str().unwrap().to_owned());
        let mut mover = MoverSettings::of_image(&image);
        mover.image_pull_policy = Some("Never".into());
        Arc::new(Context {
            cluster: self.cluster.clone(),
            client: self.client.clone(),
            install_namespace: self.install.clone(),
            cluster_uid: "it".into(),
            events: Events::new(self.client.clone(), "holdfast", None),
            mover,
            recovery: Vec::new(),
            limits: Limits::default(),
            targets: TargetAccess::new(self.client.clone(), &self.install),
            metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
            merging: Default::default(),
            streaks: Default::default(),
            shutdown: CancellationToken::new(),
        })
    }

    fn transfers(&self) -> Api<VolumeTransfer> {
        Api::namespaced(self.client.clone(), &self.install)
    }

    pub(super) async fn backup(&self, image: &str, claim: &str, mode: &str, chain: Option<Value>) -> String {
        self.backup_with(image, claim, |spec| {
            spec["volume"]["volumeMode"] = json!(mode);
            if let Some(chain) = chain {
                spec["chain"] = chain;
            }
        })
        .await
    }

    pub(super) async fn backup_with(
        &self,
        image: &str,
        claim: &str,
        change: impl FnOnce(&mut Value),
    ) -> String {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.app);
        let found = claims.get(claim).await.unwrap();
        let mut spec = json!({
            "direction": "Backup", "image": image, "snapshotClass": "sandbox",
            "run": {"kind": "Backup", "namespace": self.app, "name": image, "uid": format!("run-{image}")},
            "target": {"name": "store", "namespace": self.install}, "home": self.home.to_string(),
            "claim": {"namespace": self.app, "name": claim, "uid": found.uid()},
            "volume": {"capacity": 600 << 20, "driver": "csi.sandbox.holdfast.dev", "storageClass": "sandbox-immediate",
                "volumeMode": "Filesystem", "accessModes": ["ReadWriteOnce"], "fsType": "ext4"},
        });
        change(&mut spec);
        self.make(spec).await
    }

    /// A restore into a new claim called `class`, or of another name and then of the class sandbox-immediate.
    pub(super) async fn restore(&self, class: &str, mode: &str, chain: &Value) -> String {
        self.restore_with(class, mode, chain, |_| {}).await
    }

    pub(super) async fn restore_with(
        &self,
        class: &str,
        mode: &str,
        chain: &Value,
        change: impl FnOnce(&mut Value),
    ) -> String {
        let storage = if class.starts_with("sandbox") {
            class
        } else {
            "sandbox-immediate"
        };
        let mut spec = json!({
            "direction": "Restore", "chain": chain,
            "run": {"kind": "Restore", "namespace": self.app, "name": class, "uid": "run-restore"},
            "target": {"name": "store", "namespace": self.install}, "home": self.home.to_string(),
            "claim": {"namespace": self.app, "name": class, "uid": "x"},
            "volume": {"capacity": 600 << 20, "driver": "csi.sandbox.holdfast.dev", "storageClass": storage,
                "volumeMode": mode, "accessModes": ["ReadWriteOnce"], "fsType": "ext4"},
            "claimManifest": {"metadata": {"labels": {"app": "x"}},
                "spec": {"resources": {"requests": {"storage": "600Mi"}}}},
        });
        change(&mut spec);
        self.make(spec).await
    }

    async fn make(&self, spec: Value) -> String {
        let name = format!("hf-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let transfer: VolumeTransfer = typed(json!({"metadata": {"name": name}, "spec": spec}));
        self.transfers()
            .create(&PostParams::default(), &transfer)
            .await
            .unwrap();
        name
    }

    pub(super) async fn reached(
        &self,
        transfer: &str,
        what: &str,
        deadline: Duration,
        done: impl Fn(&VolumeTransferStatus) -> bool,
    ) -> VolumeTransferStatus {
        let start = Instant::now();
        loop {
            let status = self
                .transfers()
                .get(transfer)
                .await
                .unwrap()
                .status
                .unwrap_or_default();
            if done(&status) {
                return status;
            }
            assert!(
                !status.stage.is_final(),
                "{transfer} ended before {what}: {status:#?}"
            );
            assert!(
                start.elapsed() < deadline,
                "{transfer} did not reach {what}: {status:#?}"
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn succeeded(&self, transfer: &str, deadline: Duration) -> VolumeTransferStatus {
        let start = Instant::now();
        let status = self
            .reached(transfer, "success", deadline, |s| {
                s.stage == TransferStage::Succeeded
            })
            .await;
        eprintln!(
            "{transfer}: succeeded after {:.1} s, attempt {}, moved {} bytes, peak memory {} MiB",
            start.elapsed().as_secs_f64(),
            status.attempt,
            status.mover.as_ref().map_or(0, |m| m.bytes_transferred),
            status.mover.as_ref().map_or(0, |m| m.peak_memory >> 20)
        );
        status
    }

    pub(super) async fn result(&self, transfer: &str) -> Value {
        self.transfers()
            .get(transfer)
            .await
            .unwrap()
            .status
            .unwrap()
            .result
            .unwrap()
    }

    pub(super) async fn cancel(&self, transfer: &str) {
        let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
        self.transfers()
            .patch(transfer, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Deletes a transfer as it is; what must be gone afterwards is found by the selector that is returned.
    pub(super) async fn delete(&self, transfer: &str) -> ListParams {
        let ours = self.selector(transfer).await;
        self.transfers()
            .delete(transfer, &DeleteParams::default())
            .await
            .unwrap();
        ours
    }

    pub(super) async fn kill_movers(&self, transfer: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.install);
        let ours = self.selector(transfer).await;
        let kill = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        pods.delete_collection(&kill, &ours).await.unwrap();
    }

    async fn selector(&self, transfer: &str) -> ListParams {
        let uid = self.transfers().get(transfer).await.unwrap().uid().unwrap();
        ListParams::default().labels(&format!("{}={uid}", labels::TRANSFER))
    }

    /// Waits until nothing temporary of the transfer exists anywhere.
    pub(super) async fn nothing_left(&self, transfer: &str) {
        let ours = self.selector(transfer).await;
        self.nothing_of(&ours, transfer).await;
    }

    /// The same for a transfer that may be gone itself.
    pub(super) async fn nothing_of(&self, ours: &ListParams, transfer: &str) {
        let start = Instant::now();
        loop {
            let mut left = Vec::new();
            left.extend(self.left::<Pod>(Some(&self.install), ours).await);
            left.extend(self.left::<Job>(Some(&self.install), ours).await);
            left.extend(self.left::<Secret>(Some(&self.install), ours).await);
            left.extend(
                self.left::<PersistentVolumeClaim>(Some(&self.install), ours)
                    .await,
            );
            left.extend(self.left::<PersistentVolume>(None, ours).await);
            left.extend(
                self.left::<holdfast_crd::external::VolumeSnapshot>(None, ours)
                    .await,
            );
            left.extend(
                self.left::<holdfast_crd::external::VolumeSnapshotContent>(None, ours)
                    .await,
            );
            if left.is_empty() {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "left of {transfer}: {left:?}"
            );
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn left<K>(&self, namespace: Option<&str>, ours: &ListParams) -> Vec<String>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let found = api.list_metadata(ours).await.unwrap().items;
        let here = |object: &&kube::core::PartialObjectMeta<K>| {
            namespace.is_none() || object.namespace().as_deref() == namespace
        };
        found
            .iter()
            .filter(here)
            .map(|object| format!("{} {}", K::kind(&()), object.name_any()))
            .collect()
    }

    /// Objects of an image on the target.
    pub(super) async fn objects_of(&self, image: &str) -> Vec<String> {
        let ctx = self.context();
        let targets: Api<holdfast_crd::Target> = Api::namespaced(self.client.clone(), &self.install);
        let target = ctx
            .targets
            .open(&targets.get("store").await.unwrap())
            .await
            .unwrap();
        let all = holdfast_target::list_all(&*target, &self.home.prefix(), 1000)
            .await
            .unwrap();
        let uploads = target.list_uploads(&self.home.prefix()).await.unwrap();
        let keys = all
            .into_iter()
            .map(|o| o.key)
            .chain(uploads.into_iter().map(|open| open.upload.key));
        keys.map(String::from)
            .filter(|key| key.contains(&format!("/{image}-a")))
            .collect()
    }

    /// Removes the namespaces, transfers first: their finalizers need a leader.
    pub(super) async fn remove(self) {
        let _leader = self.leader();
        let api = self.transfers();
        api.delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
            .unwrap();
        let start = Instant::now();
        while !api.list(&ListParams::default()).await.unwrap().items.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "transfers do not go");
            sleep(Duration::from_millis(300)).await;
        }
        let ctx = self.context();
        let targets: Api<holdfast_crd::Target> = Api::namespaced(self.client.clone(), &self.install);
        if let Ok(target) = targets.get("store").await
            && let Ok(target) = ctx.targets.open(&target).await
        {
            let all = holdfast_target::list_all(&*target, &self.home.prefix(), 1000)
                .await
                .unwrap();
            let keys: Vec<_> = all.into_iter().map(|object| object.key).collect();
            target.delete(&keys).await.unwrap();
        }
        for namespace in [&self.app, &self.install] {
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            namespaces
                .delete(namespace, &DeleteParams::default())
                .await
                .unwrap();
        }
        let start = Instant::now();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for namespace in [&self.app, &self.install] {
            while namespaces.get_opt(namespace).await.unwrap().is_some() {
                assert!(
                    start.elapsed() < Duration::from_secs(120),
                    "{namespace} does not go"
                );
                sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

fn from<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

/// One of our kinds: their manifests must name their type.
fn typed<K: Resource<DynamicType = ()> + DeserializeOwned>(mut object: Value) -> K {
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    from(object)
}
