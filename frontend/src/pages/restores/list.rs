//! The list of restores.

use std::sync::Arc;

use holdfast_shared::{Restore, RestoreSource, RunState, SourceType};
use leptos::prelude::*;
use leptos_router::components::A;

use super::create::{RestoreDialog, Source};
use crate::components::feedback::{Empty, WhenReady};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{PageHead, Search, Segments};
use crate::components::text::{Ago, Badge, Took};
use crate::pages::backups::list::{Filter, RowProgress};
use crate::state::live::Live;
use crate::state::store::Named;
use crate::{routes, words};

/// Rows shown before "Show more".
const STEP: usize = 100;

/// The page.
#[component]
pub(crate) fn Restores() -> impl IntoView {
    let live = expect_context::<Live>();
    let all = live.restores();
    let search = RwSignal::new(String::new());
    let filter = RwSignal::new(Filter::All);
    let by_location = RwSignal::new(false);
    let found = Memo::new(move |_| {
        let wanted = search.get().to_lowercase();
        let mut rows = all.get();
        rows.retain(|restore| {
            [&restore.metadata.name, &into(restore)]
                .iter()
                .any(|text| text.to_lowercase().contains(&wanted))
        });
        rows.sort_by(|a, b| b.metadata.creation_timestamp.cmp(&a.metadata.creation_timestamp));
        rows
    });
    let rows = Memo::new(move |_| {
        let filter = filter.get();
        found
            .get()
            .into_iter()
            .filter(|restore| filter.shows(restore.state()))
            .collect::<Vec<_>>()
    });
    let counts = Memo::new(move |_| {
        let found = found.get();
        let count = |choice: Filter| {
            found
                .iter()
                .filter(|restore| choice.shows(restore.state()))
                .count()
        };
        Filter::CHOICES
            .iter()
            .map(|(choice, _)| count(*choice))
            .collect::<Vec<_>>()
    });
    let none = Signal::derive(move || all.with(Vec::is_empty));
    view! {
        <PageHead title="Restores" lead="Points brought back, into their namespace or a new one.">
            <button type="button" class="button primary" on:click=move |_| by_location.set(true)>
                <Glyph icon=Icon::Restore />
                "Restore by location"
            </button>
        </PageHead>
        <RestoreDialog open=by_location source=Source::Location />
        <WhenReady sync=live.sync(|store| &store.restores)>
            <Show
                when=move || !none.get()
                fallback=move || {
                    view! {
                        <Empty
                            icon=Icon::Restore
                            title="No restore yet"
                            text="Open a complete backup to restore it. A point whose backup resource is gone comes back by its location."
                        >
                            <A href=routes::BACKUPS attr:class="button primary">"Choose a backup"</A>
                        </Empty>
                    }
                }
            >
                <div class="toolbar">
                    <Search value=search label="Search restores" />
                    <Segments label="State" chosen=filter choices=&Filter::CHOICES counts=counts />
                </div>
                <Show
                    when=move || !rows.with(Vec::is_empty)
                    fallback=|| view! { <p class="nothing">"No restore fits search and filter."</p> }
                >
                    <Table rows=rows />
                </Show>
            </Show>
        </WhenReady>
    }
}

#[component]
fn Table(rows: Memo<Vec<Arc<Restore>>>) -> impl IntoView {
    let shown = RwSignal::new(STEP);
    let visible =
        Memo::new(move |_| rows.with(|rows| rows.iter().take(shown.get()).cloned().collect::<Vec<_>>()));
    view! {
        <div class="table-frame">
            <table class="table">
                <caption class="visually-hidden">"Restores"</caption>
                <thead>
                    <tr>
                        <th scope="col">"Name"</th>
                        <th scope="col">"State"</th>
                        <th scope="col" class="wide">"From"</th>
                        <th scope="col">"Into"</th>
                        <th scope="col" class="num">"Took"</th>
                        <th scope="col">"Created"</th>
                    </tr>
                </thead>
                <tbody>
                    <For
                        each=move || visible.get()
                        key=|restore| (restore.key(), restore.metadata.uid.clone())
                        let(restore)
                    >
                        <Row restore=restore />
                    </For>
                </tbody>
            </table>
        </div>
        <Show when=move || { rows.with(Vec::len) > shown.get() }>
            <p class="more">
                <button type="button" class="button" on:click=move |_| shown.update(|shown| *shown += STEP)>
                    "Show more"
                </button>
            </p>
        </Show>
    }
}

