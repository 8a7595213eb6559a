//! Packet filter rules that kube-proxy, the kubelet and the CNI plugins leave when they are stopped.

use std::fs;

use anyhow::Result;

use crate::process;
use crate::run::Run;
use crate::ui;

const PREFIXES: [&str; 2] = ["KUBE-", "CNI-"];

/// Removes the chains of Kubernetes and CNI from every table, unless another node works in this network namespace.
pub(crate) fn clean() -> Result<()> {
    if let Some(other) = other_node()? {
        ui::warn(format!(
            "packet filter rules are left alone: {other} works in the same network namespace"
        ));
        return Ok(());
    }
    for family in ["iptables", "ip6tables"] {
        let Ok(saved) = Run::new(format!("{family}-save")).output() else {
            continue;
        };
        let script = removal(&saved);
        if !script.is_empty() {
            Run::new(format!("{family}-restore"))
                .arg("--noflush")
                .input(script)
                .ok()?;
        }
    }
    Ok(())
}

/// The `iptables-restore --noflush` input that removes our chains from what `iptables-save` printed.
fn removal(saved: &str) -> String {
    let mut script = String::new();
    let mut rules = Vec::new();
    let mut chains = Vec::new();
    for line in saved.lines() {
        if line.starts_with('*') {
            rules.clear();
            chains.clear();
            script.push_str(line);
            script.push('\n');
        } else if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split(' ').next()) {
            if ours(chain) {
                chains.push(chain.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let target = rule
                .split(" -j ")
                .nth(1)
                .or_else(|| rule.split(" -g ").nth(1))
                .unwrap_or_default();
            if !ours(rule) && ours(target) {
                rules.push(format!("-D {rule}\n"));
            }
        } else if line == "COMMIT" {
            script.extend(rules.drain(..));
            script.extend(chains.iter().map(|chain| format!("-F {chain}\n")));
            script.extend(chains.drain(..).map(|chain| format!("-X {chain}\n")));
            script.push_str("COMMIT\n");
        }
    }
    if script.contains("-X ") || script.contains("-D ") {
        script
    } else {
        String::new()
    }
}

fn ours(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A kube-proxy or kubelet in this network namespace. Ours are stopped before this is asked.
fn other_node() -> Result<Option<String>> {
    let own = fs::read_link("/proc/self/ns/net")?;
    for pid in process::all() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let same = fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns == own);
        if same && ["kube-proxy", "kubelet"].contains(&name.trim()) {
            return Ok(Some(format!("{} (process {pid})", name.trim())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::removal;

    #[test]
    fn removes_only_chains_of_kubernetes_and_cni() {
        let saved = "# comment\n*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:DOCKER - [0:0]\n\
                     -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                     -A PREROUTING -j DOCKER\n-A KUBE-SERVICES -j RETURN\nCOMMIT\n";
        assert_eq!(
            removal(saved),
            "*nat\n-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -F KUBE-SERVICES\n-X KUBE-SERVICES\nCOMMIT\n"
        );
    }

    #[test]
    fn leaves_a_filter_without_such_chains_alone() {
        assert_eq!(
            removal("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n"),
            ""
        );
    }
}
