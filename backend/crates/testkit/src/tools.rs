//! Finds the programs that the sandbox has built.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Environment variable that names another folder with `kubernetes-*/` and `etcd-*/`.
const TOOLS: &str = "HOLDFAST_TOOLS";

/// The newest built `kube-apiserver`.
pub(crate) fn kube_apiserver() -> anyhow::Result<PathBuf> {
    find("kubernetes-", &["kube-apiserver"])
}

/// The newest built `etcd`; its main package is called `server`, and so may be the program.
pub(crate) fn etcd() -> anyhow::Result<PathBuf> {
    find("etcd-", &["etcd", "server"])
}

fn find(prefix: &str, names: &[&str]) -> anyhow::Result<PathBuf> {
    let root = root()?;
    let mut found: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
        let folder = entry.file_name();
        let folder = folder.to_string_lossy();
        if !folder.starts_with(prefix) || folder.ends_with(".tmp") {
            continue;
        }
        for path in names.iter().map(|name| entry.path().join(name)) {
            if let Ok(meta) = std::fs::metadata(&path) {
                found.push((meta.modified()?, path));
            }
        }
    }
    found.sort();
    let message = || {
        format!(
            "no {} under {}: run `cargo xtask up` once, it builds it",
            names.join(" or "),
            root.display()
        )
    };
    Ok(found.pop().with_context(message)?.1)
}

fn root() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(TOOLS) {
        return Ok(path.into());
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("holdfast/sandbox/tools"))
}
