//! Network plumbing of the host: the pods' bridge, kernel switches, taken addresses and ports.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::run::Run;
use crate::ui;

/// Kernel switches pods and services need.
const SWITCHES: &[(&str, u64)] = &[
    ("net/ipv4/ip_forward", 1),
    ("net/bridge/bridge-nf-call-iptables", 1),
    ("fs/inotify/max_user_instances", 8192),
    ("fs/inotify/max_user_watches", 524_288),
];

/// Makes the bridge and gives it the node's address. It must exist before the kubelet, which checks the address.
pub(crate) fn ensure_bridge(cluster: &Cluster) -> Result<()> {
    let bridge = cluster.bridge();
    if !exists(&bridge) {
        Run::new("ip")
            .args(["link", "add", &bridge, "type", "bridge"])
            .ok()?;
    }
    Run::new("ip")
        .args([
            "addr",
            "replace",
            &format!("{}/16", cluster.node().ip),
            "dev",
            &bridge,
        ])
        .ok()?;
    Run::new("ip").args(["link", "set", &bridge, "up"]).ok()
}

/// Removes the bridge; pods' ends of it go with their network namespaces.
pub(crate) fn remove_bridge(cluster: &Cluster) -> Result<()> {
    let bridge = cluster.bridge();
    let members = Path::new("/sys/class/net").join(&bridge).join("brif");
    for member in fs::read_dir(members).into_iter().flatten().flatten() {
        // A veth whose other end just went away is gone by itself.
        Run::new("ip")
            .args(["link", "del"])
            .arg(member.file_name())
            .status()?;
    }
    if exists(&bridge) {
        Run::new("ip").args(["link", "del", &bridge]).ok()?;
    }
    Ok(())
}

fn exists(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

/// Sets the kernel switches and remembers what they were, so that `down` can put them back.
pub(crate) fn set_switches(cluster: &Cluster) -> Result<()> {
    // Built in on many kernels: then there is no module to load, and none is needed.
    Run::new("modprobe").arg("br_netfilter").status()?;
    let record = switches_record(cluster)?;
    let mut before: BTreeMap<String, u64> = read_record(&record);
    for (name, wanted) in SWITCHES {
        let path = Path::new("/proc/sys").join(name);
        let Ok(text) = fs::read_to_string(&path) else {
            ui::warn(format!("{} does not exist here", path.display()));
            continue;
        };
        let now: u64 = text.trim().parse().with_context(|| path.display().to_string())?;
        if now < *wanted {
            before.entry((*name).to_owned()).or_insert(now);
            fs::write(&record, serde_json::to_string(&before)?)?;
            fs::write(&path, wanted.to_string()).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Puts the kernel switches back to what they were before [`set_switches`].
pub(crate) fn restore_switches(cluster: &Cluster) -> Result<()> {
    let record = switches_record(cluster)?;
    for (name, value) in read_record(&record) {
        let path = Path::new("/proc/sys").join(name);
        fs::write(&path, value.to_string()).with_context(|| path.display().to_string())?;
    }
    if record.exists() {
        fs::remove_file(&record)?;
    }
    Ok(())
}

fn switches_record(cluster: &Cluster) -> Result<PathBuf> {
    Ok(cluster.state().join("switches.json"))
}

fn read_record(path: &Path) -> BTreeMap<String, u64> {
    fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Which other interface or route uses one of these /16 ranges.
pub(crate) fn conflict(ranges: &[Ipv4Addr], own_bridge: &str) -> Result<Option<String>> {
    let routes = Run::new("ip")
        .args(["-4", "route", "show", "table", "main"])
        .output()?;
    for line in routes.lines() {
        let mut words = line.split_whitespace();
        let Some((destination, _)) = words.next().map(|d| d.split_once('/').unwrap_or((d, "32"))) else {
            continue;
        };
        let device = words.skip_while(|w| *w != "dev").nth(1).unwrap_or_default();
        let Ok(destination) = destination.parse::<Ipv4Addr>() else {
            continue;
        };
        let same = |range: &Ipv4Addr| range.octets()[..2] == destination.octets()[..2];
        if device != own_bridge && ranges.iter().any(same) {
            return Ok(Some(format!("interface {device} (route {line})")));
        }
    }
    Ok(None)
}

/// The wanted port if it is free, else the next free one; says who holds the wanted one.
pub(crate) fn free_port(ip: Ipv4Addr, wanted: u16, what: &str) -> Result<u16> {
    if TcpListener::bind((ip, wanted)).is_ok() {
        return Ok(wanted);
    }
    let holder = listener(wanted).unwrap_or_else(|| "an unknown process".to_owned());
    for port in (wanted + 1)..wanted.saturating_add(200) {
        if TcpListener::bind((ip, port)).is_ok() {
            ui::note(format!(
                "port {wanted} for {what} is held by {holder}; using {port}"
            ));
            return Ok(port);
        }
    }
    anyhow::bail!("port {wanted} for {what} is held by {holder}, and so are the 200 after it")
}

/// Who listens on a TCP port, as `pid command`.
fn listener(port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            table
                .lines()
                .skip(1)
                .filter_map(|line| {
                    let fields: Vec<&str> = line.split_whitespace().collect();
                    let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
                    (local == port && fields.get(3) == Some(&LISTEN))
                        .then(|| format!("socket:[{}]", fields[9]))
                })
                .collect::<Vec<_>>()
        })
        .collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let sockets = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let holds = sockets
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| inodes.iter().any(|inode| Path::new(inode) == target));
        if holds {
            return Some(format!("{pid} {}", crate::process::command_line(pid)));
        }
    }
    None
}

/// Whether something answers a TCP connection there.
pub(crate) fn answers(ip: impl Into<IpAddr>, port: u16) -> bool {
    let address = (ip.into(), port).into();
    std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300)).is_ok()
}
