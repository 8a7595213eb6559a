//! What may change in a spec: pure comparisons of the old with the new one.

use holdfast_crd::target::ObjectStoreCredentials;
use holdfast_crd::{BackupPlanSpec, BackupSpec, ObjectRef, RestoreSpec, TargetSpec};

use super::Refusal;

/// A Backup: nothing but `cancel`, and only to true.
pub(super) fn backup(old: &BackupSpec, new: &BackupSpec) -> Result<(), Refusal> {
    let fields = [
        ("type", old.kind == new.kind),
        ("backupPlan", old.backup_plan == new.backup_plan),
        ("deletionPolicy", old.deletion_policy == new.deletion_policy),
        ("requester", old.requester == new.requester),
    ];
    run("Backup", old.cancel, new.cancel, &fields)
}

/// A Restore: nothing but `cancel`, and only to true.
pub(super) fn restore(old: &RestoreSpec, new: &RestoreSpec) -> Result<(), Refusal> {
    let fields = [
        ("source", old.source == new.source),
        ("restoreNamespace", old.restore_namespace == new.restore_namespace),
        ("requester", old.requester == new.requester),
    ];
    run("Restore", old.cancel, new.cancel, &fields)
}

fn run(kind: &str, was_canceled: bool, is_canceled: bool, same: &[(&str, bool)]) -> Result<(), Refusal> {
    let changed: Vec<String> = same
        .iter()
        .filter(|(_, same)| !same)
        .map(|(f, _)| format!("spec.{f}"))
        .collect();
    if !changed.is_empty() {
        return Err(Refusal::invalid(format!(
            "{}: a {kind} cannot be changed, except that spec.cancel may become true; create another {kind}",
            changed.join(", ")
        )));
    }
    if was_canceled && !is_canceled {
        let text = format!("spec.cancel: a canceled {kind} does not go on; create another {kind}");
        return Err(Refusal::invalid(text));
    }
    Ok(())
}

/// A plan keeps its target.
pub(super) fn plan(old: &BackupPlanSpec, new: &BackupPlanSpec, namespace: &str) -> Result<(), Refusal> {
    let (before, after) = (
        resolved(&old.backup_config.target, namespace),
        resolved(&new.backup_config.target, namespace),
    );
    if before == after {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "spec.backupConfig.target: the target of a plan cannot change from {} to {}, because its chains of images live \
         there; create another plan for the other target",
        before, after
    )))
}

/// `namespace/name` of what a reference in `namespace` means.
pub(super) fn resolved(reference: &ObjectRef, namespace: &str) -> String {
    format!(
        "{}/{}",
        reference.namespace.as_deref().unwrap_or(namespace),
        reference.name
    )
}

