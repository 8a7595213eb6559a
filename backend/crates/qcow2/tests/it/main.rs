//! Proof of the formats: a model, qemu as an outside judge, and damage.
// The lint's exception for tests does not see helpers outside test functions.
#![allow(clippy::unwrap_used)]

mod damage;
mod foreign;
mod index;
mod merge;
mod model;
mod oracle;
mod saved;
mod support;
