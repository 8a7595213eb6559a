//! Addresses and what surrounds them.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::any;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::handlers::{backups, events, namespaces, plans, restores, session, system, targets, transfers};
use crate::openapi::Document;
use crate::state::App;
use crate::{console, middleware};

/// Largest body of a request, in bytes; a sign-in with a kubeconfig is the largest there is.
const MAX_BODY: usize = 1024 * 1024;

/// Every described route.
pub(crate) fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::metrics))
        .routes(routes!(system::version))
        .routes(routes!(session::sign_in, session::get_session, session::sign_out))
        .routes(routes!(namespaces::list_namespaces))
        .routes(routes!(namespaces::get_namespace))
        .routes(routes!(targets::list_targets, targets::create_target))
        .routes(routes!(targets::get_target, targets::delete_target))
        .routes(routes!(targets::get_target_yaml))
        .routes(routes!(plans::list_backup_plans, plans::create_backup_plan))
        .routes(routes!(plans::get_backup_plan, plans::delete_backup_plan))
        .routes(routes!(plans::get_backup_plan_yaml))
        .routes(routes!(backups::list_backups, backups::create_backup))
        .routes(routes!(backups::get_backup, backups::delete_backup))
        .routes(routes!(backups::get_backup_yaml))
        .routes(routes!(backups::cancel_backup))
        .routes(routes!(backups::verify_backup))
        .routes(routes!(restores::list_restores, restores::create_restore))
        .routes(routes!(restores::get_restore, restores::delete_restore))
        .routes(routes!(restores::get_restore_yaml))
        .routes(routes!(restores::cancel_restore))
        .routes(routes!(transfers::list_volume_transfers))
        .routes(routes!(transfers::get_volume_transfer))
        .routes(routes!(events::stream_events))
}

/// Everything the server answers, ready to be served.
pub fn router(app: App) -> Router {
    let (routes, _) = described().split_for_parts();
    // The last layer added is the first that a request meets.
    routes
        .route("/api", any(system::unknown))
        .route("/api/", any(system::unknown))
        .route("/api/{*rest}", any(system::unknown))
        .fallback(console::serve)
        .layer(from_fn(middleware::deadline))
        .layer(from_fn(middleware::guard))
        .layer(from_fn_with_state(app.clone(), middleware::audit))
        .layer(from_fn_with_state(app.clone(), middleware::authenticate))
        .layer(CatchPanicLayer::new())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(CompressionLayer::new().gzip(true))
        .layer(from_fn_with_state(app.clone(), middleware::observe))
        .with_state(app)
}
