//! etcd, the API server, the controller manager and the scheduler of a cluster.

use std::time::Duration;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::net;
use crate::pki::Pki;
use crate::process::{self, Daemon};
use crate::run::{Run, wait_for};
use crate::tools::Tool;

/// Names of the control plane's daemons, in the order they start.
pub(crate) const DAEMONS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Chooses free ports for what does not run yet.
pub(crate) fn choose_ports(cluster: &mut Cluster) -> Result<()> {
    let ip = cluster.node().ip;
    let local = std::net::Ipv4Addr::LOCALHOST;
    let as_recorded = cluster.clone();
    let choose = |daemon: &str, ip, port: &mut u16| -> Result<()> {
        if process::pid(&as_recorded, daemon)?.is_none() {
            *port = net::free_port(ip, *port, daemon)?;
        }
        Ok(())
    };
    choose("etcd", local, &mut cluster.ports.etcd_client)?;
    choose("etcd", local, &mut cluster.ports.etcd_peer)?;
    choose("kube-apiserver", ip, &mut cluster.ports.apiserver)?;
    choose(
        "kube-controller-manager",
        ip,
        &mut cluster.ports.controller_manager,
    )?;
    choose("kube-scheduler", ip, &mut cluster.ports.scheduler)?;
    choose("s3", ip, &mut cluster.ports.s3)?;
    choose("s3-tls", ip, &mut cluster.ports.s3_tls)?;
    for node in &mut cluster.nodes {
        choose("kubelet", ip, &mut node.kubelet)?;
        choose("kube-proxy", ip, &mut node.proxy_health)?;
        choose("kube-proxy", ip, &mut node.proxy_metrics)?;
    }
    Ok(())
}

/// Brings etcd up.
pub(crate) fn etcd(cluster: &Cluster) -> Result<()> {
    let client = format!("http://127.0.0.1:{}", cluster.ports.etcd_client);
    let peer = format!("http://127.0.0.1:{}", cluster.ports.etcd_peer);
    Daemon::new(cluster, "etcd", Tool::Etcd.program("etcd")?)
        .arg("--data-dir")
        .arg(cluster.state().join("etcd"))
        .args(["--name", "etcd0", "--initial-cluster", &format!("etcd0={peer}")])
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        // The page cache survives a killed process; only a machine that loses power loses the sandbox.
        .args([
            "--unsafe-no-fsync",
            "--auto-compaction-retention=30m",
            "--quota-backend-bytes=4294967296",
        ])
        .ensure()?;
    wait_for("etcd", Duration::from_secs(30), || {
        process::check_alive(cluster, "etcd")?;
        let healthy = Run::new("curl")
            .args(["-sf", "-m", "2", &format!("{client}/health")])
            .status()?;
        Ok(healthy.then_some(()))
    })
}

/// Brings the API server up.
pub(crate) fn apiserver(cluster: &Cluster, pki: &Pki) -> Result<()> {
    let flag = |name: &str, path: std::path::PathBuf| format!("--{name}={}", path.display());
    let ip = cluster.node().ip;
    Daemon::new(
        cluster,
        "kube-apiserver",
        Tool::Kubernetes.program("kube-apiserver")?,
    )
    .arg(format!(
        "--etcd-servers=http://127.0.0.1:{}",
        cluster.ports.etcd_client
    ))
    .arg(format!("--bind-address={ip}"))
    .arg(format!("--advertise-address={ip}"))
    .arg(format!("--secure-port={}", cluster.ports.apiserver))
    .arg(format!("--service-cluster-ip-range={}", cluster.service_cidr()))
    .arg(flag("tls-cert-file", pki.cert("apiserver")))
    .arg(flag("tls-private-key-file", pki.key("apiserver")))
    .arg(flag("client-ca-file", pki.cert("ca")))
    .arg(flag("service-account-key-file", pki.service_account_public()))
    .arg(flag(
        "service-account-signing-key-file",
        pki.key("service-accounts"),
    ))
    .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
    .arg("--authorization-mode=Node,RBAC")
    .arg("--enable-admission-plugins=NodeRestriction")
    .arg(flag("kubelet-client-certificate", pki.cert("kubelet-client")))
    .arg(flag("kubelet-client-key", pki.key("kubelet-client")))
    .arg(flag("kubelet-certificate-authority", pki.cert("ca")))
    .arg("--kubelet-preferred-address-types=InternalIP")
    .arg("--allow-privileged=true")
    .arg("--event-ttl=6h")
    .ensure()?;
    let kubectl = Kubectl::new(cluster.kubeconfig())?;
    wait_for("the API server", Duration::from_secs(90), || {
        process::check_alive(cluster, "kube-apiserver")?;
        Ok(kubectl.get_raw("/readyz").is_ok().then_some(()))
    })
}

/// Starts the controller manager and the scheduler.
pub(crate) fn controllers(cluster: &Cluster, pki: &Pki) -> Result<()> {
    let ip = cluster.node().ip;
    let dir = cluster.dir("config")?;
    let config = |client: &str| pki.kubeconfig(cluster, client, &dir.join(format!("{client}.kubeconfig")));
    let flag = |name: &str, path: std::path::PathBuf| format!("--{name}={}", path.display());
    Daemon::new(
        cluster,
        "kube-controller-manager",
        Tool::Kubernetes.program("kube-controller-manager")?,
    )
    .arg(flag("kubeconfig", config("controller-manager")?))
    .arg(format!("--bind-address={ip}"))
    .arg(format!("--secure-port={}", cluster.ports.controller_manager))
    .arg(flag(
        "service-account-private-key-file",
        pki.key("service-accounts"),
    ))
    .arg(flag("root-ca-file", pki.cert("ca")))
    .arg(flag("cluster-signing-cert-file", pki.cert("ca")))
    .arg(flag("cluster-signing-key-file", pki.key("ca")))
    .args([
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--allocate-node-cidrs=false",
    ])
    .arg(format!("--cluster-cidr={}", cluster.pod_cidr()))
    .args(["--kube-api-qps=100", "--kube-api-burst=200"])
    .ensure()?;
    Daemon::new(
        cluster,
        "kube-scheduler",
        Tool::Kubernetes.program("kube-scheduler")?,
    )
    .arg(flag("kubeconfig", config("scheduler")?))
    .arg(format!("--bind-address={ip}"))
    .arg(format!("--secure-port={}", cluster.ports.scheduler))
    .arg("--leader-elect=false")
    .ensure()?;
    Ok(())
}
