//! Namespaces and whether they could be brought back.

use holdfast_shared::{ListQuery, NamespaceProtection, Page};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _};

use super::{Failures, ObjectFailures};
use crate::error::{ApiError, Result};
use crate::extract::{Caller, NamePath, Query};
use crate::protection::Protections;
use crate::resource;

/// One page of namespaces with their protection. Needs the right to list namespaces, plans and backups everywhere; who
/// has it in single namespaces only asks for each by name.
#[utoipa::path(
    get, path = "/api/v1/namespaces", operation_id = "listNamespaces", tag = "namespaces",
    params(ListQuery),
    responses((status = 200, description = "A page.", body = Page<NamespaceProtection>), Failures)
)]
pub(crate) async fn list_namespaces(
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<NamespaceProtection>>> {
    if query.namespace.is_some() {
        return Err(ApiError::field(
            "namespace",
            "namespaces lie in no namespace; use `search`, or get one by name",
        ));
    }
    let namespaces: Api<Namespace> = Api::all(caller.client.clone());
    let page = resource::page_of(&namespaces, &query).await?;
    let protections = read(&caller, None).await?;
    let items = page
        .items
        .iter()
        .map(|namespace| describe(namespace, &protections))
        .collect();
    Ok(axum::Json(Page {
        items,
        continue_token: page.continue_token,
    }))
}

/// One namespace with its protection.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{name}", operation_id = "getNamespace", tag = "namespaces",
    params(("name" = String, Path)),
    responses((status = 200, description = "The namespace.", body = NamespaceProtection), ObjectFailures)
)]
pub(crate) async fn get_namespace(
    caller: Caller,
    NamePath(name): NamePath,
) -> Result<axum::Json<NamespaceProtection>> {
    let namespaces: Api<Namespace> = Api::all(caller.client.clone());
    let namespace = namespaces.get(&name).await?;
    let protections = read(&caller, Some(&name)).await?;
    Ok(axum::Json(describe(&namespace, &protections)))
}

async fn read(caller: &Caller, namespace: Option<&str>) -> Result<Protections> {
    let (plans, backups) = tokio::try_join!(
        resource::all::<resource::BackupPlan>(&caller.client, namespace),
        resource::all::<resource::Backup>(&caller.client, namespace),
    )?;
    Ok(Protections::new(plans, backups))
}

fn describe(namespace: &Namespace, protections: &Protections) -> NamespaceProtection {
    let terminating = namespace.metadata.deletion_timestamp.is_some();
    protections.of(&namespace.name_any(), terminating, Timestamp::now())
}
