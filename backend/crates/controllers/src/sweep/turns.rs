//! One target must not keep the sweeper from the others: each has its turn, and a turn ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use holdfast_crd::names::reasons;
use holdfast_target::layout::Uid;
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;

/// Length of a turn. What is not done by then goes on with the next one.
const TURN: Duration = Duration::from_secs(600);
/// Targets worked on at the same time.
const TARGETS: usize = 4;

/// The time of one target.
pub(super) struct Turn {
    end: Instant,
}

impl Turn {
    /// It begins now.
    pub(super) fn begin() -> Self {
        Self::of(TURN)
    }

    fn of(length: Duration) -> Self {
        Self {
            end: Instant::now() + length,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Works until it is done or the turn is over.
    pub(super) async fn spend<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        timeout_at(self.end, work).await.unwrap_or_else(|_| {
            let text = "the target takes too long; the work goes on with its next turn";
            Err(Failure::passing(reasons::UNREACHABLE, text))
        })
    }
}

/// Runs the work on all targets, a few at a time.
pub(super) async fn all<T>(jobs: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    futures::stream::iter(jobs)
        .buffer_unordered(TARGETS)
        .collect()
        .await
}

/// The plan at which the last turn of a target ended, by the target's UID; the next one begins behind it.
#[derive(Default)]
pub(super) struct Bookmarks(Mutex<HashMap<String, Uid>>);

impl Bookmarks {
    /// The plans in the order of this turn.
    pub(super) fn order(&self, target: &str, plans: BTreeSet<Uid>) -> Vec<Uid> {
        let last = self.marks().get(target).cloned();
        let (before, behind): (Vec<_>, Vec<_>) = plans
            .into_iter()
            .partition(|plan| last.as_ref().is_some_and(|last| plan <= last));
        behind.into_iter().chain(before).collect()
    }

    /// Work on this plan begins.
    pub(super) fn set(&self, target: &str, plan: &Uid) {
        self.marks().insert(target.to_owned(), plan.clone());
    }

    /// All plans had their time.
    pub(super) fn forget(&self, target: &str) {
        self.marks().remove(target);
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, HashMap<String, Uid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn targets_that_never_answer_do_not_stop_the_others() {
        let hostile = (0..10).map(|_| {
            async {
                let turn = Turn::of(Duration::from_millis(100));
                let failure = turn
                    .spend(std::future::pending::<Result<(), _>>())
                    .await
                    .unwrap_err();
                assert!(failure.retryable && turn.is_over(), "{failure}");
                0
            }
            .boxed()
        });
        let honest = async { Turn::begin().spend(async { Ok(1) }).await.unwrap() };
        let begun = Instant::now();
        let done = all(hostile.chain([honest.boxed()]).collect()).await;
        assert_eq!(done.iter().sum::<i32>(), 1);
        let took = begun.elapsed().as_millis();
        assert!((300..5000).contains(&took), "ten, four at a time, in {took} ms");
    }

    #[test]
    fn a_turn_begins_where_the_last_one_ended() {
        let plans = || {
            ["a", "b", "c"]
                .map(|p| p.parse::<Uid>().unwrap())
                .into_iter()
                .collect()
        };
        let marks = Bookmarks::default();
        let order = |marks: &Bookmarks| {
            marks
                .order("t", plans())
                .iter()
                .map(Uid::to_string)
                .collect::<String>()
        };
        assert_eq!(order(&marks), "abc");
        marks.set("t", &"b".parse().unwrap());
        assert_eq!(order(&marks), "cab");
        assert_eq!(marks.order("other", plans()).len(), 3);
        marks.forget("t");
        assert_eq!(order(&marks), "abc");
    }
}
