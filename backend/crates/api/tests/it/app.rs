//! A server of our own for each test, over the one API server of the process.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use holdfast_api::{App, Settings, router};
use holdfast_auth::Cluster;
use holdfast_db::Database;
use holdfast_shared::{CSRF_HEADER, CSRF_HEADER_VALUE};
use holdfast_testkit::{ControlPlane, shared};
use http_body_util::BodyExt as _;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::PostParams;
use kube::core::{NamespaceResourceScope, Resource};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A server with an empty database.
pub(crate) struct TestApp {
    pub(crate) plane: &'static ControlPlane,
    pub(crate) router: Router,
    pub(crate) app: App,
    pub(crate) database: Database,
    pub(crate) stopping: CancellationToken,
    pub(crate) folder: tempfile::TempDir,
    /// What the server writes to standard output.
    pub(crate) audit: Sink,
}

/// Keeps what is written.
#[derive(Clone, Default)]
pub(crate) struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The code of the error envelope.
    pub(crate) fn code(&self) -> String {
        let error = &self.json()["error"];
        assert!(
            error["requestId"].as_str().is_some_and(|id| id.len() == 32),
            "{self:?}"
        );
        error["code"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }
}

impl TestApp {
    pub(crate) async fn new() -> Self {
        let plane = shared().await;
        bind_server(plane).await;
        let mut config = plane.anonymous_config();
        let token = plane
            .service_account_token("holdfast-system", "server", HOUR)
            .await
            .unwrap();
        config.auth_info.token = Some(token.into());
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&format!("sqlite://{}/s.db", folder.path().display()))
            .await
            .unwrap();
        let settings = Settings {
            install_namespace: "holdfast-system".into(),
            secure_cookies: true,
        };
        let stopping = CancellationToken::new();
        let cluster = Cluster::new("test", config).unwrap();
        let app = App::new(settings, cluster, database.clone(), stopping.clone());
        let audit = Sink::default();
        app.audit_to(audit.clone());
        Self {
            plane,
            router: router(app.clone()),
            app,
            database,
            stopping,
            folder,
            audit,
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// Without a session.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn sign_in(&self, body: Value) -> Answer {
        self.send(write(Method::POST, "/api/v1/session", Some(body)).body_of())
            .await
    }

    /// A session of a ServiceAccount.
    pub(crate) async fn robot(&self, namespace: &str, name: &str) -> Session<'_> {
        let token = self
            .plane
            .service_account_token(namespace, name, HOUR)
            .await
            .unwrap();
        self.session(json!({"method": "token", "token": token})).await
    }

    /// A session of a member of `system:masters`, which the tests' cluster gives every right.
    pub(crate) async fn admin(&self) -> Session<'_> {
        let certificate = self
            .plane
            .client_certificate("root", Some("system:masters"), HOUR)
            .unwrap();
        let kubeconfig = self.plane.kubeconfig(&certificate);
        self.session(json!({"method": "kubeconfig", "kubeconfig": kubeconfig}))
            .await
    }

    async fn session(&self, body: Value) -> Session<'_> {
        let answer = self.sign_in(body).await.expect(201);
        let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
        Session {
            app: self,
            cookie: cookie.split(';').next().unwrap().to_owned(),
        }
    }
}

/// A signed-in person.
pub(crate) struct Session<'a> {
    app: &'a TestApp,
    pub(crate) cookie: String,
}

impl Session<'_> {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header(header::COOKIE, &self.cookie);
        self.app.send(request.body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.write(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.write(Method::DELETE, path, None).await
    }

    async fn write(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = write(method, path, body);
        request.builder = request.builder.header(header::COOKIE, &self.cookie);
        self.app.send(request.body_of()).await
    }
}

pub(crate) struct WriteRequest {
    pub(crate) builder: axum::http::request::Builder,
    body: Option<Value>,
}

impl WriteRequest {
    pub(crate) fn body_of(self) -> Request<Body> {
        match self.body {
            Some(body) => self
                .builder
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(body.to_string())),
            None => self.builder.body(Body::empty()),
        }
        .unwrap()
    }
}

/// A write as the console sends it.
pub(crate) fn write(method: Method, path: &str, body: Option<Value>) -> WriteRequest {
    WriteRequest {
        builder: Request::builder()
            .method(method)
            .uri(path)
            .header(CSRF_HEADER, CSRF_HEADER_VALUE),
        body,
    }
}

/// What the chart gives the server, and the binding of our administrators.
async fn bind_server(plane: &ControlPlane) {
    let client = plane.client().unwrap();
    cluster_role(&client, "server", json!([
        {"apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["impersonate"]},
    ]))
    .await;
    let account = json!({"kind": "ServiceAccount", "namespace": "holdfast-system", "name": "server"});
    cluster_binding(&client, "server", "server", account).await;
    let group =
        json!({"kind": "Group", "name": "holdfast:administrators", "apiGroup": "rbac.authorization.k8s.io"});
    cluster_binding(&client, "administrators", "cluster-admin", group).await;
}

async fn cluster_role(client: &Client, name: &str, rules: Value) {
    let role: ClusterRole =
        serde_json::from_value(json!({"metadata": {"name": name}, "rules": rules})).unwrap();
    create(Api::all(client.clone()), role).await;
}

async fn cluster_binding(client: &Client, name: &str, role: &str, subject: Value) {
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
    }))
    .unwrap();
    create(Api::all(client.clone()), binding).await;
}

/// Gives a ServiceAccount every right on our kinds in its own namespace.
pub(crate) async fn bind_namespace_user(plane: &ControlPlane, namespace: &str, account: &str) {
    plane.namespace(namespace).await.unwrap();
    let client = plane.client().unwrap();
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": "ours"},
        "rules": [{"apiGroups": ["holdfast.dev"], "resources": ["*"], "verbs": ["*"]}],
    }))
    .unwrap();
    create_in(&client, namespace, role).await;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "ours"},
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ours"},
    }))
    .unwrap();
    create_in(&client, namespace, binding).await;
}

async fn create_in<K>(client: &Client, namespace: &str, object: K)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    create(Api::namespaced(client.clone(), namespace), object).await;
}

/// Tests share the API server: what is there already is as good.
async fn create<K: Clone + DeserializeOwned + Serialize + std::fmt::Debug>(api: Api<K>, object: K) {
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => panic!("{error}"),
    }
}
