//! Form fields: label, control, hint, error, tied together for assistive technology.

use leptos::prelude::*;

/// A labelled place for one control. The control's `id` is `id`, its `aria-describedby` is `id-hint`.
#[component]
pub(crate) fn Field(
    id: &'static str,
    #[prop(into)] label: String,
    #[prop(into, optional)] hint: Signal<String>,
    #[prop(into, optional)] error: Signal<Option<String>>,
    #[prop(optional)] optional: bool,
    children: Children,
) -> impl IntoView {
    view! {
        <div class="field" class:invalid=move || error.get().is_some()>
            <label for=id>
                {label}
                {optional.then(|| view! { <span class="faint">" optional"</span> })}
            </label>
            {children()}
            <p class="hint" id=format!("{id}-hint")>
                {move || match error.get() {
                    Some(error) => view! { <span class="field-error">{error}</span> }.into_any(),
                    None => hint.get().into_any(),
                }}
            </p>
        </div>
    }
}

/// A line of text.
#[component]
pub(crate) fn TextField(
    id: &'static str,
    #[prop(into)] label: String,
    value: RwSignal<String>,
    #[prop(into, optional)] hint: Signal<String>,
    #[prop(into, optional)] error: Signal<Option<String>>,
    #[prop(into, optional)] placeholder: Signal<String>,
    #[prop(optional)] optional: bool,
    /// Hides what is typed and keeps it out of the browser's memory.
    #[prop(optional)]
    secret: bool,
) -> impl IntoView {
    view! {
        <Field id=id label=label hint=hint error=error optional=optional>
            <input
                id=id
                name=id
                type=if secret { "password" } else { "text" }
                autocomplete="off"
                autocapitalize="none"
                spellcheck="false"
                required=!optional
                placeholder=placeholder
                aria-describedby=format!("{id}-hint")
                aria-invalid=move || error.get().is_some().then_some("true")
                bind:value=value
            />
        </Field>
    }
}

/// One of several values.
#[component]
pub(crate) fn SelectField(
    id: &'static str,
    #[prop(into)] label: String,
    value: RwSignal<String>,
    /// Value and label of each choice.
    #[prop(into)]
    options: Signal<Vec<(String, String)>>,
    #[prop(into, optional)] hint: Signal<String>,
    #[prop(into, optional)] error: Signal<Option<String>>,
    #[prop(optional)] optional: bool,
) -> impl IntoView {
    // The browser drops a selection when its option goes; the value says which one it is.
    view! {
        <Field id=id label=label hint=hint error=error optional=optional>
            <select
                id=id
                name=id
                required=!optional
                aria-describedby=format!("{id}-hint")
                on:change:target=move |ev| value.set(ev.target().value())
            >
                {move || {
                    options
                        .get()
                        .into_iter()
                        .map(|(option, label)| {
                            let chosen = option.clone();
                            view! {
                                <option value=option prop:selected=move || value.get() == chosen>
                                    {label}
                                </option>
                            }
                        })
                        .collect_view()
                }}
            </select>
        </Field>
    }
}

/// One choice of several that need a sentence each.
#[component]
pub(crate) fn Choice(
    name: &'static str,
    value: &'static str,
    group: RwSignal<String>,
    #[prop(into)] label: String,
    #[prop(into)] text: Signal<String>,
) -> impl IntoView {
    let id = format!("{name}-{value}");
    view! {
        <div class="choice">
            <input
                type="radio"
                id=id.clone()
                name=name
                value=value
                aria-describedby=format!("{id}-hint")
                prop:checked=move || group.get() == value
                on:change=move |_| group.set(value.to_owned())
            />
            <span>
                <label for=id.clone()>{label}</label>
                <span class="hint" id=format!("{id}-hint")>{text}</span>
            </span>
        </div>
    }
}

/// Yes or no.
#[component]
pub(crate) fn CheckField(
    id: &'static str,
    value: RwSignal<bool>,
    #[prop(into)] label: String,
    #[prop(into)] text: String,
) -> impl IntoView {
    view! {
        <div class="choice">
            <input id=id type="checkbox" aria-describedby=format!("{id}-hint") bind:checked=value />
            <span>
                <label for=id>{label}</label>
                <span class="hint" id=format!("{id}-hint")>{text}</span>
            </span>
        </div>
    }
}
