//! Namespaces and whether they could be brought back: the first page.

use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::{BackupSummary, NamespaceProtection, ProtectionState};
use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::components::A;

use crate::api::{Api, ApiError};
use crate::components::feedback::{Denied, Empty, Skeleton, Trouble};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{PageHead, Search, Segments};
use crate::components::text::{Ago, Badge};
use crate::pages::backups::list::RowProgress;
use crate::pages::backups::start::StartBackup;
use crate::pages::restores::create::{RestoreDialog, Source};
use crate::state::live::Live;
use crate::state::scope::Scope;
use crate::{routes, words};

/// The server derives the list from what the stream reports; it is asked again at most this often.
const REFRESH: Duration = Duration::from_millis(1500);
/// Namespaces of Kubernetes itself, hidden at first.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    All,
    Only(ProtectionState),
}

impl Filter {
    const CHOICES: [(Self, &'static str); 5] = [
        (Self::All, "All"),
        (Self::Only(ProtectionState::Protected), "Protected"),
        (Self::Only(ProtectionState::LastFailed), "Failing"),
        (Self::Only(ProtectionState::NeverBackedUp), "No backup yet"),
        (Self::Only(ProtectionState::Unprotected), "Unprotected"),
    ];

    fn shows(self, state: ProtectionState) -> bool {
        match self {
            Self::All => true,
            Self::Only(only) => only == state,
        }
    }
}

/// The list as last received, and what went wrong since.
#[derive(Clone, Copy)]
struct Listing {
    rows: RwSignal<Option<Vec<Arc<NamespaceProtection>>>>,
    error: RwSignal<Option<ApiError>>,
}

impl Listing {
    /// Reads the list now and whenever something may have changed it.
    fn follow(api: Api, live: Live, scope: Scope) -> Self {
        let listing = Self {
            rows: RwSignal::new(None),
            error: RwSignal::new(None),
        };
        let waiting = StoredValue::new(false);
        Effect::new(move |before: Option<Option<String>>| {
            live.version();
            // What happened while the connection was lost is not in the stream.
            live.link();
            let only = scope.get();
            if before.as_ref() != Some(&only) {
                listing.rows.set(None);
                listing.error.set(None);
                listing.read(api, scope);
            } else if !waiting.get_value() {
                waiting.set_value(true);
                set_timeout(
                    move || {
                        if waiting.try_set_value(false).is_none() {
                            listing.read(api, scope);
                        }
                    },
                    REFRESH,
                );
            }
            only
        });
        listing
    }