#[component]
fn Row(restore: Arc<Restore>) -> impl IntoView {
    let live = expect_context::<Live>();
    let key = restore.key();
    let (namespace, name) = key.clone();
    let href = routes::restore(&namespace, &name);
    let from = source_link(&restore);
    let first = restore;
    let found = live.one(|store| &store.restores, Signal::stored(key));
    let restore = Memo::new(move |_| found.get().unwrap_or_else(|| first.clone()));
    let state = Memo::new(move |_| restore.get().state());
    view! {
        <tr>
            <th scope="row">
                <A href=href attr:data-row="" attr:class="row-link">{name}</A>
                <span class="sub faint">{namespace}</span>
            </th>
            <td>
                <Badge
                    label=Signal::derive(move || words::run_state(state.get()).0.to_owned())
                    tone=Signal::derive(move || words::run_state(state.get()).1)
                />
                {move || {
                    let restore = restore.get();
                    (restore.state() == RunState::Running)
                        .then(|| {
                            let phase = restore.status.phase.map(words::restore_phase).unwrap_or_default();
                            view! { <RowProgress phase=phase percent=restore.status.percentage_completion /> }
                        })
                }}
            </td>
            <td class="wide">{from}</td>
            <td>{move || into(&restore.get())}</td>
            <td class="num"><RestoreTook restore=restore /></td>
            <td><Ago time=Signal::derive(move || restore.get().metadata.creation_timestamp.clone()) /></td>
        </tr>
    }
    .into_any()
}

/// Namespace that is restored into.
pub(crate) fn into(restore: &Restore) -> String {
    let asked = restore.spec.restore_namespace.as_ref();
    restore
        .status
        .restore_namespace
        .as_ref()
        .or(asked)
        .unwrap_or(&restore.metadata.namespace)
        .clone()
}

/// What is restored, as a link where it is a resource.
pub(crate) fn source_link(restore: &Restore) -> AnyView {
    let RestoreSource {
        source_type,
        backup,
        backup_plan,
        location,
        target,
    } = restore.spec.source.clone();
    let own = restore.metadata.namespace.clone();
    match (source_type, backup, backup_plan, location) {
        (SourceType::Backup, Some(backup), _, _) => {
            let href = routes::backup(backup.namespace.as_ref().unwrap_or(&own), &backup.name);
            view! { <A href=href>{backup.name}</A> }.into_any()
        }
        (SourceType::BackupPlan, _, Some(plan), _) => {
            let href = routes::plan(plan.namespace.as_ref().unwrap_or(&own), &plan.name);
            view! { "newest of " <A href=href>{plan.name}</A> }.into_any()
        }
        (_, _, _, Some(location)) => {
            let target = target.map(|target| target.name).unwrap_or_default();
            view! { <code class="location">{location}</code> <span class="sub faint">"on "{target}</span> }
                .into_any()
        }
        _ => ().into_any(),
    }
}

/// How long a restore took or has been taking; nothing before it starts.
#[component]
pub(crate) fn RestoreTook(restore: Memo<Arc<Restore>>) -> impl IntoView {
    let from = Signal::derive(move || restore.get().status.start_timestamp.clone());
    let to = Signal::derive(move || {
        let restore = restore.get();
        // A run that ended without a time would seem to go on for ever.
        let ended = restore
            .state()
            .is_final()
            .then(|| restore.status.start_timestamp.clone())
            .flatten();
        restore.status.completion_timestamp.clone().or(ended)
    });
    view! { <Took from=from to=to /> }
}
