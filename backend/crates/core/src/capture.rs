//! What of a namespace is captured: the default ignore list, and what is taken off every object.
//!
//! The list holds what a cluster makes by itself in every namespace or makes again from what is captured. Everything
//! else is kept untyped. Rules that tie an object to its old cluster are applied by the restore
//! ([`crate::restore::clean_for_restore`]), so that they can improve without new backups; here only goes what is of no
//! use to anybody later.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Group of our own kinds: a run that came back with a restore would run again.
const OWN_GROUP: &str = "holdfast.dev";

/// Groups of which nothing is captured: measurements, catalogues, and snapshots, whose data is not in the objects.
const IGNORED_GROUPS: [&str; 8] = [
    OWN_GROUP,
    "events.k8s.io",
    "metrics.k8s.io",
    "custom.metrics.k8s.io",
    "external.metrics.k8s.io",
    "packages.operators.coreos.com",
    "snapshot.storage.k8s.io",
    "groupsnapshot.storage.k8s.io",
];

/// Kinds (group, kind) of which nothing is captured.
const IGNORED_KINDS: [(&str, &str); 8] = [
    ("", "Event"),
    ("", "Binding"),
    ("", "ComponentStatus"),
    ("coordination.k8s.io", "Lease"),
    ("coordination.k8s.io", "LeaseCandidate"),
    ("storage.k8s.io", "CSIStorageCapacity"),
    ("wgpolicyk8s.io", "PolicyReport"),
    ("cilium.io", "CiliumEndpoint"),
];

/// ConfigMaps that a controller puts into every namespace.
const CLUSTER_CONFIG_MAPS: [&str; 3] = [
    "kube-root-ca.crt",
    "openshift-service-ca.crt",
    "istio-ca-root-cert",
];

/// RoleBindings that OpenShift puts into every namespace.
const CLUSTER_ROLE_BINDINGS: [&str; 3] = [
    "system:deployers",
    "system:image-builders",
    "system:image-pullers",
];

/// Kinds that a controller makes again from their owner, which is captured itself.
const MADE_BY_OWNER: [(&str, &str); 6] = [
    ("", "Pod"),
    ("", "ReplicationController"),
    ("apps", "ReplicaSet"),
    ("apps", "ControllerRevision"),
    ("batch", "Job"),
    ("discovery.k8s.io", "EndpointSlice"),
];

/// Kinds whose `status` is kept, because only it says whether they had ended: those are not started again.
const STATUS_KEPT: [(&str, &str); 2] = [("", "Pod"), ("batch", "Job")];

/// Metadata that the API server sets and that says nothing about the application.
const SERVER_METADATA: [&str; 8] = [
    "managedFields",
    "resourceVersion",
    "uid",
    "generation",
    "creationTimestamp",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// What a decision about one object needs to know of its neighbours.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// Services with a selector: their Endpoints are made by the cluster, those of other Services by people.
    pub selecting_services: BTreeSet<String>,
}

impl Neighbours {
    /// Takes note of a captured object.
    pub fn note(&mut self, object: &Value) {
        let selects = object
            .pointer("/spec/selector")
            .and_then(Value::as_object)
            .is_some_and(|s| !s.is_empty());
        if text(object, "/kind") == "Service" && text(object, "/apiVersion") == "v1" && selects {
            self.selecting_services
                .insert(text(object, "/metadata/name").to_owned());
        }
    }
}

/// Whether nothing of this API group is ever captured, so that it does not matter when its server is away.
pub fn ignores_group(group: &str) -> bool {
    IGNORED_GROUPS.contains(&group)
}

/// Whether no object of this kind is ever captured, so that it need not be listed.
pub fn ignores_kind(group: &str, kind: &str) -> bool {
    ignores_group(group) || IGNORED_KINDS.contains(&(group, kind))
}

