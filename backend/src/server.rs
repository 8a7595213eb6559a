//! The server role: console, REST, sessions.

use anyhow::Context;
use holdfast_api::{App, Listener, Settings, Tls};
use holdfast_auth::Cluster;
use holdfast_db::Database;
use tokio_util::sync::CancellationToken;

use crate::cli;

pub(crate) async fn run(flags: cli::Server, stop: CancellationToken) -> anyhow::Result<()> {
    let cli::Server {
        listen,
        install_namespace,
        cluster_name,
        database_url,
        secure_cookies,
        tls_cert,
        tls_key,
    } = flags;
    let config = kube::Config::infer()
        .await
        .context("finding the cluster to serve")?;
    let cluster = Cluster::new(cluster_name, config).context("connecting to the cluster")?;
    let database = Database::open(&database_url)
        .await
        .context("opening the database")?;
    let settings = Settings {
        install_namespace,
        secure_cookies,
    };
    let app = App::new(settings, cluster, database, stop.clone());
    let tls = tls_cert
        .zip(tls_key)
        .map(|(certificate, key)| Tls { certificate, key });
    Ok(holdfast_api::serve(Listener { address: listen, tls }, app, stop).await?)
}
