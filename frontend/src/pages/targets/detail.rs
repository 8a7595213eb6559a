//! One target.

use holdfast_shared::{ObjectStoreCredentials, Target};
use leptos::prelude::*;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_params_map};

use crate::api::Collection;
use crate::components::feedback::{Notice, WhenReady};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::{Fact, PageHead};
use crate::components::run::{Conditions, accepted};
use crate::components::tabs::{Tabs, current_tab};
use crate::components::text::{Ago, Badge};
use crate::components::yaml::YamlView;
use crate::pages::backups::delete::{DeleteDialog, Gone};
use crate::routes;
use crate::state::live::Live;
use crate::state::store::Named;
use crate::words::{self, Tone};

const TABS: &[(&str, &str)] = &[
    ("overview", "Overview"),
    ("conditions", "Conditions"),
    ("yaml", "YAML"),
];

/// The page.
#[component]
pub(crate) fn TargetPage() -> impl IntoView {
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
    let target = live.one(|store| &store.targets, key);
    let tab = current_tab(TABS);
    let deleting = RwSignal::new(false);
    let navigate = use_navigate();
    view! {
        <PageHead
            title=Signal::derive(move || key.get().1)
            parent=(routes::TARGETS, "Targets")
            lead=Signal::derive(move || format!("Target in namespace {}", key.get().0))
        >
            <Show when=move || target.get().is_some()>
                <button type="button" class="button" on:click=move |_| deleting.set(true)>
                    <Glyph icon=Icon::Trash />
                    "Delete"
                </button>
            </Show>
        </PageHead>
        <Tabs tabs=TABS />
        <WhenReady sync=live.sync(|store| &store.targets)>
            {move || match target.get() {
                None => view! { <Gone what="target" list=routes::TARGETS /> }.into_any(),
                Some(_) => {
                    match tab.get() {
                        "conditions" => {
                            let conditions = Signal::derive(move || {
                                target.get().map(|target| target.status.conditions.clone()).unwrap_or_default()
                            });
                            view! { <div class="table-frame"><Conditions conditions=conditions /></div> }.into_any()
                        }
                        "yaml" => view! { <YamlView collection=Collection::Targets key=key /> }.into_any(),
                        _ => view! { <Overview target=target /> }.into_any(),
                    }
                }
            }}
        </WhenReady>
        <DeleteDialog
            open=deleting
            collection=Collection::Targets
            key=key
            uid=Signal::derive(move || target.get().map(|target| target.metadata.uid.clone()).unwrap_or_default())
            what="target"
            text="The resource goes; the storage and every point on it stay. Plans that use this target stop being accepted. Create a target for the same storage, and its points can be restored again by their location."
            done=move || navigate(routes::TARGETS, Default::default())
        />
    }
}

