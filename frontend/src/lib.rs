//! The web console: a Leptos single-page application, compiled to WebAssembly and served by `holdfast server`.
//!
//! May enter: `holdfast-shared` (what the server speaks), the browser. Must not know: Kubernetes clients, custom
//! resource definitions, targets. Whatever the console does goes through `/api/v1`, and nothing is decided here:
//! rights, names and limits are the server's, the console shows its answers.
//!
//! Lists are not polled. One event stream per tab feeds [`state::live`], and every page derives its rows from there;
//! REST is for writes, for YAML and for what the stream does not carry.

#![allow(clippy::needless_pass_by_value, reason = "components own their properties")]
#![allow(
    unreachable_pub,
    reason = "the component macro makes the type of the properties public"
)]

mod api;
mod app;
mod components;
mod format;
mod pages;
mod routes;
mod state;
mod words;

/// Starts the console in the page's body.
pub fn run() {
    leptos::mount::mount_to_body(app::App);
}
