//! The corner where notices appear.

use leptos::prelude::*;
use leptos_router::components::A;

use super::icon::{Glyph, Icon};
use crate::state::toast::{Toast, Toasts};
use crate::words::Tone;

/// Shows the notices. The region is always there, so that screen readers hear what is added.
#[component]
pub(crate) fn Toaster() -> impl IntoView {
    let toasts = expect_context::<Toasts>();
    view! {
        <div class="toasts" role="region" aria-label="Notices" aria-live="polite">
            <For each=move || toasts.shown() key=|toast| toast.id let(toast)>
                <Notice toast=toast />
            </For>
        </div>
    }
}

#[component]
fn Notice(toast: Toast) -> impl IntoView {
    let toasts = expect_context::<Toasts>();
    let icon = if toast.tone == Tone::Good {
        Icon::Check
    } else {
        Icon::Warning
    };
    let id = toast.id;
    view! {
        <div class=format!("toast {}", toast.tone.class())>
            <Glyph icon=icon />
            <p>
                {toast.text}
                {toast.link.map(|(label, href)| view! { " " <A href=href>{label}</A> })}
            </p>
            <button type="button" class="icon-button" aria-label="Close notice" on:click=move |_| toasts.close(id)>
                <Glyph icon=Icon::Close />
            </button>
        </div>
    }
}
