//! Equipment for tests: a real Kubernetes API server without nodes, a real PostgreSQL.
//!
//! Room rules: a dev-dependency only, nothing of the product depends on it. It starts real programs and fakes nothing.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let cluster = holdfast_testkit::shared().await;
//! let client = cluster.client()?; // cluster-admin; make one per test: a client belongs to its runtime
//! # Ok(()) }
//! ```

mod control_plane;
mod pki;
mod postgres;
mod tools;

pub use control_plane::{ControlPlane, shared};
pub use pki::ClientCertificate;
pub use postgres::Postgres;
