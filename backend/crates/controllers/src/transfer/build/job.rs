//! The mover's Job and what its pod reads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use holdfast_crd::names::{labels, reasons};
use holdfast_crd::{Direction, VolumeTransfer};
use holdfast_mover::{BackupJob, Job as MoverJob, MergeJob, RestoreJob, VerifyJob};
use holdfast_seal::{KeyId, KeyRing};
use holdfast_target::Address;
use holdfast_target::layout::{Attempt, FileStem, ImageId, ImageRecord};
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Names, owned, store};
use crate::MoverSettings;
use crate::failure::Failure;
use crate::transfer::ROLE;

/// Bytes of a cluster of a new chain.
const CLUSTER_SIZE: u32 = 64 << 10;
/// User and group of movers that touch no volume.
const NOBODY: i64 = 65_532;
/// Seconds a mover has to drop its upload when it is told to stop.
const GRACE_SECONDS: i64 = 10;

/// What a mover pod is told, beside the target: one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatamoverTask {
    /// Name of the VolumeTransfer.
    pub transfer: String,
    /// Its namespace.
    pub namespace: String,
    /// Number of the attempt: every report carries it.
    pub attempt: u32,
    /// What to do.
    pub job: MoverJob,
}

impl DatamoverTask {
    /// Folder of the pod in which both files lie.
    pub const FOLDER: &'static str = "/etc/holdfast";
    /// Name of this file.
    pub const FILE: &'static str = "transfer.json";
    /// Name of the file with the data keys: an object that has the hexadecimal key for the location of each backup.
    pub const KEYS_FILE: &'static str = "keys.json";
    /// Name of the file that says how to reach the target.
    pub const TARGET_FILE: &'static str = "target.json";
    /// The volume, in the pod.
    pub const DEVICE: &'static str = "/dev/holdfast";
    /// The folder of a target that is one, in the pod.
    pub const STORE: &'static str = "/var/lib/holdfast/store";
}

/// A spec that does not make a job: which field, and why.
#[derive(Debug, thiserror::Error)]
#[error("spec.{field} of the transfer is not usable: {why}")]
pub(in crate::transfer) struct InvalidSpec {
    field: &'static str,
    why: String,
}

pub(super) fn invalid(field: &'static str, why: &dyn std::fmt::Display) -> InvalidSpec {
    InvalidSpec {
        field,
        why: why.to_string(),
    }
}

impl From<InvalidSpec> for Failure {
    fn from(error: InvalidSpec) -> Self {
        Self::lasting(reasons::INVALID_SPEC, error.to_string())
    }
}

/// What the mover is to do in this attempt. `restored` are the bytes at the start of the mover's claim that earlier
/// attempts of a restore have written for good.
pub(in crate::transfer) fn job_for(
    transfer: &VolumeTransfer,
    attempt: u32,
    restored: u64,
) -> Result<MoverJob, InvalidSpec> {
    let spec = &transfer.spec;
    let home = spec.home.parse().map_err(|e| invalid("home", &e))?;
    let device = PathBuf::from(DatamoverTask::DEVICE);
    let chain: Vec<ImageRecord> = read("chain", spec.chain.as_ref())?.unwrap_or_default();
    let missing = |field| invalid(field, &"it is missing");
    Ok(match spec.direction {
        Direction::Backup => MoverJob::Backup(BackupJob {
            device,
            home,
            image: image_of(transfer, attempt)?,
            cluster_size: chain.first().map_or(CLUSTER_SIZE, |newest| newest.cluster_size),
            parents: chain,
            seal: seal_of(transfer)?,
            heal: read("heal", spec.heal.as_ref())?.unwrap_or_default(),
            // A snapshot never changes, so that one attempt can go on where another one stopped.
            source: source_of(transfer),
        }),
        Direction::Restore => MoverJob::Restore(RestoreJob {
            device,
            home,
            chain,
            from: restored,
        }),
        Direction::Verify => MoverJob::Verify(VerifyJob {
            home,
            images: chain,
            scope: read("scope", spec.scope.as_ref())?.ok_or_else(|| missing("scope"))?,
        }),
        Direction::Merge => MoverJob::Merge(MergeJob {
            home,
            run: chain,
            files: files_of(transfer)?,
            seal: seal_of(transfer)?,
        }),
    })
}

