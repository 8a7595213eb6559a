//! The hand-over of a written Block volume: the PersistentVolume that the application gets, and its claim.

use holdfast_core::quantity::at_least;
use holdfast_crd::VolumeTransfer;
use holdfast_crd::names::labels;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::Names;
use super::job::{InvalidSpec, invalid};

/// Annotations of a PersistentVolume that go with the storage behind it.
const KEPT_ANNOTATIONS: [&str; 3] = [
    "pv.kubernetes.io/provisioned-by",
    "volume.kubernetes.io/provisioner-deletion-secret-name",
    "volume.kubernetes.io/provisioner-deletion-secret-namespace",
];
/// On the new volume: name of the one it replaces.
const REPLACES: &str = "holdfast.dev/replaces";
/// Annotations of a claim that speak of a binding that is not this one.
const BINDING_ANNOTATIONS: [&str; 5] = [
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];

/// What the new volume takes from elsewhere than the old one.
pub(in crate::transfer) struct HandOver<'a> {
    /// Mount options of the storage class.
    pub(in crate::transfer) mount_options: &'a [String],
    /// File system that the storage class names, for a transfer that does not know its own.
    pub(in crate::transfer) class_fs_type: Option<&'a str>,
}

/// The PersistentVolume that the application's claim will bind, made from the one the mover wrote: the same storage,
/// the mode the application wants, reserved for the claim by name. It is stored before anything of the old is deleted.
pub(in crate::transfer) fn handed_over(
    transfer: &VolumeTransfer,
    names: &Names,
    old: &Value,
    from: &HandOver<'_>,
) -> Value {
    let spec = &transfer.spec;
    let mut new = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": names.volume(), "annotations": annotations(old)},
        "spec": old["spec"].clone(),
    });
    let volume = fields(&mut new, "spec");
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": spec.claim.namespace, "name": spec.claim.name,
    });
    volume.insert("claimRef".to_owned(), claim);
    volume.insert("volumeMode".to_owned(), json!(spec.volume.volume_mode));
    volume.insert("storageClassName".to_owned(), json!(spec.volume.storage_class));
    volume.insert("accessModes".to_owned(), json!(spec.volume.access_modes));
    if spec.volume.volume_mode == "Filesystem" {
        let fs_type = spec.volume.fs_type.as_deref().or(from.class_fs_type);
        let options = mount_options(from.mount_options, fs_type);
        volume.remove("mountOptions");
        if !options.is_empty() {
            volume.insert("mountOptions".to_owned(), json!(options));
        }
        if let Some(fs_type) = fs_type {
            fields(&mut new["spec"], "csi").insert("fsType".to_owned(), json!(fs_type));
        }
    }
    new
}

/// Name of the volume that a stored manifest replaces.
pub(in crate::transfer) fn replaced(manifest: &Value) -> &str {
    manifest["metadata"]["annotations"][REPLACES]
        .as_str()
        .unwrap_or_default()
}

/// XFS refuses a second file system of the same UUID, and the original may live beside its copy.
fn mount_options(of_class: &[String], fs_type: Option<&str>) -> Vec<String> {
    let mut options = of_class.to_vec();
    if fs_type == Some("xfs") && !options.iter().any(|option| option == "nouuid") {
        options.push("nouuid".to_owned());
    }
    options
}

fn annotations(old: &Value) -> Map<String, Value> {
    let of_old = &old["metadata"]["annotations"];
    let kept = KEPT_ANNOTATIONS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), of_old.get(*key)?.clone())));
    let mut annotations: Map<String, Value> = kept.collect();
    annotations.insert(REPLACES.to_owned(), old["metadata"]["name"].clone());
    annotations
}

/// The fields of the object `name` inside `value`, which become objects if they are anything else.
fn fields<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    as_object(as_object(value).entry(name).or_insert(Value::Null))
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was just made one")
}

