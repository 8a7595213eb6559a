//! Admission as people meet it: a real API server calls it with the chart's own configurations.
#![allow(
    clippy::needless_pass_by_value,
    reason = "manifests of tests read better given by value"
)]
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]
#![allow(unreachable_pub, reason = "nothing is public here")]

mod policies;
mod setup;
mod webhooks;
