//! How far a job is: counters that everybody may read at any time.
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counters of one job. All only grow, except that [`Progress::total`] is set once.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    transferred: AtomicU64,
    device: AtomicU64,
    durable: AtomicU64,
}

/// The counters at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressSnapshot {
    /// Bytes of the volume, in a verification bytes of all objects; 0 until they are known.
    pub bytes_total: u64,
    /// Bytes of these dealt with, empty ones included.
    pub bytes_done: u64,
    /// Bytes moved to or from the target.
    pub bytes_transferred: u64,
    /// Bytes read from (backup) or written to (restore) the device.
    pub bytes_device: u64,
    /// Bytes at the start of the volume that a restore has written and flushed: another attempt on the same device need
    /// not do them again.
    pub bytes_durable: u64,
}

impl Progress {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counters now.
    pub fn snapshot(&self) -> ProgressSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let total = load(&self.total);
        ProgressSnapshot {
            bytes_total: total,
            // The last cluster may reach beyond the end of the volume.
            bytes_done: load(&self.done).min(total),
            bytes_transferred: load(&self.transferred),
            bytes_device: load(&self.device),
            bytes_durable: load(&self.durable),
        }
    }

    pub(crate) fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn transferred(&self, bytes: u64) {
        self.transferred.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn device(&self, bytes: u64) {
        self.device.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn durable(&self, bytes: u64) {
        self.durable.fetch_max(bytes, Ordering::Relaxed);
    }

    /// A restore that has to begin again (see [`crate::restore()`]).
    pub(crate) fn restart(&self) {
        self.done.store(0, Ordering::Relaxed);
        self.durable.store(0, Ordering::Relaxed);
    }
}

/// Peak resident memory of this process in bytes (`VmHWM` of `/proc/self/status`); 0 where the kernel does not tell.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
