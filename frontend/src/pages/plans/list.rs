//! The list of plans.

use std::sync::Arc;

use holdfast_shared::BackupPlan;
use leptos::prelude::*;
use leptos_router::components::A;

use crate::components::feedback::{Empty, WhenReady};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{PageHead, Search};
use crate::components::run::accepted;
use crate::components::text::{Ago, Badge};
use crate::pages::backups::start::StartBackup;
use crate::routes;
use crate::state::live::Live;
use crate::state::store::Named;

/// The page.
#[component]
pub(crate) fn Plans() -> impl IntoView {
    let live = expect_context::<Live>();
    let all = live.plans();
    let search = RwSignal::new(String::new());
    let rows = Memo::new(move |_| {
        let wanted = search.get().to_lowercase();
        all.get()
            .into_iter()
            .filter(|plan| {
                let target = &plan.spec.backup_config.target.name;
                [&plan.metadata.name, &plan.metadata.namespace, target]
                    .iter()
                    .any(|text| text.to_lowercase().contains(&wanted))
            })
            .collect::<Vec<_>>()
    });
    let none = Signal::derive(move || all.with(Vec::is_empty));
    view! {
        <PageHead title="Plans" lead="A plan protects the namespace it lives in.">
            <A href=routes::PLAN_NEW attr:class="button primary">
                <Glyph icon=Icon::Plus />
                "New plan"
            </A>
        </PageHead>
        <WhenReady sync=live.sync(|store| &store.plans)>
            <Show
                when=move || !none.get()
                fallback=|| {
                    view! {
                        <Empty
                            icon=Icon::Plan
                            title="No plan yet"
                            text="A plan says what of a namespace is backed up and to which target."
                        >
                            <A href=routes::PLAN_NEW attr:class="button primary">"Create a plan"</A>
                            <A href=routes::NAMESPACES attr:class="button">"Choose a namespace"</A>
                        </Empty>
                    }
                }
            >
                <div class="toolbar">
                    <Search value=search label="Search plans" />
                </div>
                <Show
                    when=move || !rows.with(Vec::is_empty)
                    fallback=|| view! { <p class="nothing">"No plan fits the search."</p> }
                >
                    <div class="table-frame">
                        <table class="table">
                            <caption class="visually-hidden">"Plans"</caption>
                            <thead>
                                <tr>
                                    <th scope="col">"Name"</th>
                                    <th scope="col">"State"</th>
                                    <th scope="col" class="wide">"Target"</th>
                                    <th scope="col" class="num">"Points"</th>
                                    <th scope="col">"Last good backup"</th>
                                    <th scope="col">"Created"</th>
                                    <th scope="col"><span class="visually-hidden">"Actions"</span></th>
                                </tr>
                            </thead>
                            <tbody>
                                <For each=move || rows.get() key=|plan| plan.key() let(plan)>
                                    <Row plan=plan />
                                </For>
                            </tbody>
                        </table>
                    </div>
                </Show>
            </Show>
        </WhenReady>
    }
}

#[component]
fn Row(plan: Arc<BackupPlan>) -> impl IntoView {
    let live = expect_context::<Live>();
    let key = plan.key();
    let (namespace, name) = key.clone();
    let href = routes::plan(&namespace, &name);
    let starting = RwSignal::new(false);
    let first = plan;
    let found = live.one(|store| &store.plans, Signal::stored(key));
    let plan = Memo::new(move |_| found.get().unwrap_or_else(|| first.clone()));
    let state = Memo::new(move |_| accepted(&plan.get().status.conditions));
    let last = {
        let namespace = namespace.clone();
        move || {
            let last = plan.get().status.last_successful_backup.clone();
            match last {
                None => view! { <span class="faint">"none"</span> }.into_any(),
                Some(last) => {
                    view! { <A href=routes::backup(&namespace, &last.name)>{last.name.clone()}</A> }
                        .into_any()
                }
            }
        }
    };
    let preset = (namespace.clone(), name.clone());
    view! {
        <tr>
            <th scope="row">
                <A href=href attr:data-row="" attr:class="row-link">{name}</A>
                <span class="sub faint">{namespace}</span>
            </th>
            <td>
                <Badge
                    label=Signal::derive(move || state.get().0.to_owned())
                    tone=Signal::derive(move || state.get().1)
                />
            </td>
            <td class="wide">{move || target_link(&plan.get())}</td>
            <td class="num">
                {move || plan.get().status.points.map_or_else(|| "–".to_owned(), |points| points.to_string())}
            </td>
            <td>{last}</td>
            <td><Ago time=Signal::derive(move || plan.get().metadata.creation_timestamp.clone()) /></td>
            <td class="row-actions">
                <button type="button" class="button small" on:click=move |_| starting.set(true)>
                    <Glyph icon=Icon::Play />
                    "Back up now"
                </button>
                <StartBackup open=starting namespace=preset.0 plans=vec![preset.1] />
            </td>
        </tr>
    }
    .into_any()
}

/// A link to the target of a plan.
pub(crate) fn target_link(plan: &BackupPlan) -> impl IntoView + use<> {
    let target = &plan.spec.backup_config.target;
    let namespace = target
        .namespace
        .as_ref()
        .unwrap_or(&plan.metadata.namespace)
        .clone();
    let name = target.name.clone();
    let href = routes::target(&namespace, &name);
    view! {
        <A href=href>{name}</A>
        <span class="sub faint">{namespace}</span>
    }
}
