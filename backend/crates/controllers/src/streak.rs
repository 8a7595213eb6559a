//! How long a run has been failing for passing reasons, without a success in between.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// First failure of the current streak of each run. Lost with the leader, who then is patient anew.
#[derive(Default)]
pub(crate) struct Streaks(Mutex<HashMap<String, Instant>>);

impl Streaks {
    /// Notes a failure; true while the streak is shorter than `patience`.
    pub(crate) fn patient(&self, run: &str, patience: Duration) -> bool {
        let mut streaks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streaks
            .entry(run.to_owned())
            .or_insert_with(Instant::now)
            .elapsed()
            < patience
    }

    /// Notes a success, or the end of the run.
    pub(crate) fn ended(&self, run: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_begins_a_new_streak() {
        let streaks = Streaks::default();
        assert!(streaks.patient("a", Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(5));
        assert!(!streaks.patient("a", Duration::from_millis(1)));
        assert!(
            streaks.patient("b", Duration::from_millis(1)),
            "runs do not share a streak"
        );
        streaks.ended("a");
        assert!(streaks.patient("a", Duration::from_millis(1)));
    }
}
