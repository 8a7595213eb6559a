//! End-to-end tests of Holdfast on a real cluster; see `tests/it`. They know the product as its users do: custom
//! resources, their conditions `Accepted`, `Complete`, `Failed`, and the bytes on the target.
//!
//! They run on the cluster that `cargo xtask up` makes, with the product installed by its charts.
