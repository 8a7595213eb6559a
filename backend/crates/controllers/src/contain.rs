//! Keeps a panic where it happened: one strange object must not take the operator down, and with it admission and every
//! other tenant's runs.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use holdfast_crd::names::reasons;
use kube::runtime::controller::Action;

use crate::failure::Failure;

/// Time to the next look at an object that made its reconcile panic.
const PAUSE: Duration = Duration::from_secs(300);

/// Runs a reconcile to its end. A panic becomes an error in the log and a long pause for this object alone: state that
/// counts is in custom resources and on targets, so there is nothing half-done in memory that others would see.
pub(crate) async fn contained(
    kind: &str,
    name: &str,
    reconcile: impl Future<Output = Result<Action, Failure>>,
) -> Result<Action, Failure> {
    match AssertUnwindSafe(reconcile).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let words = words_of(&*panic);
            tracing::error!(
                kind,
                name,
                reason = reasons::INTERNAL,
                error = words,
                "reconcile panicked"
            );
            Ok(Action::requeue(PAUSE))
        }
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_reconcile_only() {
        let broken = contained("Backup", "b", async { panic!("no {}", "object") }).await;
        assert_eq!(broken, Ok(Action::requeue(PAUSE)));
        let fine = contained("Backup", "b", async { Ok(Action::await_change()) }).await;
        assert_eq!(fine, Ok(Action::await_change()));
    }

    #[test]
    fn a_panic_keeps_its_words() {
        assert_eq!(words_of(&"static"), "static");
        assert_eq!(words_of(&"owned".to_owned()), "owned");
        assert_eq!(words_of(&7), "without words");
    }
}
