//! Admission as people meet it: a real API server calls it with the chart's own configurations.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]
#![allow(unreachable_pub, reason = "nothing is public here")]

mod policies;
mod setup;
mod webhooks;
