//! Manifests of everything that a depot is: pure functions, so that making them twice makes the same.

use std::collections::BTreeMap;

use holdfast_core::nfs::Export;
use holdfast_crd::Target;
use holdfast_crd::names::{MANAGED_BY, labels};
use holdfast_target::depot::DepotCredentials;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::{ACCOUNT, Folder, ROLE};
use crate::transfer::DatamoverTask;
use crate::{Context, MoverSettings};

/// Port of the depot's pod and Service.
pub(crate) const PORT: u16 = 8443;
/// Folder of the pod in which the credentials lie.
const CREDENTIALS: &str = "/etc/holdfast";
/// Says, for people, which Target it is.
const NAME: &str = "holdfast.dev/target-name";
/// UID of the Secret: another one is another pod.
const SECRET: &str = "holdfast.dev/credentials";
/// Size of a volume of ours. NFS knows none, but the object must say one.
const SIZE: &str = "1Pi";

fn metadata(target: &Target, name: String, namespace: Option<&str>) -> ObjectMeta {
    let address = format!("{}/{}", target.namespace().unwrap_or_default(), target.name_any());
    let labels = [
        (labels::MANAGED_BY, MANAGED_BY.to_owned()),
        (labels::TARGET, target.uid().unwrap_or_default()),
    ];
    ObjectMeta {
        name: Some(name),
        namespace: namespace.map(str::to_owned),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        annotations: Some([(NAME.to_owned(), address)].into()),
        ..ObjectMeta::default()
    }
}

/// The static volume of an export, and the claim that is bound to it.
pub(super) fn nfs(
    target: &Target,
    folder: &Folder,
    namespace: &str,
    export: &Export,
    options: &[String],
) -> (PersistentVolume, PersistentVolumeClaim) {
    let name = folder.claim();
    let volume = json!({
        "metadata": metadata(target, name.clone(), None),
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteMany"],
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "mountOptions": options,
            "nfs": {"server": export.server, "path": export.path},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name},
        },
    });
    let claim = json!({
        "metadata": metadata(target, name.clone(), Some(namespace)),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "volumeMode": "Filesystem",
            "storageClassName": "",
            "volumeName": name,
            "resources": {"requests": {"storage": SIZE}},
        },
    });
    (
        serde_json::from_value(volume).expect("the manifest is a volume"),
        serde_json::from_value(claim).expect("the manifest is a claim"),
    )
}

/// The Secret that the depot mounts and the operator reads.
pub(super) fn secret(
    target: &Target,
    folder: &Folder,
    namespace: &str,
    credentials: &DepotCredentials,
    owner: Option<OwnerReference>,
) -> Secret {
    let files = credentials.expose_files().into_iter();
    let data = files.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    Secret {
        metadata: ObjectMeta {
            owner_references: owner.map(|owner| vec![owner]),
            ..metadata(target, folder.depot(), Some(namespace))
        },
        data: Some(data.collect()),
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// A steady address for the pod.
pub(super) fn service(
    target: &Target,
    folder: &Folder,
    namespace: &str,
    owner: Option<OwnerReference>,
) -> Service {
    let service = json!({
        "metadata": ObjectMeta {
            owner_references: owner.map(|owner| vec![owner]),
            ..metadata(target, folder.depot(), Some(namespace))
        },
        "spec": {
            "type": "ClusterIP",
            "selector": selector(target),
            "ports": [{"name": "depot", "port": PORT, "targetPort": "depot", "protocol": "TCP"}],
        },
    });
    serde_json::from_value(service).expect("the manifest is a service")
}

fn selector(target: &Target) -> BTreeMap<&'static str, String> {
    [
        (labels::ROLE, ROLE.to_owned()),
        (labels::TARGET, target.uid().unwrap_or_default()),
    ]
    .into()
}

/// The depot: one pod, never two, since a claim may be usable on one node only.
pub(super) fn deployment(
    target: &Target,
    folder: &Folder,
    ctx: &Context,
    secret: &Secret,
    owner: Option<OwnerReference>,
) -> Deployment {
    let settings = &ctx.mover;
    let metadata = metadata(target, folder.depot(), Some(&ctx.install_namespace));
    let mut labels = settings.labels.clone();
    labels.extend(metadata.labels.clone().unwrap_or_default());
    labels.insert(labels::ROLE.to_owned(), ROLE.to_owned());
    let mut annotations = settings.annotations.clone();
    annotations.extend(metadata.annotations.clone().unwrap_or_default());
    annotations.insert(SECRET.to_owned(), secret.uid().unwrap_or_default());
    let deployment = json!({
        "metadata": ObjectMeta {
            owner_references: owner.map(|owner| vec![owner]),
            ..metadata
        },
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": selector(target)},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": pod(folder, settings),
            },
        },
    });
    serde_json::from_value(deployment).expect("the manifest is a deployment")
}

