//! Admission of our own kinds: who asked is recorded, what is unknown or contradicts itself is refused by name, what is
//! in use stays.
//!
//! Room rules: decides about manifests and nothing else; never changes the cluster beyond its own certificate Secret
//! and the `caBundle` of its own webhook configurations. No controller, no target, no data. Rules that need no cluster
//! live in `holdfast-core`, where the controllers find them too.
//!
//! Every replica serves. They agree on one certificate through a Secret: the first creates it, the others adopt it, and
//! whoever first sees it age renews it.

mod certificate;
mod gate;
mod keeper;
mod review;
mod server;

use std::net::SocketAddr;

pub use certificate::CertificateError;
pub use server::serve;

/// Where admission runs and under which name the API server finds it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Namespace Holdfast is installed in.
    pub install_namespace: String,
    /// Name of the Service that the webhook configurations point at.
    pub service_name: String,
    /// Name of our mutating and of our validating webhook configuration.
    pub webhook_name: String,
    /// Address to listen on.
    pub listen: SocketAddr,
}

/// Why admission ended. Each of them must end the process: without it nothing of ours can be written.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// No certificate could be made or read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The port could not be opened, or the server ended.
    #[error("admission does not listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}
