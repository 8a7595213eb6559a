//! The form for a new target.

use holdfast_shared::{
    CreateTarget, NfsCredentials, ObjectRef, ObjectStoreCredentials, Resource, SslCertConfig, TargetClaim,
    TargetCredentials, TargetSpec, TargetType, VENDORS,
};
use leptos::prelude::*;
use leptos_router::components::A;
use leptos_router::hooks::use_navigate;

use crate::api::Api;
use crate::components::feedback::{Notice, Trouble};
use crate::components::field::{CheckField, Choice, SelectField, TextField};
use crate::components::icon::{Glyph, Icon};
use crate::components::page::PageHead;
use crate::routes;
use crate::state::live::Live;
use crate::state::session::SessionStore;
use crate::state::submission::Submission;
use crate::state::toast::Toasts;
use crate::words::Tone;

/// What is typed.
#[derive(Clone, Copy)]
struct Form {
    name: RwSignal<String>,
    namespace: RwSignal<String>,
    /// A [`TargetType`] as it is written.
    kind: RwSignal<String>,
    vendor: RwSignal<String>,
    export: RwSignal<String>,
    options: RwSignal<String>,
    claim: RwSignal<String>,
    bucket: RwSignal<String>,
    url: RwSignal<String>,
    region: RwSignal<String>,
    /// `new` or `existing`.
    secret_from: RwSignal<String>,
    secret: RwSignal<String>,
    access_key: RwSignal<String>,
    secret_key: RwSignal<String>,
    cert_config_map: RwSignal<String>,
    skip_cert_verification: RwSignal<bool>,
    object_locking: RwSignal<bool>,
    allowed_namespaces: RwSignal<String>,
}

impl Form {
    fn new(namespace: String) -> Self {
        let text = || RwSignal::new(String::new());
        Self {
            name: text(),
            namespace: RwSignal::new(namespace),
            kind: RwSignal::new(TargetType::ObjectStore.as_str().to_owned()),
            vendor: RwSignal::new("Other".to_owned()),
            export: text(),
            options: text(),
            claim: text(),
            bucket: text(),
            url: text(),
            region: text(),
            secret_from: RwSignal::new("new".to_owned()),
            secret: text(),
            access_key: text(),
            secret_key: text(),
            cert_config_map: text(),
            skip_cert_verification: RwSignal::new(false),
            object_locking: RwSignal::new(false),
            allowed_namespaces: RwSignal::new("*".to_owned()),
        }
    }

    /// The type that is chosen.
    fn kind(self) -> TargetType {
        let chosen = self.kind.get();
        let found = TargetType::ALL.into_iter().find(|kind| kind.as_str() == chosen);
        found.unwrap_or_default()
    }

    fn body(self) -> CreateTarget {
        let kind = untrack(|| self.kind());
        let fresh = kind == TargetType::ObjectStore && self.secret_from.get_untracked() == "new";
        CreateTarget {
            name: text(self.name),
            namespace: text(self.namespace),
            spec: TargetSpec {
                target_type: kind,
                vendor: text(self.vendor),
                object_store_credentials: (kind == TargetType::ObjectStore).then(|| self.bucket()),
                nfs_credentials: (kind == TargetType::NFS).then(|| NfsCredentials {
                    nfs_export: text(self.export),
                    nfs_options: some(self.options),
                }),
                persistent_volume_claim: (kind == TargetType::PersistentVolumeClaim).then(|| TargetClaim {
                    claim_name: text(self.claim),
                }),
                allowed_namespaces: words(&text(self.allowed_namespaces)),
                max_concurrent_transfers: None,
            },
            credentials: fresh.then(|| TargetCredentials {
                access_key: text(self.access_key),
                secret_key: text(self.secret_key),
            }),
        }
    }

    fn bucket(self) -> ObjectStoreCredentials {
        let secret = match self.secret_from.get_untracked().as_str() {
            "new" => format!("{}-credentials", text(self.name)),
            _ => text(self.secret),
        };
        ObjectStoreCredentials {
            bucket_name: text(self.bucket),
            region: some(self.region),
            url: some(self.url),
            credential_secret: ObjectRef::local(secret),
            skip_cert_verification: self.skip_cert_verification.get_untracked(),
            ssl_cert_config: some(self.cert_config_map).map(|name| SslCertConfig {
                cert_config_map: ObjectRef::local(name),
                cert_key: None,
            }),
            object_locking_enabled: self.object_locking.get_untracked(),
        }
    }
}

