//! The API over a real API server, its rights and its definitions.

mod access;
mod app;
mod contract;
mod events;
mod resources;
mod serving;
