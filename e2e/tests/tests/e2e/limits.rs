//! Memory does not grow with the volume.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::app;
use crate::cluster::{Cluster, until};

const MIB: u64 = 1 << 20;

/// Backs up a sparse raw volume of this size and gives the datamover's peak memory.
async fn peak(cluster: &Cluster, size: &str) -> Result<u64> {
    let namespace = cluster.namespace("mem").await?;
    cluster
        .apply(&format!(
            r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: raw, namespace: {namespace}}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: sandbox-immediate
  volumeMode: Block
  resources: {{requests: {{storage: {size}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: writer, namespace: {namespace}, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: w
      image: {}
      command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]
      volumeDevices: [{{name: raw, devicePath: /dev/raw}}]
  volumes: [{{name: raw, persistentVolumeClaim: {{claimName: raw}}}}]
"#,
            cluster.sandbox.images.busybox
        ))
        .await?;
    app::protect(cluster, &namespace).await?;
    cluster
        .ready_pod(&namespace, "app=web", Duration::from_secs(60))
        .await?;
    cluster
        .exec(
            &namespace,
            "writer",
            "head -c 200000000 /dev/urandom | dd of=/dev/raw bs=1M iflag=fullblock conv=notrunc,fsync 2>/dev/null",
        )
        .await?;
    cluster
        .create(app::backup_manifest(&namespace, "b", "Full"))
        .await?;
    let transfers = cluster.ours("VolumeTransfer", crate::cluster::INSTALLED);
    let peak = until("the mover's last report", Duration::from_secs(300), || async {
        let list = transfers.list(&kube::api::ListParams::default()).await?;
        let report = list
            .items
            .iter()
            .filter_map(|t| t.data.pointer("/status/mover"))
            .find(|m| m["outcome"]["succeeded"] == true);
        Ok(report.and_then(|m| m["peakMemory"].as_u64()))
    })
    .await?;
    let status: Value = cluster
        .wait("Backup", &namespace, "b", "Complete", Duration::from_secs(60))
        .await?;
    assert!(status["size"].as_u64() > Some(100 * MIB), "{status:#}");
    cluster.nothing_left().await?;
    cluster.delete_namespace(&namespace).await?;
    Ok(peak)
}

#[tokio::test]
async fn a_hundred_times_larger_volume_needs_no_more_memory() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let small = peak(&cluster, "1Gi").await?;
    let large = peak(&cluster, "100Gi").await?;
    println!(
        "peak memory: 1 GiB volume {} MiB, 100 GiB sparse volume {} MiB",
        small / MIB,
        large / MIB
    );
    assert!(
        small <= 200 * MIB && large <= 200 * MIB,
        "{small} and {large} bytes"
    );
    assert!(large * 100 <= small * 120, "{small} grew to {large}");
    Ok(())
}