fn text(signal: RwSignal<String>) -> String {
    signal.get_untracked().trim().to_owned()
}

fn some(signal: RwSignal<String>) -> Option<String> {
    Some(text(signal)).filter(|text| !text.is_empty())
}

/// Words separated by commas or blanks.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split([',', ' ', '\n', '\t'])
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The page.
#[component]
pub(crate) fn NewTarget() -> impl IntoView {
    let api = expect_context::<Api>();
    let toasts = expect_context::<Toasts>();
    let install = expect_context::<SessionStore>().install_namespace();
    let live = expect_context::<Live>();
    let form = Form::new(install);
    let submission = Submission::new();
    let navigate = use_navigate();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let body = form.body();
        let navigate = navigate.clone();
        submission.send(async move { api.create_target(&body).await }, move |target| {
            let page = routes::target(&target.metadata.namespace, &target.metadata.name);
            let notice = format!("Target {} created. It is being probed.", target.metadata.name);
            toasts.good(notice, None);
            live.insert(Resource::Target(target));
            navigate(&page, Default::default());
        });
    };
    view! {
        <PageHead title="New target" parent=(routes::TARGETS, "Targets") />
        <form class="form" on:submit=submit>
            <Place form=form submission=submission />
            <Show when=move || form.kind() == TargetType::ObjectStore>
                <Credentials form=form submission=submission />
            </Show>
            <Sharing form=form submission=submission />
            {move || submission.error().map(|error| view! { <Trouble title="The target was not created" error=error /> })}
            <footer class="form-foot">
                <A href=routes::TARGETS attr:class="button">"Cancel"</A>
                <button type="submit" class="button primary" disabled=move || submission.is_busy()>
                    {move || submission.is_busy().then(|| view! { <Glyph icon=Icon::Spinner /> })}
                    "Create target"
                </button>
            </footer>
        </form>
    }
}

#[component]
fn Place(form: Form, submission: Submission) -> impl IntoView {
    let vendors = Signal::stored(
        VENDORS
            .iter()
            .map(|vendor| ((*vendor).to_owned(), (*vendor).to_owned()))
            .collect::<Vec<_>>(),
    );
    let types = [
        "Bucket of an S3-compatible store",
        "NFS export",
        "PersistentVolumeClaim of the install namespace",
    ];
    let types = TargetType::ALL
        .iter()
        .zip(types)
        .map(|(kind, label)| (kind.as_str().to_owned(), label.to_owned()));
    let types = Signal::stored(types.collect::<Vec<_>>());
    view! {
        <fieldset>
            <legend>"Place"</legend>
            <div class="columns">
                <TextField id="name" label="Name" value=form.name error=submission.field("name") />
                <TextField
                    id="namespace"
                    label="Namespace"
                    value=form.namespace
                    error=submission.field("namespace")
                    hint="Where the target and its Secret live."
                />
                <SelectField id="type" label="Type" value=form.kind options=types hint="What kind of storage it is." />
                <SelectField
                    id="vendor"
                    label="Vendor"
                    value=form.vendor
                    options=vendors
                    hint="For people; it changes nothing."
                />
                {move || match form.kind() {
                    TargetType::ObjectStore => view! { <Bucket form=form submission=submission /> }.into_any(),
                    TargetType::NFS => view! { <Export form=form submission=submission /> }.into_any(),
                    TargetType::PersistentVolumeClaim => {
                        view! {
                            <TextField
                                id="claim"
                                label="Claim"
                                value=form.claim
                                error=submission.field("spec.persistentVolumeClaim.claimName")
                                hint="It must exist in the install namespace, with volumeMode Filesystem."
                            />
                        }
                            .into_any()
                    }
                }}
            </div>
        </fieldset>
    }
}

