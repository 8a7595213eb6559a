//! Namespaces and whether they could be brought back: the first page.

use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::{BackupSummary, NamespaceProtection, ProtectionState};
use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::components::A;

use crate::api::{Api, ApiError};
use crate::components::feedback::{Empty, Skeleton, Trouble};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{PageHead, Search, Segments};
use crate::components::text::{Ago, Badge};
use crate::pages::backups::list::RowProgress;
use crate::pages::backups::start::StartBackup;
use crate::pages::restores::create::{RestoreDialog, Source};
use crate::state::live::{Link, Live};
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
    fn follow(api: Api, live: Live) -> Self {
        let listing = Self {
            rows: RwSignal::new(None),
            error: RwSignal::new(None),
        };
        let waiting = StoredValue::new(false);
        Effect::new(move |first: Option<()>| {
            live.version();
            // What happened while the connection was lost is not in the stream.
            matches!(live.link(), Link::Live);
            if first.is_none() {
                listing.read(api);
            } else if !waiting.get_value() {
                waiting.set_value(true);
                set_timeout(
                    move || {
                        if waiting.try_set_value(false).is_none() {
                            listing.read(api);
                        }
                    },
                    REFRESH,
                );
            }
        });
        listing
    }

    fn read(self, api: Api) {
        spawn_local(async move {
            let outcome = api.namespaces().await;
            // The page may have been left meanwhile.
            if self.rows.is_disposed() {
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
    let listing = Listing::follow(api, expect_context::<Live>());
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
    let choices = Signal::derive(move || {
        let found = found.get();
        Filter::CHOICES
            .into_iter()
            .map(|(choice, label)| {
                (
                    choice,
                    label,
                    found.iter().filter(|row| choice.shows(row.state)).count(),
                )
            })
            .collect::<Vec<_>>()
    });
    view! {
        <PageHead title="Namespaces" lead="What could be brought back, and how old it would be." />
        {move || listing.error.get().map(|error| view! { <Trouble title="The list could not be read" error=error /> })}
        <Show
            when=move || listing.rows.with(Option::is_some)
            fallback=move || listing.error.with(Option::is_none).then(|| view! { <Skeleton /> })
        >
            <div class="toolbar">
                <Search value=search label="Search namespaces" />
                <Segments label="Protection" chosen=filter choices=choices />
                <label class="check">
                    <input type="checkbox" bind:checked=system />
                    "System namespaces"
                </label>
            </div>
            <Show
                when=move || !rows.with(Vec::is_empty)
                fallback=move || {
                    view! {
                        <Show
                            when=move || listing.rows.with(|rows| rows.as_ref().is_some_and(|rows| !rows.is_empty()))
                            fallback=|| {
                                view! {
                                    <Empty
                                        icon=Icon::Shield
                                        title="No namespace you may see"
                                        text="The cluster's access rules decide what is listed here. Ask for the right to get a namespace and its backup plans."
                                    />
                                }
                            }
                        >
                            <p class="nothing">"No namespace fits search and filter."</p>
                        </Show>
                    }
                }
            >
                <Table rows=rows />
            </Show>
        </Show>
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
    let namespace = name.clone();
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
            <td>
                {
                    let namespace = namespace.clone();
                    move || view! { <LastGood namespace=namespace.clone() row=row.get() /> }
                }
            </td>
            <td class="num">{move || row.get().points}</td>
            <td class="wide">
                {
                    let namespace = namespace.clone();
                    move || view! { <Now namespace=namespace.clone() row=row.get() /> }
                }
            </td>
            <td class="row-actions"><Actions namespace=namespace row=row /></td>
        </tr>
    }
    .into_any()
}

#[component]
fn LastGood(namespace: String, row: Arc<NamespaceProtection>) -> impl IntoView {
    match row.last_good_backup.clone() {
        None => view! { <span class="faint">"none"</span> }.into_any(),
        Some(last) => {
            let href = routes::backup(&namespace, &last.name);
            view! {
                <A href=href>
                    <Ago time=last.creation_timestamp />
                </A>
                <span class="sub faint">{last.backup_plan}</span>
            }
            .into_any()
        }
    }
}

/// What is going on in a namespace: running backups, or the failure since the last good one.
#[component]
fn Now(namespace: String, row: Arc<NamespaceProtection>) -> impl IntoView {
    let running = row
        .running
        .iter()
        .map(|summary| running(&namespace, summary))
        .collect_view();
    let failed = row
        .failed_since
        .as_ref()
        .filter(|_| row.running.is_empty())
        .map(|summary| {
            let href = routes::backup(&namespace, &summary.name);
            let message = summary.message.clone().unwrap_or_else(|| "failed".to_owned());
            let name = summary.name.clone();
            view! {
                <span class="failed-since">
                    <A href=href>{name}</A>
                    <span class="sub">{message}</span>
                </span>
            }
        });
    view! {
        {running}
        {failed}
    }
}

fn running(namespace: &str, summary: &BackupSummary) -> impl IntoView + use<> {
    let href = routes::backup(namespace, &summary.name);
    let phase = summary.phase.map_or("Pending", words::backup_phase);
    let name = summary.name.clone();
    let percent = summary.percentage_completion;
    view! {
        <span class="running">
            <A href=href>{name}</A>
            <RowProgress phase=phase percent=percent />
        </span>
    }
}

#[component]
fn Actions(namespace: String, row: Memo<Arc<NamespaceProtection>>) -> impl IntoView {
    let starting = RwSignal::new(false);
    let restoring = RwSignal::new(false);
    let plans = Memo::new(move |_| row.get().plans.clone());
    let point = Memo::new(move |_| row.get().last_good_backup.as_ref().map(|last| last.name.clone()));
    let protect = routes::protect(&namespace);
    let label = format!("Protect {namespace}");
    let names = StoredValue::new(namespace);
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
