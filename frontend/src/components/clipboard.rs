//! The clipboard, where the browser gives access to it.

use leptos::prelude::*;
use leptos::task::spawn_local;
use wasm_bindgen_futures::JsFuture;

use super::icon::{Glyph, Icon};

/// Browsers offer the clipboard on pages served by HTTPS or from this machine only.
fn available() -> bool {
    window().is_secure_context()
}

/// A button that copies text; not there where the browser would refuse.
#[component]
pub(crate) fn CopyButton(
    #[prop(into)] text: Signal<String>,
    /// What is copied, for a screen reader.
    what: &'static str,
) -> impl IntoView {
    let copied = RwSignal::new(false);
    let copy = move |_| {
        let text = text.get_untracked();
        spawn_local(async move {
            let written = JsFuture::from(window().navigator().clipboard().write_text(&text)).await;
            if written.is_ok() && !copied.is_disposed() {
                copied.set(true);
                let forget = move || {
                    let _ = copied.try_set(false);
                };
                set_timeout(forget, std::time::Duration::from_secs(2));
            }
        });
    };
    available().then(|| {
        view! {
            <button
                type="button"
                class="icon-button"
                aria-label=move || if copied.get() { "Copied".to_owned() } else { format!("Copy {what}") }
                title=move || if copied.get() { "Copied" } else { "Copy" }
                on:click=copy
            >
                <Glyph icon=Signal::derive(move || if copied.get() { Icon::Check } else { Icon::Copy }) />
            </button>
        }
    })
}
