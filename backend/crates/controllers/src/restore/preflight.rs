//! Finds out, before anything is written, what the API server would say to every object of a restore.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use holdfast_core::restore::{ObjectKey, ObjectPlan, PlannedObject};
use holdfast_crd::names::reasons;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::Value;

use super::writer::{PARALLEL, Writer, is_default_account, is_same, is_transient, message, refusal};

/// How often a question is repeated that failed for a passing reason.
const TRIES: u32 = 5;

/// What the API server said of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can be created.
    Free,
    /// Something else of this name exists.
    Exists,
    /// It exists already, exactly as it would be written.
    Same,
    /// The cluster has no such kind.
    NoKind,
    /// The API server would refuse it: reason and its words.
    Refused(&'static str, String),
    /// Cannot be told before other objects exist.
    Unknown,
}

impl Writer {
    /// Asks the API server, as the requester, about every namespaced object, without writing any.
    pub(super) async fn preflight(&self, plan: &ObjectPlan) -> Vec<(ObjectKey, Verdict)> {
        let roles: BTreeSet<&str> = plan
            .namespaced()
            .filter(|o| o.key.kind == "Role")
            .map(|o| o.key.name.as_str())
            .collect();
        let defined: BTreeSet<String> = plan
            .definitions
            .iter()
            .filter_map(|d| defined_kind(&d.manifest))
            .collect();
        let questions: Vec<BoxFuture<'_, Verdict>> = plan.namespaced().map(|o| self.ask(o).boxed()).collect();
        let verdicts: Vec<Verdict> = futures::stream::iter(questions)
            .buffered(PARALLEL)
            .collect()
            .await;
        plan.namespaced()
            .zip(verdicts)
            .map(|(object, verdict)| (object.key.clone(), soften(object, verdict, &roles, &defined)))
            .collect()
    }

    /// Asks the API server, as the requester, about claims whose data comes back. The operator makes them in the end, but
    /// quotas and rules about storage are the requester's. A claim that exists is never right: it has a volume already.
    pub(super) async fn preflight_claims(&self, claims: &[PlannedObject]) -> Vec<(ObjectKey, Verdict)> {
        let questions: Vec<BoxFuture<'_, Verdict>> = claims.iter().map(|c| self.ask(c).boxed()).collect();
        let verdicts: Vec<Verdict> = futures::stream::iter(questions)
            .buffered(PARALLEL)
            .collect()
            .await;
        let strict = |verdict| match verdict {
            Verdict::Same => Verdict::Exists,
            other => other,
        };
        let keys = claims.iter().map(|c| c.key.clone());
        keys.zip(verdicts.into_iter().map(strict)).collect()
    }

    async fn ask(&self, object: &PlannedObject) -> Verdict {
        let mut pause = Duration::from_millis(200);
        for _ in 1..TRIES {
            match self.ask_once(object).await {
                Ok(verdict) => return verdict,
                Err(error) if is_transient(&error) && !is_webhook(&error) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return judge(&error),
            }
        }
        match self.ask_once(object).await {
            Ok(verdict) => verdict,
            Err(error) => judge(&error),
        }
    }

    async fn ask_once(&self, object: &PlannedObject) -> Result<Verdict, kube::Error> {
        let (api, manifest) = match self.prepare(object).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Verdict::NoKind),
            prepared => prepared?,
        };
        // Pods depend on accounts, limits and claims that are not there yet: only their name can be checked.
        if object.key.kind == "Pod" {
            return self.meets(&api, object).await;
        }
        match api
            .create(
                &PostParams {
                    dry_run: true,
                    ..PostParams::default()
                },
                &manifest,
            )
            .await
        {
            Ok(_) => Ok(Verdict::Free),
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.meets(&api, object).await,
            Err(error) => Err(error),
        }
    }

    /// What is there under the object's name.
    async fn meets(&self, api: &Api<DynamicObject>, object: &PlannedObject) -> Result<Verdict, kube::Error> {
        let verdict = match api.get_opt(&object.key.name).await? {
            None => Verdict::Free,
            Some(found) if self.is_ours(found.annotations()) => Verdict::Free,
            Some(_) if is_default_account(&object.key) => Verdict::Free,
            Some(found) if is_same(object, &found) => Verdict::Same,
            Some(_) => Verdict::Exists,
        };
        Ok(verdict)
    }
}

/// A webhook that does not answer, or takes no dry runs, says nothing about the object: its pods may be part of the
/// restore.
fn is_webhook(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.message.contains("failed calling webhook") || status.message.contains("does not support dry run"))
}

fn judge(error: &kube::Error) -> Verdict {
    if is_webhook(error) || is_transient(error) {
        return Verdict::Unknown;
    }
    Verdict::Refused(refusal(error), message(error))
}

/// A refusal that only says that another object of the plan is not there yet is no refusal.
fn soften(
    object: &PlannedObject,
    verdict: Verdict,
    roles: &BTreeSet<&str>,
    defined: &BTreeSet<String>,
) -> Verdict {
    match &verdict {
        Verdict::NoKind if defined.contains(&format!("{}/{}", object.key.group, object.key.kind)) => {
            Verdict::Unknown
        }
        Verdict::NoKind => Verdict::Refused(
            reasons::APPLY_FAILED,
            format!("the cluster has no kind {}", object.key.kind),
        ),
        // The API server checks a binding against the role it names. That the requester may create the role is checked
        // with the role itself, by the same rule.
        Verdict::Refused(_, text) if object.key.kind == "RoleBinding" && text.contains("not found") => {
            let role = object
                .manifest
                .pointer("/roleRef/name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if roles.contains(role) {
                Verdict::Unknown
            } else {
                verdict
            }
        }
        _ => verdict,
    }
}

/// `group/kind` of what a definition defines.
fn defined_kind(definition: &Value) -> Option<String> {
    let group = definition.pointer("/spec/group")?.as_str()?;
    let kind = definition.pointer("/spec/names/kind")?.as_str()?;
    Some(format!("{group}/{kind}"))
}