fn pod(folder: &Folder, settings: &MoverSettings) -> Value {
    let probe =
        json!({"httpGet": {"path": "/healthz", "port": "depot", "scheme": "HTTPS"}, "timeoutSeconds": 5});
    let every = |seconds: u32, failures: u32| {
        let mut probe = probe.clone();
        probe["periodSeconds"] = json!(seconds);
        probe["failureThreshold"] = json!(failures);
        probe
    };
    let mut pod = json!({
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 10,
        // As movers: what they write must be readable and removable here, and the other way round.
        "securityContext": {
            "runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "depot",
            "image": settings.image,
            "args": [
                ROLE,
                format!("--directory={}", DatamoverTask::STORE),
                format!("--credentials={CREDENTIALS}"),
                format!("--listen=0.0.0.0:{PORT}"),
            ],
            "ports": [{"name": "depot", "containerPort": PORT, "protocol": "TCP"}],
            "resources": settings.resources,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "readinessProbe": every(2, 2),
            "livenessProbe": every(20, 3),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "store", "mountPath": DatamoverTask::STORE},
                {"name": "credentials", "mountPath": CREDENTIALS, "readOnly": true},
            ],
        }],
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": folder.claim()}},
            {"name": "credentials", "secret": {"secretName": folder.depot(), "defaultMode": 0o400}},
        ],
    });
    if let Some(policy) = &settings.image_pull_policy {
        pod["containers"][0]["imagePullPolicy"] = json!(policy);
    }
    let mut set = |field: &str, value: Value, wanted: bool| {
        if wanted {
            pod[field] = value;
        }
    };
    set(
        "imagePullSecrets",
        json!(settings.image_pull_secrets),
        !settings.image_pull_secrets.is_empty(),
    );
    set(
        "nodeSelector",
        Value::Object(
            settings
                .node_selector
                .iter()
                .map(|(k, v)| (k.clone(), json!(v)))
                .collect::<Map<_, _>>(),
        ),
        !settings.node_selector.is_empty(),
    );
    set(
        "tolerations",
        json!(settings.tolerations),
        !settings.tolerations.is_empty(),
    );
    set(
        "priorityClassName",
        json!(settings.priority_class_name),
        settings.priority_class_name.is_some(),
    );
    pod
}

#[cfg(test)]
mod tests {
    use super::super::tests::{claim, nfs as nfs_target};
    use super::super::{Folder, Source};
    use super::*;

    #[test]
    fn a_depot_is_root_without_its_powers_and_without_a_token() {
        let folder = Folder::of(&claim("backups", &json!({}))).unwrap().unwrap();
        let settings: MoverSettings = serde_json::from_value(json!({
            "image": "registry.example/holdfast:1", "nodeSelector": {"pool": "backup"}, "priorityClassName": "low",
            "tolerations": [{"key": "a", "operator": "Exists"}]}))
        .unwrap();
        let pod = pod(&folder, &settings);
        let container = &pod["containers"][0];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(
            container["securityContext"]["capabilities"],
            json!({"drop": ["ALL"]})
        );
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "backups");
        assert_eq!(pod["nodeSelector"]["pool"], "backup");
        assert_eq!(pod["priorityClassName"], "low");
        assert_eq!(pod["tolerations"][0]["key"], "a");
        assert!(pod.get("imagePullSecrets").is_none());
    }

    #[test]
    fn a_volume_of_ours_keeps_what_lies_on_the_export_and_is_for_one_claim() {
        let target = nfs_target("nfsvers=4.1");
        let folder = Folder::of(&target).unwrap().unwrap();
        let Source::Nfs { export, options } = &folder.source else {
            panic!("an export")
        };
        let (volume, claim) = nfs(&target, &folder, "holdfast", export, options);
        let spec = volume.spec.unwrap();
        assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
        assert_eq!(spec.storage_class_name.as_deref(), Some(""));
        assert_eq!(
            spec.mount_options.unwrap(),
            ["nfsvers=4.1", "nosuid", "nodev", "noexec"]
        );
        let bound = spec.claim_ref.unwrap();
        assert_eq!(
            (bound.namespace.as_deref(), bound.name),
            (Some("holdfast"), claim.metadata.name.clone())
        );
        assert_eq!(claim.spec.unwrap().volume_name, volume.metadata.name);
        assert_eq!(claim.metadata.labels.unwrap()["holdfast.dev/target"], "t-uid");
    }
}
