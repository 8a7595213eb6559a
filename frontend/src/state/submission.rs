//! One form's request: whether it is under way, and what went wrong.

use std::future::Future;

use leptos::prelude::*;
use leptos::task::spawn_local;

use crate::api::ApiError;

/// State of a form that sends something.
#[derive(Clone, Copy)]
pub(crate) struct Submission {
    busy: RwSignal<bool>,
    error: RwSignal<Option<ApiError>>,
}

impl Submission {
    pub(crate) fn new() -> Self {
        Self {
            busy: RwSignal::new(false),
            error: RwSignal::new(None),
        }
    }

    /// Whether a request is under way. Tracked.
    pub(crate) fn is_busy(self) -> bool {
        self.busy.get()
    }

    /// What went wrong last. Tracked.
    pub(crate) fn error(self) -> Option<ApiError> {
        self.error.get()
    }

    /// What is wrong with a field, if the server named it.
    pub(crate) fn field(self, path: &'static str) -> Signal<Option<String>> {
        Signal::derive(move || {
            self.error
                .with(|error| error.as_ref().and_then(|error| error.field(path)))
        })
    }

    /// Sends a request. `done` leads away from the form, so it stays busy after a success; after a failure it can be
    /// sent again.
    pub(crate) fn send<T: 'static>(
        self,
        request: impl Future<Output = Result<T, ApiError>> + 'static,
        done: impl FnOnce(T) + 'static,
    ) {
        self.busy.set(true);
        self.error.set(None);
        spawn_local(async move {
            match request.await {
                Ok(answer) => done(answer),
                Err(error) => {
                    self.error.set(Some(error));
                    self.busy.set(false);
                }
            }
        });
    }
}
