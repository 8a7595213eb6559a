//! The dialog that deletes a resource and says what that means, and what is shown of one that is gone.

use leptos::prelude::*;
use leptos_router::components::A;

use crate::api::{Api, Collection};
use crate::components::dialog::{Dialog, FormFoot};
use crate::components::feedback::{Empty, Notice};
use crate::components::field::TextField;
use crate::components::icon::Icon;
use crate::state::submission::Submission;
use crate::state::toast::Toasts;
use crate::words::Tone;

/// Deletes a resource after saying what goes and what stays.
#[component]
pub(crate) fn DeleteDialog(
    open: RwSignal<bool>,
    collection: Collection,
    #[prop(into)] key: Signal<(String, String)>,
    #[prop(into)] uid: Signal<String>,
    /// The kind in words, as in "plan".
    what: &'static str,
    /// What goes and what stays.
    #[prop(into)]
    text: Signal<String>,
    /// Whether data goes for ever; the name must then be typed.
    #[prop(into, optional)]
    destroys: Signal<bool>,
    /// Called once it is deleted.
    done: impl Fn() + Clone + Send + Sync + 'static,
) -> impl IntoView {
    let title = Signal::derive(move || format!("Delete {what} {}", key.get().1));
    view! {
        <Dialog open=open title=title>
            <Form
                open=open
                collection=collection
                key=key
                uid=uid
                what=what
                text=text
                destroys=destroys
                done=done.clone()
            />
        </Dialog>
    }
}

#[component]
fn Form(
    open: RwSignal<bool>,
    collection: Collection,
    key: Signal<(String, String)>,
    uid: Signal<String>,
    what: &'static str,
    text: Signal<String>,
    destroys: Signal<bool>,
    done: impl Fn() + Clone + 'static,
) -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let typed = RwSignal::new(String::new());
    let submission = Submission::new();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let (namespace, name) = key.get_untracked();
        let uid = uid.get_untracked();
        let done = done.clone();
        let notice = format!("The {what} {name} is being deleted.");
        let request = async move { api.delete(collection, &namespace, &name, &uid).await };
        submission.send(request, move |()| {
            toasts.good(notice, None);
            open.set(false);
            done();
        });
    };
    let label = Signal::derive(move || {
        if destroys.get() {
            "Delete with its data"
        } else {
            "Delete"
        }
        .to_owned()
    });
    view! {
        <form on:submit=submit>
            <div class="dialog-body">
                {move || {
                    if destroys.get() {
                        view! {
                            <Notice tone=Tone::Bad title="Data goes for ever" text=text.get() />
                            <TextField
                                id="confirm-name"
                                label=format!("Type {} to confirm", key.get().1)
                                value=typed
                            />
                        }
                            .into_any()
                    } else {
                        view! { <p>{text}</p> }.into_any()
                    }
                }}
            </div>
            <FormFoot
                open=open
                submit=label
                submission=submission
                failed="Not deleted"
                danger=true
                disabled=Signal::derive(move || destroys.get() && typed.get().trim() != key.get().1)
            />
        </form>
    }
}

/// What is shown of a resource that does not exist.
#[component]
pub(crate) fn Gone(what: &'static str, list: &'static str) -> impl IntoView {
    view! {
        <Empty
            icon=Icon::Search
            title=format!("There is no such {what}")
            text="It was deleted, the name is misspelt, or you may not see it."
        >
            <A href=list attr:class="button primary">"Back to the list"</A>
        </Empty>
    }
}
