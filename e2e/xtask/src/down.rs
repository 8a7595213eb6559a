//! Taking the sandbox down: afterwards no process, mount, loop device, interface, filter chain or cgroup of it is left.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cluster::{self, Cluster};
use crate::interrupt;
use crate::ui::{self, Steps};
use crate::up::{self, MachineLock};
use crate::{cgroup, control_plane, csi, firewall, mounts, net, node, process, s3};

/// Stops the sandbox; with `delete` its data go as well, only built tools and images are kept.
pub(crate) fn down(steps: &mut Steps, delete: bool) -> Result<()> {
    if let Some(path) = up::given_kubeconfig()? {
        ui::note(format!(
            "KUBECONFIG names {}: that cluster is left as it is",
            path.display()
        ));
    }
    let _lock = MachineLock::take()?;
    let known = Cluster::load(cluster::DEFAULT_NAME)?;
    let cluster = match known {
        Some(cluster) => cluster,
        // Its folder was removed by hand while it ran: the cgroup still tells what is ours.
        None => Cluster::unrecorded(cluster::DEFAULT_NAME)?,
    };
    steps.run("stop", || stop(&cluster))?;
    if delete {
        steps.run("delete", || delete_state(&cluster))?;
    }
    Ok(())
}

/// Stops everything in the order that lets each part finish its work, then sweeps.
pub(crate) fn stop(cluster: &Cluster) -> Result<()> {
    process::stop(
        cluster,
        &[
            "kube-proxy",
            "kubelet",
            "csi-provisioner",
            "csi-snapshotter",
            "snapshot-controller",
        ],
    )?;
    if process::pid(cluster, "containerd")?.is_some() {
        // What containerd cannot end is killed by the sweep.
        if let Err(error) = node::kill_containers(cluster) {
            if interrupt::is_interrupt(&error) {
                return Err(error);
            }
            ui::warn(format!("{error:#}"));
        }
    }
    process::stop(
        cluster,
        &[
            "csi-driver",
            "containerd",
            "kube-scheduler",
            "kube-controller-manager",
            "s3",
            "s3-tls",
        ],
    )?;
    process::stop(cluster, &["kube-apiserver"])?;
    process::stop(cluster, &["etcd"])?;
    sweep(cluster)
}

/// Removes whatever of this cluster is still on the machine although none of its daemons is known to run.
pub(crate) fn sweep(cluster: &Cluster) -> Result<()> {
    for name in all_daemons() {
        process::stop(cluster, &[name])?;
    }
    let left = cgroup::processes(cluster);
    if !left.is_empty() {
        process::kill(&left);
    }
    unmount(cluster)?;
    firewall::clean()?;
    net::remove_bridge(cluster)?;
    cgroup::remove(cluster)?;
    forget_pods(cluster)?;
    net::restore_switches(cluster)
}

fn all_daemons() -> impl Iterator<Item = &'static str> {
    [
        &node::DAEMONS[..],
        &csi::DAEMONS,
        &s3::DAEMONS,
        &control_plane::DAEMONS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

fn unmount(cluster: &Cluster) -> Result<()> {
    let state = cluster.state();
    // The devices are listed first: once unmounted, those on top of a volume no longer show where they came from.
    let loops = mounts::loops_below(state)?;
    let kubelet = node::kubelet_root(cluster);
    mounts::unmount_below(&kubelet)?;
    csi::clean_up(cluster)?;
    mounts::unmount_below(state)?;
    mounts::unmount_below(&cluster.runtime_dir())?;
    mounts::detach(&loops)?;
    mounts::detach(&mounts::loops_below(state)?)
}

/// Removes the traces of pods that no longer run, as a reboot would, so that the next start makes them anew.
fn forget_pods(cluster: &Cluster) -> Result<()> {
    let kubelet = node::kubelet_root(cluster);
    for dir in [
        kubelet.join("pods"),
        kubelet.join("plugins"),
        kubelet.join("plugins_registry"),
        cluster.state().join("ipam"),
    ] {
        remove_dir(&dir)?;
    }
    remove_dir(&cluster.runtime_dir())?;
    forget_cni_results(cluster)
}

/// libcni keeps a file per interface and pod, by network name and pod; the loopback network's name is not ours alone.
fn forget_cni_results(cluster: &Cluster) -> Result<()> {
    let dir = Path::new("/var/lib/cni/results");
    let prefix = format!("{}-", cluster.cni_network());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(rest) = name.strip_prefix(&prefix) {
            let pod = rest.strip_suffix("-eth0").unwrap_or(rest);
            let loopback = dir.join(format!("cni-loopback-{pod}-lo"));
            if loopback.exists() {
                fs::remove_file(loopback)?;
            }
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn delete_state(cluster: &Cluster) -> Result<()> {
    remove_dir(cluster.state())
}

/// Removes a folder, but never through a mount.
fn remove_dir(dir: &Path) -> Result<()> {
    let mounted = mounts::below(dir)?;
    anyhow::ensure!(
        mounted.is_empty(),
        "{} is not removed: {mounted:?} is still mounted",
        dir.display()
    );
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}
