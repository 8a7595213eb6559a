//! etcd and kube-apiserver on free loopback ports with a certificate authority of their own.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Config, ResourceExt};
use tokio::sync::OnceCell;

use crate::pki::{Authority, ClientCertificate};
use crate::tools;

/// How long a start may take; 8 s on an idle machine.
const START_DEADLINE: Duration = Duration::from_secs(180);

/// Runs both programs until standard input closes, which happens when the test process ends in whatever way; then
/// stops them and removes their folder. Ctrl-C reaches the whole process group and must not get there first.
const SUPERVISOR: &str = r#"
trap '' INT TERM HUP
dir=$1; shift
sh "$dir/etcd.sh" >"$dir/etcd.log" 2>&1 </dev/null & etcd=$!
sh "$dir/kube-apiserver.sh" >"$dir/kube-apiserver.log" 2>&1 </dev/null & apiserver=$!
read -r _
kill -KILL $apiserver $etcd
wait
rm -rf "$dir"
"#;

/// A running API server with etcd, no controllers, no nodes. Stopped and removed when dropped or when the process ends.
pub struct ControlPlane {
    url: String,
    authority: Authority,
    supervisor: Child,
}

/// One control plane for all tests of a process, with our custom resource definitions installed.
///
/// # Panics
/// When it does not start: no test can go on without it.
pub async fn shared() -> &'static ControlPlane {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let plane = ControlPlane::start()
                .await
                .expect("a Kubernetes API server starts");
            plane
                .install_crds()
                .await
                .expect("our custom resource definitions are accepted");
            plane
        })
        .await
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    pub async fn start() -> anyhow::Result<Self> {
        // A second call finds the provider installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = Authority::new()?;
        let folder = tempfile::Builder::new()
            .prefix("holdfast-testkit-")
            .tempdir()?
            .keep();
        let port = prepare(&folder, &authority)?;
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "holdfast-testkit"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(File::create(folder.join("supervisor.log"))?)
            .stderr(Stdio::null())
            .spawn()
            .context("starting sh")?;
        let plane = Self {
            url: format!("https://127.0.0.1:{port}"),
            authority,
            supervisor,
        };
        plane.wait_ready(&folder).await?;
        Ok(plane)
    }

    /// Address of the API server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Certificate authority of the API server, PEM.
    pub fn ca(&self) -> &str {
        &self.authority.certificate
    }

    /// Configuration that reaches the API server and presents no identity.
    pub fn anonymous_config(&self) -> Config {
        let mut config = Config::new(self.url.parse().expect("an address we made"));
        config.root_cert = Some(vec![self.authority.der.clone()]);
        config
    }

    /// Configuration of a cluster administrator.
    pub fn admin_config(&self) -> anyhow::Result<Config> {
        self.config_for(&self.client_certificate(
            "test-admin",
            Some("system:masters"),
            Duration::from_secs(86_400),
        )?)
    }

    /// Configuration that presents this certificate.
    pub fn config_for(&self, certificate: &ClientCertificate) -> anyhow::Result<Config> {
        let mut config = self.anonymous_config();
        config.auth_info.client_certificate_data = Some(STANDARD.encode(&certificate.certificate));
        config.auth_info.client_key_data = Some(STANDARD.encode(&certificate.key).into());
        Ok(config)
    }

    /// Client of a cluster administrator. Each test makes its own: a client belongs to the runtime it was made in.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::try_from(self.admin_config()?)?)
    }

    /// Client of a user who presents a certificate.
    pub fn client_of(&self, user: &str, group: Option<&str>) -> anyhow::Result<Client> {
        let certificate = self.client_certificate(user, group, Duration::from_secs(86_400))?;
        Ok(Client::try_from(self.config_for(&certificate)?)?)
    }

    /// A client certificate that the API server reads as this user and group.
    pub fn client_certificate(
        &self,
        user: &str,
        group: Option<&str>,
        valid_for: Duration,
    ) -> anyhow::Result<ClientCertificate> {
        self.authority.client(user, group, valid_for)
    }

    /// A kubeconfig with this certificate, as a person would hold it.
    pub fn kubeconfig(&self, certificate: &ClientCertificate) -> String {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url, "certificate-authority-data": STANDARD.encode(self.ca())}}],
            "users": [{"name": "test", "user": {
                "client-certificate-data": STANDARD.encode(&certificate.certificate),
                "client-key-data": STANDARD.encode(&certificate.key)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// Creates the namespace if it is not there.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespace = Namespace {
            metadata: named(name),
            ..Namespace::default()
        };
        ignore_exists(
            Api::all(self.client()?)
                .create(&PostParams::default(), &namespace)
                .await,
        )
    }

    /// Creates namespace and ServiceAccount if they are not there and returns a token; the API server gives none that
    /// lives shorter than ten minutes.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        valid_for: Duration,
    ) -> anyhow::Result<String> {
        self.namespace(namespace).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client()?, namespace);
        let account = ServiceAccount {
            metadata: named(name),
            ..ServiceAccount::default()
        };
        ignore_exists(accounts.create(&PostParams::default(), &account).await)?;
        let spec = TokenRequestSpec {
            expiration_seconds: Some(valid_for.as_secs().try_into()?),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec,
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await?;
        Ok(answer.status.context("a token request without an answer")?.token)
    }

    /// Installs every definition of ours and waits until each is served.
    pub async fn install_crds(&self) -> anyhow::Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client()?);
        for definition in holdfast_crd::generate::definitions() {
            ignore_exists(api.create(&PostParams::default(), &definition).await)
                .with_context(|| format!("installing {}", definition.name_any()))?;
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        for definition in holdfast_crd::generate::definitions() {
            while !is_established(&api.get(&definition.name_any()).await?) {
                if Instant::now() > deadline {
                    bail!("{} is not established", definition.name_any());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    async fn wait_ready(&self, folder: &Path) -> anyhow::Result<()> {
        let client = self.client()?;
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            match client.request_text(request).await {
                Ok(text) if text == "ok" => return Ok(()),
                answer if Instant::now() > deadline => {
                    let log = |name| tail(&folder.join(name));
                    bail!(
                        "the API server is not ready: {answer:?}\netcd:\n{}\nkube-apiserver:\n{}",
                        log("etcd.log"),
                        log("kube-apiserver.log")
                    );
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        // It ends by itself; an error here leaves at worst a folder under the temporary directory.
        let _ = self.supervisor.wait();
    }
}

/// Writes keys and the two start scripts; returns the API server's port.
fn prepare(folder: &Path, authority: &Authority) -> anyhow::Result<u16> {
    let [client_port, peer_port, port] = free_ports()?;
    let (certificate, key) = authority.serving()?;
    let accounts = rcgen::KeyPair::generate()?;
    for (name, content) in [
        ("ca.crt", authority.certificate.clone()),
        ("tls.crt", certificate),
        ("tls.key", key),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
    ] {
        fs::write(folder.join(name), content)?;
    }
    let dir = folder.display();
    let etcd = format!(
        "exec '{}' --name t --data-dir '{dir}/etcd' --unsafe-no-fsync --log-level warn \
         --listen-client-urls http://127.0.0.1:{client_port} --advertise-client-urls http://127.0.0.1:{client_port} \
         --listen-peer-urls http://127.0.0.1:{peer_port} --initial-advertise-peer-urls http://127.0.0.1:{peer_port} \
         --initial-cluster t=http://127.0.0.1:{peer_port}\n",
        tools::etcd()?.display()
    );
    let apiserver = format!(
        "exec '{}' --etcd-servers http://127.0.0.1:{client_port} --bind-address 127.0.0.1 --secure-port {port} \
         --advertise-address 127.0.0.1 --endpoint-reconciler-type none --service-cluster-ip-range 10.255.0.0/24 \
         --tls-cert-file '{dir}/tls.crt' --tls-private-key-file '{dir}/tls.key' --client-ca-file '{dir}/ca.crt' \
         --service-account-issuer https://kubernetes.default.svc --service-account-key-file '{dir}/accounts.pub' \
         --service-account-signing-key-file '{dir}/accounts.key' --authorization-mode RBAC --allow-privileged \
         --disable-admission-plugins ServiceAccount --cert-dir '{dir}/apiserver'\n",
        tools::kube_apiserver()?.display()
    );
    fs::write(folder.join("etcd.sh"), etcd)?;
    fs::write(folder.join("kube-apiserver.sh"), apiserver)?;
    Ok(port)
}

fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener); // held until all are found, so that they differ
    }
    Ok(ports)
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

fn ignore_exists<T>(result: kube::Result<T>) -> anyhow::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Established" && c.status == "True"))
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
