//! Which content one verification reads: from a position on, until its budget is spent.
use crate::job::VerifyPosition;

/// The part of all content that is read.
#[derive(Debug)]
pub(super) struct Window {
    from: Option<VerifyPosition>,
    budget: u64,
    taken: u64,
    /// The first cluster that was left for the next time.
    pub(super) next: Option<VerifyPosition>,
}

impl Window {
    pub(super) fn new(from: Option<VerifyPosition>, budget: Option<u64>) -> Self {
        Self {
            from,
            budget: budget.unwrap_or(u64::MAX),
            taken: 0,
            next: None,
        }
    }

    /// Whether the cluster at this position, of so many stored bytes, is read now. Positions come in ascending order.
    pub(super) fn takes(&mut self, position: VerifyPosition, bytes: u64) -> bool {
        if self.next.is_some() || self.from.as_ref().is_some_and(|from| position < *from) {
            return false;
        }
        // The first one is always read, so that any budget gets on.
        if self.taken > 0 && self.taken >= self.budget {
            self.next = Some(position);
            return false;
        }
        self.taken += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use holdfast_target::layout::ShardNumber;
    use proptest::prelude::*;

    use super::*;

    fn position(at: u64) -> VerifyPosition {
        VerifyPosition {
            files: format!("b{}-a1", at / 10).parse().unwrap(),
            shard: ShardNumber(u32::try_from(at / 5 % 2).unwrap()),
            cluster: at % 5,
        }
    }

    proptest! {
        /// Runs one after the other read every cluster once, in order, and none of them reads more than its budget and
        /// one cluster.
        #[test]
        fn budgets_walk_through(sizes in prop::collection::vec(1..100u64, 1..90), budget in 0..400u64) {
            let mut from = None;
            let mut read = Vec::new();
            loop {
                let mut window = Window::new(from.take(), Some(budget));
                let before = read.len();
                for (at, size) in (0..).zip(&sizes) {
                    if window.takes(position(at), *size) {
                        read.push(at);
                    }
                }
                let last = sizes[before..read.len()].split_last().map(|(_, rest)| rest.iter().sum::<u64>());
                prop_assert!(last.is_none_or(|sum| sum < budget.max(1)), "{last:?}");
                match window.next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
            prop_assert_eq!(read, (0..sizes.len() as u64).collect::<Vec<_>>());
        }
    }
}
