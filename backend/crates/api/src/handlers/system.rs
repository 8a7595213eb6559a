//! The server itself. No session is needed here, and nothing of a cluster's content is shown.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use holdfast_shared::ServerInfo;

use crate::error::{ApiError, Result, chain};
use crate::state::App;

/// How long a dependency may take to answer a readiness check.
const READY_DEADLINE: Duration = Duration::from_secs(5);

/// Whether the process lives.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "system", security(()),
    responses((status = 200, description = "It lives.", body = String))
)]
pub(crate) async fn healthz() -> &'static str {
    "ok"
}

/// Whether requests can be served: the database and the cluster's API server answer, and no stop is under way.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "system", security(()),
    responses(
        (status = 200, description = "Ready.", body = String),
        (status = 503, description = "Not ready; the text says why.", body = String)
    )
)]
pub(crate) async fn readyz(State(app): State<App>) -> Response {
    match not_ready(&app).await {
        None => "ok".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn not_ready(app: &App) -> Option<&'static str> {
    if app.stopping().is_cancelled() {
        return Some("stopping");
    }
    match tokio::time::timeout(READY_DEADLINE, app.database().ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "not ready: database");
            return Some("the database failed");
        }
        Err(_) => return Some("the database does not answer"),
    }
    match tokio::time::timeout(READY_DEADLINE, app.cluster().ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "not ready: API server");
            Some("the cluster's API server failed")
        }
        Err(_) => Some("the cluster's API server does not answer"),
    }
}

/// Metrics in the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "system", security(()),
    responses((status = 200, description = "Metrics.", body = String))
)]
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response> {
    let sessions = app
        .database()
        .count_sessions()
        .await
        .map_err(|error| ApiError::internal(&error))?;
    app.metrics()
        .sessions
        .set(i64::try_from(sessions).unwrap_or(i64::MAX));
    let text = app.metrics().text().map_err(|error| ApiError::internal(&error))?;
    Ok((
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response())
}

/// Version of the server and name of the cluster.
#[utoipa::path(
    get, path = "/api/v1/version", operation_id = "getVersion", tag = "system", security(()),
    responses((status = 200, description = "Version.", body = ServerInfo))
)]
pub(crate) async fn version(State(app): State<App>) -> axum::Json<ServerInfo> {
    axum::Json(ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: app.cluster().name().to_owned(),
    })
}

/// Everything unknown under `/api`.
pub(crate) async fn unknown() -> Response {
    StatusCode::NOT_FOUND.into_response()
}
