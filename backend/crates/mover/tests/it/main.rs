//! Volumes moved for real: files as devices, a real S3 gateway, `qemu-img` as the outside judge.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod by_hand;
mod counting;
mod faults;
mod heal;
mod histories;
mod history;
mod memory;
mod merge;
mod resume;
mod round_trip;
mod sealed;
mod support;
mod verify;
