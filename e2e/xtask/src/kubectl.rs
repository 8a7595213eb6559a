//! Talking to a cluster through its own `kubectl`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run::{Run, wait_for};
use crate::tools::Tool;

/// `kubectl` with a fixed kubeconfig.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: PathBuf) -> Result<Self> {
        Ok(Self {
            program: Tool::Kubernetes.program("kubectl")?,
            kubeconfig,
        })
    }

    pub(crate) fn command(&self) -> Run {
        Run::new(&self.program).env("KUBECONFIG", &self.kubeconfig)
    }

    /// A GET of an API path.
    pub(crate) fn get_raw(&self, path: &str) -> Result<String> {
        self.command()
            .args(["get", "--request-timeout=5s", "--raw", path])
            .output()
    }

    /// `kubectl get … -o json`.
    pub(crate) fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self
            .command()
            .arg("get")
            .args(args)
            .args(["-o", "json"])
            .output()?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Server-side apply of a stream of YAML documents.
    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        Self::server_side(self.command(), yaml)
    }

    /// The same, for objects that name no namespace.
    pub(crate) fn apply_in(&self, namespace: &str, yaml: &str) -> Result<()> {
        Self::server_side(self.command().args(["--namespace", namespace]), yaml)
    }

    fn server_side(command: Run, yaml: &str) -> Result<()> {
        command
            .args([
                "apply",
                "--server-side",
                "--force-conflicts",
                "--field-manager=holdfast-sandbox",
                "-f",
                "-",
            ])
            .input(yaml)
            .ok()
    }

    /// Waits until a Deployment, StatefulSet or DaemonSet has all its pods ready.
    pub(crate) fn rolled_out(&self, namespace: &str, workload: &str, deadline: Duration) -> Result<()> {
        self.command()
            .args(["--namespace", namespace, "rollout", "status", workload])
            .arg(format!("--timeout={}s", deadline.as_secs()))
            .within(deadline + Duration::from_secs(10))
            .heartbeat(&format!("waiting for {workload} in {namespace}"))
            .ok()
            .map_err(|error| error.context(self.troubles(namespace)))
    }

    /// Runs a command in a container and returns what it printed.
    pub(crate) fn exec(&self, namespace: &str, workload: &str, command: &[&str]) -> Result<String> {
        self.command()
            .args(["--namespace", namespace, "exec", workload, "--"])
            .args(command)
            .within(Duration::from_secs(300))
            .output()
    }

    /// Waits for the condition `Complete` of an object; a condition `Failed` ends the wait with its message.
    pub(crate) fn complete(&self, namespace: &str, object: &str, deadline: Duration) -> Result<Value> {
        wait_for(object, deadline, || {
            let value = self.get(&["--namespace", namespace, object])?;
            if let Some(message) = condition(&value, "Failed") {
                return Ok(Some(Err(message)));
            }
            Ok(condition(&value, "Complete").map(|_| Ok(value)))
        })?
        .map_err(|message| anyhow::anyhow!("{object} failed: {message}"))
    }

    /// Waits until a resource of ours is accepted; a refusal ends the wait with its message.
    pub(crate) fn accepted(&self, namespace: &str, object: &str, deadline: Duration) -> Result<()> {
        wait_for(object, deadline, || {
            let value = self.get(&["--namespace", namespace, object])?;
            if let Some(message) = condition(&value, "Failed") {
                return Ok(Some(Err(message)));
            }
            Ok(condition(&value, "Accepted").map(|_| Ok(())))
        })?
        .map_err(|message| anyhow::anyhow!("{object} failed: {message}"))
    }

    /// What a person would look at first when something does not come up.
    pub(crate) fn troubles(&self, namespace: &str) -> String {
        let pods = self
            .command()
            .args(["--namespace", namespace, "get", "pods", "-o", "wide"])
            .output();
        let events = self
            .command()
            .args([
                "--namespace",
                namespace,
                "get",
                "events",
                "--field-selector=type=Warning",
            ])
            .args(["--sort-by=.lastTimestamp"])
            .output();
        format!(
            "pods in {namespace}:\n{}\nwarnings:\n{}",
            pods.unwrap_or_default(),
            crate::run::last_lines(&events.unwrap_or_default())
        )
    }
}

/// The message of a condition that is true.
fn condition(object: &Value, kind: &str) -> Option<String> {
    let found = object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind && c["status"] == "True")?;
    Some(found["message"].as_str().unwrap_or_default().to_owned())
}
