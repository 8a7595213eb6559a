//! REST, event stream and the files of the console: `/api/v1`, described by OpenAPI 3.1.
//!
//! Room rules: it serves people and decides nothing. Every request goes to the API server as the signed-in person,
//! whose rights Kubernetes checks; the server's own account can only impersonate. No target is opened here, no data
//! moved, no reconcile loop. What is said on the wire is `holdfast-shared`, which the console shares.
//!
//! A request passes, outside in: [`middleware::observe`] (request id, log, metrics, error envelope), security headers,
//! compression, body limit, panics, [`middleware::authenticate`], [`middleware::audit`], [`middleware::guard`] (cross
//! site), [`middleware::deadline`], handler.

mod console;
mod error;
mod extract;
mod handlers;
mod metrics;
mod middleware;
mod openapi;
mod protection;
mod resource;
mod router;
mod serve;
mod state;

pub use openapi::yaml as openapi_yaml;
pub use router::router;
pub use serve::{Listener, ServeError, Tls, serve};
pub use state::{App, Settings};
