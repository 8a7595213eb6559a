//! Small pieces of text: states, times, sizes, names that can be copied.

use leptos::prelude::*;

use super::clipboard::CopyButton;
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
    view! {
        <span class="copyable">
            <code>{text}</code>
            <CopyButton text=text what=what />
        </span>
    }
}
