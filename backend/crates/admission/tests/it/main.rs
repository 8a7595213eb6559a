//! Admission as people meet it: a real API server calls it with the chart's own configurations.

mod policies;
mod setup;
mod webhooks;
