//! One backup, live.

use std::sync::Arc;

use holdfast_shared::{Backup, BackupPhase, BackupStatus, DeletionPolicy, RunState};
use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_params_map};

use super::delete::{DeleteDialog, Gone};
use super::list::{BackupTook, kind};
use super::verify::{Verified, VerifyDialog};
use crate::api::{Api, Collection};
use crate::components::feedback::WhenReady;
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{Fact, PageHead};
use crate::components::run::{Conditions, Outcome, ProblemSection, Step, Stepper, VolumeSection};
use crate::components::tabs::{Tabs, current_tab};
use crate::components::text::{Ago, Badge, Copyable, Size};
use crate::components::yaml::YamlView;
use crate::pages::restores::create::{RestoreDialog, Source};
use crate::state::live::Live;
use crate::state::toast::Toasts;
use crate::{format, routes, words};

const TABS: &[(&str, &str)] = &[
    ("overview", "Overview"),
    ("conditions", "Conditions"),
    ("yaml", "YAML"),
];

/// The page.
#[component]
pub(crate) fn BackupPage() -> impl IntoView {
    let live = expect_context::<Live>();
    let params = use_params_map();
    let key = Signal::derive(move || {
        params.with(|params| {
            (
                params.get("namespace").unwrap_or_default(),
                params.get("name").unwrap_or_default(),
            )
        })
    });
    let backup = live.one(|store| &store.backups, key);
    let tab = current_tab(TABS);
    view! {
        <PageHead
            title=Signal::derive(move || key.get().1)
            parent=(routes::BACKUPS, "Backups")
            lead=Signal::derive(move || format!("Backup of namespace {}", key.get().0))
        >
            <Actions key=key backup=backup />
        </PageHead>
        <Tabs tabs=TABS />
        <WhenReady sync=live.sync(|store| &store.backups)>
            {
                let exists = Memo::new(move |_| backup.get().is_some());
                move || match (exists.get(), tab.get()) {
                    (false, _) => view! { <Gone what="backup" list=routes::BACKUPS /> }.into_any(),
                    (true, "conditions") => {
                        let conditions = Signal::derive(move || {
                            backup.get().map(|backup| backup.status.conditions.clone()).unwrap_or_default()
                        });
                        view! { <div class="table-frame"><Conditions conditions=conditions /></div> }.into_any()
                    }
                    (true, "yaml") => view! { <YamlView collection=Collection::Backups key=key /> }.into_any(),
                    (true, _) => view! { <Overview backup=backup /> }.into_any(),
                }
            }
        </WhenReady>
    }
}

#[component]
fn Actions(key: Signal<(String, String)>, backup: Memo<Option<Arc<Backup>>>) -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let navigate = use_navigate();
    let deleting = RwSignal::new(false);
    let restoring = RwSignal::new(false);
    let verifying = RwSignal::new(false);
    let canceling = RwSignal::new(false);
    let state = Memo::new(move |_| backup.get().map(|backup| backup.state()));
    let asked = Memo::new(move |_| backup.get().is_some_and(|backup| backup.spec.cancel));
    let cancel = move |_| {
        canceling.set(true);
        let (namespace, name) = key.get_untracked();
        spawn_local(async move {
            match api.cancel(Collection::Backups, &namespace, &name).await {
                Ok(()) => toasts.good(format!("Backup {name} is being canceled."), None),
                Err(error) => toasts.bad("Not canceled", &error),
            }
            canceling.set(false);
        });
    };
    let destroys = Signal::derive(move || {
        backup.get().is_some_and(|backup| {
            backup.spec.deletion_policy == DeletionPolicy::Delete && backup.status.location.is_some()
        })
    });
    let text = Signal::derive(move || {
        backup
            .get()
            .map(|backup| what_deleting_means(&backup))
            .unwrap_or_default()
    });
    view! {
        <Show when=move || backup.get().is_some()>
            <button type="button" class="button" on:click=move |_| deleting.set(true)>
                <Glyph icon=Icon::Trash />
                "Delete"
            </button>
        </Show>
        <Show when=move || state.get().is_some_and(|state| !state.is_final())>
            <button
                type="button"
                class="button"
                disabled=move || canceling.get() || asked.get()
                on:click=cancel
            >
                <Glyph icon=Icon::Stop />
                {move || if asked.get() { "Canceling…" } else { "Cancel" }}
            </button>
        </Show>
        <Show when=move || state.get() == Some(RunState::Complete)>
            <button type="button" class="button" on:click=move |_| verifying.set(true)>
                <Glyph icon=Icon::Check />
                "Verify"
            </button>
            <button type="button" class="button primary" on:click=move |_| restoring.set(true)>
                <Glyph icon=Icon::Restore />
                "Restore"
            </button>
        </Show>
        {move || {
            let (namespace, name) = key.get();
            view! { <RestoreDialog open=restoring source=Source::Backup { namespace, name } /> }
        }}
        <VerifyDialog open=verifying key=key />
        <DeleteDialog
            open=deleting
            collection=Collection::Backups
            key=key
            uid=Signal::derive(move || backup.get().map(|backup| backup.metadata.uid.clone()).unwrap_or_default())
            what="backup"
            text=text
            destroys=destroys
            done=move || navigate(routes::BACKUPS, Default::default())
        />
    }
}

