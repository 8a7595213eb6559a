//! Backups.

use axum::http::StatusCode;
use axum::response::Response;
use holdfast_crd::names::labels;
use holdfast_shared::{
    Backup, BackupSpec, CreateBackup, ListQuery, ObjectRef, Page, VerifyBackup, VerifyScope,
};

use super::{CreateFailures, Failures, ObjectFailures};
use crate::error::Result;
use crate::extract::{Caller, Json, ObjectPath, Query};
use crate::resource::{self, DeleteQuery, NewName, spec_of};

/// One page of backups.
#[utoipa::path(
    get, path = "/api/v1/backups", operation_id = "listBackups", tag = "backups",
    params(ListQuery), responses((status = 200, description = "A page.", body = Page<Backup>), Failures)
)]
pub(crate) async fn list_backups(
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Backup>>> {
    resource::list::<resource::Backup>(&caller, &query).await
}

/// One backup.
#[utoipa::path(
    get, path = "/api/v1/backups/{namespace}/{name}", operation_id = "getBackup", tag = "backups",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, description = "The backup.", body = Backup), ObjectFailures)
)]
pub(crate) async fn get_backup(caller: Caller, path: ObjectPath) -> Result<axum::Json<Backup>> {
    resource::get::<resource::Backup>(&caller, &path).await
}

/// A backup as YAML, as `kubectl get -o yaml` shows it.
#[utoipa::path(
    get, path = "/api/v1/backups/{namespace}/{name}/yaml", operation_id = "getBackupYaml", tag = "backups",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The custom resource.", body = String, content_type = "application/yaml"),
        ObjectFailures
    )
)]
pub(crate) async fn get_backup_yaml(caller: Caller, path: ObjectPath) -> Result<Response> {
    resource::yaml::<resource::Backup>(&caller, &path).await
}

/// Asks for the deletion of a backup. The point on the target goes with it only if its deletion policy is Delete.
#[utoipa::path(
    delete, path = "/api/v1/backups/{namespace}/{name}", operation_id = "deleteBackup", tag = "backups",
    params(("namespace" = String, Path), ("name" = String, Path), DeleteQuery),
    responses((status = 202, description = "It is being deleted."), ObjectFailures)
)]
pub(crate) async fn delete_backup(
    caller: Caller,
    path: ObjectPath,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode> {
    resource::delete::<resource::Backup>(&caller, &path, query).await
}

/// Asks a backup to stop. It ends as Failed with the reason Canceled and leaves nothing behind.
#[utoipa::path(
    post, path = "/api/v1/backups/{namespace}/{name}/cancel", operation_id = "cancelBackup", tag = "backups",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, description = "It was asked to stop.", body = Backup), ObjectFailures)
)]
pub(crate) async fn cancel_backup(caller: Caller, path: ObjectPath) -> Result<axum::Json<Backup>> {
    resource::cancel::<resource::Backup>(&caller, &path).await
}

/// Asks for a verification of the point. The condition `Verified` says what was found.
#[utoipa::path(
    post, path = "/api/v1/backups/{namespace}/{name}/verify", operation_id = "verifyBackup", tag = "backups",
    params(("namespace" = String, Path), ("name" = String, Path)), request_body = VerifyBackup,
    responses((status = 202, description = "It will be verified.", body = Backup), ObjectFailures)
)]
pub(crate) async fn verify_backup(
    caller: Caller,
    path: ObjectPath,
    Json(body): Json<VerifyBackup>,
) -> Result<(StatusCode, axum::Json<Backup>)> {
    let scope = match body.scope {
        VerifyScope::Quick => "quick",
        VerifyScope::Full => "full",
    };
    let asked = resource::label::<resource::Backup>(&caller, &path, labels::VERIFY, scope).await?;
    Ok((StatusCode::ACCEPTED, asked))
}

/// Starts a backup of a plan.
#[utoipa::path(
    post, path = "/api/v1/backups", operation_id = "createBackup", tag = "backups", request_body = CreateBackup,
    responses((status = 201, description = "Created.", body = Backup), CreateFailures)
)]
pub(crate) async fn create_backup(caller: Caller, Json(body): Json<CreateBackup>) -> Result<Response> {
    let name = match body.name {
        Some(name) => NewName::Exact(name),
        None => NewName::Prefix(body.backup_plan.clone()),
    };
    let spec = BackupSpec {
        kind: body.kind,
        backup_plan: ObjectRef::local(body.backup_plan),
        deletion_policy: body.deletion_policy,
        cancel: false,
        requester: None,
    };
    resource::create::<resource::Backup>(&caller, &body.namespace, name, spec_of(&spec)?).await
}
