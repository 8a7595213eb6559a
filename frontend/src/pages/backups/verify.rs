//! The dialog that asks for a verification of a point, and what is known of earlier ones.

use std::sync::Arc;

use holdfast_shared::{Backup, Resource, VerifyBackup, VerifyScope, condition};
use leptos::prelude::*;

use crate::api::Api;
use crate::components::dialog::{Dialog, FormFoot};
use crate::components::field::Choice;
use crate::components::text::{Ago, Badge};
use crate::state::live::Live;
use crate::state::submission::Submission;
use crate::state::toast::Toasts;
use crate::words::Tone;

/// Asks for a verification.
#[component]
pub(super) fn VerifyDialog(open: RwSignal<bool>, key: Signal<(String, String)>) -> impl IntoView {
    view! {
        <Dialog open=open title="Verify this backup">
            <Form open=open key=key />
        </Dialog>
    }
}

#[component]
fn Form(open: RwSignal<bool>, key: Signal<(String, String)>) -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let live = expect_context::<Live>();
    let scope = RwSignal::new("Quick".to_owned());
    let submission = Submission::new();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let body = VerifyBackup {
            scope: match scope.get_untracked().as_str() {
                "Full" => VerifyScope::Full,
                _ => VerifyScope::Quick,
            },
        };
        let (namespace, name) = key.get_untracked();
        submission.send(
            async move { api.verify_backup(&namespace, &name, &body).await },
            move |backup| {
                toasts.good(format!("Backup {} will be verified.", backup.metadata.name), None);
                live.insert(Resource::Backup(Box::new(backup)));
                open.set(false);
            },
        );
    };
    view! {
        <form on:submit=submit>
            <div class="dialog-body">
                <fieldset class="plain">
                    <legend>"What is read"</legend>
                    <Choice
                        name="scope"
                        value="Quick"
                        group=scope
                        label="Tables and indexes"
                        text="Takes seconds: finds what is missing or was replaced, and damage in tables, indexes and objects."
                    />
                    <Choice
                        name="scope"
                        value="Full"
                        group=scope
                        label="Everything"
                        text="Reads all content from the target and compares it with its hashes, as a restore would."
                    />
                </fieldset>
            </div>
            <FormFoot
                open=open
                submit="Verify"
                submission=submission
                failed="The verification was not started"
                disabled=Signal::stored(false)
            />
        </form>
    }
}

/// What is known of the point.
#[component]
pub(super) fn Verified(backup: Memo<Arc<Backup>>) -> impl IntoView {
    move || {
        let backup = backup.get();
        let found = condition(&backup.status.conditions, "Verified");
        let (label, tone) = match found.map(|found| found.status.as_str()) {
            Some("True") => ("Verified", Tone::Good),
            Some("False") => ("Damaged", Tone::Bad),
            _ => ("Not yet", Tone::Quiet),
        };
        let message = found.map(|found| found.message.clone()).unwrap_or_default();
        let volumes = backup.status.verification.iter();
        let when = volumes.filter_map(|volume| volume.checked_at.clone()).min();
        view! {
            <span title=message.clone()><Badge label=label tone=tone /></span>
            {when.map(|time| view! { " " <Ago time=Some(time) /> })}
            {(tone == Tone::Bad).then(|| view! { <p class="hint">{message}</p> })}
        }
    }
}
