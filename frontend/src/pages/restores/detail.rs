//! One restore, live.

use std::sync::Arc;

use holdfast_shared::{Restore, RestorePhase, RestoreStatus};
use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_params_map};

use super::list::{RestoreTook, into, source_link};
use crate::api::{Api, Collection};
use crate::components::feedback::WhenReady;
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{Fact, PageHead};
use crate::components::run::{Conditions, Outcome, ProblemSection, Step, Stepper, VolumeSection};
use crate::components::tabs::{Tabs, current_tab};
use crate::components::text::{Ago, Badge, Copyable};
use crate::components::yaml::YamlView;
use crate::pages::backups::delete::{DeleteDialog, Gone};
use crate::state::live::Live;
use crate::state::toast::Toasts;
use crate::{routes, words};

const TABS: &[(&str, &str)] = &[
    ("overview", "Overview"),
    ("conditions", "Conditions"),
    ("yaml", "YAML"),
];

/// The page.
#[component]
pub(crate) fn RestorePage() -> impl IntoView {
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
    let restore = live.one(|store| &store.restores, key);
    let exists = Memo::new(move |_| restore.get().is_some());
    let tab = current_tab(TABS);
    view! {
        <PageHead
            title=Signal::derive(move || key.get().1)
            parent=(routes::RESTORES, "Restores")
            lead=Signal::derive(move || {
                restore.get().map(|restore| format!("Restore into {}", into(&restore))).unwrap_or_default()
            })
        >
            <Actions key=key restore=restore />
        </PageHead>
        <Tabs tabs=TABS />
        <WhenReady sync=live.sync(|store| &store.restores)>
            {move || match (exists.get(), tab.get()) {
                (false, _) => view! { <Gone what="restore" list=routes::RESTORES /> }.into_any(),
                (true, "conditions") => {
                    let conditions = Signal::derive(move || {
                        restore.get().map(|restore| restore.status.conditions.clone()).unwrap_or_default()
                    });
                    view! { <div class="table-frame"><Conditions conditions=conditions /></div> }.into_any()
                }
                (true, "yaml") => view! { <YamlView collection=Collection::Restores key=key /> }.into_any(),
                (true, _) => view! { <Overview restore=restore /> }.into_any(),
            }}
        </WhenReady>
    }
}

#[component]
fn Actions(key: Signal<(String, String)>, restore: Memo<Option<Arc<Restore>>>) -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let navigate = use_navigate();
    let deleting = RwSignal::new(false);
    let canceling = RwSignal::new(false);
    let running = Memo::new(move |_| restore.get().is_some_and(|restore| !restore.state().is_final()));
    let asked = Memo::new(move |_| restore.get().is_some_and(|restore| restore.spec.cancel));
    let cancel = move |_| {
        canceling.set(true);
        let (namespace, name) = key.get_untracked();
        spawn_local(async move {
            match api.cancel(Collection::Restores, &namespace, &name).await {
                Ok(()) => toasts.good(format!("Restore {name} is being canceled."), None),
                Err(error) => toasts.bad("Not canceled", &error),
            }
            canceling.set(false);
        });
    };
    let text = Signal::derive(move || {
        match running.get() {
            true => "The run is stopped first. Objects and volumes that were restored already stay.",
            false => "Only the record of this run goes. What was restored stays.",
        }
        .to_owned()
    });
    view! {
        <Show when=move || restore.get().is_some()>
            <button type="button" class="button" on:click=move |_| deleting.set(true)>
                <Glyph icon=Icon::Trash />
                "Delete"
            </button>
        </Show>
        <Show when=move || running.get()>
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
        <DeleteDialog
            open=deleting
            collection=Collection::Restores
            key=key
            uid=Signal::derive(move || restore.get().map(|restore| restore.metadata.uid.clone()).unwrap_or_default())
            what="restore"
            text=text
            done=move || navigate(routes::RESTORES, Default::default())
        />
    }
}

