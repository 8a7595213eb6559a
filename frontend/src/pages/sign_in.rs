//! Sign-in with a token or a kubeconfig.

use holdfast_shared::SignIn;
use leptos::html;
use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::NavigateOptions;
use leptos_router::hooks::{use_navigate, use_query_map};
use wasm_bindgen_futures::JsFuture;

use crate::api::Api;
use crate::components::feedback::{Notice, Trouble};
use crate::components::field::{Field, TextField};
use crate::components::icon::{Glyph, Icon};
use crate::components::shell::{Mark, ThemeSwitch};
use crate::routes;
use crate::state::session::{SessionState, SessionStore};
use crate::state::submission::Submission;
use crate::words::Tone;

/// Kubeconfigs larger than this are refused before they are read, in bytes.
const MAX_KUBECONFIG: f64 = 1024.0 * 1024.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    Token,
    Kubeconfig,
}

/// The sign-in page.
#[component]
pub(crate) fn SignInPage() -> impl IntoView {
    let session = expect_context::<SessionStore>();
    let query = use_query_map();
    let navigate = use_navigate();
    let ended = matches!(untrack(|| session.get()), SessionState::Ended);
    Effect::new(move |_| {
        if session.signed_in().is_some() {
            let next = query.with_untracked(|query| query.get("next"));
            let replace = NavigateOptions {
                replace: true,
                ..NavigateOptions::default()
            };
            navigate(&routes::safe_next(next.as_deref()), replace);
        }
    });
    document().set_title("Sign in – Holdfast");
    let with = RwSignal::new(With::Token);
    let tab = move |value: With, label: &'static str| {
        view! {
            <button
                type="button"
                role="tab"
                aria-selected=move || if with.get() == value { "true" } else { "false" }
                on:click=move |_| with.set(value)
            >
                {label}
            </button>
        }
    };
    view! {
        <main class="sign-in">
            <section class="sign-in-card">
                <header>
                    <Mark />
                    <div>
                        <h1>"Sign in to Holdfast"</h1>
                        <p class="faint">"You act with your own Kubernetes rights, nothing more."</p>
                    </div>
                </header>
                {ended
                    .then(|| {
                        view! {
                            <Notice
                                tone=Tone::Quiet
                                title="Your session has ended"
                                text="Sign in again; you will come back to where you were."
                            />
                        }
                    })}
                <div class="segments fill" role="tablist" aria-label="How to sign in">
                    {tab(With::Token, "Token")}
                    {tab(With::Kubeconfig, "Kubeconfig")}
                </div>
                {move || match with.get() {
                    With::Token => view! { <TokenForm /> }.into_any(),
                    With::Kubeconfig => view! { <KubeconfigForm /> }.into_any(),
                }}
            </section>
            <ThemeSwitch />
        </main>
    }
}

/// Sends a credential and, if it is good, remembers who signed in.
fn sign_in(submission: Submission, api: Api, session: SessionStore, credential: SignIn) {
    let request = async move { api.sign_in(&credential).await };
    submission.send(request, move |found| session.set(SessionState::SignedIn(found)));
}

#[component]
fn Submit(submission: Submission) -> impl IntoView {
    view! {
        {move || submission.error().map(|error| view! { <Trouble title="Not signed in" error=error /> })}
        <button type="submit" class="button primary large" disabled=move || submission.is_busy()>
            {move || submission.is_busy().then(|| view! { <Glyph icon=Icon::Spinner /> })}
            "Sign in"
        </button>
    }
}

#[component]
fn TokenForm() -> impl IntoView {
    let api = expect_context::<Api>();
    let session = expect_context::<SessionStore>();
    let submission = Submission::new();
    let token = RwSignal::new(String::new());
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let token = token.get_untracked().trim().to_owned();
        sign_in(submission, api, session, SignIn::Token { token });
    };
    view! {
        <form on:submit=submit>
            <TextField id="token" label="Bearer token" value=token secret=true />
            <Submit submission=submission />
            <div class="explain">
                <p>"A ServiceAccount's token comes from:"</p>
                <pre tabindex="0"><code>"kubectl create token NAME -n NAMESPACE --duration 8h"</code></pre>
                <p>"The token is checked by the cluster and not stored. The session ends no later than it."</p>
            </div>
        </form>
    }
}

#[component]
fn KubeconfigForm() -> impl IntoView {
    let api = expect_context::<Api>();
    let session = expect_context::<SessionStore>();
    let submission = Submission::new();
    let text = RwSignal::new(String::new());
    let context = RwSignal::new(String::new());
    let file_error = RwSignal::new(None::<String>);
    let file = NodeRef::<html::Input>::new();
    let read = move |_| read_file(file, text, file_error);
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let context = context.get_untracked().trim().to_owned();
        let credential = SignIn::Kubeconfig {
            kubeconfig: text.get_untracked(),
            context: (!context.is_empty()).then_some(context),
        };
        sign_in(submission, api, session, credential);
    };
    view! {
        <form on:submit=submit>
            <Field id="kubeconfig" label="Kubeconfig" error=file_error hint="Paste the text or choose the file.">
                <textarea
                    id="kubeconfig"
                    rows="7"
                    required=true
                    spellcheck="false"
                    autocomplete="off"
                    placeholder="apiVersion: v1\nkind: Config\n…"
                    aria-describedby="kubeconfig-hint"
                    bind:value=text
                ></textarea>
                <input
                    type="file"
                    aria-label="Choose a kubeconfig file"
                    node_ref=file
                    on:change=read
                />
            </Field>
            <TextField
                id="context"
                label="Context"
                value=context
                optional=true
                hint="The file's current context when left empty."
            />
            <Submit submission=submission />
            <WhatIsTaken />
        </form>
    }
}

/// Puts the text of the chosen file into the form.
fn read_file(file: NodeRef<html::Input>, text: RwSignal<String>, error: RwSignal<Option<String>>) {
    let files = file.get_untracked().and_then(|input| input.files());
    let Some(chosen) = files.and_then(|files| files.get(0)) else {
        return;
    };
    if chosen.size() > MAX_KUBECONFIG {
        error.set(Some(
            "This file is larger than 1 MiB and no kubeconfig.".to_owned(),
        ));
        return;
    }
    error.set(None);
    spawn_local(async move {
        match JsFuture::from(chosen.text()).await {
            Ok(content) => text.set(content.as_string().unwrap_or_default()),
            Err(_) => error.set(Some("The file could not be read.".to_owned())),
        }
    });
}

#[component]
fn WhatIsTaken() -> impl IntoView {
    view! {
        <div class="explain">
            <p><strong>"Taken: "</strong>"the context's inline token, or its inline client certificate and key."</p>
            <p>
                <strong>"Not taken: "</strong>
                "server address and certificate authority. Holdfast asks the cluster it is registered with."
            </p>
            <p>
                <strong>"Refused: "</strong>
                "exec plugins, auth providers, paths of files, proxy and insecure settings; each is named."
            </p>
            <p>"The credential is not stored. The session ends no later than it."</p>
        </div>
    }
}
