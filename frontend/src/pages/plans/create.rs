//! The form for a new plan.

use std::sync::Arc;

use holdfast_shared::{
    BackupConfig, BackupPlanSpec, CreateBackup, CreateBackupPlan, Encryption, GroupVersionKind, ObjectLock,
    ObjectRef, Resource, ResourceSelector, ResourceSet, Target,
};
use leptos::prelude::*;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_query_map};

use crate::api::{Api, ApiError};
use crate::components::feedback::{Notice, Trouble};
use crate::components::field::{CheckField, Field, SelectField, TextField};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::PageHead;
use crate::components::run::accepted;
use crate::pages::targets::create::words;
use crate::routes;
use crate::state::live::Live;
use crate::state::scope::Scope;
use crate::state::store::Sync;
use crate::state::submission::Submission;
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
    /// Name of the Secret with the plan's key.
    key: RwSignal<String>,
    clear_secrets: RwSignal<bool>,
    /// Days for which points are locked.
    retention_days: RwSignal<String>,
    start: RwSignal<bool>,
}

impl Form {
    fn new(namespace: String) -> Self {
        Self {
            name: RwSignal::new(namespace.clone()),
            namespace: RwSignal::new(namespace),
            target: RwSignal::new(String::new()),
            excluded_claims: RwSignal::new(String::new()),
            key: RwSignal::new(String::new()),
            clear_secrets: RwSignal::new(false),
            retention_days: RwSignal::new(String::new()),
            start: RwSignal::new(true),
        }
    }

