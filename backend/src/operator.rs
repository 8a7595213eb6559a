//! The operator role: controllers on the leader, admission and metrics on every replica.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use holdfast_controllers::{Config, Limits, Metrics, MoverSettings};
use holdfast_k8s::Cluster;
use prometheus::{Registry, TextEncoder};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli;

/// Names that the chart gives to the webhook Service and configurations.
const ADMISSION_SERVICE: &str = "holdfast-admission";
const WEBHOOKS: &str = "holdfast";

pub(crate) async fn run(flags: cli::Operator, stop: CancellationToken) -> anyhow::Result<()> {
    let cli::Operator {
        install_namespace,
        instance,
        mover_settings,
        limits,
        recovery_recipients,
        admission_listen,
        metrics_listen,
    } = flags;
    let mover: MoverSettings = read(&mover_settings)?;
    let limits: Limits = match limits {
        Some(path) => read(&path)?,
        None => Limits::default(),
    };
    let cluster = Cluster::connect().await?;
    let registry = Registry::new();
    let metrics = Metrics::register(&registry)?;
    let admission = holdfast_admission::Config {
        install_namespace: install_namespace.clone(),
        service_name: ADMISSION_SERVICE.to_owned(),
        webhook_name: WEBHOOKS.to_owned(),
        listen: admission_listen,
    };
    let client = cluster.client();
    let controllers = Config {
        cluster,
        install_namespace,
        instance,
        mover,
        limits,
        recovery: recovery_recipients,
        metrics,
    };
    // Whatever ends first ends the process: without admission or metrics a leader must not go on half alive.
    tokio::select! {
        ended = async {
            tokio::try_join!(
                async { Ok(Box::pin(holdfast_controllers::run(controllers, stop.clone())).await?) },
                async { Ok(holdfast_admission::serve(admission, client, stop.clone()).await?) },
                serve_metrics(metrics_listen, admission_listen, registry, stop.clone()),
            )
        } => ended.map(|_: ((), (), ())| ()),
        () = async { stop.cancelled().await; tokio::time::sleep(std::time::Duration::from_secs(20)).await } => {
            anyhow::bail!("still busy 20 s after being asked to stop; the next leader goes on")
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not valid", path.display()))
}

/// Metrics, liveness, and readiness: a replica is ready when its admission listens, leader or not.
async fn serve_metrics(
    address: SocketAddr,
    admission: SocketAddr,
    registry: Registry,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(move || ready(admission)))
        .route("/metrics", get(metrics))
        .with_state(registry);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))?;
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("serving metrics")
}

async fn ready(admission: SocketAddr) -> (StatusCode, &'static str) {
    let local = SocketAddr::from(([127, 0, 0, 1], admission.port()));
    let connect = tokio::net::TcpStream::connect(local);
    match tokio::time::timeout(std::time::Duration::from_secs(1), connect).await {
        Ok(Ok(_)) => (StatusCode::OK, "ok"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "admission does not listen yet"),
    }
}

async fn metrics(State(registry): State<Registry>) -> Result<String, StatusCode> {
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .map_err(|error| {
            tracing::error!(%error, "metrics do not encode");
            StatusCode::INTERNAL_SERVER_ERROR
        })
}
