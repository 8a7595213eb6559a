//! Where a restored volume must be reachable: the scheduling rules of the pods that will use it.
//!
//! A claim that binds on first use is provisioned where its first pod lands, and that pod is our mover. It therefore
//! carries the node rules of the application's pod, or the application could not follow its own volume.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeAffinity, Toleration};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Longest name of a claim.
const MAX_NAME: usize = 253;

/// The rules for every claim of `claims` that a pod of the point uses.
///
/// Node selector, node affinity and tolerations of the first pod (or pod template) that uses the claim, as a fragment
/// of a pod spec; no entry when no pod uses it or the pod has no rules. Rules about other pods are left out: those pods
/// do not exist yet. What looks like a pod template and has rules that no pod could have is none, and the next object is
/// asked: kinds of people's own may use these fields for anything.
pub(super) fn for_claims(objects: &[Value], claims: &BTreeSet<String>) -> BTreeMap<String, Value> {
    // Rules by claim and by the part of a claim's name that a StatefulSet gives it, in the order of the objects.
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    let mut templates: BTreeMap<String, usize> = BTreeMap::new();
    let mut found: Vec<Option<Value>> = Vec::new();
    for object in objects {
        let Some(pod) = pod_spec(object) else { continue };
        let names = claims_of(pod).filter_map(|name| claims.get(name));
        let names: Vec<&str> = names.map(String::as_str).collect();
        let prefixes: Vec<String> = prefixes_of(object).collect();
        if names.is_empty() && prefixes.is_empty() {
            continue;
        }
        let Ok(rules) = rules(pod) else { continue };
        for name in names {
            named.entry(name).or_insert(found.len());
        }
        for prefix in prefixes {
            templates.entry(prefix).or_insert(found.len());
        }
        found.push(rules);
    }
    let of_claim = |claim: &String| {
        let by_template = set_prefix(claim).and_then(|prefix| templates.get(prefix));
        let first = named.get(claim.as_str()).into_iter().chain(by_template).min()?;
        Some((claim.clone(), found[*first].clone()?))
    };
    claims.iter().filter_map(of_claim).collect()
}

/// The node rules of a pod, checked to be some.
fn rules(pod: &Value) -> Result<Option<Value>, serde_json::Error> {
    fn field<T: DeserializeOwned>(pod: &Value, pointer: &str) -> Result<Option<T>, serde_json::Error> {
        pod.pointer(pointer)
            .map_or(Ok(None), |value| serde_json::from_value(value.clone()))
    }
    let mut fragment = Map::new();
    if let Some(selector) = field::<BTreeMap<String, String>>(pod, "/nodeSelector")? {
        fragment.insert("nodeSelector".to_owned(), json!(selector));
    }
    if let Some(tolerations) = field::<Vec<Toleration>>(pod, "/tolerations")? {
        fragment.insert("tolerations".to_owned(), json!(tolerations));
    }
    if let Some(affinity) = field::<NodeAffinity>(pod, "/affinity/nodeAffinity")? {
        fragment.insert("affinity".to_owned(), json!({ "nodeAffinity": affinity }));
    }
    Ok((!fragment.is_empty()).then_some(Value::Object(fragment)))
}

fn pod_spec(object: &Value) -> Option<&Value> {
    match object.get("kind")?.as_str()? {
        "Pod" => object.get("spec"),
        "CronJob" => object.pointer("/spec/jobTemplate/spec/template/spec"),
        _ => object.pointer("/spec/template/spec"),
    }
}

/// Claims that a pod names.
fn claims_of(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = pod.get("volumes").and_then(Value::as_array);
    volumes.into_iter().flatten().filter_map(|v| {
        v.pointer("/persistentVolumeClaim/claimName")
            .and_then(Value::as_str)
    })
}

/// `<template>-<set>` of the claims that a StatefulSet makes: they are called `<template>-<set>-<ordinal>`.
fn prefixes_of(object: &Value) -> impl Iterator<Item = String> {
    let set = object.pointer("/metadata/name").and_then(Value::as_str);
    let templates = object
        .pointer("/spec/volumeClaimTemplates")
        .and_then(Value::as_array);
    let name = |t: &Value| {
        t.pointer("/metadata/name")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let named = templates.into_iter().flatten().filter_map(name);
    named.filter_map(move |template| {
        let set = set?;
        (template.len() + set.len() < MAX_NAME).then(|| format!("{template}-{set}"))
    })
}

/// The name of a claim without its ordinal.
fn set_prefix(claim: &str) -> Option<&str> {
    let (prefix, ordinal) = claim.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
    digits.then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_claim(objects: &[Value], claim: &str) -> Option<Value> {
        for_claims(objects, &BTreeSet::from([claim.to_owned()])).remove(claim)
    }

    #[test]
    fn a_stateful_sets_rules_reach_its_claims_and_no_others() {
        let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}});
        let set = json!({"kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
            "template": {"spec": {"nodeSelector": {"disk": "fast"},
                "affinity": {"podAntiAffinity": {}, "nodeAffinity": affinity}}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}});
        let objects = [set];
        assert_eq!(
            for_claim(&objects, "data-db-0"),
            Some(json!({"nodeSelector": {"disk": "fast"}, "affinity": {"nodeAffinity": affinity}}))
        );
        assert_eq!(for_claim(&objects, "data-db-x"), None);
        assert_eq!(for_claim(&objects, "data-db-"), None);
        assert_eq!(for_claim(&objects, "other"), None);
    }

    fn user(kind: &str, rules: &Value) -> Value {
        let mut spec = json!({"volumes": [{"persistentVolumeClaim": {"claimName": "c"}}]});
        spec.as_object_mut()
            .unwrap()
            .extend(rules.as_object().unwrap().clone());
        if kind == "Pod" {
            return json!({"kind": kind, "metadata": {"name": "p"}, "spec": spec});
        }
        json!({"kind": kind, "metadata": {"name": "x"}, "spec": {"template": {"spec": spec}}})
    }

    #[test]
    fn a_pod_without_rules_gives_nothing() {
        assert_eq!(for_claim(&[user("Pod", &json!({}))], "c"), None);
    }

    #[test]
    fn rules_that_no_pod_could_have_are_none() {
        let good = user("Deployment", &json!({"nodeSelector": {"a": "b"}}));
        for odd in [
            json!({"tolerations": [7]}),
            json!({"tolerations": "all"}),
            json!({"nodeSelector": ["a"]}),
            json!({"nodeSelector": {"a": 1}}),
            json!({"affinity": {"nodeAffinity": "x"}}),
        ] {
            let objects = [user("Thing", &odd), good.clone()];
            assert_eq!(
                for_claim(&objects, "c"),
                Some(json!({"nodeSelector": {"a": "b"}})),
                "{odd}"
            );
            assert_eq!(for_claim(&objects[..1], "c"), None, "{odd}");
        }
    }

    #[test]
    fn the_first_of_several_users_decides() {
        let of = |disk: &str| user("Deployment", &json!({"nodeSelector": {"disk": disk}}));
        assert_eq!(
            for_claim(&[of("a"), of("b")], "c"),
            Some(json!({"nodeSelector": {"disk": "a"}}))
        );
    }
}
