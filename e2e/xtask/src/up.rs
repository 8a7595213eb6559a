//! Bringing the sandbox up, from whatever state the machine is in.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::{self, Cluster};
use crate::facts::{self, Facts};
use crate::kubectl::Kubectl;
use crate::pki::Pki;
use crate::run::{Run, wait_for};
use crate::tools::Tool;
use crate::ui::{self, Steps};
use crate::{cgroup, control_plane, csi, down, images, net, node, packages, paths, process, s3};

/// Held while one xtask changes the machine, so that two of them do not undo each other's work.
pub(crate) struct MachineLock {
    _file: File,
}

impl MachineLock {
    pub(crate) fn take() -> Result<Self> {
        let path = Path::new("/run/lock/holdfast-sandbox.lock");
        let file = File::create(path).with_context(|| path.display().to_string())?;
        if file.try_lock().is_err() {
            ui::note("another `cargo xtask` is at work on this machine; waiting for it");
            wait_for("the other xtask", Duration::from_secs(3600), || {
                Ok(file.try_lock().ok())
            })?;
        }
        Ok(Self { _file: file })
    }
}

/// The cluster that commands act on.
pub(crate) enum Target {
    /// A cluster of somebody else, named by `KUBECONFIG`.
    Given(PathBuf),
    /// Our own.
    Sandbox(Cluster),
}

impl Target {
    pub(crate) fn kubectl(&self) -> Result<Kubectl> {
        match self {
            Self::Given(path) => Kubectl::new(path.clone()),
            Self::Sandbox(cluster) => Kubectl::new(cluster.kubeconfig()),
        }
    }

    /// The sandbox, for what cannot be done elsewhere.
    pub(crate) fn sandbox(&self) -> Result<&Cluster> {
        match self {
            Self::Sandbox(cluster) => Ok(cluster),
            Self::Given(path) => bail!("this needs the sandbox, but KUBECONFIG names {}", path.display()),
        }
    }

    /// The file with the facts about this cluster.
    pub(crate) fn facts_file(&self) -> Result<PathBuf> {
        match self {
            Self::Sandbox(cluster) => Ok(Facts::path(cluster)),
            Self::Given(path) => std::env::var_os(facts::VARIABLE).map(PathBuf::from).with_context(|| {
                format!(
                    "KUBECONFIG names {}: {} must name a file with the S3 store and the images that cluster can reach, \
                     in the form of the sandbox's sandbox.json",
                    path.display(),
                    facts::VARIABLE
                )
            }),
        }
    }

    pub(crate) fn facts(&self) -> Result<Facts> {
        Facts::read(&self.facts_file()?)
    }
}

/// The kubeconfig of a cluster other than the sandbox, if the person set one.
pub(crate) fn given_kubeconfig() -> Result<Option<PathBuf>> {
    let Some(given) = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let given = PathBuf::from(given);
    // Set to the sandbox's own file, as the last line of `up` suggests, it means the sandbox.
    let clusters = paths::sandbox()?.join("clusters");
    Ok((!given.starts_with(clusters)).then_some(given))
}

/// Brings the sandbox up, or checks the cluster that `KUBECONFIG` names.
pub(crate) fn up(steps: &mut Steps) -> Result<Target> {
    if let Some(path) = given_kubeconfig()? {
        steps.run("cluster named by KUBECONFIG", || {
            Kubectl::new(path.clone())?.get_raw("/readyz").map(drop)
        })?;
        return Ok(Target::Given(path));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("the sandbox runs containers, mounts and bridges of its own: it needs root");
    }
    let _lock = MachineLock::take()?;
    steps.run("packages", || packages::ensure(packages::SANDBOX))?;
    steps.run("tools", || {
        Tool::CLUSTER.iter().try_for_each(|tool| tool.ensure().map(drop))
    })?;
    let mut cluster = steps.run("machine", prepare_machine)?;
    let pki = steps.run("certificates", || prepare_state(&mut cluster))?;
    steps.run("containerd", || {
        node::containerd(&cluster)?;
        // The kubelet exits when it cannot reach containerd, and cannot start a pod without the first image.
        images::ensure_base(&cluster)
    })?;
    steps.run("etcd", || control_plane::etcd(&cluster))?;
    steps.run("API server", || control_plane::apiserver(&cluster, &pki))?;
    let kubectl = Kubectl::new(cluster.kubeconfig())?;
    steps.run("controllers", || control_plane::controllers(&cluster, &pki))?;
    steps.run("storage driver", || csi::start_driver(&cluster))?;
    steps.run("node", || {
        let before = node::ready_condition(&cluster, &kubectl)?;
        let kubelet = node::kubelet(&cluster, &pki)?;
        node::proxy(&cluster, &pki)?;
        node::ready(&cluster, &kubectl, kubelet, &before)
    })?;
    let keys = steps.run("S3", || s3::ensure(&cluster, &pki))?;
    steps.run("snapshots and storage classes", || {
        csi::start_sidecars(&cluster, &pki, &kubectl)
    })?;
    steps.run("resolver", || resolver(&cluster, &kubectl))?;
    Facts::of(&cluster, &pki, &keys)?.write(&Facts::path(&cluster))?;
    Ok(Target::Sandbox(cluster))
}

