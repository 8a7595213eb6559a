//! What a restore writes, and in which order: pure planning over captured objects.
//!
//! Captured objects are kept as the API server gave them. Everything that ties one to its old cluster is taken off
//! here, at the last moment, so that a backup loses nothing and the rules can improve without new backups.

mod clean;
mod level;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use clean::clean_for_restore;

/// Longest name, in bytes. Most kinds allow 253; some set no limit but that of a path.
const MAX_NAME: usize = 1024;

/// Identity of an object inside a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// API group, empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Reads the identity out of a manifest; `None` when `apiVersion`, `kind` or name are missing, or longer than any
    /// API server takes them: identities are copied for every reference to them.
    pub fn of(object: &Value) -> Option<Self> {
        let api_version = object.get("apiVersion")?.as_str()?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = object.get("kind")?.as_str()?;
        let name = object.pointer("/metadata/name")?.as_str()?;
        let fits = group.len() <= 253 && version.len() <= 63 && kind.len() <= 63 && name.len() <= MAX_NAME;
        fits.then(|| Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
        })
    }

    /// As much as there is of the identity of an object that has none.
    fn of_unnamed(object: &Value) -> Self {
        let text = |pointer: &str| {
            let found = object.pointer(pointer).and_then(Value::as_str);
            found.unwrap_or_default().chars().take(63).collect()
        };
        Self {
            group: String::new(),
            version: text("/apiVersion"),
            kind: text("/kind"),
            name: text("/metadata/name"),
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}.{}/{}", self.kind, self.group, self.name)
        }
    }
}

/// One object to write.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedObject {
    /// Identity.
    pub key: ObjectKey,
    /// The manifest as it will be sent; owners are still named by kind and name, their new UIDs are filled in when
    /// the owner has been written.
    pub manifest: Value,
    /// Owners that are part of the plan, with the `controller` and `blockOwnerDeletion` flags of the reference.
    pub owners: Vec<Owner>,
}

/// An owner inside the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Which object.
    pub key: ObjectKey,
    /// The flag of the original reference.
    pub controller: bool,
    /// The flag of the original reference.
    pub block_owner_deletion: bool,
}

/// Everything a restore writes beside volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectPlan {
    /// Custom resource definitions, written first.
    pub definitions: Vec<PlannedObject>,
    /// Namespaced objects by level: a level starts when the one before is written; inside a level all go at once.
    pub levels: Vec<Vec<PlannedObject>>,
    /// Objects that are not written, with the reason.
    pub skipped: Vec<(ObjectKey, String)>,
    /// Claim manifests by name, cleaned: those whose data is restored are created when their volume is ready.
    pub claims: BTreeMap<String, Value>,
}