/// Why this object is not captured by default, if so. `object` is as the API server gave it.
pub fn reason_to_ignore(object: &Value, neighbours: &Neighbours) -> Option<&'static str> {
    let group = group_of(object);
    let kind = text(object, "/kind");
    let name = text(object, "/metadata/name");
    if ignores_kind(group, kind) {
        return Some("objects of this kind are made by the cluster");
    }
    let claim = (group, kind) == ("", "PersistentVolumeClaim");
    if object.pointer("/metadata/deletionTimestamp").is_some() && !claim {
        return Some("it is being deleted");
    }
    if is_temporary(object) {
        return Some("it is a temporary object of a run");
    }
    if let Some(owner) = controller(object)
        && (MADE_BY_OWNER.contains(&(group, kind)) || text(owner, "/kind") == "Pod")
    {
        return Some("its owner makes it again");
    }
    match (group, kind) {
        ("", "Pod")
            if has_key(object, "/metadata/annotations", |a| {
                a == "kubernetes.io/config.mirror"
            }) =>
        {
            Some("it mirrors a static pod of a node")
        }
        ("", "ConfigMap") if CLUSTER_CONFIG_MAPS.contains(&name) => Some("every namespace has its own"),
        ("", "ServiceAccount") if name == "default" && is_plain_account(object) => {
            Some("every namespace has its own")
        }
        ("", "Secret") => ignored_secret(object, name),
        ("", "Endpoints") => ignored_endpoints(object, name, neighbours),
        ("discovery.k8s.io", "EndpointSlice") => {
            let by = text(object, "/metadata/labels/endpointslice.kubernetes.io~1managed-by");
            by.ends_with(".k8s.io")
                .then_some("the cluster makes it from a Service")
        }
        ("rbac.authorization.k8s.io" | "authorization.openshift.io", "RoleBinding")
            if CLUSTER_ROLE_BINDINGS.contains(&name) =>
        {
            Some("every namespace has its own")
        }
        _ => None,
    }
}

/// Whether the operator made this for a run. People may use labels of our group for their own purposes.
fn is_temporary(object: &Value) -> bool {
    let label = |key: &str| {
        object
            .pointer("/metadata/labels")
            .and_then(|labels| labels.get(key))
    };
    let ours = label("app.kubernetes.io/managed-by").and_then(Value::as_str) == Some("holdfast");
    ours && ["holdfast.dev/run", "holdfast.dev/transfer"]
        .iter()
        .any(|key| label(key).is_some())
}

/// Takes off what the API server sets: see the module's first lines.
pub fn sanitise(object: &mut Value) {
    let kept = STATUS_KEPT.contains(&(group_of(object), text(object, "/kind")));
    let token = text(object, "/kind") == "Secret" && text(object, "/type") == SERVICE_ACCOUNT_TOKEN;
    let Some(root) = object.as_object_mut() else {
        return;
    };
    if !kept {
        root.remove("status");
    }
    if token {
        // A credential of this cluster that the cluster fills in by itself; elsewhere it is only a leak.
        root.remove("data");
    }
    let Some(metadata) = root.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for field in SERVER_METADATA {
        metadata.remove(field);
    }
    if token && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(SERVICE_ACCOUNT_UID);
    }
}

/// Type of Secrets that hold the token of a service account.
const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
/// Annotation that ties such a Secret to one service account of one cluster.
const SERVICE_ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Tokens that controllers made are named after the account with five random characters; a Secret that a person wrote
/// to get a token is kept, without the token.
fn ignored_secret(secret: &Value, name: &str) -> Option<&'static str> {
    let account = text(
        secret,
        "/metadata/annotations/kubernetes.io~1service-account.name",
    );
    let generated = !account.is_empty() && is_generated_for(account, name);
    match text(secret, "/type") {
        SERVICE_ACCOUNT_TOKEN if generated => Some("the cluster makes tokens of service accounts"),
        "kubernetes.io/dockercfg" if generated => Some("the cluster makes registry access of accounts"),
        "bootstrap.kubernetes.io/token" => Some("it lets nodes join this cluster"),
        _ => None,
    }
}

