//! Distribution packages the sandbox needs, installed only when missing.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::Run;
use crate::ui;

/// What runs the cluster and builds its images.
pub(crate) const SANDBOX: &[&str] = &[
    "ca-certificates",
    "curl",
    "gcc",
    "libc6-dev",
    "binutils",
    "tar",
    "util-linux",
    "mount",
    "procps",
    "kmod",
    "iproute2",
    "iptables",
    "conntrack",
    "ebtables",
    "ipset",
    "socat",
    "openssl",
    "jq",
    "age",
    "xxd",
    "zstd",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "busybox-static",
    "xfsprogs",
    "e2fsprogs",
    "qemu-utils",
];

/// What fuzzing needs: libFuzzer is written in C++.
pub(crate) const FUZZING: &[&str] = &["g++", "libc6-dev", "qemu-utils"];

/// What large disks are made of when memory is measured.
pub(crate) const MEASURING: &[&str] = &["mount", "xfsprogs", "qemu-utils"];

/// What the console's build and the tests need besides.
pub(crate) const BUILD_AND_TEST: &[&str] = &[
    "lld-22",
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "chromium",
    "postgresql",
];

/// Installs what is missing of `wanted`.
pub(crate) fn ensure(wanted: &[&str]) -> Result<()> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    ui::note(format!("installing {}", missing.join(" ")));
    if apt(&["update"]).and_then(|()| install(&missing)).is_err() {
        // A mirror that was just refreshed answers once with stale lists: one more try with new ones.
        apt(&["update"])?;
        install(&missing).context("apt-get could not install the packages above")?;
    }
    Ok(())
}

fn install(packages: &[String]) -> Result<()> {
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages.iter().map(String::as_str));
    apt(&args)
}

fn apt(args: &[&str]) -> Result<()> {
    Run::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .within(Duration::from_secs(1200))
        .heartbeat("apt-get")
        .ok()
}

fn missing(wanted: &[&str]) -> Result<Vec<String>> {
    let listed = Run::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .output();
    let Ok(listed) = listed else {
        bail!("this needs a Debian-like system: dpkg-query does not run here");
    };
    let installed: std::collections::BTreeSet<&str> = listed
        .lines()
        .filter_map(|l| l.strip_suffix(" installed"))
        .collect();
    Ok(wanted
        .iter()
        .filter(|p| !installed.contains(**p))
        .map(|p| (*p).to_owned())
        .collect())
}
