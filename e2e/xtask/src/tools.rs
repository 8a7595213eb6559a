//! Go programs of the sandbox, built from their pinned modules once and kept in the cache.
//!
//! Each folder below `e2e/sandbox/toolchain` is a Go module whose `tool` lines name the programs; the cache folder
//! carries the hash of `go.mod` and `go.sum`, so that a changed pin is built anew and an old one stays usable.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::paths;
use crate::run::Run;
use crate::ui;

const BUILD_DEADLINE: Duration = Duration::from_secs(45 * 60);
const KUBERNETES_VERSION: (&str, &str) = ("1", "34");
const KUBERNETES_PATCH: &str = "2";

/// A Go module of the toolchain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Kubernetes,
    Etcd,
    Versitygw,
    Snapshotter,
    Provisioner,
    Helm,
    Coredns,
    CsiSanity,
}

impl Tool {
    /// What a cluster needs to come up.
    pub(crate) const CLUSTER: [Self; 6] = [
        Self::Kubernetes,
        Self::Etcd,
        Self::Versitygw,
        Self::Snapshotter,
        Self::Provisioner,
        Self::Coredns,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Etcd => "etcd",
            Self::Versitygw => "versitygw",
            Self::Snapshotter => "snapshotter",
            Self::Provisioner => "provisioner",
            Self::Helm => "helm",
            Self::Coredns => "coredns",
            Self::CsiSanity => "csi-sanity",
        }
    }

    /// The module's folder in the checkout.
    pub(crate) fn module(self) -> PathBuf {
        paths::sandbox_sources().join("toolchain").join(self.name())
    }

    /// One of its programs, built if need be. `program` is the name the documentation of the tool uses.
    pub(crate) fn program(self, program: &str) -> Result<PathBuf> {
        let dir = self.ensure()?;
        // `go build` names a program after the last element of its package path, which for etcd is `server`.
        let names: &[&str] = if program == "etcd" {
            &["etcd", "server", "v3"]
        } else {
            &[program]
        };
        names
            .iter()
            .map(|name| dir.join(name))
            .find(|path| path.is_file())
            .with_context(|| format!("{} holds no program {program}", dir.display()))
    }

    /// Builds the module's programs unless the cache has them; returns their folder.
    pub(crate) fn ensure(self) -> Result<PathBuf> {
        let module = self.module();
        let dir = paths::sandbox()?
            .join("tools")
            .join(format!("{}-{}", self.name(), self.hash()?));
        if dir.is_dir() {
            return Ok(dir);
        }
        ui::note(format!(
            "building {} (once; minutes when the Go caches are empty)",
            self.name()
        ));
        let mut partial = dir.clone().into_os_string();
        partial.push(format!(".{}.tmp", std::process::id()));
        let partial = PathBuf::from(partial);
        fs::create_dir_all(&partial)?;
        let mut output = partial.clone().into_os_string();
        output.push("/");
        Run::new("go")
            .args(["build", "-trimpath", "-ldflags"])
            .arg(self.ldflags())
            .arg("-o")
            .arg(output)
            .arg("tool")
            .dir(&module)
            .env("CGO_ENABLED", "0")
            .within(BUILD_DEADLINE)
            .heartbeat(&format!("building {}", self.name()))
            .ok()
            .with_context(|| format!("building the Go tools of {}", module.display()))?;
        if let Err(error) = fs::rename(&partial, &dir) {
            // Somebody else built the same thing meanwhile: theirs is as good.
            fs::remove_dir_all(&partial)?;
            if !dir.is_dir() {
                bail!("{}: {error}", dir.display());
            }
        }
        Ok(dir)
    }

    /// A file of one of the module's dependencies, from Go's module cache.
    pub(crate) fn dependency(self, module: &str) -> Result<PathBuf> {
        let dir = Run::new("go")
            .args(["list", "-m", "-f", "{{.Dir}}", module])
            .dir(&self.module())
            .within(Duration::from_secs(300))
            .output()?;
        if !dir.trim().is_empty() {
            return Ok(PathBuf::from(dir.trim()));
        }
        // Known by go.sum, but not unpacked: with a warm tool cache nothing was built here.
        Run::new("go")
            .args(["mod", "download", module])
            .dir(&self.module())
            .within(Duration::from_secs(300))
            .ok()?;
        let dir = Run::new("go")
            .args(["list", "-m", "-f", "{{.Dir}}", module])
            .dir(&self.module())
            .output()?;
        Ok(PathBuf::from(dir.trim()))
    }

    fn ldflags(self) -> String {
        let mut flags = "-s -w".to_owned();
        if self == Self::Kubernetes {
            let (major, minor) = KUBERNETES_VERSION;
            let package = "k8s.io/component-base/version";
            flags.push_str(&format!(
                " -X {package}.gitVersion=v{major}.{minor}.{KUBERNETES_PATCH} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
            ));
        }
        flags
    }

    fn hash(self) -> Result<String> {
        let module = self.module();
        let mut hash = Sha256::new();
        for file in ["go.mod", "go.sum"] {
            let path = module.join(file);
            hash.update(fs::read(&path).with_context(|| path.display().to_string())?);
        }
        Ok(hex::encode(hash.finalize())[..16].to_owned())
    }
}
