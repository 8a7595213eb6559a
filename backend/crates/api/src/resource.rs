//! The same five things for every kind, as the signed-in person: list, get, create, delete, YAML.
//!
//! Objects stay untyped between the API server and the answer, so that YAML shows what is there, fields of a newer
//! operator included.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use holdfast_shared::{ListQuery, Page};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::extract::{Caller, ObjectPath, is_name};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 500;
/// Pages that one search reads at most; it goes on with the answer's `continue`.
const MAX_PAGES: usize = 20;

/// A kind of ours: its custom resource and how it is said on the wire.
pub(crate) trait Kind {
    /// The custom resource.
    type Custom: kube::Resource<DynamicType = ()>;
    /// What the console reads.
    type Wire: DeserializeOwned + Serialize + Send;
}

macro_rules! kinds {
    ($($name:ident),*) => {$(
        pub(crate) enum $name {}
        impl Kind for $name {
            type Custom = holdfast_crd::$name;
            type Wire = holdfast_shared::$name;
        }
    )*};
}
kinds!(Target, BackupPlan, Backup, Restore, VolumeTransfer);

/// The kind for a dynamic client.
pub(crate) fn api_resource<K: Kind>() -> ApiResource {
    ApiResource::erase::<K::Custom>(&())
}

/// All objects of the kind, or those of one namespace.
pub(crate) fn api<K: Kind>(client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = api_resource::<K>();
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// An object as the console reads it.
pub(crate) fn wire<K: Kind>(object: &DynamicObject) -> Result<K::Wire> {
    let value = serde_json::to_value(object).map_err(|error| ApiError::internal(&error))?;
    serde_json::from_value(value).map_err(|error| {
        tracing::error!(
            namespace = object.namespace(), name = object.name_any(), %error, "an object does not fit its own schema"
        );
        let message = format!("{} cannot be read: {error}", object.name_any());
        ApiError::new(StatusCode::BAD_GATEWAY, "unreadable", message)
    })
}

/// One page of a kind.
pub(crate) async fn list<K: Kind>(caller: &Caller, query: &ListQuery) -> Result<axum::Json<Page<K::Wire>>> {
    let api = api::<K>(&caller.client, namespace_of(query)?);
    let page = page_of(&api, query).await?;
    // An object that does not fit is logged by `wire`; one of them must not hide all others.
    let items = page
        .items
        .iter()
        .filter_map(|object| wire::<K>(object).ok())
        .collect();
    Ok(axum::Json(Page {
        items,
        continue_token: page.continue_token,
    }))
}

/// The namespace of a query, checked.
pub(crate) fn namespace_of(query: &ListQuery) -> Result<Option<&str>> {
    match query
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty())
    {
        Some(namespace) if !is_name(namespace) => {
            Err(ApiError::field("namespace", "this is no name of a namespace"))
        }
        namespace => Ok(namespace),
    }
}

/// One page of any objects: never more than asked for, and all that is there when `continue` is absent.
pub(crate) async fn page_of<T>(api: &Api<T>, query: &ListQuery) -> Result<Page<T>>
where
    T: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(ApiError::field(
            "limit",
            format!("it must be between 1 and {MAX_LIMIT}"),
        ));
    }
    let search = query.search.as_deref().unwrap_or_default().trim().to_lowercase();
    let mut token = query.continue_token.clone().filter(|token| !token.is_empty());
    let mut found = Vec::new();
    for _ in 0..MAX_PAGES {
        let missing = limit - u32::try_from(found.len()).unwrap_or(limit);
        let mut parameters = ListParams::default().limit(missing);
        parameters.continue_token = token;
        let page = api.list(&parameters).await?;
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        found.extend(page.items.into_iter().filter(|object| matches(object, &search)));
        if token.is_none() || found.len() >= limit as usize {
            break;
        }
    }
    Ok(Page {
        items: found,
        continue_token: token,
    })
}

fn matches<T: kube::Resource>(object: &T, search: &str) -> bool {
    let meta = object.meta();
    let holds = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains(search));
    search.is_empty() || holds(&meta.name) || holds(&meta.namespace)
}

