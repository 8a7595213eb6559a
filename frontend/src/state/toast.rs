//! Short notices at the edge of the screen.

use std::time::Duration;

use leptos::prelude::*;

use crate::api::ApiError;
use crate::words::Tone;

/// How long a good notice stays. A bad one stays until it is closed.
const STAY: Duration = Duration::from_secs(6);
/// Notices shown at once; the oldest goes first.
const MAX_SHOWN: usize = 4;

/// One notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toast {
    pub(crate) id: u32,
    pub(crate) tone: Tone,
    pub(crate) text: String,
    /// Where more can be seen: label and address.
    pub(crate) link: Option<(String, String)>,
}

/// The notices, shared by everything.
#[derive(Clone, Copy)]
pub(crate) struct Toasts {
    shown: RwSignal<Vec<Toast>>,
    next: StoredValue<u32>,
}

impl Toasts {
    pub(crate) fn new() -> Self {
        Self {
            shown: RwSignal::new(Vec::new()),
            next: StoredValue::new(0),
        }
    }

    /// The notices, tracked.
    pub(crate) fn shown(self) -> Vec<Toast> {
        self.shown.get()
    }

    /// Something went well.
    pub(crate) fn good(self, text: impl Into<String>, link: Option<(String, String)>) {
        let id = self.push(Tone::Good, text.into(), link);
        set_timeout(move || self.close(id), STAY);
    }

    /// Something went wrong.
    pub(crate) fn bad(self, what: &str, error: &ApiError) {
        let advice = error
            .advice()
            .map(|advice| format!(" {advice}"))
            .unwrap_or_default();
        self.push(Tone::Bad, format!("{what}: {}{advice}", error.message), None);
    }

    pub(crate) fn close(self, id: u32) {
        self.shown.update(|shown| shown.retain(|toast| toast.id != id));
    }

    fn push(self, tone: Tone, text: String, link: Option<(String, String)>) -> u32 {
        let id = self.next.get_value();
        self.next.set_value(id + 1);
        self.shown.update(|shown| {
            shown.push(Toast { id, tone, text, link });
            if shown.len() > MAX_SHOWN {
                shown.remove(0);
            }
        });
        id
    }
}
