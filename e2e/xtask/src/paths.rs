//! Where things lie: the checkout, the cache shared by all checkouts, and the state of one cluster.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Root of the checkout this xtask was built from.
pub(crate) fn repo() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .and_then(Path::parent)
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// `${XDG_CACHE_HOME:-~/.cache}/holdfast`.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("holdfast"))
}

/// Everything of the sandbox that outlives a checkout: built tools, images, clusters.
pub(crate) fn sandbox() -> Result<PathBuf> {
    Ok(cache()?.join("sandbox"))
}

/// Sources of the sandbox inside the checkout.
pub(crate) fn sandbox_sources() -> PathBuf {
    repo().join("e2e/sandbox")
}

/// Where cargo puts what it builds, the way cargo itself decides it.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .filter(|v| !v.is_empty())
        .map_or_else(|| repo().join("target"), PathBuf::from)
}
