//! Listens, with or without TLS, until told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::router::router;
use crate::state::App;

/// Answers under way get so long after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request.
const HEADER_DEADLINE: Duration = Duration::from_secs(15);
/// How often certificate files are looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(30);
/// How often what is over is removed.
const SWEEP: Duration = Duration::from_secs(300);
/// How long audit entries stay in the database; on standard output they stay as long as logs do.
const AUDIT_KEPT: SignedDuration = SignedDuration::from_hours(24 * 365);

/// Where to listen.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// Certificate and key; plain HTTP when absent.
    pub tls: Option<Tls>,
}

/// Files of a serving certificate. They are read again when they change.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// Why the server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Certificate or key cannot be used.
    #[error("cannot use the certificate {certificate} with the key {key}")]
    Certificate {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Serves until `stopping` is cancelled, then lets answers under way end and writes finish.
///
/// # Errors
/// When the certificate cannot be used or the address cannot be listened on.
pub async fn serve(listener: Listener, app: App, stopping: CancellationToken) -> Result<(), ServeError> {
    let handle = Handle::new();
    let service = router(app.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let background = CancellationToken::new();
    let _stop_background = background.clone().drop_guard();
    app.writes().spawn(sweep(app.clone(), background.clone()));
    app.writes()
        .spawn(stop_when(stopping, handle.clone(), background.clone()));

    tracing::info!(address = %listener.address, tls = listener.tls.is_some(), "listening");
    let address = listener.address;
    let served = match listener.tls {
        Some(tls) => {
            let config = load(&tls).await?;
            app.writes()
                .spawn(reload(tls, config.clone(), CERTIFICATE_CHECK, background.clone()));
            let mut server = axum_server::bind_rustls(address, config).handle(handle);
            limit(server.http_builder());
            server.serve(service).await
        }
        None => {
            let mut server = axum_server::bind(address).handle(handle);
            limit(server.http_builder());
            server.serve(service).await
        }
    };
    background.cancel();
    app.writes().close();
    if tokio::time::timeout(DRAIN, app.writes().wait()).await.is_err() {
        tracing::warn!("some writes did not end in time");
    }
    served.map_err(|source| ServeError::Listen { address, source })
}

/// A client that sends its request byte by byte must not hold a connection for ever.
fn limit(http: &mut Builder<TokioExecutor>) {
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE);
}

async fn stop_when(stopping: CancellationToken, handle: Handle<SocketAddr>, served: CancellationToken) {
    if served.run_until_cancelled(stopping.cancelled()).await.is_some() {
        handle.graceful_shutdown(Some(DRAIN));
    }
}

async fn load(tls: &Tls) -> Result<RustlsConfig, ServeError> {
    RustlsConfig::from_pem_file(&tls.certificate, &tls.key)
        .await
        .map_err(|source| ServeError::Certificate {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            source,
        })
}

/// Takes new certificates into use as cert-manager or the kubelet writes them; a broken one leaves the old in use.
async fn reload(tls: Tls, config: RustlsConfig, every: Duration, stopped: CancellationToken) {
    let mut seen = changed(&tls).await;
    while stopped
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        let now = changed(&tls).await;
        if now == seen {
            continue;
        }
        match config.reload_from_pem_file(&tls.certificate, &tls.key).await {
            Ok(()) => {
                seen = now;
                tracing::info!(certificate = %tls.certificate.display(), "certificate reloaded");
            }
            Err(error) => tracing::error!(%error, "the new certificate cannot be used; the old one stays"),
        }
    }
}

async fn changed(tls: &Tls) -> [Option<SystemTime>; 2] {
    let time = async |path: &PathBuf| {
        tokio::fs::metadata(path)
            .await
            .and_then(|meta| meta.modified())
            .ok()
    };
    [time(&tls.certificate).await, time(&tls.key).await]
}

/// Removes what is over, from time to time.
async fn sweep(app: App, stopped: CancellationToken) {
    loop {
        let now = Timestamp::now();
        if let Err(error) = app.sessions().sweep(now).await {
            tracing::warn!(error = chain(&error), "sessions were not swept");
        }
        let before = now
            .saturating_sub(AUDIT_KEPT)
            .expect("a signed duration always subtracts");
        if let Err(error) = app.database().sweep_audit(before).await {
            tracing::warn!(error = chain(&error), "the audit was not swept");
        }
        app.limiter().sweep();
        if stopped
            .run_until_cancelled(tokio::time::sleep(SWEEP))
            .await
            .is_none()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    fn write_certificate(folder: &Path) -> Tls {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let tls = Tls {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
        };
        std::fs::write(&tls.certificate, own.cert.pem()).unwrap();
        std::fs::write(&tls.key, own.signing_key.serialize_pem()).unwrap();
        tls
    }

    #[tokio::test]
    async fn new_certificate_is_taken_and_a_broken_one_is_not() {
        // A second installation in the same process says so; the first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let tls = write_certificate(folder.path());
        let config = load(&tls).await.unwrap();
        let stop = CancellationToken::new();
        let every = Duration::from_millis(20);
        let task = tokio::spawn(reload(tls.clone(), config.clone(), every, stop.clone()));
        tokio::time::sleep(every * 5).await;

        let first = config.get_inner();
        std::fs::write(&tls.certificate, "broken").unwrap();
        tokio::time::sleep(every * 10).await;
        assert!(
            Arc::ptr_eq(&first, &config.get_inner()),
            "the old one stays in use"
        );

        write_certificate(folder.path());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while Arc::ptr_eq(&first, &config.get_inner()) {
            assert!(std::time::Instant::now() < deadline, "the new one was not taken");
            tokio::time::sleep(every).await;
        }
        stop.cancel();
        task.await.unwrap();
    }
}