/// What goes and what stays when this backup is deleted.
fn what_deleting_means(backup: &Backup) -> String {
    match (&backup.status.location, backup.spec.deletion_policy) {
        (None, _) if backup.state().is_final() => {
            "This backup has no point on the target; only the resource goes.".to_owned()
        }
        (None, _) => "The run is stopped first. It has no point on the target yet, and none will be made.".to_owned(),
        (Some(location), DeletionPolicy::Retain) => format!(
            "Only the resource goes. The point stays on the target and can be restored by its location: {location}"
        ),
        (Some(_), DeletionPolicy::Delete) if backup.status.locked_until.is_some() => format!(
            "Its deletion policy is Delete, and it is locked until {}: nobody can delete the point before. It is removed \
             from the target then; until then it can be restored by its location.",
            backup.status.locked_until.as_deref().map(format::absolute).unwrap_or_default()
        ),
        (Some(_), DeletionPolicy::Delete) => {
            "Its deletion policy is Delete: the point is removed from the target and cannot be restored any more. \
             Points that build on it keep what they need."
                .to_owned()
        }
    }
}

#[component]
fn Overview(backup: Memo<Option<Arc<Backup>>>) -> impl IntoView {
    let seen = StoredValue::new(None::<Arc<Backup>>);
    // The page goes when the backup does; until then the last state known is shown.
    let backup = Memo::new(move |_| {
        if let Some(backup) = backup.get() {
            seen.set_value(Some(backup));
        }
        seen.get_value().expect("shown only while there is a backup")
    });
    let state = Memo::new(move |_| backup.get().state());
    // Without what changes all the time, so that links keep the focus while a run goes on.
    let lasting = Memo::new(move |_| {
        let backup = backup.get();
        let BackupStatus {
            kind,
            target,
            location,
            locked_until,
            ..
        } = backup.status.clone();
        let status = BackupStatus {
            kind,
            target,
            location,
            locked_until,
            ..BackupStatus::default()
        };
        Arc::new(Backup {
            metadata: backup.metadata.clone(),
            spec: backup.spec.clone(),
            status,
        })
    });
    let problems = Memo::new(move |_| backup.get().status.problems.clone());
    let volumes = Memo::new(move |_| backup.get().status.volumes.clone());
    view! {
        <Outcome
            conditions=Signal::derive(move || backup.get().status.conditions.clone())
            state=state
        />
        <Stepper steps=Memo::new(move |_| steps(&backup.get())) />
        <dl class="facts">
            <Fact label="State">
                <Badge
                    label=Signal::derive(move || words::run_state(state.get()).0.to_owned())
                    tone=Signal::derive(move || words::run_state(state.get()).1)
                />
            </Fact>
            <Fact label="Duration"><BackupTook backup=backup /></Fact>
            <Fact label="Stored"><Size bytes=Signal::derive(move || backup.get().status.size) /></Fact>
            <Fact label="Objects">
                {move || backup.get().status.objects.map_or_else(|| "–".to_owned(), |objects| objects.to_string())}
            </Fact>
            <Fact label="Verified"><Verified backup=backup /></Fact>
            {move || view! { <Facts backup=lasting.get() /> }}
        </dl>
        <ProblemSection problems=problems />
        <VolumeSection
            volumes=volumes
            uid=Signal::derive(move || backup.get().metadata.uid.clone())
            nothing=Signal::derive(move || match state.get().is_final() {
                true => "This backup holds no volume.",
                false => "Volumes appear once they are found.",
            })
        />
        {move || {
            let excluded = backup.get().status.excluded_claims.clone();
            (!excluded.is_empty())
                .then(|| view! { <p class="hint left-out">"Left out by the plan: "{excluded.join(", ")}</p> })
        }}
    }
}

#[component]
fn Facts(backup: Arc<Backup>) -> impl IntoView {
    let namespace = backup.metadata.namespace.clone();
    let plan = backup.spec.backup_plan.name.clone();
    let target = backup.status.target.clone().map(|target| {
        let target_namespace = target.namespace.unwrap_or_else(|| namespace.clone());
        view! { <A href=routes::target(&target_namespace, &target.name)>{target.name}</A> }
    });
    let deletion = match backup.spec.deletion_policy {
        DeletionPolicy::Retain => "data is kept",
        DeletionPolicy::Delete => "data is deleted as well",
    };
    let kind = kind(&backup);
    let plan_href = routes::plan(&namespace, &plan);
    let requester = backup
        .spec
        .requester
        .as_ref()
        .map_or_else(|| "–".to_owned(), |person| person.user.clone());
    let created = backup.metadata.creation_timestamp.clone();
    let location = backup.status.location.clone();
    let locked = backup.status.locked_until.clone();
    view! {
        <Fact label="Plan"><A href=plan_href>{plan}</A></Fact>
        <Fact label="Type">{kind}</Fact>
        <Fact label="Target">{target}</Fact>
        <Fact label="Requested by">{requester}</Fact>
        <Fact label="Created"><Ago time=created /></Fact>
        <Fact label="When deleted">{deletion}</Fact>
        {locked
            .map(|until| {
                view! { <Fact label="Locked until"><time datetime=until.clone()>{format::absolute(&until)}</time></Fact> }
            })}
        {location.map(|location| {
                view! { <Fact label="Location"><Copyable text=location what="location" /></Fact> }
            })}
    }
}

fn steps(backup: &Backup) -> Vec<Step> {
    words::BACKUP_PHASES
        .iter()
        .map(|&(phase, label, text)| {
            let record = backup
                .status
                .phases
                .iter()
                .find(|record: &&_| record.phase == phase);
            Step {
                label,
                text,
                state: record.map(|record| record.state),
                started: record.map(|record| record.start_timestamp.clone()),
                ended: record.and_then(|record| record.completion_timestamp.clone()),
            }
        })
        .chain(
            backup
                .status
                .phases
                .iter()
                .filter(|record| record.phase == BackupPhase::Unknown)
                .map(|record| Step {
                    label: words::backup_phase(record.phase),
                    text: "A phase this console does not know yet.",
                    state: Some(record.state),
                    started: Some(record.start_timestamp.clone()),
                    ended: record.completion_timestamp.clone(),
                }),
        )
        .collect()
}