    fn read(self, api: Api, scope: Scope) {
        let only = untrack(|| scope.get());
        spawn_local(async move {
            let outcome = match &only {
                Some(namespace) => api.namespace(namespace).await.map(|row| vec![row]),
                None => api.namespaces().await,
            };
            // The page may have been left meanwhile, or the answer may be to an older question.
            if self.rows.is_disposed() || untrack(|| scope.get()) != only {
                return;
            }
            match outcome {
                Ok(rows) => {
                    self.rows.set(Some(rows.into_iter().map(Arc::new).collect()));
                    self.error.set(None);
                }
                Err(error) => self.error.set(Some(error)),
            }
        });
    }
}

/// The page.
#[component]
pub(crate) fn Namespaces() -> impl IntoView {
    let api = expect_context::<Api>();
    let listing = Listing::follow(api, expect_context(), expect_context());
    let search = RwSignal::new(String::new());
    let filter = RwSignal::new(Filter::All);
    let system = RwSignal::new(false);
    let found = Memo::new(move |_| {
        let wanted = search.get().to_lowercase();
        let mut rows = listing.rows.get().unwrap_or_default();
        rows.retain(|row| {
            (system.get() || !SYSTEM.contains(&row.name.as_str()))
                && row.name.to_lowercase().contains(&wanted)
        });
        rows
    });
    let rows = Memo::new(move |_| {
        let filter = filter.get();
        found
            .get()
            .into_iter()
            .filter(|row| filter.shows(row.state))
            .collect::<Vec<_>>()
    });
    let counts = Memo::new(move |_| {
        let found = found.get();
        let count = |choice: Filter| found.iter().filter(|row| choice.shows(row.state)).count();
        Filter::CHOICES
            .iter()
            .map(|(choice, _)| count(*choice))
            .collect::<Vec<_>>()
    });
    view! {
        <PageHead title="Namespaces" lead="What could be brought back, and how old it would be." />
        {move || {
            listing
                .error
                .get()
                .map(|error| match error.status {
                    403 => view! { <Denied message=error.message /> }.into_any(),
                    _ => view! { <Trouble title="The list could not be read" error=error /> }.into_any(),
                })
        }}
        <Show
            when=move || listing.rows.with(Option::is_some)
            fallback=move || listing.error.with(Option::is_none).then(|| view! { <Skeleton /> })
        >
            <div class="toolbar">
                <Search value=search label="Search namespaces" />
                <Segments label="Protection" chosen=filter choices=&Filter::CHOICES counts=counts />
                <label class="check">
                    <input type="checkbox" bind:checked=system />
                    "System namespaces"
                </label>
            </div>
            <Show
                when=move || !rows.with(Vec::is_empty)
                fallback=move || view! { <Nothing listing=listing /> }
            >
                <Table rows=rows />
            </Show>
        </Show>
    }
}

/// No row: because nothing fits, or because there is nothing.
#[component]
fn Nothing(listing: Listing) -> impl IntoView {
    move || {
        if listing
            .rows
            .with(|rows| rows.as_ref().is_some_and(|rows| !rows.is_empty()))
        {
            return view! { <p class="nothing">"No namespace fits search and filter."</p> }.into_any();
        }
        view! {
            <Empty
                icon=Icon::Shield
                title="No namespace you may see"
                text="The cluster's access rules decide what is listed here. Ask for the right to get a namespace and its backup plans."
            />
        }
        .into_any()
    }
}

#[component]
fn Table(rows: Memo<Vec<Arc<NamespaceProtection>>>) -> impl IntoView {
    view! {
        <div class="table-frame">
            <table class="table">
                <caption class="visually-hidden">"Namespaces"</caption>
                <thead>
                    <tr>
                        <th scope="col">"Namespace"</th>
                        <th scope="col">"Protection"</th>
                        <th scope="col">"Last good backup"</th>
                        <th scope="col" class="num">"Points"</th>
                        <th scope="col" class="wide">"Now"</th>
                        <th scope="col"><span class="visually-hidden">"Actions"</span></th>
                    </tr>
                </thead>
                <tbody>
                    <For each=move || rows.get() key=|row| row.name.clone() let(row)>
                        <Row name=row.name.clone() rows=rows />
                    </For>
                </tbody>
            </table>
        </div>
    }
}

#[component]
fn Row(name: String, rows: Memo<Vec<Arc<NamespaceProtection>>>) -> impl IntoView {
    let seen = StoredValue::new(None::<Arc<NamespaceProtection>>);
    let wanted = name.clone();
    let row = Memo::new(move |_| {
        if let Some(row) = rows.with(|rows| rows.iter().find(|row| row.name == wanted).cloned()) {
            seen.set_value(Some(row));
        }
        seen.get_value()
            .expect("a row is made for a namespace of the list")
    });
    let state = Memo::new(move |_| row.get().state);
    let backups = routes::backups_of(&name);
    let names = StoredValue::new(name.clone());
    let last_good = Memo::new(move |_| row.with(|row| row.last_good_backup.clone()));
    let none = || view! { <span class="faint">"none"</span> }.into_any();
    view! {
        <tr>
            <th scope="row">
                <A href=backups attr:data-row="" attr:class="row-link">{name}</A>
                {move || row.get().terminating.then(|| view! { <span class="sub faint">"being deleted"</span> })}
            </th>
            <td>
                <Badge
                    label=Signal::derive(move || words::protection(state.get()).0.to_owned())
                    tone=Signal::derive(move || words::protection(state.get()).1)
                />
            </td>
            <td>{move || last_good.get().map_or_else(none, |last| view! { <LastGood namespace=names last=last /> }.into_any())}</td>
            <td class="num">{move || row.get().points}</td>
            <td class="wide"><Now namespace=names row=row /></td>
            <td class="row-actions">
                <Show when=move || !row.with(|row| row.terminating)>
                    <Actions names=names row=row />
                </Show>
            </td>
        </tr>
    }
    .into_any()
}

#[component]
fn LastGood(namespace: StoredValue<String>, last: BackupSummary) -> impl IntoView {
    let href = namespace.with_value(|namespace| routes::backup(namespace, &last.name));
    let time = last.creation_timestamp;
    view! {
        <A href=href>
            <Ago time=time.clone() />
        </A>
        <span class="sub faint">{last.backup_plan}</span>
    }
}

/// What is going on in a namespace: running backups, or the failure since the last good one.
#[component]
fn Now(namespace: StoredValue<String>, row: Memo<Arc<NamespaceProtection>>) -> impl IntoView {
    let names = Memo::new(move |_| {
        row.with(|row| {
            row.running
                .iter()
                .map(|summary| summary.name.clone())
                .collect::<Vec<_>>()
        })
    });
    let failed =
        Memo::new(move |_| row.with(|row| row.failed_since.clone().filter(|_| row.running.is_empty())));
    let failure = move |summary: BackupSummary| {
        let href = namespace.with_value(|namespace| routes::backup(namespace, &summary.name));
        let message = summary.message.unwrap_or_else(|| "failed".to_owned());
        view! {
            <span class="failed-since">
                <A href=href>{summary.name}</A>
                <span class="sub">{message}</span>
            </span>
        }
    };
    view! {
        <For each=move || names.get() key=|name| name.clone() let(name)>
            <RunningNow namespace=namespace name=name row=row />
        </For>
        {move || failed.get().map(failure)}
    }
}

#[component]
fn RunningNow(
    namespace: StoredValue<String>,
    name: String,
    row: Memo<Arc<NamespaceProtection>>,
) -> impl IntoView {
    let href = namespace.with_value(|namespace| routes::backup(namespace, &name));
    let wanted = name.clone();
    let progress = Memo::new(move |_| {
        let row = row.get();
        let summary = row.running.iter().find(|summary| summary.name == wanted)?;
        Some((
            summary.phase.map_or("Pending", words::backup_phase),
            summary.percentage_completion,
        ))
    });
    view! {
        <span class="running">
            <A href=href>{name}</A>
            {move || progress.get().map(|(phase, percent)| view! { <RowProgress phase=phase percent=percent /> })}
        </span>
    }
}

#[component]
fn Actions(names: StoredValue<String>, row: Memo<Arc<NamespaceProtection>>) -> impl IntoView {
    let starting = RwSignal::new(false);
    let restoring = RwSignal::new(false);
    let plans = Memo::new(move |_| row.get().plans.clone());
    let point = Memo::new(move |_| row.get().last_good_backup.as_ref().map(|last| last.name.clone()));
    let protect = names.with_value(|namespace| routes::protect(namespace));
    let label = names.with_value(|namespace| format!("Protect {namespace}"));
    view! {
        <Show when=move || point.get().is_some()>
            <button
                type="button"
                class="button small"
                aria-label=move || names.with_value(|namespace| format!("Restore {namespace}"))
                on:click=move |_| restoring.set(true)
            >
                <Glyph icon=Icon::Restore />
                "Restore"
            </button>
        </Show>
        {move || {
            if plans.with(Vec::is_empty) {
                view! {
                    <A href=protect.clone() attr:class="button small" attr:aria-label=label.clone()>
                        <Glyph icon=Icon::Shield />
                        "Protect…"
                    </A>
                }
                    .into_any()
            } else {
                view! {
                    <button
                        type="button"
                        class="button small"
                        aria-label=move || names.with_value(|namespace| format!("Back up {namespace} now"))
                        on:click=move |_| starting.set(true)
                    >
                        <Glyph icon=Icon::Play />
                        "Back up now"
                    </button>
                }
                    .into_any()
            }
        }}
        {move || view! { <StartBackup open=starting namespace=names.get_value() plans=plans.get() /> }}
        {move || {
            point
                .get()
                .map(|name| {
                    let source = Source::Backup { namespace: names.get_value(), name };
                    view! { <RestoreDialog open=restoring source=source /> }
                })
        }}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_one_filter() {
        for state in [
            ProtectionState::Protected,
            ProtectionState::LastFailed,
            ProtectionState::NeverBackedUp,
            ProtectionState::Unprotected,
        ] {
            assert_eq!(
                Filter::CHOICES
                    .iter()
                    .filter(|(filter, _)| filter.shows(state))
                    .count(),
                2,
                "{state:?}"
            );
        }
    }
}
