//! How often what may pass is tried again, whatever the store is.
use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{ErrorKind, TargetError};

/// How long failures that may pass are retried before they are reported. An attempt that has begun is not cut short, so
/// a call can take this plus one attempt: 5 s where there is no connection, 9 s where there is one but no answer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For no connection, no answer and 5xx answers.
    pub unreachable: Duration,
    /// For "slow down".
    pub throttled: Duration,
}

impl Patience {
    /// For a person or a controller that waits: an unreachable endpoint is reported in 10 s.
    pub const INTERACTIVE: Self = Self {
        unreachable: Duration::from_secs(5),
        throttled: Duration::from_secs(20),
    };
    /// For a transfer of hours, which should survive a restart of the store.
    pub const TRANSFER: Self = Self {
        unreachable: Duration::from_secs(90),
        throttled: Duration::from_secs(300),
    };

    /// Runs attempts until one succeeds, fails for good, or patience ends; one that takes longer than `bound` fails with
    /// what `late` says. `attempt` is told how many went before it.
    pub(crate) async fn retry<T, F>(
        self,
        bound: Duration,
        late: impl Fn() -> TargetError,
        mut attempt: impl FnMut(u32) -> F,
    ) -> Result<T, TargetError>
    where
        F: Future<Output = Result<T, TargetError>>,
    {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let error = match timeout(bound, Box::pin(attempt(tries)))
                .await
                .unwrap_or_else(|_| Err(late()))
            {
                Err(error) if error.is_retryable() => error,
                settled => return settled,
            };
            let patience = match error.kind() {
                ErrorKind::Throttled => self.throttled,
                _ => self.unreachable,
            };
            let pause = backoff(tries);
            if begun.elapsed() + pause >= patience {
                return Err(error);
            }
            tracing::debug!(error = %error, attempt = tries + 1, "target: trying again");
            sleep(pause).await;
            tries += 1;
        }
    }
}

/// 0.2 s, doubling up to 5 s, each with up to half taken off at random so that movers do not march in step.
fn backoff(tries: u32) -> Duration {
    let full = (200u64 << tries.min(6)).min(5000);
    let random = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
    Duration::from_millis(full - full / 2 * random / 255)
}
