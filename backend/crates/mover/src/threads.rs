//! Tasks and threads that work on one thing: all of them end before it does.
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::MoverError;

/// What a thread came to; a panic of it is a defect.
pub(crate) fn join<T>(joined: Result<Result<T, MoverError>, JoinError>) -> Result<T, MoverError> {
    joined.unwrap_or_else(|error| Err(broken(&error)))
}

/// Waits for all. The first failure stops the others; `is_echo` tells what they answer then.
pub(crate) async fn join_all<T: 'static, E: From<MoverError> + 'static>(
    mut threads: JoinSet<Result<T, E>>,
    stop: &CancellationToken,
    is_echo: impl Fn(&E) -> bool,
) -> Result<Vec<T>, E> {
    let (mut done, mut failure) = (Vec::new(), None::<E>);
    while let Some(ended) = threads.join_next().await {
        match ended.map_err(|error| E::from(broken(&error))).flatten() {
            Ok(outcome) => done.push(outcome),
            Err(failed) => {
                stop.cancel();
                if failure.as_ref().is_none_or(&is_echo) {
                    failure = Some(failed);
                }
            }
        }
    }
    failure.map_or(Ok(done), Err)
}

fn broken(error: &JoinError) -> MoverError {
    MoverError::Internal(format!("a thread ended early: {error}"))
}
