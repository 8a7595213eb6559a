//! Targets.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::response::Response;
use holdfast_shared::{CreateTarget, ListQuery, Page, Target, TargetCredentials};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};

use super::{CreateFailures, Failures, ObjectFailures};
use crate::error::{ApiError, Result};
use crate::extract::{Caller, Json, ObjectPath, Query};
use crate::resource::{self, DeleteQuery, NewName, spec_of};

/// One page of targets.
#[utoipa::path(
    get, path = "/api/v1/targets", operation_id = "listTargets", tag = "targets",
    params(ListQuery), responses((status = 200, description = "A page.", body = Page<Target>), Failures)
)]
pub(crate) async fn list_targets(
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Target>>> {
    resource::list::<resource::Target>(&caller, &query).await
}

/// One target.
#[utoipa::path(
    get, path = "/api/v1/targets/{namespace}/{name}", operation_id = "getTarget", tag = "targets",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, description = "The target.", body = Target), ObjectFailures)
)]
pub(crate) async fn get_target(caller: Caller, path: ObjectPath) -> Result<axum::Json<Target>> {
    resource::get::<resource::Target>(&caller, &path).await
}

/// A target as YAML, as `kubectl get -o yaml` shows it.
#[utoipa::path(
    get, path = "/api/v1/targets/{namespace}/{name}/yaml", operation_id = "getTargetYaml", tag = "targets",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The custom resource.", body = String, content_type = "application/yaml"),
        ObjectFailures
    )
)]
pub(crate) async fn get_target_yaml(caller: Caller, path: ObjectPath) -> Result<Response> {
    resource::yaml::<resource::Target>(&caller, &path).await
}

/// Asks for the deletion of a target. What is stored there stays.
#[utoipa::path(
    delete, path = "/api/v1/targets/{namespace}/{name}", operation_id = "deleteTarget", tag = "targets",
    params(("namespace" = String, Path), ("name" = String, Path), DeleteQuery),
    responses((status = 202, description = "It is being deleted."), ObjectFailures)
)]
pub(crate) async fn delete_target(
    caller: Caller,
    path: ObjectPath,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode> {
    resource::delete::<resource::Target>(&caller, &path, query).await
}

/// Creates a target and, when credentials are given, their Secret.
#[utoipa::path(
    post, path = "/api/v1/targets", operation_id = "createTarget", tag = "targets", request_body = CreateTarget,
    responses((status = 201, description = "Created.", body = Target), CreateFailures)
)]
pub(crate) async fn create_target(caller: Caller, Json(body): Json<CreateTarget>) -> Result<Response> {
    let secret = match &body.credentials {
        Some(credentials) => Some(create_secret(&caller, &body, credentials).await?),
        None => None,
    };
    let name = NewName::Exact(body.name.clone());
    let created =
        resource::create::<resource::Target>(&caller, &body.namespace, name, spec_of(&body.spec)?).await;
    if let Some(secret) = secret.filter(|_| created.is_err()) {
        drop_secret(&caller.client, &body.namespace, &secret).await;
    }
    created
}

async fn create_secret(
    caller: &Caller,
    body: &CreateTarget,
    credentials: &TargetCredentials,
) -> Result<Secret> {
    let field = "spec.objectStoreCredentials.credentialSecret";
    let Some(bucket) = &body.spec.object_store_credentials else {
        return Err(ApiError::field(
            "credentials",
            "only a target of type ObjectStore signs in with a key pair",
        ));
    };
    let reference = &bucket.credential_secret;
    if reference
        .namespace
        .as_ref()
        .is_some_and(|namespace| *namespace != body.namespace)
    {
        return Err(ApiError::field(
            format!("{field}.namespace"),
            "credentials are only stored in the target's own namespace",
        ));
    }
    if !crate::extract::is_name(&body.namespace) {
        return Err(ApiError::field("namespace", "this is no name of a namespace"));
    }
    caller
        .notes
        .subject(format!("secrets/{}/{}", body.namespace, reference.name));
    let data = [
        ("accessKey", &credentials.access_key),
        ("secretKey", &credentials.secret_key),
    ];
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(reference.name.clone()),
            ..ObjectMeta::default()
        },
        string_data: Some(
            data.map(|(key, value)| (key.to_owned(), value.clone()))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        ),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let secrets: Api<Secret> = Api::namespaced(caller.client.clone(), &body.namespace);
    Ok(secrets.create(&PostParams::default(), &secret).await?)
}

/// Takes back the Secret of a target that was refused.
async fn drop_secret(client: &Client, namespace: &str, secret: &Secret) {
    let Some(name) = &secret.metadata.name else { return };
    let preconditions = Preconditions {
        uid: secret.metadata.uid.clone(),
        resource_version: None,
    };
    let parameters = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = secrets.delete(name, &parameters).await {
        tracing::warn!(namespace, name, %error, "the Secret of a refused target is left behind");
    }
}
