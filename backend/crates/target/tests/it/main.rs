//! Targets against real stores: the conformance suite, and every failure a person can run into.

mod faults;
mod suite;
