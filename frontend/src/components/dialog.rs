//! Modal dialogs on `<dialog>`: the browser traps the focus, closes on Escape and gives the focus back.

use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::JsCast;

use super::feedback::Trouble;
use super::icon::{Glyph, Icon};
use crate::state::submission::Submission;

/// A dialog that is there while `open` is true; its content is made anew each time.
#[component]
pub(crate) fn Dialog(
    open: RwSignal<bool>,
    #[prop(into)] title: Signal<String>,
    children: ChildrenFn,
) -> impl IntoView {
    let children = StoredValue::new(children);
    view! {
        <Show when=move || open.get()>
            <Modal open=open title=title>
                {children.with_value(|children| children())}
            </Modal>
        </Show>
    }
}

#[component]
fn Modal(open: RwSignal<bool>, title: Signal<String>, children: Children) -> impl IntoView {
    let node = NodeRef::<html::Dialog>::new();
    Effect::new(move |_| {
        if let Some(dialog) = node.get()
            && !dialog.open()
        {
            // Fails only for a dialog that is not in the document; it then shows nothing.
            let _ = dialog.show_modal();
        }
    });
    // A press that starts and ends on the backdrop closes; one that starts in a field and slips out does not.
    let on_backdrop = move |event: &web_sys::MouseEvent| {
        let dialog = node
            .get_untracked()
            .map(|dialog| dialog.unchecked_into::<web_sys::EventTarget>());
        event.target().is_some() && event.target() == dialog
    };
    let pressed = StoredValue::new(false);
    view! {
        <dialog
            class="dialog"
            aria-labelledby="dialog-title"
            node_ref=node
            on:close=move |_| open.set(false)
            on:mousedown=move |event| pressed.set_value(on_backdrop(&event))
            on:click=move |event| {
                if pressed.get_value() && on_backdrop(&event) {
                    open.set(false);
                }
            }
        >
            <div class="dialog-frame">
                <header>
                    <h2 id="dialog-title">{title}</h2>
                </header>
                {children()}
                // After the content, so that the first field gets the focus.
                <button
                    type="button"
                    class="icon-button dialog-close"
                    aria-label="Close"
                    on:click=move |_| open.set(false)
                >
                    <Glyph icon=Icon::Close />
                </button>
            </div>
        </dialog>
    }
}

/// The foot of a dialog's form: what went wrong, a way out and the way on.
#[component]
pub(crate) fn FormFoot(
    open: RwSignal<bool>,
    /// Label of the button that submits the form.
    #[prop(into)]
    submit: Signal<String>,
    submission: Submission,
    /// Title over the server's message.
    failed: &'static str,
    #[prop(into, optional)] disabled: Signal<bool>,
    #[prop(optional)] danger: bool,
) -> impl IntoView {
    view! {
        {move || submission.error().map(|error| view! { <Trouble title=failed error=error /> })}
        <footer>
            <button type="button" class="button" on:click=move |_| open.set(false)>"Cancel"</button>
            <button
                type="submit"
                class="button primary"
                class:danger=danger
                disabled=move || submission.is_busy() || disabled.get()
            >
                {move || submission.is_busy().then(|| view! { <Glyph icon=Icon::Spinner /> })}
                {submit}
            </button>
        </footer>
    }
}
