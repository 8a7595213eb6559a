//! What tests and the demonstration have to know of the cluster they run on: addresses, keys, image names.
//!
//! `cargo xtask up` writes them to `sandbox.json`. For a cluster of somebody else the same file, written by hand, is
//! named by `HOLDFAST_SANDBOX`.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use holdfast_seal::RecoveryKey;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::pki::Pki;
use crate::s3::{self, Keys};
use crate::{csi, images};

/// Environment variable with the path of the facts.
pub(crate) const VARIABLE: &str = "HOLDFAST_SANDBOX";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) s3: S3,
    pub(crate) csi: Csi,
    pub(crate) images: Images,
    /// Private half of the recovery key that the product is installed with.
    #[serde(default = "new_key")]
    pub(crate) recovery_key: String,
}

/// A key for somebody else's cluster whose facts name none.
fn new_key() -> String {
    RecoveryKey::generate().to_text().expose_secret().to_owned()
}

/// The recovery key of the sandbox: made once, for what is on its targets was wrapped for it.
fn recovery_key(cluster: &Cluster) -> Result<String> {
    let path = cluster.state().join("recovery.agekey");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = new_key();
            write_private(&path, text.as_bytes())?;
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Writes a file that only root reads, whole or not at all.
fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(content)?;
    fs::rename(&partial, path).with_context(|| path.display().to_string())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct S3 {
    pub(crate) endpoint: String,
    pub(crate) tls_endpoint: String,
    /// Authority of the certificate at `tls_endpoint`.
    pub(crate) ca_file: PathBuf,
    /// A real authority that is not the one of `tls_endpoint`.
    pub(crate) wrong_ca_file: PathBuf,
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Csi {
    pub(crate) driver: String,
    pub(crate) faults_file: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Images {
    pub(crate) busybox: String,
    pub(crate) postgres: String,
    pub(crate) webapp: String,
    pub(crate) holdfast: String,
}

impl Facts {
    /// Those of the sandbox.
    pub(crate) fn of(cluster: &Cluster, pki: &Pki, keys: &Keys) -> Result<Self> {
        Ok(Self {
            recovery_key: recovery_key(cluster)?,
            kubeconfig: cluster.kubeconfig(),
            s3: S3 {
                endpoint: cluster.s3_url(),
                tls_endpoint: cluster.s3_tls_url(),
                ca_file: pki.cert("s3-ca"),
                wrong_ca_file: pki.cert("ca"),
                bucket: s3::BUCKET.to_owned(),
                region: s3::REGION.to_owned(),
                access_key_id: keys.access_key_id.clone(),
                secret_access_key: keys.secret_access_key.clone(),
            },
            csi: Csi {
                driver: csi::DRIVER.to_owned(),
                faults_file: csi::faults_file(cluster),
            },
            images: Images {
                busybox: images::BUSYBOX.to_owned(),
                postgres: images::POSTGRES.to_owned(),
                webapp: images::WEBAPP.to_owned(),
                holdfast: images::HOLDFAST.to_owned(),
            },
        })
    }

    /// Path of the sandbox's own facts.
    pub(crate) fn path(cluster: &Cluster) -> PathBuf {
        cluster.state().join("sandbox.json")
    }

    /// Writes them, readable by root only: they hold the S3 keys.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write_private(path, serde_json::to_string_pretty(self)?.as_bytes())
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
    }
}
