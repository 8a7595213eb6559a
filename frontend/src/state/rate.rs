//! Transfer rates, measured from the progress that the stream brings. Pure.

use std::collections::HashMap;

/// Share of the newest measurement in the shown rate.
const NEWEST: f64 = 0.5;
/// A measurement needs at least this many milliseconds, or one late message doubles the rate.
const SHORTEST_MS: i64 = 500;
/// Without news for this long, no rate is shown.
const STALE_MS: i64 = 15_000;

#[derive(Clone, Copy, Debug)]
struct Sample {
    bytes: u64,
    at_ms: i64,
    rate: Option<f64>,
}

/// Rates by volume: UID of the run and name of the claim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    samples: HashMap<(String, String), Sample>,
}

impl Rates {
    /// Notes how many bytes of a volume are done at a time.
    pub(crate) fn note(&mut self, run: &str, claim: &str, bytes: u64, now_ms: i64) {
        let key = (run.to_owned(), claim.to_owned());
        let Some(last) = self.samples.get_mut(&key) else {
            self.samples.insert(
                key,
                Sample {
                    bytes,
                    at_ms: now_ms,
                    rate: None,
                },
            );
            return;
        };
        let elapsed = now_ms - last.at_ms;
        if bytes < last.bytes {
            // Another attempt started over.
            *last = Sample {
                bytes,
                at_ms: now_ms,
                rate: None,
            };
        } else if bytes > last.bytes && elapsed >= SHORTEST_MS {
            let measured = (bytes - last.bytes) as f64 * 1000.0 / elapsed as f64;
            let rate = last
                .rate
                .map_or(measured, |rate| rate * (1.0 - NEWEST) + measured * NEWEST);
            *last = Sample {
                bytes,
                at_ms: now_ms,
                rate: Some(rate),
            };
        }
    }

    /// Bytes per second of a volume, if it moved lately.
    pub(crate) fn rate(&self, run: &str, claim: &str, now_ms: i64) -> Option<u64> {
        let sample = self.samples.get(&(run.to_owned(), claim.to_owned()))?;
        (now_ms - sample.at_ms <= STALE_MS).then_some(sample.rate? as u64)
    }

    /// Forgets a run.
    pub(crate) fn forget(&mut self, run: &str) {
        self.samples.retain(|(owner, _), _| owner != run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_smoothed_and_go_stale() {
        let mut rates = Rates::default();
        rates.note("r", "data", 0, 0);
        assert_eq!(rates.rate("r", "data", 0), None);
        rates.note("r", "data", 2000, 1000);
        assert_eq!(rates.rate("r", "data", 1000), Some(2000));
        rates.note("r", "data", 6000, 2000);
        assert_eq!(rates.rate("r", "data", 2000), Some(3000));
        assert_eq!(rates.rate("r", "data", 2000 + STALE_MS + 1), None);
    }

    #[test]
    fn a_new_attempt_starts_over_and_a_repeat_changes_nothing() {
        let mut rates = Rates::default();
        rates.note("r", "data", 0, 0);
        rates.note("r", "data", 1000, 1000);
        rates.note("r", "data", 1000, 3000);
        assert_eq!(rates.rate("r", "data", 3000), Some(1000));
        rates.note("r", "data", 10, 4000);
        assert_eq!(rates.rate("r", "data", 4000), None);
        rates.forget("r");
        assert!(rates.samples.is_empty());
    }
}
