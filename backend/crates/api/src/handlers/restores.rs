//! Restores.

use axum::http::StatusCode;
use axum::response::Response;
use holdfast_shared::{CreateRestore, ListQuery, Page, Restore, RestoreSpec};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::Value;

use super::{CreateFailures, Failures, ObjectFailures};
use crate::error::Result;
use crate::extract::{Caller, Json, ObjectPath, Query};
use crate::resource::{self, DeleteQuery, NewName, spec_of};

/// One page of restores.
#[utoipa::path(
    get, path = "/api/v1/restores", operation_id = "listRestores", tag = "restores",
    params(ListQuery), responses((status = 200, description = "A page.", body = Page<Restore>), Failures)
)]
pub(crate) async fn list_restores(
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Restore>>> {
    resource::list::<resource::Restore>(&caller, &query).await
}

/// One restore.
#[utoipa::path(
    get, path = "/api/v1/restores/{namespace}/{name}", operation_id = "getRestore", tag = "restores",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, description = "The restore.", body = Restore), ObjectFailures)
)]
pub(crate) async fn get_restore(caller: Caller, path: ObjectPath) -> Result<axum::Json<Restore>> {
    resource::get::<resource::Restore>(&caller, &path).await
}

/// A restore as YAML, as `kubectl get -o yaml` shows it.
#[utoipa::path(
    get, path = "/api/v1/restores/{namespace}/{name}/yaml", operation_id = "getRestoreYaml", tag = "restores",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The custom resource.", body = String, content_type = "application/yaml"),
        ObjectFailures
    )
)]
pub(crate) async fn get_restore_yaml(caller: Caller, path: ObjectPath) -> Result<Response> {
    resource::yaml::<resource::Restore>(&caller, &path).await
}

/// Asks for the deletion of a restore. What it restored stays.
#[utoipa::path(
    delete, path = "/api/v1/restores/{namespace}/{name}", operation_id = "deleteRestore", tag = "restores",
    params(("namespace" = String, Path), ("name" = String, Path), DeleteQuery),
    responses((status = 202, description = "It is being deleted."), ObjectFailures)
)]
pub(crate) async fn delete_restore(
    caller: Caller,
    path: ObjectPath,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode> {
    resource::delete::<resource::Restore>(&caller, &path, query).await
}

/// Asks a restore to stop. It ends as Failed with the reason Canceled and leaves nothing behind.
#[utoipa::path(
    post, path = "/api/v1/restores/{namespace}/{name}/cancel", operation_id = "cancelRestore", tag = "restores",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, description = "It was asked to stop.", body = Restore), ObjectFailures)
)]
pub(crate) async fn cancel_restore(caller: Caller, path: ObjectPath) -> Result<axum::Json<Restore>> {
    resource::cancel::<resource::Restore>(&caller, &path).await
}

/// Starts a restore, in a namespace that is created first when asked for.
#[utoipa::path(
    post, path = "/api/v1/restores", operation_id = "createRestore", tag = "restores", request_body = CreateRestore,
    responses((status = 201, description = "Created.", body = Restore), CreateFailures)
)]
pub(crate) async fn create_restore(caller: Caller, Json(body): Json<CreateRestore>) -> Result<Response> {
    let spec = spec_of(&RestoreSpec {
        source: body.source,
        restore_namespace: body.restore_namespace,
        encryption: body.encryption,
        cancel: false,
        requester: None,
    })?;
    let name = body.name.as_deref();
    let first = create(&caller, &body.namespace, name, &spec).await;
    match first {
        // Tried first as it is: who may restore in a namespace that exists need not be allowed to create one.
        Err(error) if error.is_not_found() && body.create_namespace => {
            let namespace = create_namespace(&caller, &body.namespace).await?;
            let second = create(&caller, &body.namespace, name, &spec).await;
            if second.is_err() {
                drop_namespace(&caller.client, &namespace).await;
            }
            second
        }
        first => first,
    }
}

async fn create(caller: &Caller, namespace: &str, name: Option<&str>, spec: &Value) -> Result<Response> {
    let name = name.map_or_else(
        || NewName::Prefix("restore".to_owned()),
        |name| NewName::Exact(name.to_owned()),
    );
    resource::create::<resource::Restore>(caller, namespace, name, spec.clone()).await
}

async fn create_namespace(caller: &Caller, name: &str) -> Result<Namespace> {
    caller.notes.subject(format!("namespaces/{name}"));
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    };
    let namespace = Namespace {
        metadata,
        ..Namespace::default()
    };
    Ok(Api::all(caller.client.clone())
        .create(&PostParams::default(), &namespace)
        .await?)
}

/// Takes back the namespace of a restore that was refused.
async fn drop_namespace(client: &Client, namespace: &Namespace) {
    let Some(name) = &namespace.metadata.name else {
        return;
    };
    let preconditions = Preconditions {
        uid: namespace.metadata.uid.clone(),
        resource_version: None,
    };
    let parameters = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    if let Err(error) = Api::<Namespace>::all(client.clone())
        .delete(name, &parameters)
        .await
    {
        tracing::warn!(name, %error, "the namespace of a refused restore is left behind");
    }
}