/// Whether a Secret of this name is one that the cluster makes for an account: `<account>-token-` or
/// `<account>-dockercfg-` and five random characters.
pub(crate) fn is_generated_for(account: &str, name: &str) -> bool {
    let rest = name.strip_prefix(account).unwrap_or_default();
    ["-token-", "-dockercfg-"]
        .iter()
        .filter_map(|infix| rest.strip_prefix(infix))
        .any(|random| random.len() == 5 && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn ignored_endpoints(endpoints: &Value, name: &str, neighbours: &Neighbours) -> Option<&'static str> {
    let elects = has_key(endpoints, "/metadata/annotations", |a| {
        a == "control-plane.alpha.kubernetes.io/leader"
    });
    let made = has_key(endpoints, "/metadata/labels", |l| {
        l == "endpoints.kubernetes.io/managed-by"
    });
    (elects || made || neighbours.selecting_services.contains(name))
        .then_some("the cluster makes it from a Service")
}

fn is_plain_account(account: &Value) -> bool {
    let own_name = text(account, "/metadata/name");
    let generated = |reference: &Value| is_generated_for(own_name, text(reference, "/name"));
    let only_generated = |field: &str| {
        account
            .get(field)
            .and_then(Value::as_array)
            .is_none_or(|refs| refs.iter().all(generated))
    };
    let bare = |pointer: &str| {
        account
            .pointer(pointer)
            .and_then(Value::as_object)
            .is_none_or(Map::is_empty)
    };
    only_generated("imagePullSecrets")
        && only_generated("secrets")
        && bare("/metadata/labels")
        && !has_key(account, "/metadata/annotations", |a| {
            !a.starts_with("openshift.io/")
        })
        && account.get("automountServiceAccountToken").is_none()
}

fn controller(object: &Value) -> Option<&Value> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    owners
        .iter()
        .find(|o| o.get("controller") == Some(&Value::Bool(true)))
}