#[component]
fn Overview(target: Memo<Option<std::sync::Arc<Target>>>) -> impl IntoView {
    let live = expect_context::<Live>();
    let state = Memo::new(move |_| {
        target
            .get()
            .map(|target| accepted(&target.status.conditions))
            .unwrap_or_else(|| accepted(&[]))
    });
    let plans = live.plans();
    let users = Memo::new(move |_| {
        let Some(target) = target.get() else {
            return Vec::new();
        };
        let (namespace, name) = target.key();
        plans
            .get()
            .into_iter()
            .filter(|plan| {
                let reference = &plan.spec.backup_config.target;
                reference.name == name
                    && *reference.namespace.as_ref().unwrap_or(&plan.metadata.namespace) == namespace
            })
            .map(|plan| plan.key())
            .collect::<Vec<_>>()
    });
    view! {
        {move || {
            let (_, tone, reason, message) = state.get();
            (tone == Tone::Bad)
                .then(|| {
                    let (title, advice) = words::reason(&reason).unwrap_or(("This target cannot be used", ""));
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
            {move || target.get().map(|target| view! { <Facts target=target /> })}
            <Fact label="Used by">
                {move || {
                    let users = users.get();
                    if users.is_empty() {
                        return view! { <span class="faint">"no plan you can see"</span> }.into_any();
                    }
                    users
                        .into_iter()
                        .map(|(namespace, name)| {
                            view! {
                                <A href=routes::plan(&namespace, &name) attr:class="chip">{namespace}"/"{name}</A>
                            }
                        })
                        .collect_view()
                        .into_any()
                }}
            </Fact>
        </dl>
    }
}

#[component]
fn Facts(target: std::sync::Arc<Target>) -> impl IntoView {
    let allowed = match target.spec.allowed_namespaces.as_slice() {
        [] => "only its own".to_owned(),
        [all] if all == "*" => "all".to_owned(),
        some => some.join(", "),
    };
    let bucket = target.spec.object_store_credentials.as_ref();
    let locked = bucket.is_some_and(|bucket| bucket.object_locking_enabled);
    let locks = match (&target.status.immutability, locked) {
        (None, _) => "–".to_owned(),
        (Some(found), true) => match (&found.default_mode, found.default_retention_period) {
            (Some(mode), Some(days)) => format!(
                "points are locked as plans say; the bucket locks everything for {days} days ({mode})"
            ),
            _ => "points are locked as plans say".to_owned(),
        },
        (Some(found), false) => match (found.default_retention_period, found.object_lock, found.versioned) {
            (Some(days), ..) => format!("the bucket locks everything for {days} days, plans do not say so"),
            (None, true, _) => "not used, the bucket has it".to_owned(),
            (None, false, true) => "none; the bucket keeps versions".to_owned(),
            (None, false, false) => "none".to_owned(),
        },
    };
    let points = target
        .status
        .points
        .map_or_else(|| "–".to_owned(), |points| points.to_string());
    let probed = target.status.last_probe_timestamp.clone();
    let spec = target.spec.clone();
    let kind = words::target_type(spec.target_type);
    let store = target.status.directory.clone().map(|directory| directory.store);
    let vendor = target.spec.vendor.clone();
    let at_once = target.spec.max_concurrent_transfers.unwrap_or(4);
    let created = target.metadata.creation_timestamp.clone();
    view! {
        <Fact label="Points">{points}<span class="faint">" of every cluster"</span></Fact>
        <Fact label="Probed"><Ago time=probed /></Fact>
        <Fact label="Type">{kind}</Fact>
        {spec.object_store_credentials.map(|bucket| view! { <Bucket bucket=bucket /> })}
        {spec.nfs_credentials.map(|nfs| view! {
            <Fact label="Export">{nfs.nfs_export}</Fact>
            <Fact label="Mount options">{nfs.nfs_options.unwrap_or_else(|| "the node's".to_owned())}</Fact>
        })}
        {spec.persistent_volume_claim.map(|claim| view! { <Fact label="Claim">{claim.claim_name}</Fact> })}
        {store.map(|store| view! { <Fact label="Store">{store}</Fact> })}
        <Fact label="Vendor">{vendor}</Fact>
        <Fact label="Object lock">{locks}</Fact>
        <Fact label="Allowed namespaces">{allowed}</Fact>
        <Fact label="Volumes at once">{at_once}</Fact>
        <Fact label="Created"><Ago time=created /></Fact>
    }
}

#[component]
fn Bucket(bucket: ObjectStoreCredentials) -> impl IntoView {
    let or_default = |text: Option<String>, default: &str| text.unwrap_or_else(|| default.to_owned());
    let trust = match (&bucket.ssl_cert_config, bucket.skip_cert_verification) {
        (_, true) => "any certificate is accepted".to_owned(),
        (Some(config), _) => format!(
            "built-in authorities and ConfigMap {}",
            config.cert_config_map.name
        ),
        (None, _) => "built-in authorities".to_owned(),
    };
    view! {
        <Fact label="Bucket">{bucket.bucket_name}</Fact>
        <Fact label="Endpoint">{or_default(bucket.url, "the vendor's default")}</Fact>
        <Fact label="Region">{or_default(bucket.region, "us-east-1")}</Fact>
        <Fact label="Secret">{bucket.credential_secret.name}</Fact>
        <Fact label="Trust">{trust}</Fact>
    }
}
