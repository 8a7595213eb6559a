//! Storage of the sandbox: our CSI driver with Kubernetes' own sidecars and snapshot-controller around it.
//!
//! All of them are processes of the host, each with the rights of a client certificate of its own: the driver mounts
//! and makes loop devices, which is simplest where the kubelet sees them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::interrupt;
use crate::kubectl::Kubectl;
use crate::node;
use crate::paths;
use crate::pki::Pki;
use crate::process::{self, Daemon};
use crate::run::{Run, wait_for};
use crate::tools::Tool;
use crate::ui;

/// Names of the storage daemons, in the order they start.
pub(crate) const DAEMONS: [&str; 4] = [
    "csi-driver",
    "csi-provisioner",
    "csi-snapshotter",
    "snapshot-controller",
];

pub(crate) const DRIVER: &str = "csi.sandbox.holdfast.dev";

const SNAPSHOT_CRDS: &str = "github.com/kubernetes-csi/external-snapshotter/client/v8";

/// Retries that suit a machine where everything answers in milliseconds.
const SIDECAR_FLAGS: [&str; 6] = [
    "--timeout=60s",
    "--retry-interval-start=500ms",
    "--retry-interval-max=10s",
    "--kube-api-qps=50",
    "--kube-api-burst=100",
    "--leader-election=false",
];

/// File by which tests make the driver slow, failing or full.
pub(crate) fn faults_file(cluster: &Cluster) -> PathBuf {
    cluster.state().join("csi-faults.json")
}

fn data_dir(cluster: &Cluster) -> PathBuf {
    cluster.state().join("csi")
}

fn socket(cluster: &Cluster) -> PathBuf {
    cluster.runtime_dir().join("csi.sock")
}

/// Builds the driver when its sources changed; returns the program.
fn driver() -> Result<PathBuf> {
    let sources = paths::sandbox_sources().join("csi-driver");
    let mut files = Vec::new();
    collect(&sources, &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in &files {
        hash.update(file.strip_prefix(&sources)?.to_string_lossy().as_bytes());
        hash.update(fs::read(file).with_context(|| file.display().to_string())?);
    }
    let hash = hex::encode(hash.finalize());
    let program = paths::sandbox()?
        .join("tools")
        .join(format!("csi-driver-{}", &hash[..16]))
        .join("csi-driver");
    if !program.is_file() {
        Run::new("go")
            .args(["build", "-trimpath", "-o"])
            .arg(&program)
            .arg(".")
            .dir(&sources)
            .env("CGO_ENABLED", "0")
            .within(Duration::from_secs(900))
            .heartbeat("building the CSI driver")
            .ok()?;
    }
    Ok(program)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|e| e == "go" || e == "mod" || e == "sum")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Starts the driver and waits for its socket.
pub(crate) fn start_driver(cluster: &Cluster) -> Result<()> {
    let registry = node::kubelet_root(cluster).join("plugins_registry");
    fs::create_dir_all(&registry)?;
    fs::create_dir_all(data_dir(cluster))?;
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    Daemon::new(cluster, "csi-driver", driver()?)
        .arg(format!("--endpoint=unix://{}", socket(cluster).display()))
        .arg(flag("data-dir", &data_dir(cluster)))
        .arg(format!("--node-id={}", cluster.node().name))
        .arg(flag(
            "kubelet-registration-path",
            &registry.join(format!("{DRIVER}-reg.sock")),
        ))
        .arg(flag("faults-file", &faults_file(cluster)))
        .supervised()
        .ensure()?;
    wait_for("the CSI driver", Duration::from_secs(30), || {
        process::check_alive(cluster, "csi-driver")?;
        Ok(std::os::unix::net::UnixStream::connect(socket(cluster)).ok())
    })
    .map(drop)
    .with_context(|| process::log_tail(cluster, "csi-driver"))
}

/// Applies the CRDs, classes and rights, then starts the sidecars.
pub(crate) fn start_sidecars(cluster: &Cluster, pki: &Pki, kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&manifests(
        &Tool::Snapshotter.dependency(SNAPSHOT_CRDS)?.join("config/crd"),
    )?)?;
    kubectl
        .command()
        .args([
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd/volumesnapshots.snapshot.storage.k8s.io",
        ])
        .args([
            "crd/volumesnapshotcontents.snapshot.storage.k8s.io",
            "crd/volumesnapshotclasses.snapshot.storage.k8s.io",
        ])
        .ok()?;
    let sources = paths::sandbox_sources();
    let (driver, ours) = (
        sources.join("csi-driver/manifests"),
        sources.join("manifests/csi"),
    );
    kubectl.apply(&format!("{}{}", manifests(&driver)?, manifests(&ours)?))?;
    let config = cluster.dir("config")?;
    let kubeconfig = |name: &str| -> Result<String> {
        let path = pki.kubeconfig(cluster, name, &config.join(format!("{name}.kubeconfig")))?;
        Ok(format!("--kubeconfig={}", path.display()))
    };
    let endpoint = format!("--csi-address={}", socket(cluster).display());
    let provisioner = Tool::Provisioner.program("csi-provisioner")?;
    Daemon::new(cluster, "csi-provisioner", provisioner)
        .args([&endpoint, &kubeconfig("csi-provisioner")?])
        .args(SIDECAR_FLAGS)
        .args([
            "--extra-create-metadata",
            "--default-fstype=ext4",
            "--worker-threads=10",
            "--http-endpoint=",
        ])
        .supervised()
        .ensure()?;
    Daemon::new(
        cluster,
        "csi-snapshotter",
        Tool::Snapshotter.program("csi-snapshotter")?,
    )
    .args([&endpoint, &kubeconfig("csi-snapshotter")?])
    .args(SIDECAR_FLAGS)
    .args(["--extra-create-metadata", "--worker-threads=10"])
    .supervised()
    .ensure()?;
    Daemon::new(
        cluster,
        "snapshot-controller",
        Tool::Snapshotter.program("snapshot-controller")?,
    )
    .arg(kubeconfig("snapshot-controller")?)
    .args([
        "--leader-election=false",
        "--kube-api-qps=50",
        "--kube-api-burst=100",
        "--retry-interval-start=500ms",
    ])
    .supervised()
    .ensure()?;
    Ok(())
}

/// All YAML files of a folder as one stream, kustomizations aside.
pub(crate) fn manifests(dir: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    let mut all = String::new();
    for file in files {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".yaml") && !name.starts_with("kustomization") {
            all.push_str("---\n");
            all.push_str(&fs::read_to_string(&file).with_context(|| file.display().to_string())?);
            all.push('\n');
        }
    }
    Ok(all)
}

/// Frees everything the driver holds in the kernel. The driver must be stopped. What it cannot free, or if it cannot
/// be built just now, is left to the caller, who unmounts and detaches whatever lies below the state folder.
pub(crate) fn clean_up(cluster: &Cluster) -> Result<()> {
    if !data_dir(cluster).exists() {
        return Ok(());
    }
    let freed = driver().and_then(|program| {
        Run::new(program)
            .arg("--cleanup")
            .arg(format!("--data-dir={}", data_dir(cluster).display()))
            .within(Duration::from_secs(60))
            .ok()
    });
    match freed {
        Err(error) if interrupt::is_interrupt(&error) => Err(error),
        Err(error) => {
            ui::warn(ui::explain(&error));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
