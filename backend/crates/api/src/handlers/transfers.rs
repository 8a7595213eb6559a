//! Volume-transfers, read only.

use holdfast_shared::{ListQuery, Page, VolumeTransfer};

use super::{Failures, ObjectFailures};
use crate::error::Result;
use crate::extract::{Caller, ObjectPath, Query};
use crate::resource;

/// One page of volume-transfers.
#[utoipa::path(
    get, path = "/api/v1/volumetransfers", operation_id = "listVolumeTransfers", tag = "volumetransfers",
    params(ListQuery), responses((status = 200, description = "A page.", body = Page<VolumeTransfer>), Failures)
)]
pub(crate) async fn list_volume_transfers(
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<VolumeTransfer>>> {
    resource::list::<resource::VolumeTransfer>(&caller, &query).await
}

/// One volume-transfer.
#[utoipa::path(
    get, path = "/api/v1/volumetransfers/{namespace}/{name}", operation_id = "getVolumeTransfer", tag = "volumetransfers",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, description = "The volume-transfer.", body = VolumeTransfer), ObjectFailures)
)]
pub(crate) async fn get_volume_transfer(
    caller: Caller,
    path: ObjectPath,
) -> Result<axum::Json<VolumeTransfer>> {
    resource::get::<resource::VolumeTransfer>(&caller, &path).await
}
