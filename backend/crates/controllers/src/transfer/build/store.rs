//! The folder of a target that is one: the mover opens it itself, so that no byte of a volume goes another way.

use serde_json::{Value, json};

use super::DatamoverTask;
use super::job::root;

/// Mounts the claim in the pod's only container. Whatever the job is, it works with the files of the others: as the same
/// user, and without a group that the kubelet would give every file to.
pub(super) fn mount(pod: &mut Value, claim: &str) {
    pod["securityContext"] = root();
    let add = |list: &mut Value, item: Value| {
        if let Value::Array(list) = list {
            list.push(item);
        }
    };
    add(
        &mut pod["volumes"],
        json!({"name": "store", "persistentVolumeClaim": {"claimName": claim}}),
    );
    add(
        &mut pod["containers"][0]["volumeMounts"],
        json!({"name": "store", "mountPath": DatamoverTask::STORE}),
    );
}
