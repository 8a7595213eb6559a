//! The metamover role: the depot of a target that is a folder. It serves the small objects to the operator and knows no
//! cluster; volumes never come through here.

use std::net::TcpListener;

use anyhow::Context;
use holdfast_target::depot::{self, DepotCredentials};
use tokio_util::sync::CancellationToken;

use crate::cli;

/// Serves until `stop`.
pub(crate) async fn run(flags: cli::Metamover, stop: CancellationToken) -> anyhow::Result<()> {
    let cli::Metamover {
        directory,
        credentials,
        listen,
    } = flags;
    let credentials = DepotCredentials::from_files(|name| std::fs::read(credentials.join(name)).ok())?;
    let listener = TcpListener::bind(listen).with_context(|| format!("listening on {listen}"))?;
    tracing::info!(address = %listen, directory = %directory.display(), "the depot serves");
    Ok(depot::serve(&directory, &credentials, listener, stop).await?)
}
