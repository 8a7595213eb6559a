//! Proof of the encryption: a model, damage of every kind, stock `age`, and a second reader in another language.
// The lint's exception for tests does not see helpers outside test functions.
#![allow(clippy::unwrap_used)]

mod damage;
mod model;
mod second_reader;
mod support;
mod wrapped;
