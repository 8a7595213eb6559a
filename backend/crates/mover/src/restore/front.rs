//! Up to where a volume is restored without a gap, when its pieces end in any order.
use std::{collections::BTreeMap, ops::Range};

/// The end of what is done from the start on, and what is done behind it.
#[derive(Debug)]
pub(super) struct Front {
    end: u64,
    behind: BTreeMap<u64, u64>,
    /// The end at the last flush.
    flushed: u64,
}

impl Front {
    /// All before `start` is done and flushed.
    pub(super) fn new(start: u64) -> Self {
        Self {
            end: start,
            behind: BTreeMap::new(),
            flushed: start,
        }
    }

    /// A range is written. The new end, when it has come `step` bytes further since the last time that it was told: the
    /// caller flushes.
    pub(super) fn done(&mut self, range: Range<u64>, step: u64) -> Option<u64> {
        self.behind.insert(range.start, range.end);
        while let Some(end) = self.behind.remove(&self.end) {
            self.end = end;
        }
        (self.end - self.flushed >= step).then(|| {
            self.flushed = self.end;
            self.end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_counts_before_all_before_it_is_done() {
        let mut front = Front::new(10);
        assert_eq!(front.done(20..30, 5), None);
        assert_eq!(front.done(40..50, 5), None);
        assert_eq!(front.done(10..20, 5), Some(30));
        assert_eq!(front.done(30..34, 5), None);
        assert_eq!(front.done(34..40, 5), Some(50));
    }
}
