//! Certificates of a cluster: one authority for Kubernetes, another one for the S3 server, so that a test can offer
//! the wrong one. Made by openssl, kept in the state folder, reissued when the names in them change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::{Cluster, write_if_changed};
use crate::run::Run;

const DAYS: &str = "3650";

/// Files of one cluster's certificates.
pub(crate) struct Pki {
    dir: PathBuf,
}

/// A client of the API server: file name and certificate subject.
const CLIENTS: [(&str, &str); 9] = [
    ("admin", "/O=system:masters/CN=sandbox-admin"),
    ("controller-manager", "/CN=system:kube-controller-manager"),
    ("scheduler", "/CN=system:kube-scheduler"),
    ("proxy", "/CN=system:kube-proxy"),
    ("csi-provisioner", "/CN=sandbox:csi-provisioner"),
    ("csi-snapshotter", "/CN=sandbox:csi-snapshotter"),
    ("csi-resizer", "/CN=sandbox:csi-resizer"),
    ("snapshot-controller", "/CN=sandbox:snapshot-controller"),
    ("kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client"),
];

impl Pki {
    /// Makes what is missing.
    pub(crate) fn ensure(cluster: &Cluster) -> Result<Self> {
        let dir = cluster.dir("pki")?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let pki = Self { dir };
        pki.authority("ca", "/CN=holdfast-sandbox-ca")?;
        pki.authority("s3-ca", "/CN=holdfast-sandbox-s3-ca")?;
        let ip = cluster.node().ip;
        let api = format!(
            "IP:{ip},IP:127.0.0.1,IP:{},DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,\
             DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local",
            cluster.kubernetes_ip()
        );
        pki.issue("apiserver", "/CN=kube-apiserver", "ca", &api)?;
        for (name, subject) in CLIENTS {
            pki.issue(name, subject, "ca", "")?;
        }
        for node in &cluster.nodes {
            let subject = format!("/O=system:nodes/CN=system:node:{}", node.name);
            pki.issue(
                &node.name,
                &subject,
                "ca",
                &format!("DNS:{},IP:{},IP:127.0.0.1", node.name, node.ip),
            )?;
        }
        pki.issue(
            "s3",
            "/CN=sandbox-s3",
            "s3-ca",
            &format!("DNS:{},IP:{ip},IP:127.0.0.1", crate::s3::HOST),
        )?;
        pki.service_account_key()?;
        Ok(pki)
    }

    pub(crate) fn cert(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// Writes a kubeconfig for one of the client certificates; it holds them inline.
    pub(crate) fn kubeconfig(&self, cluster: &Cluster, client: &str, path: &Path) -> Result<PathBuf> {
        let context = format!("holdfast-sandbox-{}", cluster.name);
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": {
                "server": cluster.apiserver_url(),
                "certificate-authority-data": base64(&self.cert("ca"))?,
            }}],
            "users": [{"name": context, "user": {
                "client-certificate-data": base64(&self.cert(client))?,
                "client-key-data": base64(&self.key(client))?,
            }}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
            "current-context": context,
        });
        write_if_changed(path, &serde_json::to_string_pretty(&config)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(path.to_owned())
    }

    fn authority(&self, name: &str, subject: &str) -> Result<()> {
        if self.cert(name).exists() && self.key(name).exists() {
            return Ok(());
        }
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-sha256",
        ])
        .args(["-days", DAYS, "-subj", subject])
        .args([
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        ])
        .arg("-keyout")
        .arg(self.key(name))
        .arg("-out")
        .arg(self.cert(name))
        .ok()
    }

    fn issue(&self, name: &str, subject: &str, authority: &str, names: &str) -> Result<()> {
        let mut extensions = "extendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature\n".to_owned();
        if !names.is_empty() {
            extensions.push_str(&format!("subjectAltName={names}\n"));
        }
        let file = self.dir.join(format!("{name}.ext"));
        // The extensions file also tells whether the certificate still carries the right names.
        let changed = write_if_changed(&file, &extensions)?;
        if !changed && self.cert(name).exists() {
            return Ok(());
        }
        let request = self.dir.join(format!("{name}.csr"));
        self.openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-subj", subject])
        .arg("-keyout")
        .arg(self.key(name))
        .arg("-out")
        .arg(&request)
        .ok()?;
        self.openssl(&["x509", "-req", "-sha256", "-days", DAYS, "-in"])
            .arg(&request)
            .arg("-CA")
            .arg(self.cert(authority))
            .arg("-CAkey")
            .arg(self.key(authority))
            .arg("-extfile")
            .arg(&file)
            .arg("-out")
            .arg(self.cert(name))
            .ok()?;
        fs::remove_file(request)?;
        Ok(())
    }

    fn service_account_key(&self) -> Result<()> {
        let public = self.dir.join("service-accounts.pub");
        if public.exists() {
            return Ok(());
        }
        let private = self.key("service-accounts");
        self.openssl(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
        ])
        .arg(&private)
        .ok()?;
        self.openssl(&["pkey", "-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(&public)
            .ok()
    }

    pub(crate) fn service_account_public(&self) -> PathBuf {
        self.dir.join("service-accounts.pub")
    }

    fn openssl(&self, args: &[&str]) -> Run {
        Run::new("openssl").args(args).dir(&self.dir)
    }
}

fn base64(path: &Path) -> Result<String> {
    use base64::Engine;
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}