/// Every object of the kind in a namespace or everywhere.
pub(crate) async fn all<K: Kind>(client: &Client, namespace: Option<&str>) -> Result<Vec<K::Wire>> {
    let api = api::<K>(client, namespace);
    let mut parameters = ListParams::default().limit(MAX_LIMIT);
    let mut found = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        found.extend(page.items.iter().filter_map(|object| wire::<K>(object).ok()));
        parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if parameters.continue_token.is_none() {
            return Ok(found);
        }
    }
}

/// One object.
pub(crate) async fn get<K: Kind>(caller: &Caller, path: &ObjectPath) -> Result<axum::Json<K::Wire>> {
    let object = api::<K>(&caller.client, Some(&path.namespace))
        .get(&path.name)
        .await?;
    Ok(axum::Json(wire::<K>(&object)?))
}

/// Name of an object to be created.
pub(crate) enum NewName {
    /// This one.
    Exact(String),
    /// This and a random end.
    Prefix(String),
}

/// Creates an object; the answer is 201 with its address.
pub(crate) async fn create<K: Kind>(
    caller: &Caller,
    namespace: &str,
    name: NewName,
    spec: Value,
) -> Result<Response> {
    let resource = api_resource::<K>();
    let mut metadata = json!({"namespace": namespace});
    match &name {
        NewName::Exact(name) => metadata["name"] = name.as_str().into(),
        NewName::Prefix(prefix) => metadata["generateName"] = format!("{prefix}-").into(),
    }
    let (NewName::Exact(shown) | NewName::Prefix(shown)) = &name;
    caller
        .notes
        .subject(format!("{}/{namespace}/{shown}", resource.plural));
    if !is_name(namespace) {
        return Err(ApiError::field("namespace", "this is no name of a namespace"));
    }
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec,
    }))
    .map_err(|error| ApiError::internal(&error))?;
    let created = api::<K>(&caller.client, Some(namespace))
        .create(&PostParams::default(), &object)
        .await?;
    caller
        .notes
        .subject(format!("{}/{namespace}/{}", resource.plural, created.name_any()));
    let address = format!("/api/v1/{}/{namespace}/{}", resource.plural, created.name_any());
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, address)],
        axum::Json(wire::<K>(&created)?),
    )
        .into_response())
}

/// Query of a delete.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteQuery {
    /// Only the object with this UID: not a later one of the same name.
    #[serde(default)]
    pub(crate) uid: Option<String>,
}

/// Asks for the deletion of an object.
pub(crate) async fn delete<K: Kind>(
    caller: &Caller,
    path: &ObjectPath,
    query: DeleteQuery,
) -> Result<StatusCode> {
    let preconditions = query.uid.map(|uid| Preconditions {
        uid: Some(uid),
        resource_version: None,
    });
    let parameters = DeleteParams {
        preconditions,
        ..DeleteParams::default()
    };
    api::<K>(&caller.client, Some(&path.namespace))
        .delete(&path.name, &parameters)
        .await?;
    Ok(StatusCode::ACCEPTED)
}

/// Asks a run to stop.
pub(crate) async fn cancel<K: Kind>(caller: &Caller, path: &ObjectPath) -> Result<axum::Json<K::Wire>> {
    let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
    let api = api::<K>(&caller.client, Some(&path.namespace));
    let object = api.patch(&path.name, &PatchParams::default(), &patch).await?;
    Ok(axum::Json(wire::<K>(&object)?))
}

/// Puts a label on an object.
pub(crate) async fn label<K: Kind>(
    caller: &Caller,
    path: &ObjectPath,
    key: &str,
    value: &str,
) -> Result<axum::Json<K::Wire>> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
    let api = api::<K>(&caller.client, Some(&path.namespace));
    let object = api.patch(&path.name, &PatchParams::default(), &patch).await?;
    Ok(axum::Json(wire::<K>(&object)?))
}

/// The object as `kubectl get -o yaml` shows it.
pub(crate) async fn yaml<K: Kind>(caller: &Caller, path: &ObjectPath) -> Result<Response> {
    let mut object = api::<K>(&caller.client, Some(&path.namespace))
        .get(&path.name)
        .await?;
    object.metadata.managed_fields = None;
    let text = serde_saphyr::to_string(&object).map_err(|error| ApiError::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], text).into_response())
}

/// A body's spec as JSON.
pub(crate) fn spec_of<T: Serialize>(spec: &T) -> Result<Value> {
    serde_json::to_value(spec).map_err(|error| ApiError::internal(&error))
}
