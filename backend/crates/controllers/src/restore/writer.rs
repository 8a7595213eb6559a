//! Writes objects as the requester, and finds out beforehand whether that will work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use holdfast_core::restore::{ObjectKey, PlannedObject, clean_for_restore};
use holdfast_crd::names::{GROUP, annotations, reasons};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Scope};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::report::{Action, Entry};

/// Objects of one level sent at the same time.
pub(super) const PARALLEL: usize = 16;
/// How long a new definition may take until the API server serves it.
const ESTABLISHED: Duration = Duration::from_secs(30);
/// How long an object whose webhook or kind is not ready yet is tried again.
const RETRY_FOR: Duration = Duration::from_secs(90);

/// Kinds that were looked up, by group, version and kind.
type Kinds = BTreeMap<(String, String, String), (ApiResource, ApiCapabilities)>;

/// Writes the objects of one restore.
pub(super) struct Writer {
    /// Acts as the requester.
    client: Client,
    /// The operator's own, to read definitions: a tenant may use kinds whose definition they may not read.
    own: Client,
    namespace: String,
    restore_uid: String,
    kinds: tokio::sync::Mutex<Kinds>,
    /// UIDs of what was written, for the owner references of what follows.
    written: Mutex<BTreeMap<ObjectKey, String>>,
}

impl Writer {
    pub(super) fn new(client: Client, own: Client, namespace: &str, restore_uid: &str) -> Self {
        Self {
            client,
            own,
            namespace: namespace.to_owned(),
            restore_uid: restore_uid.to_owned(),
            kinds: tokio::sync::Mutex::default(),
            written: Mutex::default(),
        }
    }

