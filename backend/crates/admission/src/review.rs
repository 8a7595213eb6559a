//! Decides about one request.

mod change;
mod restore;
mod usage;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use holdfast_core::schema::{MAX_UNKNOWN, check_fields};
use holdfast_core::spec::{self, Place};
use holdfast_crd::backup_plan::BackupConfig;
use holdfast_crd::{
    BackupPlanSpec, BackupSpec, ObjectRef, Requester, RestoreSpec, Target, TargetSpec, generate,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use kube::core::{DynamicObject, Status};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

type Request = AdmissionRequest<DynamicObject>;

/// Schemas of the specs by kind; making one generates every definition, so it is done once.
static SCHEMAS: LazyLock<BTreeMap<&'static str, Value>> = LazyLock::new(|| {
    let kinds = ["Target", "BackupPlan", "Backup", "Restore"];
    kinds
        .into_iter()
        .filter_map(|kind| Some((kind, generate::spec_schema(kind)?)))
        .collect()
});

/// Longest message of a refusal, in characters: it goes to a terminal, an audit and a log.
const MAX_MESSAGE: usize = 4096;
/// Longest name of a request that is logged, in characters: a real one is not longer.
const MAX_NAME: usize = 253;

/// A refusal: HTTP status and words for a person, what, where and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Refusal {
    /// The manifest is wrong.
    fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: 422,
            reason: "Invalid",
            message: message.into(),
        }
    }

    /// The manifest is fine, but not now, not here or not for this person.
    fn forbidden(message: impl Into<String>) -> Self {
        Self {
            code: 403,
            reason: "Forbidden",
            message: message.into(),
        }
    }
}

/// A look-up that failed says nothing about the manifest; the client may try again.
impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        Self {
            code: 503,
            reason: "ServiceUnavailable",
            message: format!("admission could not look this up, try again: {error}"),
        }
    }
}

/// What a person who deletes a Backup with its data is told, where that is locked.
fn lock_warning(request: &Request) -> Option<String> {
    if request.operation != Operation::Delete || request.kind.kind != "Backup" {
        return None;
    }
    let backup = &request.old_object.as_ref()?.data;
    let until = backup.pointer("/status/lockedUntil")?.as_str()?;
    let goes = backup.pointer("/spec/deletionPolicy")? == "Delete";
    let locked = until
        .parse::<jiff::Timestamp>()
        .is_ok_and(|until| until > jiff::Timestamp::now());
    (goes && locked)
        .then(|| format!("the data is locked until {until}; it is removed from the target then, not now"))
}

/// What a plan says of locks fits its target.
fn check_locks(config: &BackupConfig, target: &Target) -> Result<(), Refusal> {
    let bucket = target.spec.object_store_credentials.as_ref();
    let locks = bucket.is_some_and(|bucket| bucket.object_locking_enabled);
    let found = target
        .status
        .as_ref()
        .and_then(|status| status.immutability.as_ref());
    let default = found.and_then(|found| found.default_retention_period);
    let retention = config.object_lock.as_ref().map(|lock| lock.retention_days);
    spec::lock_contradiction(locks, default, retention).map_or(Ok(()), |why| Err(Refusal::invalid(why)))
}

/// Decides with the operator's own client.
pub(crate) struct Reviewer {
    client: Client,
    install_namespace: String,
    cluster_uid: OnceCell<String>,
}

impl Reviewer {
    pub(crate) fn new(client: Client, install_namespace: &str) -> Self {
        Self {
            client,
            install_namespace: install_namespace.to_owned(),
            cluster_uid: OnceCell::new(),
        }
    }

    /// Records the requester. Fields are checked here already, because the API server checks the schema before the
    /// validating call, and "required field missing" would hide the typing error behind it.
    pub(crate) async fn mutate(&self, request: &Request) -> AdmissionResponse {
        let response = AdmissionResponse::from(request);
        if let Err(refusal) = self.check_manifest(request) {
            return refuse(response, request, refusal);
        }
        let Some(requester) = recorded_requester(request) else {
            return response;
        };
        let step = json!([{"op": "add", "path": "/spec/requester", "value": requester}]);
        let patch = serde_json::from_value(step).expect("a JSON patch with an add of a JSON value");
        let fallback = AdmissionResponse::from(request);
        response.with_patch(patch).unwrap_or_else(|e| fallback.deny(e))
    }

