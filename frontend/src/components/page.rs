//! The frame of a page: title, actions, filters, facts.

use leptos::prelude::*;
use leptos_router::components::A;

use super::icon::{Glyph, Icon};

/// Title and actions of a page; sets the tab's title as well.
#[component]
pub(crate) fn PageHead(
    #[prop(into)] title: Signal<String>,
    /// Address and label of the list this page belongs to.
    #[prop(optional)]
    parent: Option<(&'static str, &'static str)>,
    #[prop(into, optional)] lead: Signal<String>,
    #[prop(optional)] children: Option<Children>,
) -> impl IntoView {
    Effect::new(move |_| document().set_title(&format!("{} – Holdfast", title.get())));
    view! {
        <header class="page-head">
            <div class="page-title">
                {parent
                    .map(|(href, label)| {
                        view! {
                            <nav class="crumbs" aria-label="Breadcrumb">
                                <A href=href>{label}</A>
                            </nav>
                        }
                    })}
                <h1>{title}</h1>
                {move || {
                    let lead = lead.get();
                    (!lead.is_empty()).then(|| view! { <p class="lead">{lead}</p> })
                }}
            </div>
            {children.map(|children| view! { <div class="page-actions">{children()}</div> })}
        </header>
    }
}

/// The search box of a list; `/` focuses it.
#[component]
pub(crate) fn Search(value: RwSignal<String>, #[prop(into)] label: String) -> impl IntoView {
    view! {
        <label class="search">
            <Glyph icon=Icon::Search />
            <input
                type="search"
                data-search=""
                aria-label=label.clone()
                placeholder=label
                autocomplete="off"
                spellcheck="false"
                bind:value=value
            />
            <kbd aria-hidden="true">"/"</kbd>
        </label>
    }
}

/// A row of filters of which one is chosen, each with its count.
#[component]
pub(crate) fn Segments<T>(
    #[prop(into)] label: String,
    chosen: RwSignal<T>,
    /// Value and label of each choice.
    choices: &'static [(T, &'static str)],
    /// How much each choice would show, in the same order.
    counts: Memo<Vec<usize>>,
) -> impl IntoView
where
    T: Copy + PartialEq + Send + Sync + 'static,
{
    // The buttons stay while counts change, or the focus would be lost.
    let buttons = choices
        .iter()
        .enumerate()
        .map(|(at, (value, label))| {
            let value = *value;
            view! {
                <button
                    type="button"
                    aria-pressed=move || if chosen.get() == value { "true" } else { "false" }
                    on:click=move |_| chosen.set(value)
                >
                    {*label}
                    <span class="count">{move || counts.with(|counts| counts.get(at).copied())}</span>
                </button>
            }
        })
        .collect_view();
    view! { <div class="segments" role="group" aria-label=label>{buttons}</div> }
}

/// One fact of a resource.
#[component]
pub(crate) fn Fact(#[prop(into)] label: String, children: Children) -> impl IntoView {
    view! {
        <div class="fact">
            <dt>{label}</dt>
            <dd>{children()}</dd>
        </div>
    }
}
