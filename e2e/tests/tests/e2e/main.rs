//! End-to-end tests, one binary: `cargo test -p holdfast-e2e -- --test-threads=1`.

mod admission;
mod app;
mod bad_input;
mod cancel;
mod cluster;
mod crash;
mod directory_target;
mod encryption;
mod format;
mod full_target;
mod limits;
mod locks;
mod resume;
mod retention;
mod rights;
mod round_trip;
mod verification;
mod zz_uninstall;