    /// Accepts or refuses.
    pub(crate) async fn validate(&self, request: &Request) -> AdmissionResponse {
        let mut response = AdmissionResponse::from(request);
        response.warnings = lock_warning(request).map(|warning| vec![warning]);
        let verdict = match request.operation {
            Operation::Create | Operation::Update => self.check_write(request).await,
            Operation::Delete => self.check_delete(request).await,
            Operation::Connect => Ok(()),
        };
        match verdict {
            Ok(()) => response,
            Err(refusal) => refuse(response, request, refusal),
        }
    }

    /// Everything that the manifest itself says.
    fn check_manifest(&self, request: &Request) -> Result<(), Refusal> {
        let Some(spec) = new_spec(request) else {
            return Ok(());
        };
        if old_spec(request) == Some(spec) {
            // Labels, annotations, finalizers: whatever the spec is, it was there before.
            return Ok(());
        }
        let kind = request.kind.kind.as_str();
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let place = Place {
            namespace,
            install_namespace: &self.install_namespace,
        };
        let unknown = SCHEMAS
            .get(kind)
            .map(|schema| check_fields(schema, spec))
            .unwrap_or_default();
        let mut problems: Vec<String> = unknown.iter().map(ToString::to_string).collect();
        if unknown.len() >= MAX_UNKNOWN {
            problems.push("further unknown fields are not named".to_owned());
        }
        problems.extend(spec::contradictions(kind, spec, place));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Refusal::invalid(problems.join("; ")))
        }
    }

    async fn check_write(&self, request: &Request) -> Result<(), Refusal> {
        let Some(spec) = new_spec(request) else {
            return Err(Refusal::invalid("spec is missing"));
        };
        let old = old_spec(request);
        if old == Some(spec) {
            return Ok(());
        }
        self.check_manifest(request)?;
        let namespace = request.namespace.as_deref().unwrap_or_default();
        match request.kind.kind.as_str() {
            "Target" => {
                let new: TargetSpec = decode(spec)?;
                match old {
                    Some(old) => self.check_target_change(request, &decode(old)?, &new).await,
                    None => Ok(()),
                }
            }
            "BackupPlan" => {
                let new: BackupPlanSpec = decode(spec)?;
                if let Some(old) = old {
                    change::plan(&decode(old)?, &new, namespace)?;
                }
                let config = &new.backup_config;
                let target = self.check_target_use(&config.target, namespace).await?;
                target.map_or(Ok(()), |target| check_locks(config, &target))
            }
            "Backup" => {
                let new: BackupSpec = decode(spec)?;
                old.map_or(Ok(()), |old| change::backup(&decode(old)?, &new))
            }
            "Restore" => {
                let new: RestoreSpec = decode(spec)?;
                match old {
                    Some(old) => change::restore(&decode(old)?, &new),
                    None => self.check_restore(&new, namespace, &requester(request)).await,
                }
            }
            _ => Ok(()),
        }
    }

    async fn check_delete(&self, request: &Request) -> Result<(), Refusal> {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        // A namespace that is going away takes its resources with it: nothing of ours may hold it up.
        if self.is_going_away(namespace).await? {
            return Ok(());
        }
        match request.kind.kind.as_str() {
            "Target" => self.check_target_unused(namespace, &request.name).await,
            "BackupPlan" => self.check_plan_unused(namespace, &request.name).await,
            _ => Ok(()),
        }
    }

    async fn is_going_away(&self, namespace: &str) -> Result<bool, Refusal> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = api.get_opt(namespace).await?;
        Ok(found.is_none_or(|n| n.metadata.deletion_timestamp.is_some()))
    }

    /// A target that is there must let the namespace use it; one that is not there may come later.
    async fn check_target_use(
        &self,
        reference: &ObjectRef,
        namespace: &str,
    ) -> Result<Option<Target>, Refusal> {
        let home = reference.namespace.as_deref().unwrap_or(namespace);
        let api: Api<Target> = Api::namespaced(self.client.clone(), home);
        let Some(target) = api.get_opt(&reference.name).await? else {
            return Ok(None);
        };
        if spec::target_allows(home, &target.spec.allowed_namespaces, namespace) {
            return Ok(Some(target));
        }
        Err(Refusal::forbidden(format!(
            "the Target {home}/{} may not be used from namespace {namespace}; add {namespace} to its \
             spec.allowedNamespaces",
            reference.name
        )))
    }

    /// UID of this cluster, the name of its points on every target.
    async fn cluster_uid(&self) -> Result<&str, Refusal> {
        let uid = self.cluster_uid.get_or_try_init(|| async {
            let api: Api<Namespace> = Api::all(self.client.clone());
            Ok::<_, Refusal>(api.get("kube-system").await?.metadata.uid.unwrap_or_default())
        });
        uid.await.map(String::as_str)
    }
}

