//! Backup plans.

use axum::http::StatusCode;
use axum::response::Response;
use holdfast_shared::{BackupPlan, CreateBackupPlan, ListQuery, Page};

use super::{CreateFailures, Failures, ObjectFailures};
use crate::error::Result;
use crate::extract::{Caller, Json, ObjectPath, Query};
use crate::resource::{self, DeleteQuery, NewName, spec_of};

/// One page of backup plans.
#[utoipa::path(
    get, path = "/api/v1/backupplans", operation_id = "listBackupPlans", tag = "backupplans",
    params(ListQuery), responses((status = 200, description = "A page.", body = Page<BackupPlan>), Failures)
)]
pub(crate) async fn list_backup_plans(
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<BackupPlan>>> {
    resource::list::<resource::BackupPlan>(&caller, &query).await
}

/// One backup plan.
#[utoipa::path(
    get, path = "/api/v1/backupplans/{namespace}/{name}", operation_id = "getBackupPlan", tag = "backupplans",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, description = "The backup plan.", body = BackupPlan), ObjectFailures)
)]
pub(crate) async fn get_backup_plan(caller: Caller, path: ObjectPath) -> Result<axum::Json<BackupPlan>> {
    resource::get::<resource::BackupPlan>(&caller, &path).await
}

/// A backup plan as YAML, as `kubectl get -o yaml` shows it.
#[utoipa::path(
    get, path = "/api/v1/backupplans/{namespace}/{name}/yaml", operation_id = "getBackupPlanYaml", tag = "backupplans",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The custom resource.", body = String, content_type = "application/yaml"),
        ObjectFailures
    )
)]
pub(crate) async fn get_backup_plan_yaml(caller: Caller, path: ObjectPath) -> Result<Response> {
    resource::yaml::<resource::BackupPlan>(&caller, &path).await
}

/// Asks for the deletion of a backup plan. Its points stay on the target.
#[utoipa::path(
    delete, path = "/api/v1/backupplans/{namespace}/{name}", operation_id = "deleteBackupPlan", tag = "backupplans",
    params(("namespace" = String, Path), ("name" = String, Path), DeleteQuery),
    responses((status = 202, description = "It is being deleted."), ObjectFailures)
)]
pub(crate) async fn delete_backup_plan(
    caller: Caller,
    path: ObjectPath,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode> {
    resource::delete::<resource::BackupPlan>(&caller, &path, query).await
}

/// Creates a backup plan.
#[utoipa::path(
    post, path = "/api/v1/backupplans", operation_id = "createBackupPlan", tag = "backupplans",
    request_body = CreateBackupPlan,
    responses((status = 201, description = "Created.", body = BackupPlan), CreateFailures)
)]
pub(crate) async fn create_backup_plan(
    caller: Caller,
    Json(body): Json<CreateBackupPlan>,
) -> Result<Response> {
    let spec = spec_of(&body.spec)?;
    resource::create::<resource::BackupPlan>(&caller, &body.namespace, NewName::Exact(body.name), spec).await
}
