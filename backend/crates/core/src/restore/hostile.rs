//! Planning over objects that somebody made to hurt: it ends, soon, whatever they look like.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::capture::{Neighbours, reason_to_ignore, sanitise};

/// Ample for what takes milliseconds, far too little for what grows with the square of its input.
const SOON: Duration = Duration::from_secs(20);

/// A ConfigMap whose owners are ConfigMaps.
fn owned(name: &str, owners: impl IntoIterator<Item = String>) -> Value {
    let reference = |owner: String| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner});
    let references: Vec<Value> = owners.into_iter().map(reference).collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": references}})
}

fn plan(objects: Vec<Value>) -> ObjectPlan {
    let started = Instant::now();
    let plan = plan_objects(objects, "new", &BTreeSet::new());
    assert!(started.elapsed() < SOON, "planning took {:?}", started.elapsed());
    plan
}

fn level(plan: &ObjectPlan, name: &str) -> usize {
    let holds = |level: &Vec<PlannedObject>| level.iter().any(|o| o.key.name == name);
    plan.levels.iter().position(holds).unwrap()
}

#[test]
fn many_paths_to_few_owners_are_walked_once() {
    // Each owned by the two before it: as many paths as the sixtieth Fibonacci number.
    let before = |i: usize| (i.saturating_sub(2)..i).map(|o| format!("c{o}"));
    let objects = (0..60).map(|i| owned(&format!("c{i}"), before(i))).collect();
    assert_eq!(plan(objects).levels.len(), 60);
}

#[test]
fn a_line_of_owners_needs_no_stack() {
    let objects = (0..50_000)
        .map(|i| owned(&format!("c{i:05}"), [format!("c{:05}", i + 1)]))
        .collect();
    let plan = plan(objects);
    assert_eq!(plan.levels.len(), 50_000);
    assert_eq!(plan.levels[0][0].key.name, "c49999");
}

#[test]
fn a_circle_is_cut_and_what_hangs_on_it_comes_after_it() {
    let objects = vec![
        owned("b", ["c".to_owned()]),
        owned("c", ["d".to_owned()]),
        owned("d", ["b".to_owned(), "d".to_owned()]),
        // Before the circle in the alphabet, behind it in the plan.
        owned("a", ["c".to_owned()]),
    ];
    let plan = plan(objects);
    assert_eq!(plan.len(), 4);
    assert!(level(&plan, "a") > level(&plan, "c"));
    assert_eq!(plan.levels.len(), 4, "three in the circle are cut once");
}

#[test]
fn an_owner_is_found_without_looking_at_all_objects() {
    let objects = (0..40_000).map(|i| owned(&format!("c{i}"), ["c39999".to_owned()]));
    assert_eq!(plan(objects.collect()).levels.len(), 2);
}

/// What the API server gives, a kind each that some rule looks into.
fn captured() -> Vec<Value> {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "controller": true}]);
    vec![
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "a",
            "annotations": {"deployment.kubernetes.io/revision": "1"}, "finalizers": ["orphan"]},
            "spec": {"template": {"metadata": {"labels": {"app": "web"}}, "spec": {"volumes": [
                {"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}}}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "ownerReferences": owner},
            "spec": {"nodeName": "n", "volumes": [{"name": "kube-api-access-1"}],
                "containers": [{"volumeMounts": [{"name": "kube-api-access-1"}]}]}, "status": {"phase": "Running"}}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "labels": {"controller-uid": "x"}},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"controller-uid": "x"}}}},
            "status": {"conditions": [{"type": "Complete", "status": "False"}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.1",
            "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": 30000}]}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"volumeName": "pv", "resources": {"requests": {"storage": "1Gi"}}}}),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token", "data": {},
            "metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "t"}}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}, "secrets": [{"name": "x"}]}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s", "labels": {}}}),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("Deployment")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z/~]{0,6}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// The pointers of a value and of everything in it.
fn places(value: &Value, here: &str, all: &mut Vec<String>) {
    all.push(here.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            places(value, &format!("{here}/{key}"), all);
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, value)| places(value, &format!("{here}/{i}"), all)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_value_in_any_place_stops_a_rule(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any_json()), 1..6)
    ) {
        let mut objects = captured();
        for (which, place, value) in changes {
            let object = which.get(&objects).clone();
            let mut all = Vec::new();
            places(&object, "", &mut all);
            let mut changed = object.clone();
            *changed.pointer_mut(place.get(&all).as_str()).unwrap() = value;
            let which = which.index(objects.len());
            objects[which] = changed;
        }
        let mut neighbours = Neighbours::default();
        objects.iter().for_each(|o| neighbours.note(o));
        for object in &objects {
            let _ = reason_to_ignore(object, &neighbours);
            sanitise(&mut object.clone());
        }
        let all = objects.len();
        let plan = plan(objects);
        // Nothing is lost without a word: what is not written is named.
        prop_assert!(plan.len() + plan.skipped.len() <= all);
    }
}
