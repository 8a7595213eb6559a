//! The rules of Holdfast, pure: what is captured, which image a volume gets, what a restore writes in which order,
//! which fields a manifest may have.
//!
//! Room rules: values in, values out. No client, no clock, no file, no await; so every rule is tested by itself.
#![forbid(unsafe_code)]

pub mod capture;
pub mod chain;
pub mod limit;
pub mod nfs;
pub mod objects;
pub mod quantity;
pub mod restore;
pub mod schema;
pub mod spec;
