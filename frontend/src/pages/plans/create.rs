//! The form for a new plan.

use holdfast_shared::{
    BackupConfig, BackupPlanSpec, CreateBackup, CreateBackupPlan, GroupVersionKind, NamespaceProtection,
    ObjectRef, ResourceSelector, ResourceSet, Target,
};
use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_query_map};

use crate::api::{Api, ApiError};
use crate::components::feedback::{Notice, Trouble};
use crate::components::field::{CheckField, SelectField, TextField};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::PageHead;
use crate::components::run::accepted;
use crate::pages::targets::create::words;
use crate::routes;
use crate::state::live::Live;
use crate::state::store::Sync;
use crate::state::toast::Toasts;
use crate::words::Tone;

/// What is typed.
#[derive(Clone, Copy)]
struct Form {
    namespace: RwSignal<String>,
    name: RwSignal<String>,
    /// Namespace and name, joined by a slash.
    target: RwSignal<String>,
    excluded_claims: RwSignal<String>,
    start: RwSignal<bool>,
}

impl Form {
    fn body(self) -> CreateBackupPlan {
        let namespace = self.namespace.get_untracked().trim().to_owned();
        let claims = words(&self.excluded_claims.get_untracked());
        CreateBackupPlan {
            name: self.name.get_untracked().trim().to_owned(),
            spec: BackupPlanSpec {
                backup_config: BackupConfig {
                    target: reference(&self.target.get_untracked(), &namespace),
                },
                exclude_resources: (!claims.is_empty()).then(|| excluded(claims)),
            },
            namespace,
        }
    }
}

/// A reference to `namespace/name`; the namespace is left out where it is the plan's own.
fn reference(target: &str, own_namespace: &str) -> ObjectRef {
    match target.split_once('/') {
        Some((namespace, name)) if namespace != own_namespace => ObjectRef {
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
        },
        Some((_, name)) => ObjectRef::local(name),
        None => ObjectRef::local(target),
    }
}

fn excluded(claims: Vec<String>) -> ResourceSelector {
    let group_version_kind = GroupVersionKind {
        group: String::new(),
        version: "v1".to_owned(),
        kind: "PersistentVolumeClaim".to_owned(),
    };
    ResourceSelector {
        gvk_selector: vec![ResourceSet {
            group_version_kind,
            objects: claims,
        }],
    }
}

/// Whether plans of the namespace may use the target.
fn allows(target: &Target, namespace: &str) -> bool {
    target.metadata.namespace == namespace
        || target
            .spec
            .allowed_namespaces
            .iter()
            .any(|allowed| allowed == "*" || allowed == namespace)
}

/// The page.
#[component]
pub(crate) fn NewPlan() -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let live = expect_context::<Live>();
    let asked = use_query_map()
        .with_untracked(|query| query.get("namespace"))
        .unwrap_or_default();
    let form = Form {
        name: RwSignal::new(asked.clone()),
        namespace: RwSignal::new(asked),
        target: RwSignal::new(String::new()),
        excluded_claims: RwSignal::new(String::new()),
        start: RwSignal::new(true),
    };
    let targets = Memo::new(move |_| {
        let namespace = form.namespace.get();
        live.targets()
            .get()
            .into_iter()
            .filter(|target| allows(target, namespace.trim()))
            .collect::<Vec<_>>()
    });
    // The first usable target is chosen until somebody chooses another.
    Effect::new(move |_| {
        let targets = targets.get();
        let chosen = form.target.get_untracked();
        let name = |target: &Target| format!("{}/{}", target.metadata.namespace, target.metadata.name);
        if !targets.iter().any(|target| name(target) == chosen) {
            let best = targets
                .iter()
                .find(|target| accepted(&target.status.conditions).1 == Tone::Good)
                .or(targets.first());
            form.target
                .set(best.map(|target| name(target)).unwrap_or_default());
        }
    });
    let busy = RwSignal::new(false);
    let error = RwSignal::new(None::<ApiError>);
    let navigate = use_navigate();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        busy.set(true);
        error.set(None);
        let navigate = navigate.clone();
        spawn_local(async move {
            let body = form.body();
            match api.create_plan(&body).await {
                Ok(plan) => {
                    let (namespace, name) = (plan.metadata.namespace, plan.metadata.name);
                    toasts.good(format!("Plan {name} created."), None);
                    let first = if form.start.get_untracked() {
                        start_first(api, toasts, &namespace, &name).await
                    } else {
                        None
                    };
                    let page = match first {
                        Some(backup) => routes::backup(&namespace, &backup),
                        None => routes::plan(&namespace, &name),
                    };
                    navigate(&page, Default::default());
                }
                Err(failed) => {
                    error.set(Some(failed));
                    busy.set(false);
                }
            }
        });
    };
    let no_target = Memo::new(move |_| {
        targets.with(Vec::is_empty) && live.sync(|store| &store.targets).get() == Sync::Ready
    });
    view! {
        <PageHead
            title="New plan"
            parent=(routes::PLANS, "Plans")
            lead="Protects one namespace: its objects and the data of its volumes."
        />
        <form class="form" on:submit=submit>
            <Show when=move || no_target.get()>
                <Notice
                    tone=Tone::Warn
                    title="No target may be used by this namespace"
                    text="Create one, or let an existing target list the namespace in its allowed namespaces."
                />
            </Show>
            <Fields form=form targets=targets error=error />
            {move || error.get().map(|error| view! { <Trouble title="The plan was not created" error=error /> })}
            <footer class="form-foot">
                <A href=routes::PLANS attr:class="button">"Cancel"</A>
                <button type="submit" class="button primary" disabled=move || busy.get() || no_target.get()>
                    {move || busy.get().then(|| view! { <Glyph icon=Icon::Spinner /> })}
                    "Create plan"
                </button>
            </footer>
        </form>
    }
}

