//! Where a restored volume must be reachable: the scheduling rules of the pods that will use it.
//!
//! A claim that binds on first use is provisioned where its first pod lands, and that pod is our mover. It therefore
//! carries the node rules of the application's pod, or the application could not follow its own volume.

use serde_json::{Map, Value, json};

/// Node selector, node affinity and tolerations of the first pod (or pod template) of the point that uses `claim`, as
/// a fragment of a pod spec. `None` when no pod uses it or the pod has no rules. Rules about other pods are left out:
/// those pods do not exist yet.
pub(super) fn for_claim<'a>(objects: impl IntoIterator<Item = &'a Value>, claim: &str) -> Option<Value> {
    let pod = objects
        .into_iter()
        .find_map(|o| pod_spec(o).filter(|spec| uses(o, spec, claim)))?;
    let mut fragment = Map::new();
    for field in ["nodeSelector", "tolerations"] {
        if let Some(value) = pod.get(field) {
            fragment.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(affinity) = pod.pointer("/affinity/nodeAffinity") {
        fragment.insert("affinity".to_owned(), json!({ "nodeAffinity": affinity }));
    }
    (!fragment.is_empty()).then_some(Value::Object(fragment))
}

fn pod_spec(object: &Value) -> Option<&Value> {
    match object.get("kind")?.as_str()? {
        "Pod" => object.get("spec"),
        "CronJob" => object.pointer("/spec/jobTemplate/spec/template/spec"),
        _ => object.pointer("/spec/template/spec"),
    }
}

fn uses(object: &Value, pod: &Value, claim: &str) -> bool {
    let volumes = pod.get("volumes").and_then(Value::as_array);
    let named = volumes.into_iter().flatten().any(|v| {
        v.pointer("/persistentVolumeClaim/claimName")
            .and_then(Value::as_str)
            == Some(claim)
    });
    named || from_template(object, claim)
}

/// Whether `claim` is one that a StatefulSet makes: `<template>-<set>-<ordinal>`.
fn from_template(object: &Value, claim: &str) -> bool {
    let Some(set) = object.pointer("/metadata/name").and_then(Value::as_str) else {
        return false;
    };
    let templates = object
        .pointer("/spec/volumeClaimTemplates")
        .and_then(Value::as_array);
    templates.into_iter().flatten().any(|t| {
        let Some(name) = t.pointer("/metadata/name").and_then(Value::as_str) else {
            return false;
        };
        claim
            .strip_prefix(&format!("{name}-{set}-"))
            .is_some_and(|ordinal| !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stateful_sets_rules_reach_its_claims_and_no_others() {
        let set = json!({"kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
            "template": {"spec": {"nodeSelector": {"disk": "fast"}, "affinity": {"podAntiAffinity": {}, "nodeAffinity": {"x": 1}}}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}});
        let objects = [set];
        assert_eq!(
            for_claim(&objects, "data-db-0"),
            Some(json!({"nodeSelector": {"disk": "fast"}, "affinity": {"nodeAffinity": {"x": 1}}}))
        );
        assert_eq!(for_claim(&objects, "data-db-x"), None);
        assert_eq!(for_claim(&objects, "other"), None);
    }

    #[test]
    fn a_pod_without_rules_gives_nothing() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "volumes": [{"persistentVolumeClaim": {"claimName": "c"}}]}});
        assert_eq!(for_claim(&[pod], "c"), None);
    }
}
