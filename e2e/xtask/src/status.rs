//! What of the sandbox runs, and where its logs are.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use crate::cluster::{self, Cluster};
use crate::kubectl::Kubectl;
use crate::{control_plane, csi, node, process, s3, up};

/// Prints the daemons, the nodes and the pods that are not well. An error if something is missing.
pub(crate) fn status(as_json: bool) -> Result<()> {
    if let Some(path) = up::given_kubeconfig()? {
        Kubectl::new(path.clone())?.get_raw("/readyz")?;
        println!("KUBECONFIG names {}; that cluster answers", path.display());
        return Ok(());
    }
    let Some(cluster) = Cluster::load(cluster::DEFAULT_NAME)? else {
        bail!("there is no sandbox; `cargo xtask up` makes one")
    };
    let mut daemons = Vec::new();
    for name in [
        &control_plane::DAEMONS[..],
        &node::DAEMONS,
        &csi::DAEMONS,
        &s3::DAEMONS,
    ]
    .concat()
    {
        daemons.push((name, process::pid(&cluster, name)?));
    }
    let all_run = daemons.iter().all(|(_, pid)| pid.is_some());
    if as_json {
        let list: Vec<_> = daemons
            .iter()
            .map(|(name, pid)| json!({"name": name, "pid": pid}))
            .collect();
        println!(
            "{}",
            serde_json::to_string_pretty(
                &json!({"up": all_run, "kubeconfig": cluster.kubeconfig(), "daemons": list})
            )?
        );
    } else {
        for (name, pid) in &daemons {
            println!(
                "{name:<24} {}",
                pid.map_or_else(|| "not running".to_owned(), |p| format!("running ({p})"))
            );
        }
    }
    if !all_run {
        bail!("the sandbox is not (wholly) up; `cargo xtask up` brings it up");
    }
    if !as_json {
        let kubectl = Kubectl::new(cluster.kubeconfig())?;
        println!(
            "\n{}",
            kubectl
                .command()
                .args(["get", "nodes,pods", "--all-namespaces"])
                .output()?
                .trim_end()
        );
    }
    Ok(())
}

/// Lists the logs, or shows one with the system's `tail`.
pub(crate) fn logs(name: Option<&str>, follow: bool) -> Result<()> {
    let Some(cluster) = Cluster::load(cluster::DEFAULT_NAME)? else {
        bail!("there is no sandbox")
    };
    let Some(name) = name else {
        for name in process::recorded(&cluster)? {
            println!("{name:<24} {}", process::log_path(&cluster, &name)?.display());
        }
        return Ok(());
    };
    let path = process::log_path(&cluster, name)?;
    if !path.exists() {
        bail!("there is no log {}", path.display());
    }
    let mut args: Vec<OsString> = vec!["--lines=200".into()];
    if follow {
        args.push("--follow=name".into());
    }
    args.push(path.into());
    process::become_program(&PathBuf::from("tail"), &args, &[])
}