/// The fields of a target that say where its data is, as far as they differ.
pub(super) fn moved(old: &TargetSpec, new: &TargetSpec) -> Vec<&'static str> {
    if old.target_type != new.target_type {
        return vec!["spec.type"];
    }
    let bucket = |t: &TargetSpec| t.object_store_credentials.clone().unwrap_or_default();
    let (before, after) = (bucket(old), bucket(new));
    let url = |c: &ObjectStoreCredentials| c.url.as_deref().map(|u| u.trim_end_matches('/').to_owned());
    // Without a URL the region chooses the endpoint.
    let region = |c: &ObjectStoreCredentials| c.region.clone().filter(|_| c.url.is_none());
    let export = |t: &TargetSpec| t.nfs_credentials.as_ref().map(|nfs| nfs.nfs_export.clone());
    let fields = [
        (
            "spec.objectStoreCredentials.bucketName",
            before.bucket_name == after.bucket_name,
        ),
        ("spec.objectStoreCredentials.url", url(&before) == url(&after)),
        (
            "spec.objectStoreCredentials.region",
            region(&before) == region(&after),
        ),
        ("spec.nfsCredentials.nfsExport", export(old) == export(new)),
        (
            "spec.persistentVolumeClaim.claimName",
            old.persistent_volume_claim == new.persistent_volume_claim,
        ),
    ];
    fields
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(field, _)| field)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[allow(
        clippy::needless_pass_by_value,
        reason = "the change reads better given by value"
    )]
    fn backup_spec(changes: Value) -> BackupSpec {
        let mut spec = json!({"type": "Full", "backupPlan": {"name": "p"}, "requester": {"user": "anna"}});
        spec.as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_run_can_only_be_canceled() {
        let plain = backup_spec(json!({}));
        assert_eq!(backup(&plain, &backup_spec(json!({"cancel": true}))), Ok(()));
        for change in [
            json!({"type": "Incremental"}),
            json!({"backupPlan": {"name": "other"}}),
            json!({"deletionPolicy": "Delete"}),
            json!({"requester": {"user": "root"}}),
            json!({"requester": {"user": "anna", "groups": ["admins"]}}),
            json!({"requester": null}),
        ] {
            let refusal = backup(&plain, &backup_spec(change.clone())).unwrap_err();
            assert_eq!(refusal.code, 422, "{change}");
        }
        let canceled = backup_spec(json!({"cancel": true}));
        assert!(
            backup(&canceled, &plain)
                .unwrap_err()
                .message
                .starts_with("spec.cancel")
        );
    }

    #[test]
    fn a_plan_keeps_its_target_however_it_is_written() {
        let plan_spec = |target: Value| -> BackupPlanSpec {
            serde_json::from_value(json!({"backupConfig": {"target": target}})).unwrap()
        };
        let old = plan_spec(json!({"name": "t"}));
        assert_eq!(
            plan(&old, &plan_spec(json!({"name": "t", "namespace": "app"})), "app"),
            Ok(())
        );
        assert!(plan(&old, &plan_spec(json!({"name": "t", "namespace": "x"})), "app").is_err());
        assert!(plan(&old, &plan_spec(json!({"name": "u"})), "app").is_err());
    }

    #[test]
    fn a_target_moves_with_bucket_endpoint_and_the_region_that_stands_for_one() {
        let target = |credentials: Value| -> TargetSpec {
            let mut all = json!({"bucketName": "bucket", "credentialSecret": {"name": "s"}});
            all.as_object_mut()
                .unwrap()
                .extend(credentials.as_object().unwrap().clone());
            serde_json::from_value(
                json!({"type": "ObjectStore", "vendor": "Other", "objectStoreCredentials": all}),
            )
            .unwrap()
        };
        let old = target(json!({"url": "https://s3"}));
        assert!(
            moved(
                &old,
                &target(json!({"url": "https://s3/", "credentialSecret": {"name": "new"}}))
            )
            .is_empty()
        );
        assert!(moved(&old, &target(json!({"url": "https://s3", "region": "r2"}))).is_empty());
        assert_eq!(
            moved(&old, &target(json!({"url": "https://s4"}))),
            ["spec.objectStoreCredentials.url"]
        );
        assert_eq!(
            moved(&target(json!({"region": "r1"})), &target(json!({"region": "r2"}))),
            ["spec.objectStoreCredentials.region"]
        );
        assert_eq!(
            moved(&old, &target(json!({"url": "https://s3", "bucketName": "other"}))),
            ["spec.objectStoreCredentials.bucketName"]
        );
    }

    #[test]
    fn a_target_moves_with_export_and_claim_and_not_with_mount_options() {
        let target = |kind: &str, block: &str, value: Value| -> TargetSpec {
            serde_json::from_value(json!({"type": kind, "vendor": "Other", block: value})).unwrap()
        };
        let nfs = |export: &str, options: &str| {
            let block = json!({"nfsExport": export, "nfsOptions": options});
            target("NFS", "nfsCredentials", block)
        };
        let claim = |name: &str| {
            target(
                "PersistentVolumeClaim",
                "persistentVolumeClaim",
                json!({ "claimName": name }),
            )
        };
        assert!(moved(&nfs("nas:/a", "hard"), &nfs("nas:/a", "soft")).is_empty());
        assert_eq!(
            moved(&nfs("nas:/a", "hard"), &nfs("nas:/b", "hard")),
            ["spec.nfsCredentials.nfsExport"]
        );
        assert_eq!(
            moved(&claim("a"), &claim("b")),
            ["spec.persistentVolumeClaim.claimName"]
        );
        assert_eq!(moved(&claim("a"), &nfs("nas:/a", "hard")), ["spec.type"]);
    }
}
