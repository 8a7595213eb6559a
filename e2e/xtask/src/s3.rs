//! The sandbox's S3 server: versitygw over one folder, once in clear and once with a certificate of its own authority.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::net;
use crate::pki::Pki;
use crate::process::{self, Daemon};
use crate::run::{Run, wait_for};
use crate::tools::Tool;

/// Names of the two listeners' daemons.
pub(crate) const DAEMONS: [&str; 2] = ["s3", "s3-tls"];
/// The name the server's certificate carries and the cluster's resolver knows.
pub(crate) const HOST: &str = "s3.sandbox.internal";
/// The bucket that is made at first start.
pub(crate) const BUCKET: &str = "holdfast";
pub(crate) const REGION: &str = "us-east-1";

/// The server's root credentials, made at first start.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Keys {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

impl Keys {
    /// Reads the keys of a cluster, or makes them.
    pub(crate) fn ensure(cluster: &Cluster) -> Result<Self> {
        let path = cluster.state().join("s3-keys.json");
        if let Ok(bytes) = fs::read(&path) {
            return serde_json::from_slice(&bytes).with_context(|| path.display().to_string());
        }
        let keys = Self {
            access_key_id: format!("SANDBOX{}", random(7)?.to_uppercase()),
            secret_access_key: random(20)?,
        };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(serde_json::to_string(&keys)?.as_bytes())?;
        Ok(keys)
    }
}

fn random(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut buffer)?;
    Ok(hex::encode(buffer))
}

/// Starts both listeners and makes the bucket.
pub(crate) fn ensure(cluster: &Cluster, pki: &Pki) -> Result<Keys> {
    let keys = Keys::ensure(cluster)?;
    for (name, port) in [("s3", cluster.ports.s3), ("s3-tls", cluster.ports.s3_tls)] {
        let mut daemon = Daemon::new(cluster, name, Tool::Versitygw.program("versitygw")?)
            .env("ROOT_ACCESS_KEY", &keys.access_key_id)
            .env("ROOT_SECRET_KEY", &keys.secret_access_key)
            .arg("--port")
            .arg(format!("{}:{port}", cluster.node().ip))
            .args(["--region", REGION, "--health", "/health"]);
        if name == "s3-tls" {
            daemon = daemon
                .arg("--cert")
                .arg(pki.cert("s3"))
                .arg("--key")
                .arg(pki.key("s3"));
        }
        // Without a versioning folder deletes and locks behave unlike those of real stores.
        daemon
            .arg("posix")
            .arg("--versioning-dir")
            .arg(cluster.dir("s3/versions")?)
            .arg(cluster.dir("s3/data")?)
            .ensure()?;
    }
    for (name, port) in [("s3", cluster.ports.s3), ("s3-tls", cluster.ports.s3_tls)] {
        wait_for("the S3 server", Duration::from_secs(20), || {
            process::check_alive(cluster, name)?;
            Ok(net::answers(cluster.node().ip, port).then_some(()))
        })?;
    }
    create_bucket(cluster, &keys)?;
    Ok(keys)
}

fn create_bucket(cluster: &Cluster, keys: &Keys) -> Result<()> {
    if cluster.state().join("s3/data").join(BUCKET).is_dir() {
        return Ok(());
    }
    // The credentials go through standard input: arguments are for everybody to read.
    let config = format!("user = \"{}:{}\"\n", keys.access_key_id, keys.secret_access_key);
    Run::new("curl")
        .args([
            "--config",
            "-",
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "20",
        ])
        .args(["--aws-sigv4", &format!("aws:amz:{REGION}:s3"), "--request", "PUT"])
        .args([
            "--header",
            &format!("x-amz-content-sha256: {}", hex::encode(Sha256::digest(b""))),
        ])
        .arg(format!("{}/{BUCKET}", cluster.s3_url()))
        .input(config)
        .ok()
        .context("creating the bucket")
}
