//! The list of backups, and the table that plans show as well.

use std::sync::Arc;

use holdfast_shared::{Backup, RunState};
use leptos::prelude::*;
use leptos_router::components::A;
use leptos_router::hooks::use_query_map;

use crate::components::feedback::{Empty, WhenReady};
use crate::components::icon::Icon;
use crate::components::page::{PageHead, Search, Segments};
use crate::components::text::{Ago, Badge, Size, Took};
use crate::state::live::Live;
use crate::state::store::Named;
use crate::{routes, words};

/// Rows shown before "Show more".
const STEP: usize = 100;

/// Which runs are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    All,
    Active,
    Complete,
    Failed,
}

impl Filter {
    /// Every choice with its label.
    pub(crate) const CHOICES: [(Self, &'static str); 4] = [
        (Self::All, "All"),
        (Self::Active, "Active"),
        (Self::Complete, "Complete"),
        (Self::Failed, "Failed"),
    ];

    /// Whether a run in this state is shown.
    pub(crate) fn shows(self, state: RunState) -> bool {
        match self {
            Self::All => true,
            Self::Active => !state.is_final(),
            Self::Complete => state == RunState::Complete,
            Self::Failed => matches!(state, RunState::Failed | RunState::Canceled),
        }
    }
}

/// Sorts by creation, newest first; what has no time yet is newest of all.
pub(crate) fn newest_first(rows: &mut [Arc<Backup>]) {
    rows.sort_by(|a, b| {
        let time = |backup: &Backup| {
            backup
                .metadata
                .creation_timestamp
                .clone()
                .unwrap_or_else(|| "~".to_owned())
        };
        time(b)
            .cmp(&time(a))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}

/// The page.
#[component]
pub(crate) fn Backups() -> impl IntoView {
    let live = expect_context::<Live>();
    let all = live.backups();
    let query = use_query_map();
    let search = RwSignal::new(
        query
            .with_untracked(|query| query.get("namespace"))
            .unwrap_or_default(),
    );
    let filter = RwSignal::new(Filter::All);
    let found = Memo::new(move |_| {
        let wanted = search.get().to_lowercase();
        let mut rows = all.get();
        rows.retain(|backup| {
            [
                &backup.metadata.name,
                &backup.metadata.namespace,
                &backup.spec.backup_plan.name,
            ]
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted))
        });
        newest_first(&mut rows);
        rows
    });
    let rows = Memo::new(move |_| {
        let filter = filter.get();
        found
            .get()
            .into_iter()
            .filter(|backup| filter.shows(backup.state()))
            .collect::<Vec<_>>()
    });
    let counts = Memo::new(move |_| {
        let found = found.get();
        let count = |choice: Filter| found.iter().filter(|backup| choice.shows(backup.state())).count();
        Filter::CHOICES
            .iter()
            .map(|(choice, _)| count(*choice))
            .collect::<Vec<_>>()
    });
    let none = Signal::derive(move || all.with(Vec::is_empty));
    view! {
        <PageHead title="Backups" lead="Runs of plans. What is complete can be restored." />
        <WhenReady sync=live.sync(|store| &store.backups)>
            <Show
                when=move || !none.get()
                fallback=|| {
                    view! {
                        <Empty
                            icon=Icon::Archive
                            title="No backup yet"
                            text="Protect a namespace, and its backups appear here."
                        >
                            <A href=routes::NAMESPACES attr:class="button primary">"Choose a namespace"</A>
                        </Empty>
                    }
                }
            >
                <div class="toolbar">
                    <Search value=search label="Search backups" />
                    <Segments label="State" chosen=filter choices=&Filter::CHOICES counts=counts />
                </div>
                <Show
                    when=move || !rows.with(Vec::is_empty)
                    fallback=|| view! { <p class="nothing">"No backup fits search and filter."</p> }
                >
                    <BackupTable rows=rows />
                </Show>
            </Show>
        </WhenReady>
    }
}

/// A table of backups.
#[component]
pub(crate) fn BackupTable(rows: Memo<Vec<Arc<Backup>>>) -> impl IntoView {
    let shown = RwSignal::new(STEP);
    let visible =
        Memo::new(move |_| rows.with(|rows| rows.iter().take(shown.get()).cloned().collect::<Vec<_>>()));
    let count = move || rows.with(Vec::len);
    view! {
        <div class="table-frame">
            <table class="table">
                <caption class="visually-hidden">"Backups"</caption>
                <thead>
                    <tr>
                        <th scope="col">"Name"</th>
                        <th scope="col">"State"</th>
                        <th scope="col">"Plan"</th>
                        <th scope="col">"Type"</th>
                        <th scope="col" class="num">"Stored"</th>
                        <th scope="col" class="num">"Took"</th>
                        <th scope="col">"Created"</th>
                    </tr>
                </thead>
                <tbody>
                    <For
                        each=move || visible.get()
                        key=|backup| (backup.key(), backup.metadata.uid.clone())
                        let(backup)
                    >
                        <Row backup=backup />
                    </For>
                </tbody>
            </table>
        </div>
        <Show when=move || { count() > shown.get() }>
            <p class="more">
                <button type="button" class="button" on:click=move |_| shown.update(|shown| *shown += STEP)>
                    "Show more"
                </button>
                <span class="faint">{move || format!("{} of {}", shown.get().min(count()), count())}</span>
            </p>
        </Show>
    }
}

#[component]
fn Row(backup: Arc<Backup>) -> impl IntoView {
    let live = expect_context::<Live>();
    let key = backup.key();
    let (namespace, name) = key.clone();
    let href = routes::backup(&namespace, &name);
    let plan = backup.spec.backup_plan.name.clone();
    let plan_href = routes::plan(&namespace, &plan);
    let first = backup;
    let found = live.one(|store| &store.backups, Signal::stored(key));
    let backup = Memo::new(move |_| found.get().unwrap_or_else(|| first.clone()));
    view! {
        <tr>
            <th scope="row">
                <A href=href attr:data-row="" attr:class="row-link">{name}</A>
                <span class="sub faint">{namespace}</span>
            </th>
            <td><BackupState backup=backup /></td>
            <td><A href=plan_href>{plan}</A></td>
            <td>{move || kind(&backup.get())}</td>
            <td class="num"><Size bytes=Signal::derive(move || backup.get().status.size) /></td>
            <td class="num"><BackupTook backup=backup /></td>
            <td><Ago time=Signal::derive(move || backup.get().metadata.creation_timestamp.clone()) /></td>
        </tr>
    }
    .into_any()
}

/// What a backup is: what it became, or else what was asked for.
pub(crate) fn kind(backup: &Backup) -> String {
    backup
        .status
        .kind
        .clone()
        .unwrap_or_else(|| format!("{:?}", backup.spec.kind))
}

/// State of a backup; while it runs with phase and progress.
#[component]
fn BackupState(backup: Memo<Arc<Backup>>) -> impl IntoView {
    let state = Memo::new(move |_| backup.get().state());
    let label = Signal::derive(move || words::run_state(state.get()).0.to_owned());
    let tone = Signal::derive(move || words::run_state(state.get()).1);
    view! {
        <Badge label=label tone=tone />
        {move || {
            let backup = backup.get();
            (backup.state() == RunState::Running)
                .then(|| {
                    let phase = backup.status.phase.map(words::backup_phase).unwrap_or_default();
                    view! { <RowProgress phase=phase percent=backup.status.percentage_completion /> }
                })
        }}
    }
}

/// Phase and bar of a run at work.
#[component]
pub(crate) fn RowProgress(phase: &'static str, percent: Option<u8>) -> impl IntoView {
    view! {
        <span class="row-progress">
            {percent
                .map(|percent| {
                    view! { <progress max="100" value=percent.to_string() aria-label="Progress"></progress> }
                })}
            <span class="sub">
                {phase}
                {percent.map(|percent| format!(" · {percent} %"))}
            </span>
        </span>
    }
}

/// How long a backup took or has been taking; nothing before it starts.
#[component]
pub(crate) fn BackupTook(backup: Memo<Arc<Backup>>) -> impl IntoView {
    let from = Signal::derive(move || backup.get().status.start_timestamp.clone());
    let to = Signal::derive(move || {
        let backup = backup.get();
        // A run that ended without a time would seem to go on for ever.
        let ended = backup
            .state()
            .is_final()
            .then(|| backup.status.start_timestamp.clone())
            .flatten();
        backup.status.completion_timestamp.clone().or(ended)
    });
    view! { <Took from=from to=to /> }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_found_by_exactly_one_filter_beside_all() {
        for state in [
            RunState::Pending,
            RunState::Running,
            RunState::Complete,
            RunState::Failed,
            RunState::Canceled,
        ] {
            let found = Filter::CHOICES
                .iter()
                .skip(1)
                .filter(|(filter, _)| filter.shows(state))
                .count();
            assert_eq!(found, 1, "{state:?}");
            assert!(Filter::All.shows(state));
        }
    }
}
