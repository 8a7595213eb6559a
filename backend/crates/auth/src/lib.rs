//! Who is asking: sign-in against the registered cluster, sessions, and clients that act as the signed-in person.
//!
//! Room rules: no HTTP server and no resource of ours. Whether somebody may do something is never decided here: every
//! request goes to the API server as that person, and Kubernetes RBAC decides. A presented credential is used once, to
//! ask the cluster who its holder is, and then forgotten.
//!
//! The way of a sign-in: text → [`Credential`] (only a token or a certificate with its key, see [`kubeconfig`])
//! → [`Cluster::identify`] (SelfSubjectReview at the registered endpoint) → [`Sessions::start`].

mod cluster;
mod credential;
pub mod kubeconfig;
mod limit;
mod session;

pub use cluster::{Cluster, SignInError};
pub use credential::{Credential, Refusal};
pub use limit::SignInLimiter;
pub use session::{Cookie, Error as SessionError, IDLE, MAX_AGE, Sessions};