    fn body(self) -> CreateBackupPlan {
        let namespace = self.namespace.get_untracked().trim().to_owned();
        let key = self.key.get_untracked().trim().to_owned();
        let claims = words(&self.excluded_claims.get_untracked());
        CreateBackupPlan {
            name: self.name.get_untracked().trim().to_owned(),
            spec: BackupPlanSpec {
                backup_config: BackupConfig {
                    target: reference(&self.target.get_untracked(), &namespace),
                    object_lock: self
                        .retention_days
                        .get_untracked()
                        .trim()
                        .parse()
                        .ok()
                        .map(|days| ObjectLock {
                            retention_days: days,
                            chain_days: None,
                        }),
                    max_incr_backups_per_full_backup: None,
                },
                exclude_resources: (!claims.is_empty()).then(|| excluded(claims)),
                store_secrets_unencrypted: key.is_empty() && self.clear_secrets.get_untracked(),
                verification: None,
                encryption: (!key.is_empty()).then(|| Encryption {
                    encryption_secret: ObjectRef::local(&key),
                }),
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

/// The targets that plans of the typed namespace may use, of those that can be seen.
fn usable(live: Live, namespace: RwSignal<String>) -> Memo<Vec<Arc<Target>>> {
    let all = live.targets();
    Memo::new(move |_| {
        let namespace = namespace.get();
        all.get()
            .into_iter()
            .filter(|target| allows(target, namespace.trim()))
            .collect()
    })
}

/// Chooses the first target that works, until somebody chooses another.
fn choose_target(targets: Memo<Vec<Arc<Target>>>, chosen: RwSignal<String>) {
    Effect::new(move |_| {
        let targets = targets.get();
        let path = |target: &Target| format!("{}/{}", target.metadata.namespace, target.metadata.name);
        if targets
            .iter()
            .all(|target| path(target) != chosen.get_untracked())
        {
            let works = |target: &&Arc<Target>| accepted(&target.status.conditions).1 == Tone::Good;
            let best = targets.iter().find(works).or(targets.first());
            chosen.set(best.map(|target| path(target)).unwrap_or_default());
        }
    });
}

/// The page.
#[component]
pub(crate) fn NewPlan() -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let live = expect_context::<Live>();
    let scope = expect_context::<Scope>();
    let asked = use_query_map().with_untracked(|query| query.get("namespace"));
    let asked = asked.or_else(|| untrack(|| scope.get())).unwrap_or_default();
    let form = Form::new(asked);
    // Who looks at one namespace does not see the targets of others, and may still be allowed to use them.
    let typed = untrack(|| scope.is_single());
    let targets = usable(live, form.namespace);
    if !typed {
        choose_target(targets, form.target);
    }
    let ready = live.sync(|store| &store.targets);
    let no_target = Memo::new(move |_| !typed && targets.with(Vec::is_empty) && ready.get() == Sync::Ready);
    let submission = Submission::new();
    let navigate = use_navigate();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let navigate = navigate.clone();
        let request = create(api, toasts, live, form);
        submission.send(request, move |page| navigate(&page, Default::default()));
    };
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
                <p>
                    <A href=routes::TARGET_NEW attr:class="button">
                        <Glyph icon=Icon::Plus />
                        "New target"
                    </A>
                </p>
            </Show>
            <What form=form submission=submission />
            <Secrecy form=form submission=submission />
            <WhereTo form=form targets=targets typed=typed submission=submission />
            {move || submission.error().map(|error| view! { <Trouble title="The plan was not created" error=error /> })}
            <footer class="form-foot">
                <A href=routes::PLANS attr:class="button">"Cancel"</A>
                <button type="submit" class="button primary" disabled=move || submission.is_busy() || no_target.get()>
                    {move || submission.is_busy().then(|| view! { <Glyph icon=Icon::Spinner /> })}
                    "Create plan"
                </button>
            </footer>
        </form>
    }
}

/// Creates the plan and, if asked, its first backup. The answer is the page to go to.
async fn create(api: Api, toasts: Toasts, live: Live, form: Form) -> Result<String, ApiError> {
    let plan = api.create_plan(&form.body()).await?;
    let (namespace, name) = (plan.metadata.namespace.clone(), plan.metadata.name.clone());
    let href = routes::plan(&namespace, &name);
    toasts.good(
        format!("Plan {name} created."),
        Some(("Open it".to_owned(), href.clone())),
    );
    live.insert(Resource::BackupPlan(plan));
    if !form.start.get_untracked() {
        return Ok(href);
    }
    let body = CreateBackup {
        namespace,
        name: None,
        backup_plan: name,
        kind: Default::default(),
        deletion_policy: Default::default(),
    };
    match api.create_backup(&body).await {
        Ok(backup) => {
            let page = routes::backup(&backup.metadata.namespace, &backup.metadata.name);
            live.insert(Resource::Backup(Box::new(backup)));
            Ok(page)
        }
        // The plan is there whatever comes of its first backup.
        Err(error) => {
            toasts.bad("The first backup was not started", &error);
            Ok(href)
        }
    }
}

#[component]
fn What(form: Form, submission: Submission) -> impl IntoView {
    let api = expect_context::<Api>();
    // Only proposals: without the right to list namespaces the name is typed.
    let namespaces = LocalResource::new(move || api.namespaces());
    let proposals = move || {
        let found = namespaces.get().and_then(Result::ok).unwrap_or_default();
        found
            .into_iter()
            .map(|found| view! { <option value=found.name></option> })
            .collect_view()
    };
    view! {
        <fieldset>
            <legend>"What"</legend>
            <div class="columns">
                <Field
                    id="namespace"
                    label="Namespace"
                    error=submission.field("namespace")
                    hint="The plan lives in the namespace that it protects."
                >
                    <input
                        id="namespace"
                        list="namespaces"
                        required=true
                        autocomplete="off"
                        spellcheck="false"
                        aria-describedby="namespace-hint"
                        bind:value=form.namespace
                    />
                    <datalist id="namespaces">{proposals}</datalist>
                </Field>
                <TextField id="name" label="Plan name" value=form.name error=submission.field("name") />
            </div>
            <TextField
                id="excluded-claims"
                label="Leave out claims"
                value=form.excluded_claims
                optional=true
                error=submission.field("spec.excludeResources")
                hint="Names of PersistentVolumeClaims whose data is not needed. Backups are complete without them."
            />
        </fieldset>
    }
}

#[component]
fn Secrecy(form: Form, submission: Submission) -> impl IntoView {
    let sealed = move || !form.key.get().trim().is_empty();
    view! {
        <fieldset>
            <legend>"Encryption"</legend>
            <TextField
                id="key"
                label="Secret with the plan's key"
                value=form.key
                optional=true
                error=submission.field("spec.encryption")
                hint="A Secret in the same namespace that holds a key under planKey; `holdfast keygen` makes one. Everything the plan stores is encrypted with it."
            />
            <Show when=move || !sealed()>
                <CheckField
                    id="clear-secrets"
                    value=form.clear_secrets
                    label="Store Secrets unencrypted"
                    text="Whoever can read the target can read them. Without this and without a key, backups of a namespace with Secrets fail."
                />
            </Show>
        </fieldset>
    }
}

#[component]
fn WhereTo(
    form: Form,
    targets: Memo<Vec<Arc<Target>>>,
    typed: bool,
    submission: Submission,
) -> impl IntoView {
    let options = Signal::derive(move || {
        let label = |target: &Target| {
            let path = format!("{}/{}", target.metadata.namespace, target.metadata.name);
            let (state, tone, ..) = accepted(&target.status.conditions);
            match tone {
                Tone::Good => (path.clone(), path),
                _ => (path.clone(), format!("{path} ({})", state.to_lowercase())),
            }
        };
        let options: Vec<_> = targets.get().iter().map(|target| label(target)).collect();
        if options.is_empty() {
            vec![(String::new(), "no usable target".to_owned())]
        } else {
            options
        }
    });
    // Who cannot see the target is told by the answer what is missing.
    let locks = Memo::new(move |_| {
        let chosen = form.target.get();
        let found = targets.with(|targets| {
            let path = |target: &Target| format!("{}/{}", target.metadata.namespace, target.metadata.name);
            let target = targets.iter().find(|target| path(target) == chosen);
            let bucket = target.and_then(|target| target.spec.object_store_credentials.clone());
            bucket.is_some_and(|bucket| bucket.object_locking_enabled)
        });
        found || submission.field("spec.backupConfig.objectLock").get().is_some()
    });
    let fault = submission.field("spec.backupConfig.target");
    let lasting = "It cannot be changed later: a chain of backups lives on one target.";
    view! {
        <fieldset>
            <legend>"Where to"</legend>
            {if typed {
                view! {
                    <TextField
                        id="target"
                        label="Target"
                        value=form.target
                        placeholder="namespace/name"
                        error=fault
                        hint=lasting
                    />
                }
                    .into_any()
            } else {
                view! {
                    <SelectField id="target" label="Target" value=form.target options=options error=fault hint=lasting />
                }
                    .into_any()
            }}
            <Show when=move || locks.get() || !form.retention_days.get().is_empty()>
                <Field
                    id="retention-days"
                    label="Lock points for days"
                    error=submission.field("spec.backupConfig.objectLock")
                    hint="The target locks what is stored: nobody can delete a point before, not even the owner of the store. A chain of backups is locked for a week more."
                >
                    <input
                        id="retention-days"
                        type="number"
                        min="1"
                        max="36500"
                        required=true
                        aria-describedby="retention-days-hint"
                        bind:value=form.retention_days
                    />
                </Field>
            </Show>
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
