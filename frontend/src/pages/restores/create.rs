//! The dialog that starts a restore: from a backup, from a plan's newest backup, or by location.

use holdfast_shared::{CreateRestore, Encryption, ObjectRef, Resource, RestoreSource, SourceType};
use leptos::prelude::*;
use leptos_router::hooks::use_navigate;

use crate::api::Api;
use crate::components::dialog::{Dialog, FormFoot};
use crate::components::field::{CheckField, Choice, SelectField, TextField};
use crate::routes;
use crate::state::live::Live;
use crate::state::scope::Scope;
use crate::state::session::SessionStore;
use crate::state::submission::Submission;
use crate::state::toast::Toasts;

/// What is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// This backup.
    Backup { namespace: String, name: String },
    /// The newest complete backup of this plan.
    Plan { namespace: String, name: String },
    /// A point on a target, typed in.
    Location,
}

impl Source {
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Backup { namespace, .. } | Self::Plan { namespace, .. } => Some(namespace),
            Self::Location => None,
        }
    }
}

/// Where a restore goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Into {
    /// The namespace named, which must hold nothing that conflicts; created first when asked.
    Existing { namespace: String, create: bool },
    /// A namespace that the restore creates; asked for from the install namespace.
    New { namespace: String, install: String },
}

/// A target and a location as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Point {
    /// Namespace and name, joined by a slash.
    target: String,
    location: String,
}

/// What is sent.
fn body(source: &Source, point: &Point, into: Into, key: &str) -> CreateRestore {
    let (namespace, create_namespace, restore_namespace) = match into {
        Into::Existing { namespace, create } => (namespace, create, None),
        Into::New { namespace, install } => (install, false, Some(namespace)),
    };
    let reference = |of: &str, name: &str| ObjectRef {
        name: name.to_owned(),
        namespace: (of != namespace).then(|| of.to_owned()),
    };
    let mut sent = RestoreSource {
        source_type: SourceType::Location,
        backup: None,
        backup_plan: None,
        location: None,
        target: None,
    };
    match source {
        Source::Backup { namespace: of, name } => {
            sent.source_type = SourceType::Backup;
            sent.backup = Some(reference(of, name));
        }
        Source::Plan { namespace: of, name } => {
            sent.source_type = SourceType::BackupPlan;
            sent.backup_plan = Some(reference(of, name));
        }
        Source::Location => {
            let (of, name) = point
                .target
                .split_once('/')
                .unwrap_or((&namespace, &point.target));
            sent.target = Some(reference(of, name));
            sent.location = Some(point.location.trim().to_owned());
        }
    }
    CreateRestore {
        namespace,
        create_namespace,
        name: None,
        source: sent,
        restore_namespace,
        encryption: (!key.is_empty()).then(|| Encryption {
            encryption_secret: ObjectRef::local(key),
        }),
    }
}

/// "Restore…".
#[component]
pub(crate) fn RestoreDialog(open: RwSignal<bool>, source: Source) -> impl IntoView {
    let title = match &source {
        Source::Backup { name, .. } => format!("Restore {name}"),
        Source::Plan { name, .. } => format!("Restore the newest backup of {name}"),
        Source::Location => "Restore by location".to_owned(),
    };
    view! {
        <Dialog open=open title=title>
            <Form open=open source=source.clone() />
        </Dialog>
    }
}

/// What is typed.
#[derive(Clone, Copy)]
struct Typed {
    /// `same`: the point's own or an existing namespace; `new`: one that the restore creates.
    into: RwSignal<String>,
    existing: RwSignal<String>,
    create: RwSignal<bool>,
    fresh: RwSignal<String>,
    target: RwSignal<String>,
    location: RwSignal<String>,
    /// Secret with a key, in the namespace of the Restore.
    key: RwSignal<String>,
}

impl Typed {
    /// Proposals for a point of the namespace `own`.
    fn new(own: Option<&str>, single: bool) -> Self {
        let proposal = own.map(|own| format!("{own}-restored"));
        Self {
            into: RwSignal::new(if single { "same" } else { "new" }.to_owned()),
            existing: RwSignal::new(own.unwrap_or_default().to_owned()),
            create: RwSignal::new(false),
            fresh: RwSignal::new(proposal.unwrap_or_default()),
            target: RwSignal::new(String::new()),
            location: RwSignal::new(String::new()),
            key: RwSignal::new(String::new()),
        }
    }

    /// Whether something needed is not typed yet. Tracked.
    fn is_missing(self, located: bool) -> bool {
        let namespace = if self.into.get() == "new" {
            self.fresh.get()
        } else {
            self.existing.get()
        };
        let no_point = located && (self.target.get().is_empty() || self.location.get().trim().is_empty());
        namespace.trim().is_empty() || no_point
    }

    fn body(self, source: &Source, install: &str) -> CreateRestore {
        let trimmed = |text: RwSignal<String>| text.get_untracked().trim().to_owned();
        let into = match self.into.get_untracked().as_str() {
            "new" => Into::New {
                namespace: trimmed(self.fresh),
                install: install.to_owned(),
            },
            _ => Into::Existing {
                namespace: trimmed(self.existing),
                create: self.create.get_untracked(),
            },
        };
        let point = Point {
            target: trimmed(self.target),
            location: trimmed(self.location),
        };
        body(source, &point, into, &trimmed(self.key))
    }
}

