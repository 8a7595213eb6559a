//! The time, as a signal that ticks every second.

use std::time::Duration;

use leptos::prelude::*;

/// Milliseconds since the epoch.
#[derive(Clone, Copy)]
pub(crate) struct Clock(RwSignal<i64>);

impl Clock {
    /// Starts the clock; it ticks as long as the owner lives.
    pub(crate) fn start() -> Self {
        let now = RwSignal::new(now());
        let tick = set_interval_with_handle(move || now.set(self::now()), Duration::from_secs(1));
        if let Ok(tick) = tick {
            on_cleanup(move || tick.clear());
        }
        Self(now)
    }

    /// The time, tracked.
    pub(crate) fn get(self) -> i64 {
        self.0.get()
    }
}

/// The time now.
pub(crate) fn now() -> i64 {
    js_sys::Date::now() as i64
}
