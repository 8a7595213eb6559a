//! The dialog that starts a backup.

use holdfast_shared::{BackupType, CreateBackup, DeletionPolicy, Resource};
use leptos::prelude::*;
use leptos_router::hooks::use_navigate;

use crate::api::Api;
use crate::components::dialog::{Dialog, FormFoot};
use crate::components::field::{Choice, SelectField};
use crate::routes;
use crate::state::live::Live;
use crate::state::submission::Submission;
use crate::state::toast::Toasts;

/// "Back up now" for one namespace; with several plans, one is chosen.
#[component]
pub(crate) fn StartBackup(open: RwSignal<bool>, namespace: String, plans: Vec<String>) -> impl IntoView {
    let title = format!("Back up {namespace}");
    view! {
        <Dialog open=open title=title>
            <Form open=open namespace=namespace.clone() plans=plans.clone() />
        </Dialog>
    }
}

#[component]
fn Form(open: RwSignal<bool>, namespace: String, plans: Vec<String>) -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let live = expect_context::<Live>();
    let navigate = use_navigate();
    let plan = RwSignal::new(plans.first().cloned().unwrap_or_default());
    let kind = RwSignal::new("Incremental".to_owned());
    let deletion = RwSignal::new("Retain".to_owned());
    let submission = Submission::new();
    let several = plans.len() > 1;
    let options = Signal::stored(
        plans
            .into_iter()
            .map(|plan| (plan.clone(), plan))
            .collect::<Vec<_>>(),
    );
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let body = CreateBackup {
            namespace: namespace.clone(),
            name: None,
            backup_plan: plan.get_untracked(),
            kind: match kind.get_untracked().as_str() {
                "Full" => BackupType::Full,
                _ => BackupType::Incremental,
            },
            deletion_policy: match deletion.get_untracked().as_str() {
                "Delete" => DeletionPolicy::Delete,
                _ => DeletionPolicy::Retain,
            },
        };
        let navigate = navigate.clone();
        submission.send(async move { api.create_backup(&body).await }, move |backup| {
            let page = routes::backup(&backup.metadata.namespace, &backup.metadata.name);
            toasts.good(format!("Backup {} started.", backup.metadata.name), None);
            live.insert(Resource::Backup(Box::new(backup)));
            open.set(false);
            navigate(&page, Default::default());
        });
    };
    view! {
        <form on:submit=submit>
            <div class="dialog-body">
                {several.then(|| view! { <SelectField id="plan" label="Plan" value=plan options=options /> })}
                <Choices kind=kind deletion=deletion />
            </div>
            <FormFoot
                open=open
                submit="Start backup"
                submission=submission
                failed="The backup was not started"
                disabled=Signal::derive(move || plan.get().is_empty())
            />
        </form>
    }
}

#[component]
fn Choices(kind: RwSignal<String>, deletion: RwSignal<String>) -> impl IntoView {
    view! {
        <fieldset class="plain">
            <legend>"Type"</legend>
            <Choice
                name="type"
                value="Incremental"
                group=kind
                label="Incremental"
                text="Stores what has changed since the last backup. The first one of a volume is always full."
            />
            <Choice
                name="type"
                value="Full"
                group=kind
                label="Full"
                text="Stores every volume anew and depends on no older backup."
            />
        </fieldset>
        <fieldset class="plain">
            <legend>"When the backup is deleted"</legend>
            <Choice
                name="deletion"
                value="Retain"
                group=deletion
                label="Keep the data"
                text="The point stays on the target and can be restored by its location."
            />
            <Choice
                name="deletion"
                value="Delete"
                group=deletion
                label="Delete the data"
                text="The point leaves the target when somebody deletes the backup, but never because its namespace goes."
            />
        </fieldset>
    }
}