fn read<T: DeserializeOwned>(field: &'static str, value: Option<&Value>) -> Result<Option<T>, InvalidSpec> {
    value
        .map(|value| serde_json::from_value(value.clone()).map_err(|e| invalid(field, &e)))
        .transpose()
}

/// What the mover's device shows, where it is known by a name.
fn source_of(transfer: &VolumeTransfer) -> Option<String> {
    let snapshot = transfer.status.as_ref()?.snapshot.as_ref()?;
    Some(snapshot.handle.clone())
}

/// What the files of a merged image are called.
pub(in crate::transfer) fn files_of(transfer: &VolumeTransfer) -> Result<FileStem, InvalidSpec> {
    let files = transfer.spec.files.as_deref().unwrap_or_default();
    files.parse().map_err(|e| invalid("files", &e))
}

/// The data key that a backup's image is sealed under.
fn seal_of(transfer: &VolumeTransfer) -> Result<Option<KeyId>, InvalidSpec> {
    let encryption = transfer.spec.encryption.as_ref();
    let seal = encryption.and_then(|encryption| encryption.seal.as_deref());
    seal.map(str::parse)
        .transpose()
        .map_err(|e| invalid("encryption", &e))
}

/// Names of the data keys that the mover needs.
pub(in crate::transfer) fn keys_of(job: &MoverJob) -> BTreeSet<KeyId> {
    let (chain, own) = match job {
        MoverJob::Backup(job) => (&job.parents, job.seal.clone()),
        MoverJob::Restore(job) => (&job.chain, None),
        MoverJob::Verify(job) => (&job.images, None),
        MoverJob::Merge(job) => (&job.run, job.seal.clone()),
    };
    let objects = chain
        .iter()
        .flat_map(|image| &image.shards)
        .flat_map(|shard| [&shard.image, &shard.index]);
    let layouts = objects.filter_map(|object| object.seal.as_ref());
    layouts
        .flat_map(|layout| layout.key_ids())
        .cloned()
        .chain(own)
        .collect()
}

/// Id of the image that an attempt writes.
pub(in crate::transfer) fn image_of(transfer: &VolumeTransfer, attempt: u32) -> Result<ImageId, InvalidSpec> {
    let backup = transfer.spec.image.as_deref().unwrap_or_default();
    let backup = backup.parse().map_err(|e| invalid("image", &e))?;
    Ok(ImageId {
        backup,
        attempt: Attempt(attempt),
    })
}

/// The Secret that the pod of one attempt mounts.
pub(in crate::transfer) fn secret(
    transfer: &VolumeTransfer,
    names: &Names,
    task: &DatamoverTask,
    address: &Address,
    keys: &KeyRing,
) -> Secret {
    let file = |name: &str, content: &Value| (name.to_owned(), ByteString(content.to_string().into_bytes()));
    let told = serde_json::to_value(task).expect("paths, names and numbers serialise");
    Secret {
        metadata: owned(transfer, names.job(task.attempt)),
        data: Some(BTreeMap::from([
            file(DatamoverTask::FILE, &told),
            file(DatamoverTask::TARGET_FILE, &address.expose_json()),
            file(DatamoverTask::KEYS_FILE, &keys.expose_json()),
        ])),
        immutable: Some(true),
        ..Default::default()
    }
}

/// Where a mover pod must run, beside the installation's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::transfer) struct PodParts {
    /// Node selector, affinity and tolerations as a fragment of a pod spec, of the pod that will use the volume.
    pub(in crate::transfer) placement: Option<Value>,
    /// Node affinity of the PersistentVolume that is backed up.
    pub(in crate::transfer) volume_affinity: Option<Value>,
    /// Claim of a target that is a folder.
    pub(in crate::transfer) store: Option<String>,
}

