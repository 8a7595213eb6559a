//! What is shown instead of content: loading, nothing there, not allowed, broken.

use leptos::prelude::*;

use super::icon::{Glyph, Icon};
use crate::api::ApiError;
use crate::state::scope::Scope;
use crate::state::store::Sync;
use crate::words::Tone;

/// Grey rows in the shape of a table that is being loaded.
#[component]
pub(crate) fn Skeleton(#[prop(default = 5)] rows: usize) -> impl IntoView {
    view! {
        <div class="skeleton" role="status" aria-label="Loading">
            {(0..rows).map(|_| view! { <div class="skeleton-row"><span></span><span></span><span></span></div> }).collect_view()}
        </div>
    }
}

/// Nothing there, why, and what to do next.
#[component]
pub(crate) fn Empty(
    icon: Icon,
    #[prop(into)] title: String,
    #[prop(into)] text: String,
    #[prop(optional)] children: Option<Children>,
) -> impl IntoView {
    view! {
        <div class="empty">
            <Glyph icon=icon />
            <h2>{title}</h2>
            <p>{text}</p>
            {children.map(|children| view! { <div class="empty-actions">{children()}</div> })}
        </div>
    }
}

/// The list that may not be seen, with the right that is missing. Somebody whose rights end at a namespace goes on
/// from here into that one.
#[component]
pub(crate) fn Denied(message: String) -> impl IntoView {
    let scope = expect_context::<Scope>();
    let namespace = RwSignal::new(String::new());
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let namespace = namespace.get_untracked().trim().to_owned();
        if !namespace.is_empty() {
            scope.set(Some(namespace));
        }
    };
    view! {
        <Empty
            icon=Icon::Key
            title="Not allowed to list these"
            text=format!("{message}. The cluster's access rules decide this.")
        >
            <form class="scope-form" on:submit=submit>
                <label for="scope-namespace">"You have rights in one namespace? Look at that one:"</label>
                <div>
                    <input
                        id="scope-namespace"
                        required=true
                        autocomplete="off"
                        spellcheck="false"
                        placeholder="namespace"
                        bind:value=namespace
                    />
                    <button type="submit" class="button primary">"Open"</button>
                </div>
            </form>
        </Empty>
    }
}

/// Content once a shelf of the store is filled; skeleton or refusal before.
#[component]
pub(crate) fn WhenReady(sync: Memo<Sync>, children: ChildrenFn) -> impl IntoView {
    move || match sync.get() {
        Sync::Waiting => view! { <Skeleton /> }.into_any(),
        Sync::Denied(message) => view! { <Denied message=message /> }.into_any(),
        Sync::Ready => children().into_any(),
    }
}

/// A message in a box: what happened, in the server's words, and what to do.
#[component]
pub(crate) fn Notice(
    tone: Tone,
    #[prop(into)] title: String,
    #[prop(into, optional)] text: String,
    #[prop(into, optional)] advice: String,
) -> impl IntoView {
    let icon = match tone {
        Tone::Good => Icon::Check,
        Tone::Busy | Tone::Quiet => Icon::Clock,
        Tone::Warn | Tone::Bad => Icon::Warning,
    };
    let role = if matches!(tone, Tone::Bad) {
        "alert"
    } else {
        "status"
    };
    let text = (!text.is_empty()).then(|| view! { <p>{text}</p> });
    let advice = (!advice.is_empty()).then(|| view! { <p class="advice">{advice}</p> });
    view! {
        <div class=format!("notice {}", tone.class()) role=role>
            <Glyph icon=icon />
            <div>
                <strong>{title}</strong>
                {text}
                {advice}
            </div>
        </div>
    }
}

/// A request that failed.
#[component]
pub(crate) fn Trouble(
    /// What was tried, as in "The plan was not created".
    #[prop(into)]
    title: String,
    error: ApiError,
) -> impl IntoView {
    let request = (!error.request_id.is_empty()).then(|| format!(" Request {}.", error.request_id));
    let fields = error
        .details
        .iter()
        .map(|detail| view! { <li><code>{detail.field.clone()}</code>" "{detail.message.clone()}</li> })
        .collect_view();
    view! {
        <div class="notice tone-bad" role="alert">
            <Glyph icon=Icon::Warning />
            <div>
                <strong>{title}</strong>
                <p>{error.message.clone()}</p>
                {(!error.details.is_empty()).then(|| view! { <ul>{fields}</ul> })}
                <p class="advice">{error.advice()}{request}</p>
            </div>
        </div>
    }
}
