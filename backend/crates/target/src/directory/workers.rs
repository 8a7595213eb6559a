//! Calls that may block for ever, as those to an NFS server that is gone do, on threads of their own. Nobody waits for
//! such a thread longer than he wants, and there are never more than [`MOST`] of them.
use std::{sync::Arc, thread};

use tokio::sync::{Semaphore, oneshot};

use super::trouble::{Outcome, Trouble};
use crate::ErrorKind;

/// Most calls under way at once, those that hang included.
const MOST: usize = 32;

/// Starts threads.
#[derive(Clone, Debug)]
pub(super) struct Workers(Arc<Semaphore>);

/// Tells a thread whether anybody still waits for it.
pub(super) struct Waiter<'a>(&'a dyn Fn() -> bool);

impl Waiter<'_> {
    /// An error when nobody does.
    pub(super) fn check(&self) -> Outcome<()> {
        match (self.0)() {
            true => Err(Trouble::new(ErrorKind::Other, "nobody waits for it any more")),
            false => Ok(()),
        }
    }
}

impl Workers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }

    /// Does `work` on a thread. When the caller stops waiting, the thread goes on to the next [`Waiter::check`], or to the
    /// end. (Threads of the runtime would keep it from ending as long as they hang.)
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Waiter<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let lost = |what: String| Trouble::new(ErrorKind::Other, what);
        let permit = self.0.clone().acquire_owned().await;
        let permit = permit.map_err(|error| lost(error.to_string()))?;
        let (done, answer) = oneshot::channel();
        let work = move || {
            let outcome = work(&Waiter(&|| done.is_closed()));
            // First the place, then the answer: who has it may at once ask again.
            drop(permit);
            // Nobody may be left to tell.
            let _ = done.send(outcome);
        };
        let builder = thread::Builder::new().name("holdfast-directory".to_owned());
        builder.spawn(work)?;
        answer
            .await
            .unwrap_or_else(|_| Err(lost("its thread ended early".to_owned())))
    }
}
