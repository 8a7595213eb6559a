//! Installing the product on a cluster the way its users do: `helm install`, nothing else.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_seal::RecoveryKey;
use serde_json::Value;

use crate::facts::Facts;
use crate::kubectl::Kubectl;
use crate::paths;
use crate::run::Run;
use crate::tools::Tool;

pub(crate) const NAMESPACE: &str = "holdfast-system";
const RELEASE: &str = "holdfast";
const CRDS_RELEASE: &str = "holdfast-crds";

/// `helm` for one cluster.
pub(crate) struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    pub(crate) fn new(facts: &Facts) -> Result<Self> {
        Ok(Self {
            program: Tool::Helm.program("helm")?,
            kubeconfig: facts.kubeconfig.clone(),
        })
    }

    fn command(&self) -> Run {
        Run::new(&self.program)
            .env("KUBECONFIG", &self.kubeconfig)
            .args(["--namespace", NAMESPACE])
    }

    /// Installs or upgrades a release and waits until its pods are ready.
    fn install(&self, release: &str, chart: &str, values: &[(&str, String)]) -> Result<()> {
        if self
            .state(release)
            .is_some_and(|state| state.starts_with("pending"))
        {
            // An earlier run was interrupted; helm refuses to touch such a release.
            self.command().args(["uninstall", release, "--wait"]).ok()?;
        }
        let mut command = self
            .command()
            .args(["upgrade", "--install", release])
            .arg(charts().join(chart));
        for (flag, value) in values {
            command = command.arg(flag).arg(value);
        }
        command
            // Definitions applied by hand before, or left by a chart that was removed, are adopted.
            .args(["--take-ownership", "--wait", "--timeout", "180s"])
            .within(Duration::from_secs(240))
            .heartbeat(&format!("helm upgrade --install {release}"))
            .ok()
    }

    fn state(&self, release: &str) -> Option<String> {
        let printed = self
            .command()
            .args(["status", release, "--output", "json"])
            .output()
            .ok()?;
        let status: Value = serde_json::from_str(&printed).ok()?;
        Some(status["info"]["status"].as_str()?.to_owned())
    }
}

fn charts() -> PathBuf {
    paths::repo().join("charts")
}

/// `helm lint` of both charts, warnings included.
pub(crate) fn lint() -> Result<()> {
    let program = Tool::Helm.program("helm")?;
    for chart in [CRDS_RELEASE, RELEASE] {
        Run::new(&program)
            .args(["lint", "--strict"])
            .arg(charts().join(chart))
            .ok()?;
    }
    Ok(())
}

/// Installs both charts with the given image; `content` tells builds of one tag apart, so that pods are replaced.
pub(crate) fn install(facts: &Facts, kubectl: &Kubectl, content: &str) -> Result<()> {
    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: baseline}}}}}}"
    ))?;
    let helm = Helm::new(facts)?;
    helm.install(CRDS_RELEASE, CRDS_RELEASE, &[])?;
    let (repository, tag) = facts
        .images
        .holdfast
        .rsplit_once(':')
        .context("the image's name in the facts carries no tag")?;
    let values = [
        ("--set-string", format!("image.repository={repository}")),
        ("--set-string", format!("image.tag={tag}")),
        (
            "--set-string",
            format!("podAnnotations.holdfast-image-content={content}"),
        ),
        (
            "--set",
            format!(
                "encryption.recoveryRecipients={{{}}}",
                recipient(&facts.recovery_key)?
            ),
        ),
        // Tests look at what is left on the target.
        ("--set", "retention.removalGraceSeconds=3".to_owned()),
        // The console is reached by plain HTTP on an address that only this machine routes.
        ("--set", "server.secureCookies=false".to_owned()),
    ];
    helm.install(RELEASE, RELEASE, &values)
        .with_context(|| kubectl.troubles(NAMESPACE))
}

/// The public half of a recovery key.
fn recipient(key: &str) -> Result<String> {
    let key = RecoveryKey::parse(key).context("the facts' recovery key")?;
    Ok(key.recipient().to_string())
}

/// Where the console is reached from this machine.
pub(crate) fn console_address(kubectl: &Kubectl) -> Result<String> {
    let service = kubectl.get(&["--namespace", NAMESPACE, "service/holdfast-server"])?;
    let ip = service["spec"]["clusterIP"]
        .as_str()
        .context("the console's service has no address")?;
    Ok(format!("http://{ip}:{}", service["spec"]["ports"][0]["port"]))
}

/// A token that signs in to the console as administrator of the cluster.
pub(crate) fn administrator_token(kubectl: &Kubectl) -> Result<String> {
    let name = "sandbox-administrator";
    kubectl.apply(&format!(
        "---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {NAMESPACE}}}}}\n\
         ---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: {name}}}, \
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}, \
         subjects: [{{kind: ServiceAccount, name: {name}, namespace: {NAMESPACE}}}]}}\n"
    ))?;
    let token = kubectl
        .command()
        .args([
            "--namespace",
            NAMESPACE,
            "create",
            "token",
            name,
            "--duration=12h",
        ])
        .output()?;
    Ok(token.trim().to_owned())
}
