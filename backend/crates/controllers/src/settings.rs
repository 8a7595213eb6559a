//! What an installation decides: how mover pods look and how much runs at once. The chart writes these as one JSON file
//! each; defaults are those of the chart.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use serde::Deserialize;

/// How mover pods are made.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MoverSettings {
    /// Image with the `holdfast` binary.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; the kubelet's default when absent.
    #[serde(default)]
    pub image_pull_policy: Option<String>,
    /// Secrets in the install namespace to pull the image with.
    #[serde(default)]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// ServiceAccount of data movers: it may patch the status of its own transfer and nothing else.
    #[serde(default = "datamover_account")]
    pub service_account: String,
    /// Requests and limits of the container.
    #[serde(default = "mover_resources")]
    pub resources: ResourceRequirements,
    /// Node selector, beside what the volume demands.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Tolerations, beside those of the pod a restored volume belongs to.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// PriorityClass.
    #[serde(default)]
    pub priority_class_name: Option<String>,
    /// Further labels of the pods.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Further annotations of the pods; service meshes are told to keep out of them.
    #[serde(default = "no_sidecars")]
    pub annotations: BTreeMap<String, String>,
    /// A mover that moves nothing for this many seconds is given up.
    #[serde(default = "ten_minutes")]
    pub progress_deadline_seconds: u64,
}

impl MoverSettings {
    /// Settings with every default, for this image.
    pub fn of_image(image: &str) -> Self {
        serde_json::from_value(serde_json::json!({ "image": image }))
            .expect("everything but the image has a default")
    }

    /// A mover that moves nothing for so long is given up.
    pub fn progress_deadline(&self) -> Duration {
        Duration::from_secs(self.progress_deadline_seconds)
    }
}

fn datamover_account() -> String {
    "holdfast-datamover".into()
}

/// Enough for the writer's bounded buffers with room to spare; no CPU limit, for throttling only makes backups longer.
fn mover_resources() -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| {
        let quantity = |text: &str| k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
        Some(
            pairs
                .iter()
                .map(|(name, text)| ((*name).to_owned(), quantity(text)))
                .collect(),
        )
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "100m"), ("memory", "128Mi")]),
        limits: quantities(&[("memory", "1Gi")]),
        ..Default::default()
    }
}

/// A sidecar keeps a Job's pod alive for ever and stands between the mover and the store.
fn no_sidecars() -> BTreeMap<String, String> {
    [
        ("sidecar.istio.io/inject", "false"),
        ("linkerd.io/inject", "disabled"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn ten_minutes() -> u64 {
    600
}

/// How much may run at the same time.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Volumes moved by pods of one node.
    pub transfers_per_node: u32,
    /// Volumes moved to or from one target that does not say itself.
    pub transfers_per_target: u32,
    /// Objects of one kind that are reconciled at the same time.
    pub reconciles: u16,
    /// Seconds that images stay on a target after no point needs them any more: readers in other clusters may be at work
    /// with them.
    pub removal_grace_seconds: u64,
}

impl Limits {
    /// How long images stay after no point needs them any more.
    pub fn removal_grace(&self) -> Duration {
        Duration::from_secs(self.removal_grace_seconds)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfers_per_node: 4,
            transfers_per_target: 4,
            reconciles: 16,
            removal_grace_seconds: 24 * 3600,
        }
    }
}
