//! One plan with its backups.

use holdfast_shared::BackupPlan;
use leptos::prelude::*;
use leptos_router::hooks::{use_navigate, use_params_map};

use crate::api::Collection;
use crate::components::feedback::{Empty, Notice, WhenReady};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{Fact, PageHead};
use crate::components::run::{Conditions, accepted};
use crate::components::tabs::{Tabs, current_tab};
use crate::components::text::{Ago, Badge};
use crate::components::yaml::YamlView;
use crate::pages::backups::delete::{DeleteDialog, Gone};
use crate::pages::backups::list::BackupTable;
use crate::pages::backups::start::StartBackup;
use crate::pages::plans::list::target_link;
use crate::pages::restores::create::{RestoreDialog, Source};
use crate::routes;
use crate::state::live::Live;
use crate::words::{self, Tone};

const TABS: &[(&str, &str)] = &[
    ("backups", "Backups"),
    ("conditions", "Conditions"),
    ("yaml", "YAML"),
];

/// The page.
#[component]
pub(crate) fn PlanPage() -> impl IntoView {
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
    let plan = live.one(|store| &store.plans, key);
    let tab = current_tab(TABS);
    let starting = RwSignal::new(false);
    let exists = Memo::new(move |_| plan.get().is_some());
    view! {
        <PageHead
            title=Signal::derive(move || key.get().1)
            parent=(routes::PLANS, "Plans")
            lead=Signal::derive(move || format!("Plan for namespace {}", key.get().0))
        >
            <Actions key=key plan=plan starting=starting />
        </PageHead>
        <WhenReady sync=live.sync(|store| &store.plans)>
            {move || match exists.get() {
                false => view! { <Gone what="plan" list=routes::PLANS /> }.into_any(),
                true => view! { <Overview plan=plan /> }.into_any(),
            }}
        </WhenReady>
        <Tabs tabs=TABS />
        {move || match tab.get() {
            "conditions" => {
                let conditions = Signal::derive(move || {
                    plan.get().map(|plan| plan.status.conditions.clone()).unwrap_or_default()
                });
                view! { <div class="table-frame"><Conditions conditions=conditions /></div> }.into_any()
            }
            "yaml" => view! { <YamlView collection=Collection::BackupPlans key=key /> }.into_any(),
            _ => view! { <PlanBackups key=key starting=starting /> }.into_any(),
        }}
    }
}

#[component]
fn Actions(
    key: Signal<(String, String)>,
    plan: Memo<Option<std::sync::Arc<BackupPlan>>>,
    starting: RwSignal<bool>,
) -> impl IntoView {
    let deleting = RwSignal::new(false);
    let restoring = RwSignal::new(false);
    let navigate = use_navigate();
    let has_point = Memo::new(move |_| {
        plan.get()
            .is_some_and(|plan| plan.status.last_successful_backup.is_some())
    });
    view! {
        <Show when=move || plan.get().is_some()>
            <button type="button" class="button" on:click=move |_| deleting.set(true)>
                <Glyph icon=Icon::Trash />
                "Delete"
            </button>
            <button
                type="button"
                class="button"
                disabled=move || !has_point.get()
                title=move || (!has_point.get()).then_some("There is no complete backup to restore")
                on:click=move |_| restoring.set(true)
            >
                <Glyph icon=Icon::Restore />
                "Restore newest"
            </button>
            <button type="button" class="button primary" on:click=move |_| starting.set(true)>
                <Glyph icon=Icon::Play />
                "Back up now"
            </button>
        </Show>
        {move || {
            let (namespace, name) = key.get();
            view! {
                <StartBackup open=starting namespace=namespace.clone() plans=vec![name.clone()] />
                <RestoreDialog open=restoring source=Source::Plan { namespace, name } />
            }
        }}
        <DeleteDialog
            open=deleting
            collection=Collection::BackupPlans
            key=key
            uid=Signal::derive(move || plan.get().map(|plan| plan.metadata.uid.clone()).unwrap_or_default())
            what="plan"
            text="The namespace is no longer protected by this plan. Its backups and their data on the target stay and can be restored."
            done=move || navigate(routes::PLANS, Default::default())
        />
    }
}

#[component]
fn Overview(plan: Memo<Option<std::sync::Arc<BackupPlan>>>) -> impl IntoView {
    let state = Memo::new(move |_| {
        plan.get()
            .map(|plan| accepted(&plan.status.conditions))
            .unwrap_or_else(|| accepted(&[]))
    });
    view! {
        {move || {
            let (_, tone, reason, message) = state.get();
            (tone == Tone::Bad)
                .then(|| {
                    let (title, advice) = words::reason(&reason).unwrap_or(("This plan cannot run", ""));
                    view! { <Notice tone=tone title=title text=message advice=advice /> }
                })
        }}
        <dl class="facts">
            <Fact label="State">
                <Badge
                    label=Signal::derive(move || state.get().0.to_owned())
                    tone=Signal::derive(move || state.get().1)
                />
            </Fact>
            {move || plan.get().map(|plan| view! { <Facts plan=plan /> })}
        </dl>
    }
}

#[component]
fn Facts(plan: std::sync::Arc<BackupPlan>) -> impl IntoView {
    let excluded: Vec<String> = plan
        .spec
        .exclude_resources
        .iter()
        .flat_map(|selector| &selector.gvk_selector)
        .map(|set| {
            let kind = &set.group_version_kind.kind;
            if set.objects.is_empty() {
                format!("every {kind}")
            } else {
                format!("{kind} {}", set.objects.join(", "))
            }
        })
        .collect();
    let excluded = if excluded.is_empty() {
        "nothing".to_owned()
    } else {
        excluded.join("; ")
    };
    let target = target_link(&plan);
    let points = plan
        .status
        .points
        .map_or_else(|| "–".to_owned(), |points| points.to_string());
    let created = plan.metadata.creation_timestamp.clone();
    view! {
        <Fact label="Target">{target}</Fact>
        <Fact label="Points">{points}</Fact>
        <Fact label="Left out">{excluded}</Fact>
        <Fact label="Created"><Ago time=created /></Fact>
    }
}

#[component]
fn PlanBackups(key: Signal<(String, String)>, starting: RwSignal<bool>) -> impl IntoView {
    let live = expect_context::<Live>();
    let all = live.backups();
    let rows = Memo::new(move |_| {
        let (namespace, name) = key.get();
        let mut rows: Vec<_> = all
            .get()
            .into_iter()
            .filter(|backup| backup.metadata.namespace == namespace && backup.spec.backup_plan.name == name)
            .collect();
        crate::pages::backups::list::newest_first(&mut rows);
        rows
    });
    view! {
        <WhenReady sync=live.sync(|store| &store.backups)>
            <Show
                when=move || !rows.with(Vec::is_empty)
                fallback=move || {
                    view! {
                        <Empty
                            icon=Icon::Archive
                            title="No backup of this plan yet"
                            text="The namespace is not protected before one is complete."
                        >
                            <button type="button" class="button primary" on:click=move |_| starting.set(true)>
                                "Back up now"
                            </button>
                        </Empty>
                    }
                }
            >
                <BackupTable rows=rows />
            </Show>
        </WhenReady>
    }
}
