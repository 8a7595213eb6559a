//! The operator against a real API server and a real store. There are no nodes here: volumes and movers are the sandbox's
//! part, everything that needs none is proven in seconds.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod backups;
mod deletion;
mod locks;
mod restores;
mod targets;
mod world;
