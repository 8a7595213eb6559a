//! Types used by several kinds.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A reference to a resource of one of our kinds or to a Secret or ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Name of the resource.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the resource; the referring resource's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
}

/// Who asked for a run. Admission overwrites it on create and refuses changes: what is written here by a client
/// is never trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requester {
    /// User name as the API server authenticated it.
    #[schemars(length(max = 1024))]
    pub user: String,
    /// UID of the user, if the authenticator gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub uid: Option<String>,
    /// Groups of the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 1024)))]
    pub groups: Vec<String>,
    /// Extra attributes of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Group, version and kind of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupVersionKind {
    /// API group; empty for the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// API version; any version of the kind when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub version: String,
    /// Kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
}

/// Objects of one kind, all of them or by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceSet {
    /// The kind.
    pub group_version_kind: GroupVersionKind,
    /// Names of objects; every object of the kind when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 253)))]
    pub objects: Vec<String>,
}

/// Selects objects by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceSelector {
    /// Kinds, each with names or as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub gvk_selector: Vec<ResourceSet>,
}

impl ResourceSelector {
    /// Whether the selector names this object. An empty version in the selector stands for every version.
    pub fn selects(&self, group: &str, version: &str, kind: &str, name: &str) -> bool {
        self.gvk_selector.iter().any(|set| {
            let gvk = &set.group_version_kind;
            gvk.group == group
                && gvk.kind == kind
                && (gvk.version.is_empty() || gvk.version == version)
                && (set.objects.is_empty() || set.objects.iter().any(|o| o == name))
        })
    }
}

/// Encrypts, or opens what is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Secret in the same namespace. Under `planKey` it holds an age identity (`AGE-SECRET-KEY-1…`, as `holdfast keygen`
    /// prints it), and beside it, while keys are rotated, the former one under `formerPlanKey`. For a restore it may hold
    /// a recovery key instead, under `recoveryKey`.
    pub encryption_secret: ObjectRef,
}
