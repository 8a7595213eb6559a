//! The sample applications: applied from their manifests, asked for the checksums of their data.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::csi::manifests;
use crate::facts::Images;
use crate::images;
use crate::kubectl::Kubectl;
use crate::paths;

/// An application of `e2e/sandbox/apps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    Postgres,
    Blockwriter,
    Webapp,
}

impl App {
    pub(crate) const ALL: [Self; 3] = [Self::Postgres, Self::Blockwriter, Self::Webapp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Blockwriter => "blockwriter",
            Self::Webapp => "webapp",
        }
    }

    fn workload(self) -> &'static str {
        match self {
            Self::Postgres => "statefulset/postgres",
            Self::Blockwriter => "deployment/blockwriter",
            Self::Webapp => "deployment/webapp",
        }
    }

    fn pod_security(self) -> &'static str {
        if self == Self::Blockwriter {
            "baseline"
        } else {
            "restricted"
        }
    }

    /// Applies the application's objects; the namespace is made if need be.
    pub(crate) fn apply(self, kubectl: &Kubectl, namespace: &str, images: &Images) -> Result<()> {
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{pod-security.kubernetes.io/enforce: {}}}}}}}",
            self.pod_security()
        ))?;
        let dir = paths::sandbox_sources().join("apps").join(self.name());
        if self == Self::Webapp {
            kubectl
                .command()
                .args(["apply", "--server-side", "-f"])
                .arg(dir.join("crd.yaml"))
                .ok()?;
            kubectl
                .command()
                .args([
                    "wait",
                    "--for=condition=Established",
                    "--timeout=30s",
                    "crd/gauges.samples.holdfast.dev",
                ])
                .ok()?;
        }
        let yaml = manifests(&dir)?
            .replace(images::BUSYBOX, &images.busybox)
            .replace(images::POSTGRES, &images.postgres)
            .replace(images::WEBAPP, &images.webapp);
        kubectl.apply_in(namespace, &yaml)
    }

    /// Waits until all its pods are ready.
    pub(crate) fn ready(self, kubectl: &Kubectl, namespace: &str, deadline: Duration) -> Result<()> {
        kubectl.rolled_out(namespace, self.workload(), deadline)
    }

    /// SHA-256 of its data, as the application itself sees them.
    pub(crate) fn checksum(self, kubectl: &Kubectl, namespace: &str) -> Result<String> {
        let printed = kubectl.exec(namespace, self.workload(), &["sh", "/scripts/checksum"])?;
        let sum = printed.trim().to_owned();
        ensure!(
            sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()),
            "{} printed no checksum but {sum:?}",
            self.workload()
        );
        Ok(sum)
    }

    /// Changes a part of its data, so that a further backup has something to find.
    pub(crate) fn change(self, kubectl: &Kubectl, namespace: &str) -> Result<()> {
        match self {
            Self::Postgres => kubectl
                .exec(namespace, self.workload(), &["sh", "/scripts/change", "500"])
                .map(drop),
            Self::Blockwriter => kubectl
                .exec(namespace, self.workload(), &["sh", "/scripts/write", "2"])
                .map(drop),
            Self::Webapp => Ok(()),
        }
    }
}
