//! The API over a real API server, its rights and its definitions.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod access;
mod app;
mod contract;
mod events;
mod resources;
mod serving;
