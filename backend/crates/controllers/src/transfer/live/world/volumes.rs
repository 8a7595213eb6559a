//! Volumes of the application, and the pods that write and read them.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::time::sleep;

use super::World;

impl World {
    /// A pod that keeps the volume of a claim mounted until the namespace goes.
    pub(in crate::transfer::live) async fn hold(&self, claim: &str) {
        self.create::<Pod>(
            &self.app,
            json!({"metadata": {"name": "holder"}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": self.facts["images"]["busybox"], "imagePullPolicy": "Never",
                "command": ["sleep", "600"], "volumeMounts": [{"name": "v", "mountPath": "/volume"}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}),
        )
        .await;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.app);
        let running = kube::runtime::wait::conditions::is_pod_running();
        let wait = kube::runtime::wait::await_condition(pods, "holder", running);
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .unwrap()
            .unwrap();
    }

    pub(in crate::transfer::live) async fn claim(&self, name: &str, class: &str, mode: &str) {
        self.create::<PersistentVolumeClaim>(
            &self.app,
            json!({"metadata": {"name": name}, "spec": {
            "storageClassName": class, "volumeMode": mode, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "600Mi"}}}}),
        )
        .await;
    }

    /// Writes so many MiB of random data.
    pub(in crate::transfer::live) async fn fill(&self, claim: &str, mode: &str, mebibytes: u32) {
        let script = match mode {
            "Block" => format!("dd if=/dev/urandom of=/volume bs=1M count={mebibytes} conv=fsync"),
            _ => format!("dd if=/dev/urandom of=/volume/f{mebibytes} bs=1M count={mebibytes} && sync"),
        };
        self.in_pod(claim, mode, &script).await;
    }

    /// Checksums of everything in the volume.
    pub(in crate::transfer::live) async fn sums(&self, claim: &str, mode: &str) -> String {
        let script = match mode {
            "Block" => "sha256sum < /volume",
            _ => "cd /volume && find . -type f | sort | xargs sha256sum",
        };
        let sums = self.in_pod(claim, mode, script).await;
        assert!(!sums.is_empty());
        sums
    }

    async fn in_pod(&self, claim: &str, mode: &str, script: &str) -> String {
        let name = format!("p-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let mut container = json!({"name": "c", "image": self.facts["images"]["busybox"], "imagePullPolicy": "Never",
            "command": ["sh", "-ec", script]});
        match mode {
            "Block" => container["volumeDevices"] = json!([{"name": "v", "devicePath": "/volume"}]),
            _ => container["volumeMounts"] = json!([{"name": "v", "mountPath": "/volume"}]),
        }
        self.create::<Pod>(
            &self.app,
            json!({"metadata": {"name": name}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}),
        )
        .await;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.app);
        let start = Instant::now();
        loop {
            let pod = pods.get(&name).await.unwrap();
            let phase = pod
                .status
                .as_ref()
                .and_then(|s| s.phase.clone())
                .unwrap_or_default();
            if phase == "Succeeded" {
                break;
            }
            assert!(
                phase != "Failed" && start.elapsed() < Duration::from_secs(120),
                "{phase}: {:?}",
                pod.status
            );
            sleep(Duration::from_millis(300)).await;
        }
        let output = pods.logs(&name, &Default::default()).await.unwrap();
        pods.delete(&name, &DeleteParams::default()).await.unwrap();
        output
    }
}
