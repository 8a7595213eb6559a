//! Flags of every role. Each can be given as an environment variable, which is what the chart does.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use holdfast_seal::{KeyTextError, Recipient};

/// Backup and recovery of Kubernetes applications.
#[derive(Parser)]
#[command(name = "holdfast", version, about)]
pub(crate) struct Arguments {
    /// What to log: `info`, `debug`, or a filter such as `holdfast=debug,kube=info`.
    #[arg(long, env = "HOLDFAST_LOG", default_value = "info", global = true)]
    pub(crate) log: String,
    /// How log lines look.
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", default_value = "text", global = true)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) role: Role,
}

/// Looks of a log line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What this process does.
#[derive(Subcommand)]
pub(crate) enum Role {
    /// Serve the console and the REST API
    Server(Server),
    /// Run the controllers and serve admission
    Operator(Operator),
    /// Move one volume, in a pod that the operator made
    Datamover,
    /// Serve the small objects of a target that is a folder, in a pod that mounts it
    Metamover(Metamover),
    /// Look into a target, check it, take points out of it; no cluster is needed
    #[command(flatten)]
    Offline(crate::offline::Verb),
    /// Make a key: the private half on standard output, the public one on standard error
    Keygen,
    /// Print the custom resource definitions
    Crds,
    /// Print the OpenAPI document of the REST API
    Openapi,
}

/// Flags of the server.
#[derive(Args)]
pub(crate) struct Server {
    /// Address of the console and the REST API.
    #[arg(long, env = "HOLDFAST_LISTEN", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Namespace that Holdfast is installed in.
    #[arg(long, env = "HOLDFAST_INSTALL_NAMESPACE", default_value = "holdfast-system")]
    pub(crate) install_namespace: String,
    /// Name of this cluster, as the console shows it.
    #[arg(long, env = "HOLDFAST_CLUSTER_NAME", default_value = "this cluster")]
    pub(crate) cluster_name: String,
    /// Database of sessions and audit: `sqlite:///path` or `postgres://…`.
    #[arg(
        long,
        env = "HOLDFAST_DATABASE_URL",
        default_value = "sqlite://holdfast.db",
        hide_env_values = true
    )]
    pub(crate) database_url: String,
    /// Send the session cookie over TLS only (browsers count localhost as such).
    #[arg(long, env = "HOLDFAST_SECURE_COOKIES", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) secure_cookies: bool,
    /// PEM certificate chain; plain HTTP without.
    #[arg(long, env = "HOLDFAST_TLS_CERT", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM private key.
    #[arg(long, env = "HOLDFAST_TLS_KEY", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// Flags of the operator.
#[derive(Args)]
pub(crate) struct Operator {
    /// Namespace that Holdfast is installed in.
    #[arg(long, env = "HOLDFAST_INSTALL_NAMESPACE", default_value = "holdfast-system")]
    pub(crate) install_namespace: String,
    /// Name of this process, unique in the cluster: the pod's.
    #[arg(long, env = "HOLDFAST_INSTANCE")]
    pub(crate) instance: String,
    /// JSON file: how mover pods are made.
    #[arg(long, env = "HOLDFAST_MOVER_SETTINGS")]
    pub(crate) mover_settings: PathBuf,
    /// JSON file: how much may run at the same time; defaults without.
    #[arg(long, env = "HOLDFAST_LIMITS")]
    pub(crate) limits: Option<PathBuf>,
    /// Public halves (`age1…`) of the recovery keys that can open every encrypted backup, separated by commas.
    #[arg(long, env = "HOLDFAST_RECOVERY_RECIPIENTS", value_delimiter = ',', value_parser = recipient)]
    pub(crate) recovery_recipients: Vec<Recipient>,
    /// Address of the admission webhooks.
    #[arg(long, env = "HOLDFAST_ADMISSION_LISTEN", default_value = "0.0.0.0:9443")]
    pub(crate) admission_listen: SocketAddr,
    /// Address of metrics and health.
    #[arg(long, env = "HOLDFAST_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    pub(crate) metrics_listen: SocketAddr,
}

/// Flags of the depot.
#[derive(Args)]
pub(crate) struct Metamover {
    /// Where the folder is mounted.
    #[arg(long)]
    pub(crate) directory: PathBuf,
    /// Folder with `token`, `tls.crt` and `tls.key`.
    #[arg(long)]
    pub(crate) credentials: PathBuf,
    /// Address to serve on.
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub(crate) listen: SocketAddr,
}

fn recipient(text: &str) -> Result<Recipient, KeyTextError> {
    text.parse()
}
