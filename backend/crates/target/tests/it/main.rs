//! Targets against real stores: the conformance suite, and every failure a person can run into.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod crash;
mod depot;
mod directory;
mod faults;
mod hostile;
mod locks;
mod mounts;
mod suite;