#[component]
fn Export(form: Form, submission: Submission) -> impl IntoView {
    view! {
        <TextField
            id="export"
            label="Export"
            value=form.export
            placeholder="nas.example.com:/backups"
            error=submission.field("spec.nfsCredentials.nfsExport")
            hint="Uid 0 of every node must be able to write there."
        />
        <TextField
            id="options"
            label="Mount options"
            value=form.options
            optional=true
            placeholder="nfsvers=4.1,hard"
            error=submission.field("spec.nfsCredentials.nfsOptions")
        />
    }
}

#[component]
fn Bucket(form: Form, submission: Submission) -> impl IntoView {
    view! {
        <TextField
            id="bucket"
            label="Bucket"
            value=form.bucket
            error=submission.field("spec.objectStoreCredentials.bucketName")
            hint="It must exist."
        />
        <TextField
            id="url"
            label="Endpoint"
            value=form.url
            optional=true
            placeholder="https://s3.example.com"
            error=submission.field("spec.objectStoreCredentials.url")
            hint="The vendor's default for the region when left empty."
        />
        <TextField
            id="region"
            label="Region"
            value=form.region
            optional=true
            placeholder="us-east-1"
            error=submission.field("spec.objectStoreCredentials.region")
        />
    }
}

#[component]
fn Credentials(form: Form, submission: Submission) -> impl IntoView {
    let fresh = move || form.secret_from.get() == "new";
    let name = Signal::derive(move || {
        let name = form.name.get();
        let name = if name.trim().is_empty() {
            "NAME"
        } else {
            name.trim()
        };
        format!("Creates the Secret {name}-credentials with the key pair below.")
    });
    view! {
        <fieldset>
            <legend>"Credentials"</legend>
            <Choice name="secret-from" value="new" group=form.secret_from label="New Secret" text=name />
            <Choice
                name="secret-from"
                value="existing"
                group=form.secret_from
                label="Existing Secret"
                text="A Secret of the target's namespace with the keys accessKey and secretKey."
            />
            <div class="columns">
                <Show
                    when=fresh
                    fallback=move || {
                        view! {
                            <TextField
                                id="secret"
                                label="Secret"
                                value=form.secret
                                error=submission.field("spec.objectStoreCredentials.credentialSecret.name")
                            />
                        }
                    }
                >
                    <TextField id="access-key" label="Access key" value=form.access_key secret=true />
                    <TextField id="secret-key" label="Secret key" value=form.secret_key secret=true />
                </Show>
            </div>
        </fieldset>
    }
}

#[component]
fn Sharing(form: Form, submission: Submission) -> impl IntoView {
    let bucket = move || form.kind() == TargetType::ObjectStore;
    view! {
        <fieldset>
            <legend>{move || if bucket() { "Trust and sharing" } else { "Sharing" }}</legend>
            <div class="columns">
                <TextField
                    id="allowed-namespaces"
                    label="Allowed namespaces"
                    value=form.allowed_namespaces
                    optional=true
                    error=submission.field("spec.allowedNamespaces")
                    hint="Whose plans may use this target beside its own namespace; * stands for all."
                />
                <Show when=bucket>
                    <TextField
                        id="cert-config-map"
                        label="Certificate authority"
                        value=form.cert_config_map
                        optional=true
                        error=submission.field("spec.objectStoreCredentials.sslCertConfig")
                        hint="ConfigMap whose key ca.crt is trusted beside the built-in authorities."
                    />
                </Show>
            </div>
            <Show when=bucket>
                <CheckField
                    id="object-locking"
                    value=form.object_locking
                    label="Lock what is stored"
                    text="Nobody can delete a point before the time that its plan says, not even the owner of the store. The bucket must have object lock."
                />
                <CheckField
                    id="skip-cert-verification"
                    value=form.skip_cert_verification
                    label="Accept any certificate"
                    text="For tests only."
                />
            </Show>
            <Show when=move || bucket() && form.skip_cert_verification.get()>
                <Notice
                    tone=Tone::Warn
                    title="Anyone on the path can read and change what is stored"
                    text="Name a certificate authority instead."
                />
            </Show>
        </fieldset>
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_split_at_commas_and_blanks() {
        assert_eq!(super::words(" a, b  c,"), ["a", "b", "c"]);
        assert!(super::words(" , ").is_empty());
    }
}