/// Clears away what others left, then lays out the cluster's network and cgroup.
fn prepare_machine() -> Result<Cluster> {
    stop_same_name_elsewhere()?;
    let mut cluster = Cluster::load_or_create(cluster::DEFAULT_NAME)?;
    let core = ["etcd", "kube-apiserver", "containerd", "kubelet"];
    let mut alive = Vec::new();
    for name in core {
        if process::pid(&cluster, name)?.is_some() {
            alive.push(name);
        }
    }
    if alive.is_empty() {
        // Nothing of ours runs: whatever is found was left by a crash.
        down::sweep(&cluster)?;
    }
    fs::create_dir_all(cluster.runtime_dir())?;
    fs::create_dir_all(cluster.state())?;
    fs::write(
        cluster.runtime_dir().join("state"),
        cluster.state().as_os_str().as_encoded_bytes(),
    )?;
    cgroup::ensure(&cluster)?;
    net::set_switches(&cluster)?;
    net::ensure_bridge(&cluster)?;
    control_plane::choose_ports(&mut cluster)?;
    cluster.save()?;
    Ok(cluster)
}

/// A sandbox of the same name kept in another cache folder shares our cgroup and bridge: only one can run.
fn stop_same_name_elsewhere() -> Result<()> {
    let ours = paths::sandbox()?.join("clusters").join(cluster::DEFAULT_NAME);
    let marker = Path::new("/run/holdfast-sandbox")
        .join(cluster::DEFAULT_NAME)
        .join("state");
    let Ok(state) = fs::read_to_string(marker) else {
        return Ok(());
    };
    let state = PathBuf::from(state);
    if state == ours {
        return Ok(());
    }
    ui::warn(format!(
        "a sandbox of the same name runs from {}; stopping it",
        state.display()
    ));
    match Cluster::load_from(&state)? {
        Some(other) => down::stop(&other),
        None => Ok(()),
    }
}

fn prepare_state(cluster: &mut Cluster) -> Result<Pki> {
    let pki = Pki::ensure(cluster)?;
    pki.kubeconfig(cluster, "admin", &cluster.kubeconfig())?;
    Ok(pki)
}

/// CoreDNS, as a pod behind the address the kubelet gives to all pods.
fn resolver(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let yaml = csi::manifests(&paths::sandbox_sources().join("manifests/resolver"))?
        .replace("${DNS_IP}", &cluster.dns_ip().to_string())
        .replace("${NODE_IP}", &cluster.node().ip.to_string())
        .replace("${S3_HOST}", s3::HOST)
        .replace("${IMAGE}", images::COREDNS);
    kubectl.apply(&yaml)?;
    kubectl.rolled_out("kube-system", "deployment/coredns", Duration::from_secs(120))?;
    // Asked through the service, as pods ask: what the API server remembers of the pod may be from before a stop.
    let name = "kubernetes.default.svc.cluster.local";
    wait_for("an answer of the resolver", Duration::from_secs(60), || {
        let answers = Run::new("busybox")
            .args(["nslookup", name, &cluster.dns_ip().to_string()])
            .status()?;
        Ok(answers.then_some(()))
    })
}

/// What a person does next.
pub(crate) fn print_usage(target: &Target) {
    match target {
        Target::Given(path) => println!("\nUsing the cluster of {}; nothing was started.", path.display()),
        Target::Sandbox(cluster) => {
            println!("\nThe sandbox is up.");
            println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
            println!("  cargo xtask kubectl get pods -A     (helm likewise)");
            println!("  S3          {}  {}", cluster.s3_url(), cluster.s3_tls_url());
            println!("  everything  {}", Facts::path(cluster).display());
            println!("  logs        cargo xtask logs [NAME]");
            println!("  stop        cargo xtask down [--delete]");
        }
    }
}
