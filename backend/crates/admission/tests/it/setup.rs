//! An API server with the chart's webhook configurations and policies, and admission behind it.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use holdfast_admission::Config;
use holdfast_testkit::ControlPlane;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Namespace that the tests install into.
pub(crate) const INSTALLED: &str = "holdfast-system";

/// One control plane with admission for all tests of the webhooks.
pub(crate) async fn admission() -> &'static ControlPlane {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let plane = ControlPlane::start().await.unwrap();
            plane.install_crds().await.unwrap();
            plane.namespace(INSTALLED).await.unwrap();
            let client = plane.client().unwrap();
            let listen = free_address();
            // An ExternalName service leads the API server to this process under the service's own TLS name.
            let service = json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "holdfast-admission", "namespace": INSTALLED},
                "spec": {"type": "ExternalName", "externalName": "localhost"}});
            create(&client, &service).await.unwrap();
            for mut manifest in chart("webhooks.yaml")
                .into_iter()
                .filter(|m| m["kind"] != "Service")
            {
                manifest["webhooks"][0]["clientConfig"]["service"]["port"] = json!(listen.port());
                create(&client, &manifest).await.unwrap();
            }
            for manifest in chart("policies.yaml") {
                create(&client, &manifest).await.unwrap();
            }
            permit(&client).await;
            serve(plane.admin_config().unwrap(), listen);
            until_it_answers(&client).await;
            plane
        })
        .await
}

/// Runs admission on a thread of its own: tests come and go with their runtimes.
fn serve(config: kube::Config, listen: SocketAddr) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async move {
            let client = Client::try_from(config).unwrap();
            let config = Config {
                install_namespace: INSTALLED.to_owned(),
                service_name: "holdfast-admission".to_owned(),
                webhook_name: "holdfast".to_owned(),
                listen,
            };
            holdfast_admission::serve(config, client, Default::default())
                .await
                .unwrap();
        });
    });
}

/// Everybody in the group `testers` may do everything with our kinds, but restore what is not their own.
pub(crate) async fn permit(client: &Client) {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "testers"}, "rules": [{"apiGroups": ["holdfast.dev"], "resources": ["*"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "testers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "testers"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "testers"}]});
    create(client, &role).await.unwrap();
    create(client, &binding).await.unwrap();
}

/// Until the API server has taken note of configurations, policies and the certificate, a forged requester passes or
/// the call fails.
async fn until_it_answers(client: &Client) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let probe = json!({"apiVersion": "holdfast.dev/v1", "kind": "Backup",
        "metadata": {"name": "probe", "namespace": INSTALLED},
        "spec": {"type": "Full", "backupPlan": {"name": "p"}, "unknownField": 1}});
    loop {
        let refused = create(client, &probe).await;
        if refused
            .as_ref()
            .is_err_and(|e| e.message.contains("unknownField: unknown field"))
        {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "admission does not answer: {refused:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        if refused.is_ok() {
            let api = api_of(client, &probe);
            api.delete("probe", &Default::default()).await.unwrap();
        }
    }
}

/// The manifests of one of the chart's templates, with the few values filled in that they use.
pub(crate) fn chart(file: &str) -> Vec<Value> {
    let path = format!(
        "{}/../../../charts/holdfast/templates/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let plain: String = text
        .lines()
        .filter(|line| !line.contains("include \"") && !line.starts_with("{{- /*"))
        .map(|line| line.replace("{{ .Release.Namespace }}", INSTALLED) + "\n")
        .collect();
    assert!(
        !plain.contains("{{"),
        "a value that the tests do not fill in: {plain}"
    );
    plain
        .split("---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn api_of(client: &Client, manifest: &Value) -> Api<DynamicObject> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let (api_version, kind) = (text(&manifest["apiVersion"]), text(&manifest["kind"]));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let plural = match kind.to_lowercase() {
        k if k.ends_with('y') => format!("{}ies", k.trim_end_matches('y')),
        k => format!("{k}s"),
    };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.clone(),
        kind,
        plural,
    };
    match manifest["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn status<T>(result: kube::Result<T>) -> Result<T, Box<Status>> {
    result.map_err(|error| match error {
        kube::Error::Api(status) => status,
        other => panic!("{other}"),
    })
}

/// Creates a manifest, as `kubectl create --validate=false` does.
pub(crate) async fn create(client: &Client, manifest: &Value) -> Result<DynamicObject, Box<Status>> {
    let object = serde_json::from_value(manifest.clone()).unwrap();
    status(
        api_of(client, manifest)
            .create(&PostParams::default(), &object)
            .await,
    )
}

/// Applies a manifest server-side.
pub(crate) async fn apply(client: &Client, manifest: &Value) -> Result<DynamicObject, Box<Status>> {
    let name = manifest["metadata"]["name"].as_str().unwrap();
    let api = api_of(client, manifest);
    status(
        api.patch(
            name,
            &PatchParams::apply("tests").force(),
            &Patch::Apply(manifest),
        )
        .await,
    )
}

/// Merges `change` into what is there under the manifest's name.
pub(crate) async fn merge(
    client: &Client,
    manifest: &Value,
    change: Value,
) -> Result<DynamicObject, Box<Status>> {
    let name = manifest["metadata"]["name"].as_str().unwrap();
    status(
        api_of(client, manifest)
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await,
    )
}

pub(crate) async fn delete(client: &Client, manifest: &Value) -> Result<(), Box<Status>> {
    let name = manifest["metadata"]["name"].as_str().unwrap();
    status(api_of(client, manifest).delete(name, &Default::default()).await).map(|_| ())
}

/// A manifest of one of our kinds.
pub(crate) fn ours(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "holdfast.dev/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

pub(crate) fn target(namespace: &str, name: &str, allowed: &[&str]) -> Value {
    ours(
        "Target",
        namespace,
        name,
        json!({"type": "ObjectStore", "vendor": "Other", "allowedNamespaces": allowed,
        "objectStoreCredentials": {"bucketName": "bucket", "url": "https://s3.example.com", "credentialSecret": {"name": "s"}}}),
    )
}

pub(crate) fn plan(namespace: &str, name: &str, target: Value) -> Value {
    ours(
        "BackupPlan",
        namespace,
        name,
        json!({"backupConfig": {"target": target}}),
    )
}

pub(crate) fn backup(namespace: &str, name: &str) -> Value {
    ours(
        "Backup",
        namespace,
        name,
        json!({"type": "Full", "backupPlan": {"name": "plan"}}),
    )
}

/// Names of all objects like this one.
pub(crate) async fn names(client: &Client, like: &Value) -> Vec<String> {
    let list = api_of(client, like).list(&ListParams::default()).await.unwrap();
    list.items.into_iter().filter_map(|o| o.metadata.name).collect()
}