/// The Job of one attempt. One pod, never restarted, never replaced: another attempt is another Job.
///
/// # Errors
/// When the placement is no fragment of a pod spec.
pub(in crate::transfer) fn job(
    transfer: &VolumeTransfer,
    names: &Names,
    attempt: u32,
    settings: &MoverSettings,
    parts: &PodParts,
) -> Result<Job, InvalidSpec> {
    let name = names.job(attempt);
    let metadata = owned(transfer, name.clone());
    let mut labels = settings.labels.clone();
    labels.extend(metadata.labels.clone().unwrap_or_default());
    labels.insert(labels::ROLE.to_owned(), ROLE.to_owned());
    let manifest = json!({
        "metadata": metadata,
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": labels, "annotations": settings.annotations},
                "spec": pod_spec(transfer.spec.direction, names, &name, settings, parts),
            },
        },
    });
    serde_json::from_value(manifest).map_err(|e| invalid("placement", &e))
}

fn pod_spec(
    direction: Direction,
    names: &Names,
    secret: &str,
    settings: &MoverSettings,
    parts: &PodParts,
) -> Value {
    let mut pod = json!({
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        // The group reads the Secret.
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": NOBODY, "runAsGroup": NOBODY, "fsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": ROLE,
            "image": settings.image,
            "args": [ROLE],
            "resources": settings.resources,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "task", "mountPath": DatamoverTask::FOLDER, "readOnly": true}],
        }],
        "volumes": [{"name": "task", "secret": {"secretName": secret, "defaultMode": 0o400}}],
        // Movers spread over the nodes that can reach their volumes.
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {labels::ROLE: ROLE}},
        }],
    });
    if direction.has_volume() {
        attach(&mut pod, names);
    }
    if let Some(policy) = &settings.image_pull_policy {
        pod["containers"][0]["imagePullPolicy"] = json!(policy);
    }
    if !settings.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(settings.image_pull_secrets);
    }
    if let Some(class) = &settings.priority_class_name {
        pod["priorityClassName"] = json!(class);
    }
    if let Some(claim) = &parts.store {
        store::mount(&mut pod, claim);
    }
    place(&mut pod, settings, parts);
    pod
}

/// Gives the pod its volume. A block device belongs to root and fsGroup does not reach it: uid 0, and nothing that makes
/// root root.
fn attach(pod: &mut Value, names: &Names) {
    pod["securityContext"] = root();
    pod["containers"][0]["volumeDevices"] = json!([{"name": "volume", "devicePath": DatamoverTask::DEVICE}]);
    if let Some(volumes) = pod["volumes"].as_array_mut() {
        volumes.push(json!({"name": "volume", "persistentVolumeClaim": {"claimName": names.claim()}}));
    }
}