impl ObjectPlan {
    /// Number of objects the plan writes, definitions included, claims with data not.
    pub fn len(&self) -> usize {
        self.definitions.len() + self.levels.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes namespaced objects out of the plan, with the reason.
    pub fn leave_out(&mut self, reason: &str, which: impl Fn(&ObjectKey) -> bool) {
        for level in &mut self.levels {
            let (out, rest) = std::mem::take(level)
                .into_iter()
                .partition::<Vec<_>, _>(|o| which(&o.key));
            *level = rest;
            self.skipped
                .extend(out.into_iter().map(|o| (o.key, reason.to_owned())));
        }
    }

    /// Every namespaced object, in order.
    pub fn namespaced(&self) -> impl Iterator<Item = &PlannedObject> {
        self.levels.iter().flatten()
    }
}

/// Plans the objects of a point for `namespace`. `data_claims` are the claims whose volumes are restored from images:
/// they go to [`ObjectPlan::claims`] instead of a level.
pub fn plan_objects(objects: Vec<Value>, namespace: &str, data_claims: &BTreeSet<String>) -> ObjectPlan {
    let mut plan = ObjectPlan::default();
    let mut found: BTreeMap<ObjectKey, PlannedObject> = BTreeMap::new();
    let keys = by_name(&objects);
    for object in objects {
        let Some(key) = ObjectKey::of(&object) else {
            let reason = "it has no apiVersion, kind or metadata.name that an API server takes".to_owned();
            plan.skipped.push((ObjectKey::of_unnamed(&object), reason));
            continue;
        };
        if let Some(reason) = clean::reason_to_skip(&key, &object) {
            plan.skipped.push((key, reason));
            continue;
        }
        let owners = owners_of(&object, &keys);
        let manifest = clean_for_restore(object, namespace);
        if key.kind == "Namespace" && key.group.is_empty() {
            continue;
        }
        if key.kind == "PersistentVolumeClaim" && key.group.is_empty() && data_claims.contains(&key.name) {
            plan.claims.insert(key.name, manifest);
            continue;
        }
        found.insert(
            key.clone(),
            PlannedObject {
                key,
                manifest,
                owners,
            },
        );
    }
    let known: BTreeSet<ObjectKey> = found.keys().cloned().collect();
    for object in found.values_mut() {
        object.owners.retain(|o| known.contains(&o.key));
    }
    let mut levels: BTreeMap<u32, Vec<PlannedObject>> = BTreeMap::new();
    let each = level::with_owners(&found);
    for ((key, object), level) in found.into_iter().zip(each) {
        if key.kind == "CustomResourceDefinition" {
            plan.definitions.push(object);
        } else {
            levels.entry(level).or_default().push(object);
        }
    }
    plan.levels = levels.into_values().collect();
    plan
}

/// Objects by group, kind and name, as owner references name them.
type ByName = BTreeMap<(String, String, String), ObjectKey>;

fn by_name(objects: &[Value]) -> ByName {
    let mut all = ByName::new();
    for key in objects.iter().filter_map(ObjectKey::of) {
        all.entry((key.group.clone(), key.kind.clone(), key.name.clone()))
            .and_modify(|known| *known = key.clone().min(known.clone()))
            .or_insert(key);
    }
    all
}

/// Owners that were captured too. A name is unique among a kind's objects of one namespace, so group, kind and name
/// tell which one is meant, whatever version the reference is written in.
fn owners_of(object: &Value, keys: &ByName) -> Vec<Owner> {
    let references = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let text = |r: &Value, field: &str| {
        r.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let flag = |r: &Value, field: &str| r.get(field).and_then(Value::as_bool).unwrap_or(false);
    let owner = |r: &Value| {
        let api_version = text(r, "apiVersion");
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let key = keys.get(&(group.to_owned(), text(r, "kind"), text(r, "name")))?;
        let (controller, block) = (flag(r, "controller"), flag(r, "blockOwnerDeletion"));
        Some(Owner {
            key: key.clone(),
            controller,
            block_owner_deletion: block,
        })
    };
    references.into_iter().flatten().filter_map(owner).collect()
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(api: &str, kind: &str, name: &str) -> Value {
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "old"}})
    }

    #[test]
    fn secrets_come_before_what_mounts_them_and_definitions_first() {
        let plan = plan_objects(
            vec![
                object("apps/v1", "Deployment", "web"),
                object("v1", "Secret", "key"),
                object("rbac.authorization.k8s.io/v1", "RoleBinding", "rb"),
                object("rbac.authorization.k8s.io/v1", "Role", "r"),
                object(
                    "apiextensions.k8s.io/v1",
                    "CustomResourceDefinition",
                    "things.example.com",
                ),
            ],
            "new",
            &BTreeSet::new(),
        );
        assert_eq!(plan.definitions.len(), 1);
        let position = |kind: &str| {
            plan.levels
                .iter()
                .position(|l| l.iter().any(|o| o.key.kind == kind))
                .unwrap()
        };
        assert!(position("Secret") < position("Deployment"));
        assert!(position("Role") < position("RoleBinding"));
        assert!(position("RoleBinding") < position("Deployment"));
        assert!(
            plan.namespaced()
                .all(|o| o.manifest.pointer("/metadata/namespace") == Some(&json!("new")))
        );
    }

    #[test]
    fn an_owned_object_follows_its_owner_and_foreign_owners_are_dropped() {
        let mut owned = object("v1", "ConfigMap", "child");
        owned["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "example.com/v1beta1", "kind": "Thing", "name": "parent", "controller": true},
            {"apiVersion": "v1", "kind": "Node", "name": "gone"}
        ]);
        let plan = plan_objects(
            vec![owned, object("example.com/v1", "Thing", "parent")],
            "new",
            &BTreeSet::new(),
        );
        let level = |name: &str| {
            plan.levels
                .iter()
                .position(|l| l.iter().any(|o| o.key.name == name))
                .unwrap()
        };
        assert!(level("parent") < level("child"));
        let child = plan.namespaced().find(|o| o.key.name == "child").unwrap();
        assert_eq!(child.owners.len(), 1);
        assert!(child.owners[0].controller);
        assert_eq!(child.manifest.pointer("/metadata/ownerReferences"), None);
    }

    #[test]
    fn claims_with_data_wait_for_their_volume() {
        let data = BTreeSet::from(["db".to_owned()]);
        let objects = vec![
            object("v1", "PersistentVolumeClaim", "db"),
            object("v1", "PersistentVolumeClaim", "empty"),
        ];
        let plan = plan_objects(objects, "new", &data);
        assert!(plan.claims.contains_key("db"));
        assert_eq!(
            plan.namespaced().map(|o| o.key.name.as_str()).collect::<Vec<_>>(),
            ["empty"]
        );
    }

    #[test]
    fn what_has_no_identity_is_reported() {
        let odd = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": 7}});
        let endless = object(&"v".repeat(1 << 20), "Thing", "x");
        let plan = plan_objects(vec![odd, endless], "new", &BTreeSet::new());
        assert_eq!(plan.skipped.len(), 2);
        assert_eq!(plan.skipped[0].0.kind, "Thing");
    }

    #[test]
    fn finished_work_is_not_started_again() {
        let mut job = object("batch/v1", "Job", "import");
        job["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        let mut pod = object("v1", "Pod", "once");
        pod["status"] = json!({"phase": "Succeeded"});
        let plan = plan_objects(vec![job, pod], "new", &BTreeSet::new());
        assert!(plan.is_empty());
        assert_eq!(plan.skipped.len(), 2);
    }
}
