//! The cluster's cgroup: one folder of its name in every hierarchy.
//!
//! It is more than a limit: every process of the sandbox, containers included, is in it, so `down` finds all of them
//! without guessing by names, whatever crashed before.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::process;

/// Leaf for the sandbox's own daemons: with cgroup v2 a folder with children may not hold processes.
const DAEMONS: &str = "daemons";

struct Hierarchy {
    root: PathBuf,
    v2: bool,
    cpuset: bool,
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in table.lines() {
        let Some((mount, source)) = line.split_once(" - ") else {
            continue;
        };
        let root = PathBuf::from(mount.split(' ').nth(4).unwrap_or_default());
        let mut source = source.split(' ');
        let kind = source.next().unwrap_or_default();
        let options = source.nth(1).unwrap_or_default();
        if kind == "cgroup" || kind == "cgroup2" {
            let cpuset = kind == "cgroup" && options.split(',').any(|o| o == "cpuset");
            found.push(Hierarchy {
                root,
                v2: kind == "cgroup2",
                cpuset,
            });
        }
    }
    Ok(found)
}

/// Makes the cluster's folder in every hierarchy; the kubelet refuses a root that is missing in one.
pub(crate) fn ensure(cluster: &Cluster) -> Result<()> {
    for hierarchy in hierarchies()? {
        let dir = hierarchy.root.join(cluster.cgroup());
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        if hierarchy.cpuset {
            // A new cpuset is empty, and nothing can be put into an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read_to_string(hierarchy.root.join(file))?;
                fs::write(dir.join(file), value.trim())
                    .with_context(|| dir.join(file).display().to_string())?;
            }
        }
    }
    let daemons = daemons(cluster)?;
    fs::create_dir_all(&daemons).with_context(|| daemons.display().to_string())
}

/// Folder whose `cgroup.procs` a daemon of the sandbox enters before it starts.
pub(crate) fn daemons(cluster: &Cluster) -> Result<PathBuf> {
    let all = hierarchies()?;
    // The unified hierarchy is left alone by runc where the others exist, so containers stay in it as well.
    let chosen = all
        .iter()
        .find(|h| h.v2)
        .or_else(|| all.first())
        .context("no cgroup hierarchy is mounted")?;
    Ok(chosen.root.join(cluster.cgroup()).join(DAEMONS))
}

/// Every process in the cluster's cgroup, in any hierarchy.
pub(crate) fn processes(cluster: &Cluster) -> Vec<u32> {
    let folder = format!("/{}", cluster.cgroup());
    process::all()
        .filter(|pid| {
            let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            table
                .lines()
                .filter_map(|l| l.splitn(3, ':').nth(2))
                .any(|path| Path::new(path).starts_with(&folder))
        })
        .collect()
}

/// Removes the cluster's folders. They must hold no process any more.
pub(crate) fn remove(cluster: &Cluster) -> Result<()> {
    let start = Instant::now();
    loop {
        let mut left = Vec::new();
        for hierarchy in hierarchies()? {
            let dir = hierarchy.root.join(cluster.cgroup());
            if dir.exists() {
                remove_tree(&dir);
            }
            if dir.exists() {
                left.push(dir);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        // A killed process leaves its cgroup a moment later.
        if start.elapsed() > Duration::from_secs(10) {
            bail!("cgroups cannot be removed: {left:?}");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn remove_tree(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&child.path());
        }
    }
    // Busy folders are tried again by the caller.
    drop(fs::remove_dir(dir));
}