#[component]
fn Overview(restore: Memo<Option<Arc<Restore>>>) -> impl IntoView {
    let seen = StoredValue::new(None::<Arc<Restore>>);
    // The page goes when the restore does; until then the last state known is shown.
    let restore = Memo::new(move |_| {
        if let Some(restore) = restore.get() {
            seen.set_value(Some(restore));
        }
        seen.get_value().expect("shown only while there is a restore")
    });
    let state = Memo::new(move |_| restore.get().state());
    // Without what changes all the time, so that links keep the focus while a run goes on.
    let lasting = Memo::new(move |_| {
        let restore = restore.get();
        let RestoreStatus {
            target,
            restore_namespace,
            report,
            ..
        } = restore.status.clone();
        let status = RestoreStatus {
            target,
            restore_namespace,
            report,
            ..RestoreStatus::default()
        };
        Arc::new(Restore {
            metadata: restore.metadata.clone(),
            spec: restore.spec.clone(),
            status,
        })
    });
    let problems = Memo::new(move |_| restore.get().status.problems.clone());
    let volumes = Memo::new(move |_| restore.get().status.volumes.clone());
    view! {
        <Outcome
            conditions=Signal::derive(move || restore.get().status.conditions.clone())
            state=state
        />
        <Stepper steps=Memo::new(move |_| steps(&restore.get())) />
        <dl class="facts">
            <Fact label="State">
                <Badge
                    label=Signal::derive(move || words::run_state(state.get()).0.to_owned())
                    tone=Signal::derive(move || words::run_state(state.get()).1)
                />
            </Fact>
            <Fact label="Duration"><RestoreTook restore=restore /></Fact>
            <Fact label="Objects">{move || view! { <Objects restore=restore.get() /> }}</Fact>
            {move || view! { <Facts restore=lasting.get() /> }}
        </dl>
        <ProblemSection problems=problems />
        <VolumeSection
            volumes=volumes
            uid=Signal::derive(move || restore.get().metadata.uid.clone())
            nothing=Signal::derive(move || match state.get().is_final() {
                true => "This restore had no volume to write.",
                false => "Volumes appear once the plan is made.",
            })
        />
    }
}

/// How many objects of the plan were dealt with, and how.
#[component]
fn Objects(restore: Arc<Restore>) -> impl IntoView {
    let Some(counts) = restore.status.objects else {
        return view! { <span class="faint">"–"</span> }.into_any();
    };
    let dealt = counts.created + counts.skipped + counts.failed;
    let mut parts = vec![format!("{} of {} written", counts.created, counts.planned)];
    if counts.skipped > 0 {
        parts.push(format!("{} there already", counts.skipped));
    }
    let failed = (counts.failed > 0)
        .then(|| view! { <span class="field-error">{format!(", {} refused", counts.failed)}</span> });
    view! {
        <span class="num">{parts.join(", ")}{failed}</span>
        <progress
            max=counts.planned.max(1).to_string()
            value=dealt.to_string()
            aria-label="Objects dealt with"
        ></progress>
    }
    .into_any()
}

#[component]
fn Facts(restore: Arc<Restore>) -> impl IntoView {
    let own = restore.metadata.namespace.clone();
    let target = restore.status.target.clone().map(|target| {
        let namespace = target.namespace.unwrap_or_else(|| own.clone());
        view! { <A href=routes::target(&namespace, &target.name)>{target.name}</A> }
    });
    let from = source_link(&restore);
    let into = into(&restore);
    let requester = restore
        .spec
        .requester
        .as_ref()
        .map_or_else(|| "–".to_owned(), |person| person.user.clone());
    let created = restore.metadata.creation_timestamp.clone();
    let report = restore.status.report.clone();
    view! {
        <Fact label="From">{from}</Fact>
        <Fact label="Into">{into}</Fact>
        <Fact label="Target">{target}</Fact>
        <Fact label="Requested by">{requester}</Fact>
        <Fact label="Created"><Ago time=created /></Fact>
        {report.map(|report| {
                view! { <Fact label="Report on the target"><Copyable text=report what="key of the report" /></Fact> }
            })}
    }
}

fn steps(restore: &Restore) -> Vec<Step> {
    words::RESTORE_PHASES
        .iter()
        .map(|&(phase, label, text)| {
            let record = restore
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
            restore
                .status
                .phases
                .iter()
                .filter(|record| record.phase == RestorePhase::Unknown)
                .map(|record| Step {
                    label: words::restore_phase(record.phase),
                    text: "A phase this console does not know yet.",
                    state: Some(record.state),
                    started: Some(record.start_timestamp.clone()),
                    ended: record.completion_timestamp.clone(),
                }),
        )
        .collect()
}
