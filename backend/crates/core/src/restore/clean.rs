//! Takes off an object what ties it to the cluster and the moment it was captured in.

use serde_json::{Map, Value};

use super::ObjectKey;
use crate::capture::is_generated_for;

/// Metadata that the API server or a controller sets anew.
const CLUSTER_METADATA: [&str; 9] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
    "ownerReferences",
];

/// Annotations that speak of the old cluster: bindings of claims, revisions of controllers.
const CLUSTER_ANNOTATIONS: [&str; 7] = [
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/selected-node",
    "deployment.kubernetes.io/revision",
    "endpoints.kubernetes.io/last-change-trigger-time",
];

/// Finalizers that mean a deletion was under way, or that the API server adds itself.
const OWN_FINALIZERS: [&str; 4] = [
    "foregroundDeletion",
    "orphan",
    "kubernetes.io/pvc-protection",
    "batch.kubernetes.io/job-tracking",
];

/// The manifest to send for a captured object, in `namespace` if the object lives in one.
pub fn clean_for_restore(mut object: Value, namespace: &str) -> Value {
    let Some(root) = object.as_object_mut() else {
        return object;
    };
    root.remove("status");
    if let Some(metadata) = root.get_mut("metadata").and_then(Value::as_object_mut) {
        clean_metadata(metadata, namespace);
    }
    let kind = root
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let core = root.get("apiVersion").and_then(Value::as_str) == Some("v1");
    match kind.as_str() {
        "Service" if core => clean_service(root),
        "Pod" if core => clean_pod(root),
        "PersistentVolumeClaim" if core => clean_claim(root),
        "ServiceAccount" if core => clean_account(root),
        "Job" => clean_job(root),
        _ => {}
    }
    object
}

/// Secrets that the cluster made for the account are made anew, under other names: the old ones would point nowhere. What
/// a person listed stays.
fn clean_account(account: &mut Map<String, Value>) {
    let name = account
        .get("metadata")
        .and_then(|m| m.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    for field in ["secrets", "imagePullSecrets"] {
        let Some(references) = account.get_mut(field).and_then(Value::as_array_mut) else {
            continue;
        };
        references.retain(|reference| {
            let secret = reference.get("name").and_then(Value::as_str).unwrap_or_default();
            !is_generated_for(&name, secret)
        });
        if references.is_empty() {
            account.remove(field);
        }
    }
}

/// Why an object is not written at all, if so.
pub(super) fn reason_to_skip(key: &ObjectKey, object: &Value) -> Option<String> {
    let phase = object.pointer("/status/phase").and_then(Value::as_str);
    match (key.group.as_str(), key.kind.as_str()) {
        ("", "Pod") if matches!(phase, Some("Succeeded" | "Failed")) => {
            Some("the pod had ended when it was captured".to_owned())
        }
        ("batch", "Job") if has_ended(object) => {
            Some("the job had ended when it was captured; it would run a second time".to_owned())
        }
        _ => None,
    }
}

fn has_ended(job: &Value) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| {
        matches!(c.get("type").and_then(Value::as_str), Some("Complete" | "Failed"))
            && c.get("status").and_then(Value::as_str) == Some("True")
    })
}

