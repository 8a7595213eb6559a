//! What is said on the wire agrees with the custom resources, with openapi.yaml and with itself.

use std::collections::BTreeSet;
use std::path::Path;

use holdfast_crd::generate::definitions;
use serde_json::Value;

use crate::app::TestApp;

fn document() -> Value {
    // YAML is read by the parser that the product uses.
    serde_saphyr::from_str(&holdfast_api::openapi_yaml().unwrap()).unwrap()
}

#[test]
fn openapi_yaml_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../openapi.yaml");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let current = holdfast_api::openapi_yaml().unwrap();
    assert!(
        kept == current,
        "openapi.yaml is old: run `cargo run -p holdfast -- openapi > openapi.yaml`"
    );
    assert!(
        current.starts_with("openapi: 3.1"),
        "{}",
        current.lines().next().unwrap()
    );
}

#[test]
fn operations_have_names_of_their_own_and_all_need_a_session_but_a_few() {
    let document = document();
    let mut ids = BTreeSet::new();
    let mut open = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "{id} twice");
            assert!(
                operation["tags"].as_array().is_some_and(|tags| !tags.is_empty()),
                "{method} {path} has no tag"
            );
            if operation.get("security").is_some() {
                open.push(id);
            }
        }
    }
    open.sort();
    assert_eq!(open, ["getVersion", "healthz", "metrics", "readyz", "signIn"]);
}

#[tokio::test]
async fn every_described_read_needs_a_session() {
    let app = TestApp::new().await;
    for (path, methods) in document()["paths"].as_object().unwrap() {
        let Some(operation) = methods.get("get").filter(|get| get.get("security").is_none()) else {
            continue;
        };
        let path = path.replace("{namespace}", "a").replace("{name}", "b");
        let answer = app.get(&path).await;
        assert_eq!(answer.status, 401, "{} {answer:?}", operation["operationId"]);
    }
}

/// Every field on the wire is a field of the custom resource; of what people write, none is missing.
#[test]
fn fields_are_those_of_the_custom_resources() {
    let document = document();
    for definition in definitions() {
        let kind = &definition.spec.names.kind;
        let custom = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        let custom = &custom["openAPIV3Schema"]["properties"];
        let wire = &document["components"]["schemas"][kind]["properties"];
        let whole = kind != "VolumeTransfer";
        compare(
            &document,
            &format!("{kind}.spec"),
            &wire["spec"],
            &custom["spec"],
            whole,
        );
        compare(
            &document,
            &format!("{kind}.status"),
            &wire["status"],
            &custom["status"],
            false,
        );
    }
}

fn compare(document: &Value, path: &str, wire: &Value, custom: &Value, whole: bool) {
    let wire = resolve(document, wire);
    if let Some(items) = wire.get("items") {
        return compare(document, &format!("{path}[]"), items, &custom["items"], whole);
    }
    let Some(fields) = wire.get("properties").and_then(Value::as_object) else {
        return;
    };
    let Some(known) = custom.get("properties").and_then(Value::as_object) else {
        panic!("{path} is no object in the custom resource");
    };
    for (name, field) in fields {
        let other = known
            .get(name)
            .unwrap_or_else(|| panic!("{path}.{name} is not in the custom resource"));
        compare(document, &format!("{path}.{name}"), field, other, whole);
    }
    if whole {
        let missing: Vec<_> = known.keys().filter(|name| !fields.contains_key(*name)).collect();
        assert!(missing.is_empty(), "{path} lacks {missing:?}");
    }
}

/// Follows references, and the one variant that is not null.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap();
        return resolve(document, &document["components"]["schemas"][name]);
    }
    for several in ["oneOf", "allOf", "anyOf"] {
        let variants = schema.get(several).and_then(Value::as_array);
        if let Some(one) = variants.and_then(|all| all.iter().find(|v| v.get("$ref").is_some())) {
            return resolve(document, one);
        }
    }
    schema
}

#[test]
fn vendors_are_those_of_the_custom_resource() {
    let schema = holdfast_crd::generate::spec_schema("Target").unwrap();
    let known: BTreeSet<_> = schema["properties"]["vendor"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(known, holdfast_shared::VENDORS.iter().copied().collect());
}
