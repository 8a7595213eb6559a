//! Which objects must be there before others.

use std::collections::{BTreeMap, BTreeSet};

use super::{ObjectKey, PlannedObject};

/// What pods need before they start: identities, configuration, limits and network rules.
const BEFORE_PODS: u32 = 0;
/// Roles exist before the bindings that name them.
const BINDINGS: u32 = 1;
/// What pods find by name: services and claims.
const SERVICES: u32 = 2;
/// Pods and what makes them.
const WORKLOADS: u32 = 3;
/// What acts on workloads.
const AROUND_WORKLOADS: u32 = 4;
/// Instances of custom kinds, whose controllers and webhooks may be workloads of the same namespace.
const CUSTOM: u32 = 5;

fn of_kind(key: &ObjectKey) -> u32 {
    match (key.group.as_str(), key.kind.as_str()) {
        ("", "ServiceAccount" | "Secret" | "ConfigMap" | "LimitRange" | "ResourceQuota") => BEFORE_PODS,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => BEFORE_PODS,
        ("networking.k8s.io", "NetworkPolicy") => BEFORE_PODS,
        ("rbac.authorization.k8s.io", _) => BINDINGS,
        ("", "Service" | "Endpoints" | "PersistentVolumeClaim") => SERVICES,
        ("discovery.k8s.io", _) => SERVICES,
        ("", _) | ("apps" | "batch", _) => WORKLOADS,
        ("autoscaling" | "policy" | "networking.k8s.io", _) => AROUND_WORKLOADS,
        (group, _) if group.ends_with(".k8s.io") => AROUND_WORKLOADS,
        _ => CUSTOM,
    }
}

/// The level of an object: that of its kind, and in any case after its owners. A cycle of owners, which the garbage
/// collector would not survive either, is cut where it closes.
pub(super) fn with_owners(key: &ObjectKey, all: &BTreeMap<ObjectKey, PlannedObject>) -> u32 {
    fn walk(
        key: &ObjectKey,
        all: &BTreeMap<ObjectKey, PlannedObject>,
        seen: &mut BTreeSet<ObjectKey>,
    ) -> u32 {
        let mut level = of_kind(key);
        if !seen.insert(key.clone()) {
            return level;
        }
        for owner in all.get(key).into_iter().flat_map(|o| &o.owners) {
            level = level.max(walk(&owner.key, all, seen) + 1);
        }
        seen.remove(key);
        level
    }
    walk(key, all, &mut BTreeSet::new())
}
