//! What a sandbox cluster is: its name, addresses, ports and folders. Everything else derives from it.
//!
//! One cluster runs in the host's network namespace today. A second one needs a namespace of its own; its addresses,
//! ports, cgroup and folders already come from here and do not collide.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::net;
use crate::paths;

/// The cluster all commands speak of.
pub(crate) const DEFAULT_NAME: &str = "main";

/// How many address slots there are: pods 10.88..10.95, services 10.96..10.103.
const SLOTS: u8 = 8;

/// Unix socket paths end at 107 bytes; the longest one below the state is the CSI driver's registration.
const LONGEST_STATE_PATH: usize = 48;

/// A cluster as written in its `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// Folder of everything this cluster keeps on disk; known by where `cluster.json` was found.
    #[serde(skip)]
    state: PathBuf,
    /// Chooses the address ranges.
    slot: u8,
    pub(crate) ports: Ports,
    pub(crate) nodes: Vec<Node>,
}

/// One machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) kubelet: u16,
    pub(crate) proxy_health: u16,
    pub(crate) proxy_metrics: u16,
}

/// Ports of what exists once per cluster. etcd listens on loopback, all others on the first node's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) etcd_client: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) apiserver: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
    pub(crate) s3: u16,
    pub(crate) s3_tls: u16,
}

impl Cluster {
    /// The cluster of that name as it was created, if it was.
    pub(crate) fn load(name: &str) -> Result<Option<Self>> {
        Self::load_from(&state_of(name)?)
    }

    /// The cluster whose state lies in that folder, which may belong to another cache than ours.
    pub(crate) fn load_from(state: &Path) -> Result<Option<Self>> {
        let path = state.join("cluster.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let cluster: Self =
                    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
                Ok(Some(Self {
                    state: state.to_owned(),
                    ..cluster
                }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Loads the cluster or lays out a new one in a free range of addresses.
    pub(crate) fn load_or_create(name: &str) -> Result<Self> {
        if let Some(cluster) = Self::load(name)? {
            if let Some(other) = net::conflict(&cluster.ranges(), &cluster.bridge())? {
                bail!(
                    "the addresses of sandbox \"{name}\" are taken by {other}; stop that, or `cargo xtask down --delete` \
                     and `cargo xtask up` to lay the sandbox out anew"
                );
            }
            return Ok(cluster);
        }
        for slot in 0..SLOTS {
            let cluster = Self::layout(name, state_of(name)?, slot);
            match net::conflict(&cluster.ranges(), &cluster.bridge())? {
                None => return Ok(cluster),
                Some(other) => crate::ui::note(format!("{} is taken by {other}", cluster.pod_cidr())),
            }
        }
        bail!("every address range the sandbox could use (10.88.0.0/16 to 10.103.0.0/16) is taken")
    }

    /// The cluster of that name as it is laid out when nothing is in the way; for cleaning up when its record is gone.
    pub(crate) fn unrecorded(name: &str) -> Result<Self> {
        Ok(Self::layout(name, state_of(name)?, 0))
    }

    fn layout(name: &str, state: PathBuf, slot: u8) -> Self {
        let ip = Ipv4Addr::new(10, 88 + slot, 0, 1);
        let node = Node {
            name: "node1".to_owned(),
            ip,
            kubelet: 10250,
            proxy_health: 10256,
            proxy_metrics: 10249,
        };
        let ports = Ports {
            etcd_client: 2379,
            etcd_peer: 2380,
            apiserver: 6443,
            controller_manager: 10257,
            scheduler: 10259,
            s3: 7070,
            s3_tls: 7443,
        };
        Self {
            name: name.to_owned(),
            state,
            slot,
            ports,
            nodes: vec![node],
        }
    }

    /// Writes `cluster.json`.
    pub(crate) fn save(&self) -> Result<()> {
        let state = self.state();
        if state.as_os_str().len() > LONGEST_STATE_PATH {
            bail!(
                "{} is too long a path for the kubelet's sockets; set XDG_CACHE_HOME to a shorter one",
                state.display()
            );
        }
        fs::create_dir_all(state)?;
        write_if_changed(&state.join("cluster.json"), &serde_json::to_string_pretty(self)?)?;
        Ok(())
    }

    /// Folder of everything this cluster keeps on disk.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// A folder below the state, made if need be.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.state().join(name);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(dir)
    }

    /// Folder of sockets and of what may not survive a reboot.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        PathBuf::from("/run/holdfast-sandbox").join(&self.name)
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.runtime_dir().join("containerd.sock")
    }

    /// Administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }

    /// The first node, which also runs the control plane.
    pub(crate) fn node(&self) -> &Node {
        // A layout without nodes cannot be made: see `layout`.
        &self.nodes[0]
    }

    pub(crate) fn pod_cidr(&self) -> String {
        format!("10.{}.0.0/16", 88 + self.slot)
    }

    pub(crate) fn service_cidr(&self) -> String {
        format!("10.{}.0.0/16", 96 + self.slot)
    }

    /// Address of the `kubernetes` service: always the first one of the range.
    pub(crate) fn kubernetes_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96 + self.slot, 0, 1)
    }

    /// Address of the cluster's resolver.
    pub(crate) fn dns_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96 + self.slot, 0, 10)
    }

    fn ranges(&self) -> [Ipv4Addr; 2] {
        [
            Ipv4Addr::new(10, 88 + self.slot, 0, 0),
            Ipv4Addr::new(10, 96 + self.slot, 0, 0),
        ]
    }

    /// Network interface the pods hang on. Interface names end at 15 bytes.
    pub(crate) fn bridge(&self) -> String {
        format!("hfsbx{}", self.slot)
    }

    /// Name of the cgroup that holds every process of this cluster, in every hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        format!("holdfast-{}", self.name)
    }

    /// Name of the CNI network; the library's cache files begin with it.
    pub(crate) fn cni_network(&self) -> String {
        format!("holdfast-{}", self.name)
    }

    pub(crate) fn apiserver_url(&self) -> String {
        format!("https://{}:{}", self.node().ip, self.ports.apiserver)
    }

    pub(crate) fn s3_url(&self) -> String {
        format!("http://{}:{}", self.node().ip, self.ports.s3)
    }

    pub(crate) fn s3_tls_url(&self) -> String {
        format!("https://{}:{}", self.node().ip, self.ports.s3_tls)
    }
}

fn state_of(name: &str) -> Result<PathBuf> {
    Ok(paths::sandbox()?.join("clusters").join(name))
}

/// Writes a file only when its content differs; tells whether it did.
pub(crate) fn write_if_changed(path: &Path, content: &str) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(false);
    }
    fs::write(path, content).with_context(|| path.display().to_string())?;
    Ok(true)
}