/// A volume that nobody gets any more, from the stored manifest: released by a claim that is gone, to be deleted with
/// its storage by the driver's provisioner.
pub(in crate::transfer) fn abandoned(transfer: &VolumeTransfer, manifest: &Value, uid: &str) -> Value {
    let mut volume = manifest.clone();
    fields(&mut volume, "metadata").insert("labels".to_owned(), json!({ labels::TRANSFER: uid }));
    let spec = fields(&mut volume, "spec");
    spec.insert("persistentVolumeReclaimPolicy".to_owned(), json!("Delete"));
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": transfer.metadata.namespace, "name": "gone", "uid": uid,
    });
    spec.insert("claimRef".to_owned(), claim);
    volume
}

/// The application's claim, bound by name to the volume that waits for it. It asks for what that volume holds, for quotas
/// count what claims ask for.
///
/// # Errors
/// When the manifest in the transfer is no claim.
pub(in crate::transfer) fn application_claim(
    transfer: &VolumeTransfer,
    names: &Names,
) -> Result<PersistentVolumeClaim, InvalidSpec> {
    let spec = &transfer.spec;
    let manifest = spec.claim_manifest.clone().unwrap_or_else(|| json!({}));
    let mut claim: PersistentVolumeClaim =
        serde_json::from_value(manifest).map_err(|e| invalid("claimManifest", &e))?;
    let captured = std::mem::take(&mut claim.metadata);
    claim.metadata = ObjectMeta {
        name: Some(spec.claim.name.clone()),
        namespace: Some(spec.claim.namespace.clone()),
        labels: captured.labels,
        annotations: captured.annotations.map(|mut annotations| {
            annotations.retain(|key, _| !BINDING_ANNOTATIONS.contains(&key.as_str()));
            annotations
        }),
        finalizers: captured.finalizers,
        ..Default::default()
    };
    claim.status = None;
    let wanted = claim.spec.get_or_insert_default();
    (wanted.data_source, wanted.data_source_ref, wanted.selector) = (None, None, None);
    wanted.volume_name = Some(names.volume());
    wanted.volume_mode = Some(spec.volume.volume_mode.clone());
    wanted.storage_class_name = Some(spec.volume.storage_class.clone());
    wanted.access_modes = Some(spec.volume.access_modes.clone());
    let requests = wanted
        .resources
        .get_or_insert_default()
        .requests
        .get_or_insert_default();
    let own = requests.entry("storage".to_owned()).or_default();
    *own = Quantity(at_least(&own.0, spec.volume.capacity));
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use super::super::tests::transfer;
    use super::*;

    fn old() -> Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": "pvc-1", "uid": "u", "resourceVersion": "5", "finalizers": ["kubernetes.io/pv-protection"],
                "annotations": {"pv.kubernetes.io/provisioned-by": "csi.example", "pv.kubernetes.io/bound-by-controller": "yes",
                    "volume.kubernetes.io/provisioner-deletion-secret-name": "s"}},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "fast",
                "claimRef": {"namespace": "holdfast", "name": "hf-1", "uid": "cu"},
                "csi": {"driver": "csi.example", "volumeHandle": "h-1", "volumeAttributes": {"a": "b"},
                    "nodeStageSecretRef": {"name": "s", "namespace": "ns"}},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": []}]}}, "newField": 7},
            "status": {"phase": "Bound"},
        })
    }

    fn new(transfer: &VolumeTransfer) -> Value {
        let options = ["noatime".to_owned()];
        let from = HandOver {
            mount_options: &options,
            class_fs_type: Some("ext4"),
        };
        handed_over(transfer, &Names::of(transfer), &old(), &from)
    }

    #[test]
    fn the_same_storage_in_the_mode_and_for_the_claim_of_the_application() {
        let transfer = transfer("Restore", json!({}));
        let new = new(&transfer);
        let spec = &new["spec"];
        assert_eq!(spec["csi"]["volumeHandle"], "h-1");
        assert_eq!(spec["csi"]["nodeStageSecretRef"]["name"], "s");
        assert_eq!(spec["csi"]["fsType"], "xfs");
        assert_eq!(spec["mountOptions"], json!(["noatime", "nouuid"]));
        assert_eq!(spec["volumeMode"], "Filesystem");
        assert_eq!(spec["persistentVolumeReclaimPolicy"], "Delete");
        assert_eq!(spec["newField"], 7, "what we do not know is kept");
        assert!(spec["nodeAffinity"]["required"].is_object());
        assert_eq!(spec["claimRef"]["name"], "data");
        assert_eq!(spec["claimRef"].get("uid"), None);
        let annotations = new["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(
            annotations.len(),
            3,
            "the two of the storage and what it replaces: {annotations:?}"
        );
        assert_eq!(annotations[REPLACES], "pvc-1");
        assert_eq!(new["metadata"].get("uid"), None);
        assert_eq!(new.get("status"), None);
    }

    #[test]
    fn a_block_volume_has_nothing_to_mount() {
        let mut transfer = transfer("Restore", json!({}));
        transfer.spec.volume.volume_mode = "Block".into();
        let new = new(&transfer);
        assert_eq!(new["spec"]["volumeMode"], "Block");
        assert_eq!(new["spec"]["csi"].get("fsType"), None);
        assert_eq!(new["spec"].get("mountOptions"), None);
    }

    #[test]
    fn an_abandoned_volume_is_deleted_with_its_storage() {
        let transfer = transfer("Restore", json!({}));
        let volume = abandoned(&transfer, &new(&transfer), "t-uid");
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
        assert_eq!(volume["spec"]["claimRef"]["uid"], "t-uid");
        assert_eq!(volume["spec"]["csi"]["volumeHandle"], "h-1");
        assert_eq!(volume["metadata"]["labels"]["holdfast.dev/transfer"], "t-uid");
    }

    #[test]
    fn the_claim_names_its_volume_and_forgets_its_old_binding() {
        let manifest = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "old", "uid": "x", "labels": {"app": "db"}, "annotations": {
                "pv.kubernetes.io/bind-completed": "yes", "holdfast.dev/restored-by": "r"}},
            "spec": {"volumeName": "pvc-gone", "dataSource": {"kind": "X"}, "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Bound"}});
        let transfer = transfer("Restore", json!({ "claimManifest": manifest }));
        let names = Names::of(&transfer);
        let claim = json!(application_claim(&transfer, &names).unwrap());
        assert_eq!(claim["metadata"]["name"], "data");
        assert_eq!(claim["metadata"]["namespace"], "app");
        assert_eq!(claim["metadata"]["labels"]["app"], "db");
        assert_eq!(
            claim["metadata"]["annotations"],
            json!({"holdfast.dev/restored-by": "r"})
        );
        assert_eq!(claim["spec"]["volumeName"], names.volume());
        assert_eq!(claim["spec"]["storageClassName"], "fast");
        assert_eq!(claim["spec"].get("dataSource"), None);
        assert_eq!(claim.get("status"), None);
        assert_eq!(claim["metadata"].get("uid"), None);
    }

    #[test]
    fn the_claim_asks_for_what_its_volume_holds() {
        let asked = |own: &str, capacity: u64| {
            let manifest = json!({"spec": {"resources": {"requests": {"storage": own}}}});
            let mut transfer = transfer("Restore", json!({ "claimManifest": manifest }));
            transfer.spec.volume.capacity = capacity;
            let claim = json!(application_claim(&transfer, &Names::of(&transfer)).unwrap());
            claim["spec"]["resources"]["requests"]["storage"].clone()
        };
        assert_eq!(asked("1Gi", 10 << 40), json!("10995116277760"));
        assert_eq!(asked("2Gi", 1 << 30), json!("2Gi"));
    }

    #[test]
    fn what_is_no_claim_is_an_error() {
        for manifest in [
            json!({"metadata": {"annotations": "x"}}),
            json!({"metadata": "x"}),
            json!({"spec": "x"}),
            json!({"spec": {"resources": []}}),
            json!([]),
        ] {
            let transfer = transfer("Restore", json!({ "claimManifest": manifest }));
            let error = application_claim(&transfer, &Names::of(&transfer)).unwrap_err();
            assert!(error.to_string().starts_with("spec.claimManifest"), "{error}");
        }
    }
}
