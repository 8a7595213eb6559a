//! Memory that an input takes, where an allocator counts it.
//!
//! An allocator is unsafe code, which this crate has none of: the one of `e2e/fuzz` tells what it does. Elsewhere nothing
//! is counted, and every peak is 0.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// So many bytes were allocated.
pub fn allocated(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

/// So many bytes were freed.
pub fn freed(bytes: usize) {
    NOW.fetch_sub(bytes, Relaxed);
}

/// What `work` gives, and how many bytes it held at most besides what was held before. For one thread at a time; an
/// outer call does not see the peak of an inner one that ended before.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Relaxed);
    let outer = PEAK.swap(before, Relaxed);
    let done = work();
    let peak = PEAK.fetch_max(outer, Relaxed);
    (done, peak.saturating_sub(before))
}