fn clean_metadata(metadata: &mut Map<String, Value>, namespace: &str) {
    for field in CLUSTER_METADATA {
        metadata.remove(field);
    }
    if metadata.contains_key("namespace") {
        metadata.insert("namespace".to_owned(), Value::String(namespace.to_owned()));
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        for name in CLUSTER_ANNOTATIONS {
            annotations.remove(name);
        }
    }
    if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        finalizers.retain(|f| f.as_str().is_none_or(|f| !OWN_FINALIZERS.contains(&f)));
    }
    for field in ["annotations", "finalizers"] {
        let empty = match metadata.get(field) {
            Some(Value::Object(o)) => o.is_empty(),
            Some(Value::Array(a)) => a.is_empty(),
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
}

fn spec(root: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
    root.get_mut("spec").and_then(Value::as_object_mut)
}

fn clean_service(root: &mut Map<String, Value>) {
    let Some(spec) = spec(root) else { return };
    if spec.get("clusterIP").and_then(Value::as_str) != Some("None") {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    spec.remove("healthCheckNodePort");
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
}

fn clean_claim(root: &mut Map<String, Value>) {
    let Some(spec) = spec(root) else { return };
    // The volume is new and its data comes from the image, not from what the claim was once made of.
    for field in ["volumeName", "dataSource", "dataSourceRef"] {
        spec.remove(field);
    }
}

/// The service account admission plugin adds a token volume of this name to every pod; it adds a new one.
const TOKEN_VOLUME: &str = "kube-api-access-";

fn clean_pod(root: &mut Map<String, Value>) {
    let Some(spec) = spec(root) else { return };
    spec.remove("nodeName");
    let is_token = |v: &Value| {
        v.get("name")
            .and_then(Value::as_str)
            .is_some_and(|n| n.starts_with(TOKEN_VOLUME))
    };
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        volumes.retain(|v| !is_token(v));
    }
    for list in ["containers", "initContainers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                mounts.retain(|m| !is_token(m));
            }
        }
    }
}

/// Labels by which the job controller finds the pods of one job; it writes new ones.
const JOB_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

fn clean_job(root: &mut Map<String, Value>) {
    if let Some(labels) = root
        .get_mut("metadata")
        .and_then(|m| m.get_mut("labels"))
        .and_then(Value::as_object_mut)
    {
        JOB_LABELS.iter().for_each(|l| drop(labels.remove(*l)));
    }
    let Some(spec) = spec(root) else { return };
    if spec.get("manualSelector").and_then(Value::as_bool) == Some(true) {
        return;
    }
    spec.remove("selector");
    let labels = spec
        .get_mut("template")
        .and_then(|t| t.pointer_mut("/metadata/labels"));
    if let Some(labels) = labels.and_then(Value::as_object_mut) {
        JOB_LABELS.iter().for_each(|l| drop(labels.remove(*l)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_gets_new_addresses_but_stays_headless() {
        let service = |ip: &str| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "a", "uid": "u"},
                   "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "nodePort": 30000}]}, "status": {}})
        };
        let cleaned = clean_for_restore(service("10.0.0.1"), "b");
        assert_eq!(
            cleaned,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "b"},
                   "spec": {"ports": [{"port": 80}]}})
        );
        assert_eq!(
            clean_for_restore(service("None"), "b").pointer("/spec/clusterIP"),
            Some(&json!("None"))
        );
    }

    #[test]
    fn an_account_loses_only_the_secrets_that_the_cluster_made() {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"},
            "secrets": [{"name": "robot-token-abcde"}, {"name": "linked"}],
            "imagePullSecrets": [{"name": "robot-dockercfg-abcde"}]});
        let cleaned = clean_for_restore(account, "b");
        assert_eq!(cleaned.get("secrets"), Some(&json!([{"name": "linked"}])));
        assert_eq!(cleaned.get("imagePullSecrets"), None);
    }

    #[test]
    fn unknown_fields_survive() {
        let object = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x", "namespace": "a"},
                            "spec": {"anything": [1, {"deep": null}]}, "extra": true});
        let cleaned = clean_for_restore(object, "b");
        assert_eq!(cleaned.pointer("/spec/anything/1"), Some(&json!({"deep": null})));
        assert_eq!(cleaned.get("extra"), Some(&json!(true)));
    }

    #[test]
    fn a_pod_loses_its_node_and_token_volume_only() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"}, "spec": {
            "nodeName": "n1", "volumes": [{"name": "kube-api-access-x1"}, {"name": "data"}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "kube-api-access-x1"}, {"name": "data"}]}]}});
        let cleaned = clean_for_restore(pod, "a");
        assert_eq!(cleaned.pointer("/spec/nodeName"), None);
        assert_eq!(cleaned.pointer("/spec/volumes"), Some(&json!([{"name": "data"}])));
        assert_eq!(
            cleaned.pointer("/spec/containers/0/volumeMounts"),
            Some(&json!([{"name": "data"}]))
        );
    }
}
