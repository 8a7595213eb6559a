//! One node: containerd, its CNI network, the kubelet and kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cluster::{Cluster, write_if_changed};
use crate::image;
use crate::kubectl::Kubectl;
use crate::pki::Pki;
use crate::process::{self, Daemon, Ensured};
use crate::run::{Run, wait_for};
use crate::tools::Tool;

/// Names of the node's daemons, in the order they start.
pub(crate) const DAEMONS: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];

/// Where Debian's `containernetworking-plugins` puts its programs.
const CNI_PLUGINS: &str = "/usr/lib/cni";

/// The kubelet's root folder.
pub(crate) fn kubelet_root(cluster: &Cluster) -> PathBuf {
    cluster.state().join("kubelet")
}

/// Brings containerd up.
pub(crate) fn containerd(cluster: &Cluster) -> Result<()> {
    fs::create_dir_all(cluster.runtime_dir())?;
    let cni = cluster.dir("cni")?;
    write_if_changed(&cni.join("10-holdfast.conflist"), &cni_config(cluster)?)?;
    let config = cluster.dir("config")?.join("containerd.toml");
    write_if_changed(&config, &containerd_config(cluster, &cni)?)?;
    Daemon::new(cluster, "containerd", "containerd")
        .arg("--config")
        .arg(&config)
        .config(&config)?
        .ensure()?;
    wait_for("containerd", Duration::from_secs(30), || {
        process::check_alive(cluster, "containerd")?;
        Ok(ctr(cluster).arg("version").status()?.then_some(()))
    })
}

/// containerd's command line client, in the namespace Kubernetes uses.
pub(crate) fn ctr(cluster: &Cluster) -> Run {
    Run::new("ctr")
        .arg("--address")
        .arg(cluster.containerd_socket())
        .args(["--namespace", "k8s.io"])
}

fn cni_config(cluster: &Cluster) -> Result<String> {
    let config = json!({
        "cniVersion": "0.4.0",
        "name": cluster.cni_network(),
        "plugins": [
            {
                "type": "bridge", "bridge": cluster.bridge(), "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": cluster.state().join("ipam"),
                    "ranges": [[{"subnet": cluster.pod_cidr(), "gateway": cluster.node().ip}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    Ok(serde_json::to_string_pretty(&config)?)
}

fn containerd_config(cluster: &Cluster, cni: &Path) -> Result<String> {
    let state = cluster.state();
    let runtime = cluster.runtime_dir();
    // Without CAP_SYS_RESOURCE (some virtual machines) runc cannot lower oom_score_adj and no pod starts.
    Ok(format!(
        r#"version = 2
root = "{root}"
state = "{run}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  device_ownership_from_security_context = false
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        root = state.join("containerd").display(),
        run = runtime.join("containerd").display(),
        socket = cluster.containerd_socket().display(),
        opt = state.join("opt").display(),
        pause = image::PAUSE,
        cni = cni.display(),
    ))
}

/// Starts the kubelet; tells whether it ran already.
pub(crate) fn kubelet(cluster: &Cluster, pki: &Pki) -> Result<Ensured> {
    let node = cluster.node();
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.ip,
        "port": node.kubelet,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.cert("ca")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.cert(&node.name),
        "tlsPrivateKeyFile": pki.key(&node.name),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cluster.cgroup()),
        "failSwapOn": false,
        "failCgroupV1": false,
        "containerRuntimeEndpoint": format!("unix://{}", cluster.containerd_socket().display()),
        "clusterDNS": [cluster.dns_ip()],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "podCIDR": cluster.pod_cidr(),
        // Images cannot be pulled again, so none may ever be collected.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "maxPods": 200,
        "oomScoreAdj": 0,
    });
    let dir = cluster.dir("config")?;
    let path = dir.join("kubelet.json");
    write_if_changed(&path, &serde_json::to_string_pretty(&config)?)?;
    let kubeconfig = pki.kubeconfig(
        cluster,
        &node.name,
        &dir.join(format!("{}.kubeconfig", node.name)),
    )?;
    Daemon::new(cluster, "kubelet", Tool::Kubernetes.program("kubelet")?)
        .arg("--config")
        .arg(&path)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--root-dir")
        .arg(kubelet_root(cluster))
        .arg(format!("--hostname-override={}", node.name))
        .arg(format!("--node-ip={}", node.ip))
        .arg("--v=2")
        .config(&path)?
        .ensure()
}

/// Starts kube-proxy.
pub(crate) fn proxy(cluster: &Cluster, pki: &Pki) -> Result<()> {
    let node = cluster.node();
    let dir = cluster.dir("config")?;
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": pki.kubeconfig(cluster, "proxy", &dir.join("proxy.kubeconfig"))?},
        "mode": "iptables",
        "clusterCIDR": cluster.pod_cidr(),
        "hostnameOverride": node.name,
        "healthzBindAddress": format!("{}:{}", node.ip, node.proxy_health),
        "metricsBindAddress": format!("{}:{}", node.ip, node.proxy_metrics),
        // Zero leaves the machine's connection tracking table as it is.
        "conntrack": {"maxPerCore": 0},
        "iptables": {"minSyncPeriod": "200ms"},
        "oomScoreAdj": 0,
    });
    let path = dir.join("proxy.json");
    write_if_changed(&path, &serde_json::to_string_pretty(&config)?)?;
    Daemon::new(cluster, "kube-proxy", Tool::Kubernetes.program("kube-proxy")?)
        .arg("--config")
        .arg(&path)
        .config(&path)?
        .ensure()?;
    Ok(())
}

/// Waits until the node is ready. What the API server remembers from before the kubelet's start does not count.
pub(crate) fn ready(cluster: &Cluster, kubectl: &Kubectl, kubelet: Ensured, before: &Value) -> Result<()> {
    wait_for("the node", Duration::from_secs(120), || {
        process::check_alive(cluster, "kubelet")?;
        process::check_alive(cluster, "kube-proxy")?;
        let now = ready_condition(cluster, kubectl)?;
        let fresh = kubelet == Ensured::Running || now["lastHeartbeatTime"] != before["lastHeartbeatTime"];
        Ok((fresh && now["status"] == "True").then_some(()))
    })
}

/// The node's condition `Ready`; null as long as there is no node.
pub(crate) fn ready_condition(cluster: &Cluster, kubectl: &Kubectl) -> Result<Value> {
    let nodes = kubectl.get(&["nodes"])?;
    let all = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let node = all
        .iter()
        .find(|n| n["metadata"]["name"] == cluster.node().name.as_str());
    let conditions = node
        .and_then(|n| n["status"]["conditions"].as_array())
        .map(Vec::as_slice)
        .unwrap_or_default();
    Ok(conditions
        .iter()
        .find(|c| c["type"] == "Ready")
        .cloned()
        .unwrap_or_default())
}

/// Kills every container; containerd must run.
pub(crate) fn kill_containers(cluster: &Cluster) -> Result<()> {
    let list = |what: &str| -> Result<Vec<String>> {
        Ok(ctr(cluster)
            .args([what, "list", "--quiet"])
            .output()?
            .lines()
            .map(str::to_owned)
            .collect())
    };
    for task in list("tasks")? {
        ctr(cluster)
            .args(["tasks", "delete", "--force", &task])
            .status()?;
    }
    for container in list("containers")? {
        ctr(cluster).args(["containers", "delete", &container]).status()?;
    }
    Ok(())
}