/// Uid 0 without its powers: every container drops all of them.
pub(super) fn root() -> Value {
    json!({"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}})
}

/// Rules of the installation, of the pod that will use the volume and of the volume itself, all of which must hold.
fn place(pod: &mut Value, settings: &MoverSettings, parts: &PodParts) {
    let fragment = |field: &str| {
        parts
            .placement
            .as_ref()
            .and_then(|placement| placement.get(field))
            .cloned()
    };
    let mut selector: Map<String, Value> = Map::new();
    selector.extend(
        settings
            .node_selector
            .iter()
            .map(|(key, value)| (key.clone(), json!(value))),
    );
    if let Some(Value::Object(of_pod)) = fragment("nodeSelector") {
        selector.extend(of_pod);
    }
    if !selector.is_empty() {
        pod["nodeSelector"] = Value::Object(selector);
    }
    let mut tolerations: Vec<Value> = settings
        .tolerations
        .iter()
        .map(|toleration| json!(toleration))
        .collect();
    if let Some(Value::Array(of_pod)) = fragment("tolerations") {
        tolerations.extend(of_pod);
    }
    if !tolerations.is_empty() {
        pod["tolerations"] = Value::Array(tolerations);
    }
    if let Some(affinity) = fragment("affinity") {
        pod["affinity"] = affinity;
    } else if let Some(required) = parts
        .volume_affinity
        .as_ref()
        .and_then(|affinity| affinity.get("required"))
    {
        pod["affinity"] =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::super::tests::transfer;
    use super::*;

    fn pod(parts: &PodParts) -> Value {
        pod_of(&transfer("Backup", json!({"image": "b-uid"})), parts)
    }

    fn pod_of(transfer: &VolumeTransfer, parts: &PodParts) -> Value {
        let settings: MoverSettings = serde_json::from_value(json!({
            "image": "registry.example/holdfast:1", "nodeSelector": {"pool": "backup"}, "imagePullPolicy": "Never",
            "tolerations": [{"key": "a", "operator": "Exists"}]}))
        .unwrap();
        let job = job(transfer, &Names::of(transfer), 2, &settings, parts).unwrap();
        assert_eq!(job.name_any(), format!("{}-a2", transfer.name_any()));
        serde_json::to_value(job).unwrap()["spec"]["template"].clone()
    }

    #[test]
    fn the_pod_is_root_without_its_powers() {
        let pod = pod(&PodParts::default());
        let spec = &pod["spec"];
        let container = &spec["containers"][0];
        assert_eq!(spec["securityContext"]["runAsUser"], 0);
        assert_eq!(
            spec["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        assert_eq!(
            container["securityContext"]["capabilities"],
            json!({"drop": ["ALL"]})
        );
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["volumeDevices"][0]["devicePath"], "/dev/holdfast");
        assert_eq!(container["imagePullPolicy"], "Never");
        assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], 0o400);
        assert_eq!(pod["metadata"]["labels"]["holdfast.dev/role"], "datamover");
        assert_eq!(pod["metadata"]["annotations"]["sidecar.istio.io/inject"], "false");
    }

    #[test]
    fn work_on_the_target_is_done_by_nobody_without_a_volume() {
        let verify = transfer("Verify", json!({"chain": [], "scope": "quick"}));
        let pod = pod_of(&verify, &PodParts::default());
        let spec = &pod["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["runAsUser"], NOBODY);
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert!(spec["containers"][0].get("volumeDevices").is_none());
    }

    #[test]
    fn work_on_the_target_needs_to_know_what_to_do() {
        let verify = |more| job_for(&transfer("Verify", more), 1, 0);
        let full = json!({"full": {"budget": 5}});
        let Ok(MoverJob::Verify(job)) = verify(json!({"chain": [], "scope": full})) else {
            panic!("a verification")
        };
        assert_eq!(serde_json::to_value(job.scope).unwrap(), full);
        let merge = |more| job_for(&transfer("Merge", more), 1, 0);
        assert!(merge(json!({"chain": [], "files": "b-uid-a1-m7"})).is_ok());
        for (bad, field) in [
            (verify(json!({"chain": []})), "spec.scope"),
            (verify(json!({"chain": [], "scope": "somehow"})), "spec.scope"),
            (merge(json!({"chain": []})), "spec.files"),
        ] {
            assert!(bad.unwrap_err().to_string().starts_with(field));
        }
    }

    #[test]
    fn rules_of_installation_and_application_add_up() {
        let placement = json!({"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "b", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"x": 1}}});
        let placed = place_only(&PodParts {
            placement: Some(placement),
            ..PodParts::default()
        });
        assert_eq!(placed["nodeSelector"], json!({"pool": "backup", "disk": "fast"}));
        assert_eq!(placed["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(placed["affinity"]["nodeAffinity"]["x"], 1);
        let required = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": []}]}});
        let placed = place_only(&PodParts {
            volume_affinity: Some(required),
            ..PodParts::default()
        });
        let term = &placed["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert!(term["nodeSelectorTerms"].is_array());
    }

    fn place_only(parts: &PodParts) -> Value {
        let settings: MoverSettings = serde_json::from_value(json!({
            "image": "i", "nodeSelector": {"pool": "backup"}, "tolerations": [{"key": "a", "operator": "Exists"}]}))
        .unwrap();
        let mut pod = json!({});
        place(&mut pod, &settings, parts);
        pod
    }

    #[test]
    fn every_attempt_writes_another_image_and_a_chain_keeps_its_cluster_size() {
        let first = transfer("Backup", json!({"image": "b-uid"}));
        let MoverJob::Backup(job) = job_for(&first, 3, 0).unwrap() else {
            panic!("a backup")
        };
        assert_eq!(job.image.to_string(), "b-uid-a3");
        assert_eq!(job.cluster_size, 65_536);
        let bad = transfer("Backup", json!({"image": "b-uid", "home": "nowhere"}));
        assert!(
            job_for(&bad, 1, 0)
                .unwrap_err()
                .to_string()
                .starts_with("spec.home")
        );
    }
}