    /// Writes one definition as the requester and waits until the API server serves it. One that is there already is
    /// left as it is, and then the requester needs no right to write definitions.
    pub(super) async fn define(&self, object: &PlannedObject) -> Entry {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.own.clone());
        let entry = match definitions.get_opt(&object.key.name).await {
            Ok(Some(existing)) if !self.is_ours(existing.annotations()) => {
                definition_entry(object, &existing)
            }
            Ok(_) => self.write(object).await,
            Err(error) => Entry::failed(&object.key, refusal(&error), &message(&error)),
        };
        if entry.action == Action::Failed {
            return entry;
        }
        let established = kube::runtime::conditions::is_crd_established();
        let wait = kube::runtime::wait::await_condition(definitions, &object.key.name, established);
        if matches!(tokio::time::timeout(ESTABLISHED, wait).await, Ok(Ok(_))) {
            return entry;
        }
        let text = format!("the definition was not established in {ESTABLISHED:?}");
        Entry::failed(&object.key, reasons::APPLY_FAILED, &text)
    }

    /// Writes the objects of one level side by side.
    pub(super) async fn write_level(&self, level: &[PlannedObject]) -> Vec<Entry> {
        let writes: Vec<BoxFuture<'_, Entry>> = level.iter().map(|o| self.write(o).boxed()).collect();
        futures::stream::iter(writes)
            .buffer_unordered(PARALLEL)
            .collect()
            .await
    }

    async fn write(&self, object: &PlannedObject) -> Entry {
        let deadline = tokio::time::Instant::now() + RETRY_FOR;
        let mut pause = Duration::from_millis(250);
        loop {
            match self.create(object).await {
                Ok(entry) => return entry,
                Err(error) if is_transient(&error) && tokio::time::Instant::now() + pause < deadline => {
                    tracing::debug!(object = %object.key, %error, "not accepted yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                Err(error) => return Entry::failed(&object.key, refusal(&error), &message(&error)),
            }
        }
    }

    async fn create(&self, object: &PlannedObject) -> Result<Entry, kube::Error> {
        let (api, manifest) = self.prepare(object).await?;
        let params = PostParams {
            field_manager: Some(holdfast_crd::names::FIELD_MANAGER.into()),
            ..Default::default()
        };
        match api.create(&params, &manifest).await {
            Ok(created) => {
                self.remember(&object.key, &created);
                Ok(Entry::new(&object.key, Action::Created))
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                self.meet(&api, object).await
            }
            Err(error) => Err(error),
        }
    }

    /// What to do about an object that is there already.
    async fn meet(&self, api: &Api<DynamicObject>, object: &PlannedObject) -> Result<Entry, kube::Error> {
        let existing = api.get(&object.key.name).await?;
        let ours = self.is_ours(existing.annotations());
        self.remember(&object.key, &existing);
        if ours {
            // Written by this run before the operator was restarted.
            return Ok(Entry::new(&object.key, Action::Created));
        }
        if is_default_account(&object.key) {
            let fields = json!({
                "imagePullSecrets": object.manifest.get("imagePullSecrets"),
                "metadata": {
                    "labels": object.manifest.pointer("/metadata/labels"),
                    "annotations": object.manifest.pointer("/metadata/annotations"),
                },
            });
            api.patch(&object.key.name, &PatchParams::default(), &Patch::Merge(fields))
                .await?;
            return Ok(Entry::new(&object.key, Action::Created));
        }
        if is_same(object, &existing) {
            return Ok(Entry::new(&object.key, Action::Skipped).because(IDENTICAL));
        }
        if self.is_made_by_restored(object, &existing) {
            return Ok(Entry::new(&object.key, Action::Skipped).because("its restored owner made it anew"));
        }
        let text = "an object of this name appeared while the restore ran";
        Ok(Entry::failed(&object.key, reasons::CONFLICT, text))
    }

    /// Whether a controller was faster than we with what follows from an object that this run has written. Not so for
    /// what holds content that a controller can't know.
    fn is_made_by_restored(&self, object: &PlannedObject, existing: &DynamicObject) -> bool {
        let holds_content = object.key.group.is_empty()
            && ["Secret", "ConfigMap", "PersistentVolumeClaim"].contains(&object.key.kind.as_str());
        let written = self.written.lock().expect("no panic while the map is held");
        let by_restored = existing
            .owner_references()
            .iter()
            .any(|owner| owner.controller == Some(true) && written.values().any(|uid| *uid == owner.uid));
        by_restored && !holds_content
    }

    fn remember(&self, key: &ObjectKey, object: &DynamicObject) {
        if let Some(uid) = object.uid() {
            self.written
                .lock()
                .expect("no panic while the map is held")
                .insert(key.clone(), uid);
        }
    }

    pub(super) fn is_ours(&self, found: &BTreeMap<String, String>) -> bool {
        found
            .get(annotations::RESTORED_BY)
            .is_some_and(|uid| *uid == self.restore_uid)
    }

    pub(super) async fn prepare(
        &self,
        object: &PlannedObject,
    ) -> Result<(Api<DynamicObject>, DynamicObject), kube::Error> {
        let (resource, capabilities) = self.kind(&object.key).await?;
        let definition = object.key.group == CustomResourceDefinition::group(&())
            && resource.plural == CustomResourceDefinition::plural(&());
        let api = match capabilities.scope {
            _ if object.key.group == GROUP => return Err(foreign(&object.key)),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
            Scope::Cluster if definition => Api::all_with(self.client.clone(), &resource),
            Scope::Cluster => return Err(foreign(&object.key)),
        };
        let mut manifest: DynamicObject =
            serde_json::from_value(object.manifest.clone()).map_err(kube::Error::SerdeError)?;
        manifest
            .annotations_mut()
            .insert(annotations::RESTORED_BY.to_owned(), self.restore_uid.clone());
        let references = self.owner_references(object);
        if !references.is_empty() {
            manifest.metadata.owner_references = Some(references);
        }
        Ok((api, manifest))
    }

    fn owner_references(
        &self,
        object: &PlannedObject,
    ) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
        let written = self.written.lock().expect("no panic while the map is held");
        let reference = |owner: &holdfast_core::restore::Owner| {
            let group = if owner.key.group.is_empty() {
                String::new()
            } else {
                format!("{}/", owner.key.group)
            };
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
                api_version: format!("{group}{}", owner.key.version),
                kind: owner.key.kind.clone(),
                name: owner.key.name.clone(),
                uid: written.get(&owner.key)?.clone(),
                controller: owner.controller.then_some(true),
                block_owner_deletion: owner.block_owner_deletion.then_some(true),
            })
        };
        object.owners.iter().filter_map(reference).collect()
    }

    async fn kind(&self, key: &ObjectKey) -> Result<(ApiResource, ApiCapabilities), kube::Error> {
        let id = (key.group.clone(), key.version.clone(), key.kind.clone());
        let mut kinds = self.kinds.lock().await;
        if let Some(known) = kinds.get(&id) {
            return Ok(known.clone());
        }
        let gvk = GroupVersionKind::gvk(&key.group, &key.version, &key.kind);
        let found = kube::discovery::pinned_kind(&self.client, &gvk).await?;
        kinds.insert(id, found.clone());
        Ok(found)
    }
}