fn refuse(mut response: AdmissionResponse, request: &Request, refusal: Refusal) -> AdmissionResponse {
    let Refusal {
        code,
        reason,
        message,
    } = refusal;
    let message = cut(&message, MAX_MESSAGE);
    let short = |text: &str| cut(text, MAX_NAME);
    tracing::info!(
        object.kind = short(&request.kind.kind), object.namespace = request.namespace.as_deref().map(short),
        object.name = short(&request.name), user = request.user_info.username.as_deref().map(short),
        operation = ?request.operation, code, %message, "refused"
    );
    response.allowed = false;
    response.result = Status::failure(&message, reason).with_code(code);
    response
}

/// The first characters of a text that may be as long as the sender liked.
fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn new_spec(request: &Request) -> Option<&Value> {
    request.object.as_ref()?.data.get("spec")
}

fn old_spec(request: &Request) -> Option<&Value> {
    request.old_object.as_ref()?.data.get("spec")
}

fn decode<T: serde::de::DeserializeOwned>(spec: &Value) -> Result<T, Refusal> {
    serde_json::from_value(spec.clone()).map_err(|e| Refusal::invalid(format!("spec: {e}")))
}

/// Who asks, as the API server authenticated it.
fn requester(request: &Request) -> Requester {
    let user = &request.user_info;
    Requester {
        user: user.username.clone().unwrap_or_default(),
        uid: user.uid.clone().filter(|uid| !uid.is_empty()),
        groups: user.groups.clone().unwrap_or_default(),
        extra: user.extra.clone().unwrap_or_default().into_iter().collect(),
    }
}

/// The requester to write into a run: on create who asks, whatever the manifest says; on update the one that is
/// recorded, where a client that replaces the whole object left it out.
fn recorded_requester(request: &Request) -> Option<Value> {
    if !matches!(request.kind.kind.as_str(), "Backup" | "Restore") || !new_spec(request)?.is_object() {
        return None;
    }
    match request.operation {
        Operation::Create => serde_json::to_value(requester(request)).ok(),
        Operation::Update if new_spec(request)?.get("requester").is_none() => {
            old_spec(request)?.get("requester").cloned()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_as_long_as_people_read() {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "kind": {"group": "holdfast.dev", "version": "v1", "kind": "Target"},
            "resource": {"group": "holdfast.dev", "version": "v1", "resource": "targets"},
            "requestKind": null, "name": "t", "operation": "CREATE", "userInfo": {}, "dryRun": false,
            "object": null, "oldObject": null, "options": null}});
        let review: kube::core::admission::AdmissionReview<DynamicObject> =
            serde_json::from_value(review).unwrap();
        let request: Request = review.try_into().unwrap();
        let long = Refusal::invalid("ä".repeat(1 << 20));
        let response = refuse(AdmissionResponse::from(&request), &request, long);
        assert!(!response.allowed);
        assert_eq!(response.result.message.chars().count(), MAX_MESSAGE + 1);
        assert_eq!(cut("short", 5), "short");
    }

    #[test]
    fn who_deletes_locked_data_is_told_until_when() {
        let deletion = |policy: &str, until: &str| -> Request {
            let backup = json!({"apiVersion": "holdfast.dev/v1", "kind": "Backup", "metadata": {"name": "b"},
                "spec": {"deletionPolicy": policy}, "status": {"lockedUntil": until}});
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
                "uid": "u", "kind": {"group": "holdfast.dev", "version": "v1", "kind": "Backup"},
                "resource": {"group": "holdfast.dev", "version": "v1", "resource": "backups"},
                "requestKind": null, "name": "b", "operation": "DELETE", "userInfo": {}, "dryRun": false,
                "object": null, "oldObject": backup, "options": null}});
            let review: kube::core::admission::AdmissionReview<DynamicObject> =
                serde_json::from_value(review).unwrap();
            review.try_into().unwrap()
        };
        let warning = lock_warning(&deletion("Delete", "2999-01-01T00:00:00Z")).unwrap();
        assert!(warning.contains("2999-01-01T00:00:00Z"), "{warning}");
        assert!(warning.len() <= 120, "longer ones are cut: {}", warning.len());
        assert_eq!(lock_warning(&deletion("Retain", "2999-01-01T00:00:00Z")), None);
        assert_eq!(lock_warning(&deletion("Delete", "2001-01-01T00:00:00Z")), None);
    }
}