#[component]
fn Form(open: RwSignal<bool>, source: Source) -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let install = expect_context::<SessionStore>().install_namespace();
    let live = expect_context::<Live>();
    let scope = expect_context::<Scope>();
    let navigate = use_navigate();
    let own = source.namespace().map(str::to_owned);
    let located = own.is_none();
    let typed = Typed::new(own.as_deref(), untrack(|| scope.is_single()));
    let submission = Submission::new();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let body = typed.body(&source, &install);
        let navigate = navigate.clone();
        submission.send(async move { api.create_restore(&body).await }, move |restore| {
            let page = routes::restore(&restore.metadata.namespace, &restore.metadata.name);
            toasts.good(format!("Restore {} started.", restore.metadata.name), None);
            live.insert(Resource::Restore(Box::new(restore)));
            open.set(false);
            navigate(&page, Default::default());
        });
    };
    view! {
        <form on:submit=submit>
            <div class="dialog-body">
                {located.then(|| view! { <PointFields target=typed.target location=typed.location /> })}
                <Destination own=own typed=typed />
                <TextField
                    id="restore-key"
                    label="Secret with the key"
                    value=typed.key
                    optional=true
                    error=submission.field("spec.encryption")
                    hint="For an encrypted point whose plan is gone or out of your reach: a Secret beside the Restore, with planKey or recoveryKey."
                />
            </div>
            <FormFoot
                open=open
                submit="Start restore"
                submission=submission
                failed="The restore was not started"
                disabled=Signal::derive(move || typed.is_missing(located))
            />
        </form>
    }
}

#[component]
fn PointFields(target: RwSignal<String>, location: RwSignal<String>) -> impl IntoView {
    let live = expect_context::<Live>();
    let scope = expect_context::<Scope>();
    let targets = live.targets();
    let options = Signal::derive(move || {
        let mut options = vec![(String::new(), "Choose a target".to_owned())];
        options.extend(targets.get().iter().map(|target| {
            let path = format!("{}/{}", target.metadata.namespace, target.metadata.name);
            (path.clone(), path)
        }));
        options
    });
    // Who looks at one namespace does not see the targets of others, and may still be allowed to use them.
    let typed = untrack(|| scope.is_single());
    view! {
        {if typed {
            view! {
                <TextField
                    id="restore-target"
                    label="Target"
                    value=target
                    placeholder="namespace/name"
                    hint="Ask whoever runs Holdfast which target holds the point."
                />
            }
                .into_any()
        } else {
            view! { <SelectField id="restore-target" label="Target" value=target options=options /> }.into_any()
        }}
        <TextField
            id="restore-location"
            label="Location"
            value=location
            placeholder="cluster/plan/backup"
            hint="As a backup shows it, or as the target's folders are named: three UIDs joined by slashes."
        />
    }
}

#[component]
fn Destination(own: Option<String>, typed: Typed) -> impl IntoView {
    let Typed {
        into,
        existing,
        create,
        fresh,
        ..
    } = typed;
    let same = match &own {
        Some(own) => format!("Into {own}"),
        None => "Into a namespace you name".to_owned(),
    };
    let named = own.is_none();
    view! {
        <fieldset class="plain">
            <legend>"Where to"</legend>
            <Choice
                name="into"
                value="new"
                group=into
                label="Into a new namespace"
                text="Created by the restore; must not exist. Nothing that runs is touched. Needs rights in the install namespace."
            />
            <Choice
                name="into"
                value="same"
                group=into
                label=same
                text="Nothing in it may conflict: if an object of the point exists already, the restore is refused and nothing is changed."
            />
        </fieldset>
        {move || match (into.get().as_str(), named) {
            ("new", _) => view! { <TextField id="new-namespace" label="New namespace" value=fresh /> }.into_any(),
            (_, true) => {
                view! {
                    <TextField id="existing-namespace" label="Namespace" value=existing />
                    <CreateNamespace create=create />
                }
                    .into_any()
            }
            _ => view! { <CreateNamespace create=create /> }.into_any(),
        }}
    }
}

#[component]
fn CreateNamespace(create: RwSignal<bool>) -> impl IntoView {
    view! {
        <CheckField
            id="create-namespace"
            value=create
            label="Create the namespace if it does not exist"
            text="The way back for a namespace that was deleted. It is created with your rights."
        />
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Source {
        Source::Backup {
            namespace: "shop".into(),
            name: "b1".into(),
        }
    }

    #[test]
    fn into_the_own_namespace_the_reference_is_local() {
        let into = Into::Existing {
            namespace: "shop".into(),
            create: true,
        };
        let sent = body(&backup(), &Point::default(), into, "");
        assert_eq!(sent.namespace, "shop");
        assert!(sent.create_namespace);
        assert_eq!(sent.restore_namespace, None);
        assert_eq!(sent.source.backup, Some(ObjectRef::local("b1")));
    }

    #[test]
    fn into_a_new_namespace_is_asked_for_from_the_install_namespace() {
        let into = Into::New {
            namespace: "copy".into(),
            install: "holdfast".into(),
        };
        let sent = body(&backup(), &Point::default(), into, "");
        assert_eq!(sent.namespace, "holdfast");
        assert!(!sent.create_namespace);
        assert_eq!(sent.restore_namespace.as_deref(), Some("copy"));
        assert_eq!(sent.source.backup.unwrap().namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn a_location_names_target_and_point() {
        let point = Point {
            target: "holdfast/s3".into(),
            location: " c/p/b ".into(),
        };
        let into = Into::New {
            namespace: "copy".into(),
            install: "holdfast".into(),
        };
        let sent = body(&Source::Location, &point, into, "recovery");
        let secret = sent.encryption.as_ref().map(|key| &key.encryption_secret);
        assert_eq!(secret, Some(&ObjectRef::local("recovery")));
        assert_eq!(sent.source.source_type, SourceType::Location);
        assert_eq!(sent.source.target, Some(ObjectRef::local("s3")));
        assert_eq!(sent.source.location.as_deref(), Some("c/p/b"));
    }
}
