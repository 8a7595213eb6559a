//! Small pieces of text: states, times, sizes, names that can be copied.

use leptos::prelude::*;
use leptos::task::spawn_local;
use wasm_bindgen_futures::JsFuture;

use super::icon::{Glyph, Icon};
use crate::format;
use crate::state::clock::Clock;
use crate::words::Tone;

/// A state: a shape, a colour and a word.
#[component]
pub(crate) fn Badge(#[prop(into)] label: Signal<String>, #[prop(into)] tone: Signal<Tone>) -> impl IntoView {
    let icon = Signal::derive(move || match tone.get() {
        Tone::Good => Icon::Check,
        Tone::Busy => Icon::Spinner,
        Tone::Warn => Icon::Warning,
        Tone::Bad => Icon::Cross,
        Tone::Quiet => Icon::Dash,
    });
    view! {
        <span class=move || format!("badge {}", tone.get().class())>
            <Glyph icon=icon />
            <span>{label}</span>
        </span>
    }
}

/// How long ago; the exact time is the title.
#[component]
pub(crate) fn Ago(#[prop(into)] time: Signal<Option<String>>) -> impl IntoView {
    let clock = expect_context::<Clock>();
    let text = Memo::new(move |_| {
        time.get().map(|time| match format::parse_time(&time) {
            Some(then) => format::ago(then, clock.get()),
            None => time,
        })
    });
    view! {
        {move || match (text.get(), time.get()) {
            (Some(text), Some(time)) => {
                view! { <time datetime=time.clone() title=format::absolute(&time)>{text}</time> }.into_any()
            }
            _ => view! { <span class="faint">"–"</span> }.into_any(),
        }}
    }
}

/// How long something took, or has been taking.
#[component]
pub(crate) fn Took(
    #[prop(into)] from: Signal<Option<String>>,
    #[prop(into)] to: Signal<Option<String>>,
) -> impl IntoView {
    let clock = expect_context::<Clock>();
    let text = Memo::new(move |_| {
        let from = format::parse_time(&from.get()?)?;
        let to = match to.get() {
            Some(to) => format::parse_time(&to)?,
            None => clock.get(),
        };
        Some(format::duration(to - from))
    });
    view! { <span class="num">{move || text.get().unwrap_or_else(|| "–".to_owned())}</span> }
}

/// A size in binary units; the exact number is the title.
#[component]
pub(crate) fn Size(#[prop(into)] bytes: Signal<Option<u64>>) -> impl IntoView {
    view! {
        <span class="num" title=move || bytes.get().map(|bytes| format!("{bytes} bytes"))>
            {move || bytes.get().map_or_else(|| "–".to_owned(), format::bytes)}
        </span>
    }
}

/// Text for machines with a button that copies it.
#[component]
pub(crate) fn Copyable(
    #[prop(into)] text: Signal<String>,
    /// What the button copies, for a screen reader.
    what: &'static str,
) -> impl IntoView {
    let copied = RwSignal::new(false);
    let copy = move |_| {
        let text = text.get_untracked();
        spawn_local(async move {
            let written = JsFuture::from(window().navigator().clipboard().write_text(&text)).await;
            if written.is_ok() {
                copied.set(true);
                set_timeout(move || copied.set(false), std::time::Duration::from_secs(2));
            }
        });
    };
    view! {
        <span class="copyable">
            <code>{text}</code>
            <button
                type="button"
                class="icon-button"
                aria-label=move || if copied.get() { "Copied".to_owned() } else { format!("Copy {what}") }
                title=move || if copied.get() { "Copied" } else { "Copy" }
                on:click=copy
            >
                <Glyph icon=Signal::derive(move || if copied.get() { Icon::Check } else { Icon::Copy }) />
            </button>
        </span>
    }
}