fn group_of(object: &Value) -> &str {
    text(object, "/apiVersion")
        .split_once('/')
        .map_or("", |(group, _)| group)
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn has_key(object: &Value, pointer: &str, test: impl Fn(&str) -> bool) -> bool {
    object
        .pointer(pointer)
        .and_then(Value::as_object)
        .is_some_and(|m| m.keys().any(|k| test(k)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ignored(object: &Value) -> bool {
        reason_to_ignore(object, &Neighbours::default()).is_some()
    }

    fn owned(api_version: &str, kind: &str, owner: &str, controller: bool) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x",
            "ownerReferences": [{"kind": owner, "name": "o", "controller": controller}]}})
    }

    #[test]
    fn kinds_of_the_cluster_and_our_own_are_never_listed() {
        for (group, kind) in [
            ("", "Event"),
            ("events.k8s.io", "Event"),
            ("coordination.k8s.io", "Lease"),
            ("metrics.k8s.io", "PodMetrics"),
            ("packages.operators.coreos.com", "PackageManifest"),
            ("snapshot.storage.k8s.io", "VolumeSnapshot"),
            ("holdfast.dev", "Backup"),
            ("holdfast.dev", "KindOfTomorrow"),
        ] {
            assert!(ignores_kind(group, kind), "{group}/{kind}");
        }
        for (group, kind) in [
            ("", "Secret"),
            ("apps", "Deployment"),
            ("example.com", "Event"),
            ("", "Lease"),
        ] {
            assert!(!ignores_kind(group, kind), "{group}/{kind}");
        }
    }

    #[test]
    fn only_what_the_operator_made_for_a_run_is_temporary() {
        let claim = |labels: Value| json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x", "labels": labels}});
        assert!(ignored(&claim(json!({
            "app.kubernetes.io/managed-by": "holdfast", "holdfast.dev/transfer": "u"
        }))));
        for labels in [
            json!({"holdfast.dev/tier": "gold"}),
            json!({"holdfast.dev/run": "mine"}),
            json!({"app.kubernetes.io/managed-by": "holdfast"}),
        ] {
            assert!(!ignored(&claim(labels.clone())), "{labels}");
        }
    }

    #[test]
    fn an_account_that_a_person_changed_is_kept() {
        let account = |secret: &str| {
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
                "imagePullSecrets": [{"name": secret}]})
        };
        assert!(ignored(&account("default-dockercfg-x7k2p")));
        assert!(!ignored(&account("gitlab-token-pull")));
        assert!(!ignored(&account("default-token-of-mine")));
    }

    #[test]
    fn what_an_owner_makes_again_is_left_out_and_what_a_person_made_is_kept() {
        assert!(ignored(&owned("v1", "Pod", "ReplicaSet", true)));
        assert!(ignored(&owned("apps/v1", "ReplicaSet", "Deployment", true)));
        assert!(ignored(&owned("batch/v1", "Job", "CronJob", true)));
        assert!(ignored(&owned(
            "apps/v1",
            "ControllerRevision",
            "StatefulSet",
            true
        )));
        assert!(
            ignored(&owned("v1", "PersistentVolumeClaim", "Pod", true)),
            "an ephemeral volume goes with its pod"
        );
        assert!(!ignored(&owned("v1", "Pod", "ReplicaSet", false)));
        assert!(!ignored(&owned(
            "v1",
            "PersistentVolumeClaim",
            "StatefulSet",
            true
        )));
        assert!(!ignored(&owned("example.com/v1", "Database", "Cluster", true)));
        assert!(!ignored(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}})
        ));
    }

    #[test]
    fn endpoints_are_kept_where_a_person_wrote_them() {
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"}});
        assert!(!ignored(&endpoints));
        let mut neighbours = Neighbours::default();
        neighbours
            .note(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": {}}));
        assert!(reason_to_ignore(&endpoints, &neighbours).is_none());
        neighbours.note(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
            "spec": {"selector": {"app": "db"}}}),
        );
        assert!(reason_to_ignore(&endpoints, &neighbours).is_some());

        let slice = |by: &str| {
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "s", "labels": {"endpointslice.kubernetes.io/managed-by": by}}})
        };
        assert!(ignored(&slice("endpointslice-controller.k8s.io")));
        assert!(!ignored(&slice("me")));
    }

    #[test]
    fn what_every_namespace_has_by_itself_is_left_out_unless_it_was_changed() {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        assert!(ignored(&account));
        let mut pulls = account.clone();
        pulls["imagePullSecrets"] = json!([{"name": "registry"}]);
        assert!(!ignored(&pulls));
        let mut other = account;
        other["metadata"]["name"] = json!("app");
        assert!(!ignored(&other));
        let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        assert!(ignored(&map("kube-root-ca.crt")));
        assert!(!ignored(&map("settings")));
    }

    #[test]
    fn generated_tokens_go_and_requested_ones_are_kept_without_the_token() {
        let secret = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "type": SERVICE_ACCOUNT_TOKEN, "data": {"token": "eA=="},
                "metadata": {"name": name, "annotations": {
                    "kubernetes.io/service-account.name": "app", SERVICE_ACCOUNT_UID: "1"}}})
        };
        assert!(ignored(&secret("app-token-x8k2p")));
        let mut requested = secret("ci-token");
        assert!(!ignored(&requested));
        sanitise(&mut requested);
        assert!(requested.get("data").is_none());
        assert_eq!(
            requested["metadata"]["annotations"],
            json!({"kubernetes.io/service-account.name": "app"})
        );
    }

    #[test]
    fn claims_that_are_being_deleted_are_not_silently_left_out() {
        let gone = |kind: &str| {
            json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"name": "x", "deletionTimestamp": "2026-01-01T00:00:00Z"}})
        };
        assert!(ignored(&gone("ConfigMap")));
        assert!(
            !ignored(&gone("PersistentVolumeClaim")),
            "validation refuses it by name"
        );
    }

    #[test]
    fn sanitising_keeps_everything_but_what_the_server_sets() {
        let mut object = json!({
            "apiVersion": "example.com/v1", "kind": "Thing",
            "metadata": {"name": "x", "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 2,
                "creationTimestamp": "2026-01-01T00:00:00Z", "selfLink": "/x", "managedFields": [],
                "labels": {"a": "b"}, "ownerReferences": [{"kind": "Other", "name": "o"}], "future": {"field": 1}},
            "spec": {"any": [1, {"thing": null}]}, "topLevel": true, "status": {"ready": true}
        });
        sanitise(&mut object);
        assert_eq!(
            object,
            json!({
                "apiVersion": "example.com/v1", "kind": "Thing",
                "metadata": {"name": "x", "namespace": "n", "labels": {"a": "b"},
                    "ownerReferences": [{"kind": "Other", "name": "o"}], "future": {"field": 1}},
                "spec": {"any": [1, {"thing": null}]}, "topLevel": true
            })
        );
        let mut job =
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "status": {"succeeded": 1}});
        sanitise(&mut job);
        assert_eq!(job["status"], json!({"succeeded": 1}));
    }
}
