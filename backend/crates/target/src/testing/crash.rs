//! A process that dies between two changes of a file system.
use std::sync::atomic::{AtomicU64, Ordering};

/// Changes so far.
static STEPS: AtomicU64 = AtomicU64::new(0);
/// The change before which this process dies.
static LAST: AtomicU64 = AtomicU64::new(u64::MAX);

/// Kills this process, as `kill -9` does, when it is about to make one more change than `steps` from now.
pub fn die_at_step(steps: u64) {
    LAST.store(self::steps().saturating_add(steps), Ordering::SeqCst);
}

/// How many changes this process has made.
pub fn steps() -> u64 {
    STEPS.load(Ordering::SeqCst)
}

/// A change is about to be made.
pub(crate) fn step() {
    if STEPS.fetch_add(1, Ordering::SeqCst) >= LAST.load(Ordering::SeqCst) {
        let myself = rustix::process::getpid();
        rustix::process::kill_process(myself, rustix::process::Signal::KILL).expect("a signal to oneself");
    }
}
