//! Everything that lies on a target, under everything that happens to it: runs of actions chosen at random that are cut off
//! and disturbed anywhere, and a process that is killed.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod check;
mod disturb;
mod killed;
mod locks;
mod model;
mod operator;
mod random;
mod report;
mod rng;
mod vectors;
mod volume;
mod world;
