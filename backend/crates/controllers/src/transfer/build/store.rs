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

#[cfg(test)]
mod tests {
    use super::super::tests::transfer;
    use super::super::{Names, PodParts, job};
    use super::*;
    use crate::MoverSettings;

    #[allow(clippy::needless_pass_by_value, reason = "literals at every call")]
    fn pod(direction: &str, more: Value) -> Value {
        let transfer = transfer(direction, more);
        let parts = PodParts {
            store: Some("backups".to_owned()),
            ..PodParts::default()
        };
        let settings = MoverSettings::of_image("i");
        let job = job(&transfer, &Names::of(&transfer), 1, &settings, &parts).unwrap();
        serde_json::to_value(job).unwrap()["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn a_folder_is_mounted_beside_what_else_a_job_needs() {
        let backup = pod("Backup", json!({"image": "b-uid"}));
        let verify = pod("Verify", json!({"chain": [], "scope": "quick"}));
        for (pod, volumes) in [(&backup, 3), (&verify, 2)] {
            let mounts = &pod["containers"][0]["volumeMounts"];
            assert_eq!(
                mounts[1],
                json!({"name": "store", "mountPath": "/var/lib/holdfast/store"})
            );
            let listed = pod["volumes"].as_array().unwrap();
            assert_eq!(listed.len(), volumes);
            assert_eq!(
                listed[volumes - 1]["persistentVolumeClaim"]["claimName"],
                "backups"
            );
        }
    }

    #[test]
    fn every_job_works_with_the_files_as_the_same_user_and_changes_no_group() {
        let verify = pod("Verify", json!({"chain": [], "scope": "quick"}));
        let expected = json!({"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}});
        assert_eq!(verify["securityContext"], expected);
        assert_eq!(
            pod("Backup", json!({"image": "b-uid"}))["securityContext"],
            expected
        );
    }
}
