//! Which objects must be there before others.

use std::collections::BTreeMap;

use super::{ObjectKey, PlannedObject};

/// What pods need before they start: identities, configuration, limits and network rules.
const BEFORE_PODS: u32 = 0;
/// Roles exist before the bindings that name them, accounts before the Secrets that ask for their tokens.
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
        // A Secret that asks for the token of an account is deleted by the cluster while there is no such account.
        ("", "Secret") => BINDINGS,
        ("", "ServiceAccount" | "ConfigMap" | "LimitRange" | "ResourceQuota") => BEFORE_PODS,
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

/// How far an object has come.
#[derive(Clone, Copy)]
enum Walk {
    /// Nobody has looked at it.
    New,
    /// Its owners are being looked at: whoever comes back to it closes a circle.
    Open,
    /// Its level is known.
    Done(u32),
}

/// The level of every object, in the order of the map: that of its kind, and in any case after its owners. A circle of
/// owners, which the garbage collector would not survive either, is cut where it closes.
///
/// Every object and every reference is looked at once, on a stack of our own: people write references, and nothing
/// bounds how many paths there are or how long they get.
pub(super) fn with_owners(objects: &BTreeMap<ObjectKey, PlannedObject>) -> Vec<u32> {
    let number: BTreeMap<&ObjectKey, usize> = objects.keys().zip(0..).collect();
    let numbers = |object: &PlannedObject| -> Vec<usize> {
        let owners = object.owners.iter();
        owners.filter_map(|o| number.get(&o.key).copied()).collect()
    };
    let owners: Vec<Vec<usize>> = objects.values().map(numbers).collect();
    let kinds: Vec<u32> = objects.keys().map(of_kind).collect();
    let mut walks = vec![Walk::New; owners.len()];
    for start in 0..walks.len() {
        walk(start, &owners, &kinds, &mut walks);
    }
    let level = |walk: Walk| match walk {
        Walk::Done(level) => Some(level),
        Walk::New | Walk::Open => None,
    };
    walks.into_iter().filter_map(level).collect()
}

/// Finds the level of one object and of everything above it.
fn walk(start: usize, owners: &[Vec<usize>], kinds: &[u32], walks: &mut [Walk]) {
    // The object, and which of its owners is next.
    let mut path = vec![(start, 0)];
    while let Some((object, next)) = path.last_mut() {
        let object = *object;
        if let Walk::Done(_) = walks[object] {
            path.pop();
            continue;
        }
        walks[object] = Walk::Open;
        if let Some(owner) = owners[object].get(*next).copied() {
            *next += 1;
            if let Walk::New = walks[owner] {
                path.push((owner, 0));
            }
            continue;
        }
        let above = owners[object].iter().filter_map(|owner| match walks[*owner] {
            Walk::Done(level) => Some(level + 1),
            Walk::New | Walk::Open => None,
        });
        walks[object] = Walk::Done(above.fold(kinds[object], u32::max));
        path.pop();
    }
}
