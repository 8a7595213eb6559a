//! The list of targets.

use std::sync::Arc;

use holdfast_shared::Target;
use leptos::prelude::*;
use leptos_router::components::A;

use crate::components::feedback::{Empty, WhenReady};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{PageHead, Search};
use crate::components::run::accepted;
use crate::components::text::{Ago, Badge};
use crate::state::live::Live;
use crate::state::store::Named;
use crate::{routes, words};

/// The page.
#[component]
pub(crate) fn Targets() -> impl IntoView {
    let live = expect_context::<Live>();
    let all = live.targets();
    let search = RwSignal::new(String::new());
    let rows = Memo::new(move |_| {
        let wanted = search.get().to_lowercase();
        all.get()
            .into_iter()
            .filter(|target| {
                let (place, at) = target.spec.place();
                [&target.metadata.name, &target.metadata.namespace, &place, &at]
                    .iter()
                    .any(|text| text.to_lowercase().contains(&wanted))
            })
            .collect::<Vec<_>>()
    });
    let none = Signal::derive(move || all.with(Vec::is_empty));
    view! {
        <PageHead title="Targets" lead="Storage that holds backups. Everything restores from a target alone.">
            <A href=routes::TARGET_NEW attr:class="button primary">
                <Glyph icon=Icon::Plus />
                "New target"
            </A>
        </PageHead>
        <WhenReady sync=live.sync(|store| &store.targets)>
            <Show
                when=move || !none.get()
                fallback=|| {
                    view! {
                        <Empty
                            icon=Icon::Bucket
                            title="No target yet"
                            text="Backups need a place to go: a bucket of an S3-compatible store, an NFS export or a claim."
                        >
                            <A href=routes::TARGET_NEW attr:class="button primary">"Create a target"</A>
                        </Empty>
                    }
                }
            >
                <div class="toolbar">
                    <Search value=search label="Search targets" />
                </div>
                <Show
                    when=move || !rows.with(Vec::is_empty)
                    fallback=|| view! { <p class="nothing">"No target fits the search."</p> }
                >
                    <div class="table-frame">
                        <table class="table">
                            <caption class="visually-hidden">"Targets"</caption>
                            <thead>
                                <tr>
                                    <th scope="col">"Name"</th>
                                    <th scope="col">"State"</th>
                                    <th scope="col" class="wide">"Place"</th>
                                    <th scope="col">"Type"</th>
                                    <th scope="col" class="num">"Points"</th>
                                    <th scope="col">"Probed"</th>
                                </tr>
                            </thead>
                            <tbody>
                                <For each=move || rows.get() key=|target| target.key() let(target)>
                                    <Row target=target />
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
fn Row(target: Arc<Target>) -> impl IntoView {
    let live = expect_context::<Live>();
    let key = target.key();
    let href = routes::target(&key.0, &key.1);
    let (namespace, name) = key.clone();
    let first = target;
    let found = live.one(|store| &store.targets, Signal::stored(key));
    let target = Memo::new(move |_| found.get().unwrap_or_else(|| first.clone()));
    let state = Memo::new(move |_| accepted(&target.get().status.conditions));
    let place = move || target.get().spec.place();
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
                {move || {
                    let (_, tone, reason, _) = state.get();
                    (tone == words::Tone::Bad)
                        .then(|| words::reason(&reason).map(|(title, _)| view! { <span class="sub">{title}</span> }))
                }}
            </td>
            <td class="wide">
                {move || place().0}
                <span class="sub faint">{move || place().1}</span>
            </td>
            <td>{move || words::target_type(target.get().spec.target_type)}</td>
            <td class="num">
                {move || target.get().status.points.map_or_else(|| "–".to_owned(), |points| points.to_string())}
            </td>
            <td><Ago time=Signal::derive(move || target.get().status.last_probe_timestamp.clone()) /></td>
        </tr>
    }
    .into_any()
}