/// What no capture stores, but somebody with access to the target could have added: it would be written with the rights of
/// whoever restores.
fn foreign(key: &ObjectKey) -> kube::Error {
    let text = format!(
        "{key} is nothing that a backup of a namespace stores, so the point was changed on its target: restore another \
         one, and find out who can write there"
    );
    kube::Error::Api(
        kube::core::Status::failure(&text, "Forbidden")
            .with_code(403)
            .boxed(),
    )
}

/// Why an object that exists is no conflict.
pub(super) const IDENTICAL: &str = "it exists already, exactly as the point holds it";

/// Whether what exists is what would be written.
pub(super) fn is_same(object: &PlannedObject, existing: &DynamicObject) -> bool {
    let Ok(existing) = serde_json::to_value(existing) else {
        return false;
    };
    let namespace = object
        .manifest
        .pointer("/metadata/namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut existing = clean_for_restore(existing, namespace);
    // The mark of an earlier restore says nothing about the content.
    if let Some(metadata) = existing.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(marks) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            marks.remove(annotations::RESTORED_BY);
        }
        if metadata
            .get("annotations")
            .and_then(Value::as_object)
            .is_some_and(serde_json::Map::is_empty)
        {
            metadata.remove("annotations");
        }
    }
    existing == object.manifest
}

/// A definition that exists is left as it is; it will do if it serves every version that the captured one served.
fn definition_entry(object: &PlannedObject, existing: &CustomResourceDefinition) -> Entry {
    let served = |definition: &Value| -> BTreeSet<String> {
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
        let is_served = |v: &&Value| v.get("served").and_then(Value::as_bool) == Some(true);
        let name = |v: &Value| v.get("name").and_then(Value::as_str).map(str::to_owned);
        versions
            .into_iter()
            .flatten()
            .filter(is_served)
            .filter_map(name)
            .collect()
    };
    let missing: Vec<String> = served(&object.manifest)
        .difference(&served(&serde_json::to_value(existing).unwrap_or_default()))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Entry::new(&object.key, Action::Skipped).because("the cluster has this definition already");
    }
    let text = format!(
        "the cluster's definition does not serve {}, which the backup uses: update the definition, then restore again",
        missing.join(", ")
    );
    Entry::failed(&object.key, reasons::CONFLICT, &text)
}

pub(super) fn is_default_account(key: &ObjectKey) -> bool {
    key.group.is_empty() && key.kind == "ServiceAccount" && key.name == "default"
}

pub(super) fn refusal(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 403 => reasons::FORBIDDEN,
        kube::Error::Api(status) if status.reason == "AlreadyExists" => reasons::CONFLICT,
        _ => reasons::APPLY_FAILED,
    }
}

pub(super) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Errors that pass: a busy or restarting API server, a webhook whose pod is starting, a kind just defined, an object
/// that another controller is about to make.
pub(super) fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            matches!(status.code, 429 | 500 | 502 | 503 | 504)
                // Writes side by side meet in a quota of the namespace.
                || (status.code == 409 && status.reason == "Conflict")
                || (status.code == 404 && !status.message.contains("namespaces \""))
                || status.message.contains("failed calling webhook")
        }
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => false,
        _ => true,
    }
}
