//! CustomResourceDefinitions as they are installed: generated from the types, with what derive cannot say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, ValidationRule,
};
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};

/// Schema of a field that holds foreign JSON: anything, kept as it is.
pub fn any_value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// Every definition, in a fixed order.
///
/// `spec` of the kinds that people write keeps unknown fields, because the API server would drop them before the
/// admission webhook can refuse them by name (also with `kubectl --validate=false` and server-side apply).
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut kinds = vec![
        crate::Target::crd(),
        crate::BackupPlan::crd(),
        crate::Backup::crd(),
        crate::Restore::crd(),
    ];
    for kind in &mut kinds {
        each_spec(kind, &mut keep_unknown);
    }
    each_spec(&mut kinds[0], &mut one_block);
    kinds.push(crate::VolumeTransfer::crd());
    for kind in &mut kinds {
        // Helm leaves them in place on uninstall: deleting a definition deletes every resource of it.
        let annotations = kind.metadata.annotations.get_or_insert_default();
        annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    }
    kinds
}

/// The schema of a kind's `spec`, as JSON, for checking field names. `None` for a kind that is not ours.
pub fn spec_schema(kind: &str) -> Option<serde_json::Value> {
    let crd = definitions().into_iter().find(|c| c.spec.names.kind == kind)?;
    let schema = crd.spec.versions.into_iter().next()?.schema?.open_api_v3_schema?;
    serde_json::to_value(schema.properties?.get("spec")?).ok()
}

/// All definitions as one YAML stream, the content of the chart's CRD template.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    let mut out = String::new();
    for crd in definitions() {
        out.push_str("---\n");
        out.push_str(&serde_saphyr::to_string(&crd)?);
    }
    Ok(out)
}

/// A Target has exactly the block of its type.
fn one_block(spec: &mut JSONSchemaProps) {
    let rules = crate::target::BLOCKS.iter().map(|(kind, block)| ValidationRule {
        rule: format!("(self.type == '{kind}') == has(self.{block})"),
        message: Some(format!(
            "{block} stands in a target of type {kind}, and in no other"
        )),
        ..ValidationRule::default()
    });
    spec.x_kubernetes_validations = Some(rules.collect());
}

fn each_spec(crd: &mut CustomResourceDefinition, change: &mut dyn FnMut(&mut JSONSchemaProps)) {
    for version in &mut crd.spec.versions {
        let root = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut());
        if let Some(spec) = root
            .and_then(|r| r.properties.as_mut())
            .and_then(|p| p.get_mut("spec"))
        {
            change(spec);
        }
    }
}

fn keep_unknown(schema: &mut JSONSchemaProps) {
    if let Some(properties) = schema.properties.as_mut() {
        schema.x_kubernetes_preserve_unknown_fields = Some(true);
        for child in properties.values_mut() {
            keep_unknown(child);
        }
    }
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray;
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        keep_unknown(items);
    }
}
