//! Which namespaces are looked at: every one, or a single one for people whose rights end there.

use leptos::prelude::*;

/// Key in the browser's storage; it goes with the tab.
const KEY: &str = "holdfast.namespace";

/// The namespace that is looked at, shared by everything.
#[derive(Clone, Copy)]
pub(crate) struct Scope(RwSignal<Option<String>>);

impl Scope {
    /// Reads the choice kept in the tab.
    pub(crate) fn load() -> Self {
        let kept = storage().and_then(|storage| storage.get_item(KEY).ok().flatten());
        Self(RwSignal::new(kept.filter(|namespace| !namespace.is_empty())))
    }

    /// The namespace; every one when absent. Tracked.
    pub(crate) fn get(self) -> Option<String> {
        self.0.get()
    }

    /// Whether only one namespace is looked at. Tracked.
    pub(crate) fn is_single(self) -> bool {
        self.0.with(Option::is_some)
    }

    /// Looks at one namespace, or at every one.
    pub(crate) fn set(self, namespace: Option<String>) {
        if let Some(storage) = storage() {
            // Without storage the choice holds until the page is left.
            let _ = match &namespace {
                Some(namespace) => storage.set_item(KEY, namespace),
                None => storage.remove_item(KEY),
            };
        }
        self.0.set(namespace);
    }
}

fn storage() -> Option<web_sys::Storage> {
    window().session_storage().ok().flatten()
}
