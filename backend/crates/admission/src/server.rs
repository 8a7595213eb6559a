//! The HTTPS server that the API server calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use futures::StreamExt;
use kube::Client;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use tokio_util::sync::CancellationToken;

use crate::certificate::Material;
use crate::gate::{self, Gate};
use crate::keeper::Keeper;
use crate::review::Reviewer;
use crate::{AdmissionError, CertificateError, Config};

/// Pause after a failed look at Secret and configurations.
const PAUSE: Duration = Duration::from_secs(3);
/// Time that calls under way get when the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// Serves admission until `stop`: makes or adopts the certificate, tells the API server to trust it, then listens.
///
/// The port opens only when the certificate is trusted, so an open port means ready; `/readyz` answers on it.
///
/// # Errors
/// When the port cannot be opened or the server ends by itself.
pub async fn serve(config: Config, client: Client, stop: CancellationToken) -> Result<(), AdmissionError> {
    let keeper = Keeper::new(client.clone(), &config);
    let Some(material) = first(&keeper, &stop).await else {
        return Ok(());
    };
    let tls = RustlsConfig::from_config(server_config(&material)?);
    let handle = Handle::new();
    let reviewer = Arc::new(Reviewer::new(client, &config.install_namespace));
    let server = axum_server::bind_rustls(config.listen, tls.clone())
        .handle(handle.clone())
        .serve(router(reviewer).into_make_service_with_connect_info::<SocketAddr>());
    let keep = keep(&keeper, material, &tls);
    tracing::info!(address = %config.listen, "admission serves");
    tokio::pin!(server);
    let ended = tokio::select! {
        ended = &mut server => ended,
        () = keep => unreachable!("the watch of our own objects never ends"),
        () = stop.cancelled() => {
            handle.graceful_shutdown(Some(GRACE));
            server.await
        }
    };
    match ended {
        Ok(()) if stop.is_cancelled() => Ok(()),
        Ok(()) => Err(listen_error(&config, std::io::Error::other("it ended by itself"))),
        Err(source) => Err(listen_error(&config, source)),
    }
}

fn listen_error(config: &Config, source: std::io::Error) -> AdmissionError {
    AdmissionError::Listen {
        address: config.listen,
        source,
    }
}

fn server_config(material: &Material) -> Result<Arc<rustls::ServerConfig>, CertificateError> {
    let unusable = |problem| CertificateError::Unusable {
        secret: "admission".to_owned(),
        problem,
    };
    material.server_config().map_err(unusable)
}

/// Tries until there is a certificate; `None` when told to stop before.
async fn first(keeper: &Keeper, stop: &CancellationToken) -> Option<Material> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            result = keeper.step() => match result {
                Ok(material) => return Some(material),
                Err(error) => tracing::warn!(%error, "no certificate for admission yet"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Looks again whenever something changed and serves what is current. Never ends.
async fn keep(keeper: &Keeper, mut current: Material, tls: &RustlsConfig) {
    let mut changes = keeper.changes();
    let mut again = false;
    loop {
        if again {
            tokio::time::sleep(PAUSE).await;
        } else {
            changes.next().await;
        }
        let step = keeper.step().await;
        again = step.is_err();
        let next = match step {
            Ok(next) if next != current => next,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%error, "certificate or webhook configurations not looked after; trying again");
                continue;
            }
        };
        match server_config(&next) {
            Ok(config) => {
                tls.reload_from_config(config);
                current = next;
                tracing::info!("admission serves a new certificate");
            }
            Err(error) => tracing::error!(%error, "new certificate not served"),
        }
    }
}

fn router(reviewer: Arc<Reviewer>) -> Router {
    Router::new()
        .route("/mutate", post(mutate))
        .route("/validate", post(validate))
        .layer(middleware::from_fn_with_state(Arc::new(Gate::new()), gate::pass))
        .layer(DefaultBodyLimit::max(gate::MAX_BODY))
        // Ready is ready, however many callers there are.
        .route("/readyz", get(|| async { "ok" }))
        .with_state(reviewer)
}

type Review = AdmissionReview<DynamicObject>;

async fn mutate(State(reviewer): State<Arc<Reviewer>>, Json(review): Json<Review>) -> Json<Review> {
    Json(answer(review, |request| async move { reviewer.mutate(&request).await }).await)
}

async fn validate(State(reviewer): State<Arc<Reviewer>>, Json(review): Json<Review>) -> Json<Review> {
    Json(answer(review, |request| async move { reviewer.validate(&request).await }).await)
}

async fn answer<F>(review: Review, decide: impl FnOnce(AdmissionRequest<DynamicObject>) -> F) -> Review
where
    F: Future<Output = AdmissionResponse>,
{
    match TryInto::<AdmissionRequest<DynamicObject>>::try_into(review) {
        Ok(request) => decide(request).await.into_review(),
        Err(error) => AdmissionResponse::invalid(error).into_review(),
    }
}
