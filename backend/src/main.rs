//! `holdfast`: one binary, one role per process.
//!
//! This crate reads flags, builds the rooms and joins them; it is the only one that knows all of them.
#![forbid(unsafe_code)]

mod cli;
mod datamover;
mod generated;
mod metamover;
mod observe;
mod offline;
mod operator;
mod server;

use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::cli::{Arguments, Role};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before anything opens a connection: there is one TLS provider in the process.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    observe::install(&arguments.log, arguments.log_format);
    match run(arguments.role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // On its way out of a pod this line is what `kubectl logs` shows.
            tracing::error!(error = format!("{error:#}"), "ended");
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Role) -> anyhow::Result<()> {
    match role {
        Role::Keygen => generated::keygen(),
        Role::Crds => generated::crds(),
        Role::Openapi => generated::openapi(),
        Role::Offline(verb) => on_runtime(|stop| offline::run(verb, stop)),
        Role::Server(flags) => on_runtime(|stop| server::run(flags, stop)),
        Role::Datamover => on_runtime(datamover::run),
        Role::Metamover(flags) => on_runtime(|stop| metamover::run(flags, stop)),
        Role::Operator(flags) => on_runtime(|stop| operator::run(flags, stop)),
    }
}

/// Runs a role until it ends or the process is asked to stop.
fn on_runtime<F>(role: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(observe::cancel_on_signal(stop.clone()));
        role(stop).await
    });
    // Blocking tasks that are still at work must not hold up a process that has been told to end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}