/// Starts the first backup of a new plan. The plan is there whatever comes of it.
async fn start_first(api: Api, toasts: Toasts, namespace: &str, plan: &str) -> Option<String> {
    let body = CreateBackup {
        namespace: namespace.to_owned(),
        name: None,
        backup_plan: plan.to_owned(),
        kind: Default::default(),
        deletion_policy: Default::default(),
    };
    match api.create_backup(&body).await {
        Ok(backup) => Some(backup.metadata.name),
        Err(error) => {
            toasts.bad("The first backup was not started", &error);
            None
        }
    }
}

#[component]
fn Fields(
    form: Form,
    targets: Memo<Vec<std::sync::Arc<Target>>>,
    error: RwSignal<Option<ApiError>>,
) -> impl IntoView {
    let api = expect_context::<Api>();
    let namespaces = LocalResource::new(move || api.namespaces());
    let known = Memo::new(move |_| match namespaces.get() {
        Some(Ok(found)) => found,
        _ => Vec::<NamespaceProtection>::new(),
    });
    let at = move |field: &'static str| {
        Signal::derive(move || error.with(|error| error.as_ref().and_then(|error| error.field(field))))
    };
    let options = Signal::derive(move || {
        let mut options: Vec<(String, String)> = targets
            .get()
            .iter()
            .map(|target| {
                let path = format!("{}/{}", target.metadata.namespace, target.metadata.name);
                let (state, tone, ..) = accepted(&target.status.conditions);
                let label = if tone == Tone::Good {
                    path.clone()
                } else {
                    format!("{path} ({})", state.to_lowercase())
                };
                (path, label)
            })
            .collect();
        if options.is_empty() {
            options.push((String::new(), "no usable target".to_owned()));
        }
        options
    });
    view! {
        <fieldset>
            <legend>"What"</legend>
            <div class="columns">
                <div class="field">
                    <label for="namespace">"Namespace"</label>
                    <input
                        id="namespace"
                        list="namespaces"
                        required=true
                        autocomplete="off"
                        spellcheck="false"
                        aria-describedby="namespace-hint"
                        bind:value=form.namespace
                    />
                    <datalist id="namespaces">
                        {move || {
                            known.get().into_iter().map(|known| view! { <option value=known.name></option> }).collect_view()
                        }}
                    </datalist>
                    <p class="hint" id="namespace-hint">"The plan lives in the namespace that it protects."</p>
                </div>
                <TextField id="name" label="Plan name" value=form.name error=at("name") />
            </div>
            <TextField
                id="excluded-claims"
                label="Leave out claims"
                value=form.excluded_claims
                optional=true
                error=at("spec.excludeResources")
                hint="Names of PersistentVolumeClaims whose data is not needed. Backups are complete without them."
            />
        </fieldset>
        <fieldset>
            <legend>"Where to"</legend>
            <SelectField
                id="target"
                label="Target"
                value=form.target
                options=options
                error=at("spec.backupConfig.target")
                hint="It cannot be changed later: a chain of backups lives on one target."
            />
            <CheckField
                id="start"
                value=form.start
                label="Start the first backup right away"
                text="A namespace is protected only once a backup is complete."
            />
        </fieldset>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_of_the_same_namespace_is_referred_to_by_name_alone() {
        assert_eq!(reference("shop/s3", "shop"), ObjectRef::local("s3"));
        let other = ObjectRef {
            name: "s3".into(),
            namespace: Some("holdfast".into()),
        };
        assert_eq!(reference("holdfast/s3", "shop"), other);
    }
}
