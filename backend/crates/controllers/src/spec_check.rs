//! The checks of admission again, for resources that came in without it.

use holdfast_core::schema::check_fields;
use holdfast_core::spec::{Place, contradictions};
use holdfast_crd::generate::spec_schema;
use holdfast_crd::names::reasons;
use kube::api::GetParams;
use kube::core::{NamespaceResourceScope, Request};
use kube::{Resource, ResourceExt};
use serde_json::Value;

use crate::Context;
use crate::failure::Failure;

/// Checks the spec as it is stored, unknown fields included; they are gone from the typed object.
pub(crate) async fn check_spec<K>(ctx: &Context, object: &K) -> Result<(), Failure>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let namespace = object.namespace().unwrap_or_default();
    let request = Request::new(K::url_path(&(), Some(&namespace)))
        .get(&object.name_any(), &GetParams::default())
        .map_err(kube::Error::BuildRequest)?;
    let stored: Value = ctx.client.request(request).await?;
    let kind = K::kind(&());
    let spec = stored.get("spec").unwrap_or(&Value::Null);
    let unknown = spec_schema(&kind)
        .map(|schema| check_fields(&schema, spec))
        .unwrap_or_default();
    let place = Place {
        namespace: &namespace,
        install_namespace: &ctx.install_namespace,
    };
    let mut problems: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    problems.extend(contradictions(&kind, spec, place));
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Failure::lasting(reasons::INVALID_SPEC, problems.join("; ")))
    }
}
