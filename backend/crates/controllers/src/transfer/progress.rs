//! Does anything move? Measured on our own clock, from what the mover says, so that clocks need not agree. A new
//! leader starts measuring anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far each running attempt had come, and since when it has not come further.
#[derive(Default)]
pub(super) struct ProgressWatch(Mutex<HashMap<String, Mark>>);

struct Mark {
    attempt: u32,
    moved: u64,
    since: Instant,
}

impl ProgressWatch {
    /// For how long attempt `attempt` of transfer `uid` has stood at `moved`, a number that grows with every byte.
    pub(super) fn idle(&self, uid: &str, attempt: u32, moved: u64, now: Instant) -> Duration {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = marks.entry(uid.to_owned()).or_insert(Mark {
            attempt,
            moved,
            since: now,
        });
        if mark.attempt != attempt || mark.moved != moved {
            *mark = Mark {
                attempt,
                moved,
                since: now,
            };
        }
        now.saturating_duration_since(mark.since)
    }

    /// The transfer is over.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_every_new_attempt_starts_the_clock_anew() {
        let watch = ProgressWatch::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watch.idle("u", 1, 0, at(0)), Duration::ZERO);
        assert_eq!(watch.idle("u", 1, 0, at(9)), Duration::from_secs(9));
        assert_eq!(watch.idle("u", 1, 5, at(10)), Duration::ZERO);
        assert_eq!(watch.idle("u", 1, 5, at(14)), Duration::from_secs(4));
        assert_eq!(watch.idle("u", 2, 5, at(15)), Duration::ZERO);
        watch.forget("u");
        assert_eq!(watch.idle("u", 2, 5, at(99)), Duration::ZERO);
    }
}
