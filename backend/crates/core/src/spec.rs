//! Rules of our own specs that a schema cannot say: fields that contradict each other or the place they stand in.
//!
//! Admission refuses by them, and the controllers check them again, because a webhook can be missing.

use serde_json::Value;

use crate::nfs::{self, Export};

/// Where a manifest stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Namespace of the resource.
    pub namespace: &'a str,
    /// Namespace Holdfast is installed in.
    pub install_namespace: &'a str,
}

/// Everything that contradicts in the `spec` of a resource of ours, one sentence each: what, and what to do.
pub fn contradictions(kind: &str, spec: &Value, place: Place<'_>) -> Vec<String> {
    match kind {
        "Target" => target(spec, place),
        "BackupPlan" => plan(spec),
        "Backup" => own_namespace(spec, "/backupPlan", "spec.backupPlan.namespace", place),
        "Restore" => restore(spec, place),
        _ => Vec::new(),
    }
}

/// Whether a target lets resources of `namespace` use it.
pub fn target_allows(target_namespace: &str, allowed_namespaces: &[String], namespace: &str) -> bool {
    namespace == target_namespace || allowed_namespaces.iter().any(|a| a == "*" || a == namespace)
}

/// Types of targets, and the block that says where such a target is.
const BLOCKS: [(&str, &str); 3] = [
    ("ObjectStore", "objectStoreCredentials"),
    ("NFS", "nfsCredentials"),
    ("PersistentVolumeClaim", "persistentVolumeClaim"),
];
/// Why a plan that locks its points for `retention_days`, or does not, cannot use a target: `locks` says whether that locks
/// what is stored, `default_days` for how long its bucket locks everything by itself.
pub fn lock_contradiction(
    locks: bool,
    default_days: Option<u32>,
    retention_days: Option<u32>,
) -> Option<String> {
    match (locks, default_days, retention_days) {
        (true, _, None) => Some(
            "the Target locks what is stored (objectLockingEnabled), so the plan must say for how long: set \
             spec.backupConfig.objectLock.retentionDays"
                .to_owned(),
        ),
        (false, _, Some(_)) => Some(
            "spec.backupConfig.objectLock asks for locks, but the Target does not lock what is stored: set its \
             spec.objectStoreCredentials.objectLockingEnabled, or remove the field"
                .to_owned(),
        ),
        (false, Some(days), None) => Some(format!(
            "the bucket of the Target locks every object for {days} days, so nothing of the plan can be deleted before: set \
             objectLockingEnabled on the Target and spec.backupConfig.objectLock.retentionDays to {days} or more, or \
             take the default retention off the bucket"
        )),
        (true, Some(days), Some(wanted)) if days > wanted => Some(format!(
            "spec.backupConfig.objectLock.retentionDays is {wanted}, but the bucket locks every object for {days} days: \
             give at least {days}, or shorten the bucket's default retention"
        )),
        _ => None,
    }
}

fn plan(spec: &Value) -> Vec<String> {
    let of = |field: &str| spec.pointer(&format!("/backupConfig/{field}")).is_some();
    match of("maxIncrBackupsPerFullBackup") && !of("objectLock") {
        true => vec![
            "spec.backupConfig.maxIncrBackupsPerFullBackup: only chains of locked points are ended by a number; \
             set spec.backupConfig.objectLock, or remove the field"
                .to_owned(),
        ],
        false => Vec::new(),
    }
}

fn target(spec: &Value, place: Place<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(kind) = text(spec, "/type") {
        for (of, block) in BLOCKS {
            match (of == kind, spec.get(block).is_some()) {
                (true, false) => {
                    found.push(format!("spec.{block} is missing: a target of type {kind} needs it"));
                }
                (false, true) => found.push(format!(
                    "spec.{block} contradicts spec.type: a target of type {kind} has no {block}; remove it or change the \
                     type"
                )),
                _ => {}
            }
        }
        if kind == "PersistentVolumeClaim" && place.namespace != place.install_namespace {
            found.push(format!(
                "spec.type: pods can only mount claims of their own namespace, and those of Holdfast run in {home}; create \
                 claim and Target there, and name {here} in the Target's spec.allowedNamespaces",
                home = place.install_namespace,
                here = place.namespace
            ));
        }
    }
    if let Some(Err(why)) = text(spec, "/nfsCredentials/nfsExport").map(Export::parse) {
        found.push(format!("spec.nfsCredentials.nfsExport: {why}"));
    }
    if let Err(why) = nfs::mount_options(text(spec, "/nfsCredentials/nfsOptions")) {
        found.push(format!("spec.nfsCredentials.nfsOptions: {why}"));
    }
    found.extend(bucket(spec, place));
    found
}

fn bucket(spec: &Value, place: Place<'_>) -> Vec<String> {
    let bucket = "/objectStoreCredentials";
    let mut found = Vec::new();
    for (reference, path) in [
        (
            "credentialSecret",
            "spec.objectStoreCredentials.credentialSecret.namespace",
        ),
        (
            "sslCertConfig/certConfigMap",
            "spec.objectStoreCredentials.sslCertConfig.certConfigMap.namespace",
        ),
    ] {
        found.extend(own_namespace(spec, &format!("{bucket}/{reference}"), path, place));
    }
    let url = text(spec, "/objectStoreCredentials/url");
    let plain = url.is_some_and(|u| u.starts_with("http://"));
    if url.is_some_and(|u| !is_endpoint(u)) {
        // Not repeated: it may be refused for the password in it, and this goes into audits and logs.
        found.push(
            "spec.objectStoreCredentials.url: this is no endpoint; write it as https://host[:port], without a path, \
             query or credentials"
                .to_owned(),
        );
    }
    let skips = spec.pointer("/objectStoreCredentials/skipCertVerification") == Some(&Value::Bool(true));
    let certificate = spec.pointer("/objectStoreCredentials/sslCertConfig").is_some();
    if skips && certificate {
        found.push(
            "spec.objectStoreCredentials.skipCertVerification contradicts sslCertConfig: either a certificate \
             authority is trusted or nothing is checked; remove one of them"
                .to_owned(),
        );
    }
    if plain && (skips || certificate) {
        let field = if skips {
            "skipCertVerification"
        } else {
            "sslCertConfig"
        };
        found.push(format!(
            "spec.objectStoreCredentials.{field} contradicts url: an http:// endpoint has no certificate; use https:// \
             or remove the field"
        ));
    }
    found
}

fn is_endpoint(url: &str) -> bool {
    let Some(rest) = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
    else {
        return false;
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

fn restore(spec: &Value, place: Place<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let source = spec.get("source").unwrap_or(&Value::Null);
    let (needed, all): (&[&str], _) = match source.get("type").and_then(Value::as_str) {
        Some("Backup") => (&["backup"], SOURCES),
        Some("BackupPlan") => (&["backupPlan"], SOURCES),
        Some("Location") => (&["location", "target"], SOURCES),
        // An absent or unknown type is refused by the schema.
        _ => return found,
    };
    let kind = source.get("type").and_then(Value::as_str).unwrap_or_default();
    for field in all {
        match (needed.contains(&field), source.get(field).is_some()) {
            (true, false) => found.push(format!("spec.source.{field} is missing: a source of type {kind} needs it")),
            (false, true) => found.push(format!(
                "spec.source.{field} contradicts spec.source.type: a source of type {kind} has no {field}; remove it \
                 or change the type"
            )),
            _ => {}
        }
    }
    if let Some(location) = text(source, "/location").filter(|l| !is_location(l)) {
        found.push(format!(
            "spec.source.location: {location:?} is not <cluster>/<plan>/<backup>; copy status.location of a Backup"
        ));
    }
    let installed_here = place.namespace == place.install_namespace;
    match text(spec, "/restoreNamespace") {
        Some(_) if !installed_here => found.push(format!(
            "spec.restoreNamespace: only a Restore in the namespace {} may name another namespace; remove the field to \
             restore into {}",
            place.install_namespace, place.namespace
        )),
        Some(name) if name == place.install_namespace => found.push(format!(
            "spec.restoreNamespace: nothing is restored into {name}, the namespace of the installation; name another one"
        )),
        Some(name) if !is_label(name) => {
            found.push(format!("spec.restoreNamespace: {name:?} is no namespace name ([a-z0-9-], at most 63)"));
        }
        None if installed_here => found.push(
            "spec.restoreNamespace is missing: nothing is restored into the namespace of the installation; name the \
             namespace to restore into"
                .to_owned(),
        ),
        _ => {}
    }
    found
}

/// Fields of a restore's source beside its type.
const SOURCES: [&str; 4] = ["backup", "backupPlan", "location", "target"];

fn own_namespace(spec: &Value, reference: &str, path: &str, place: Place<'_>) -> Vec<String> {
    match text(spec, &format!("{reference}/namespace")) {
        Some(other) if other != place.namespace => vec![format!(
            "{path}: {other:?} is another namespace; it must be {:?} or absent",
            place.namespace
        )],
        _ => Vec::new(),
    }
}

fn is_location(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let part = |p: &&str| {
        (1..=64).contains(&p.len())
            && p.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    parts.len() == 3 && parts.iter().all(part)
}

fn is_label(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || b == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const APP: Place<'_> = Place {
        namespace: "app",
        install_namespace: "holdfast",
    };
    const HOME: Place<'_> = Place {
        namespace: "holdfast",
        install_namespace: "holdfast",
    };

    fn fields(kind: &str, spec: &Value, place: Place<'_>) -> Vec<String> {
        let field = |s: String| s.split([':', ' ']).next().unwrap_or_default().to_owned();
        contradictions(kind, spec, place).into_iter().map(field).collect()
    }

    #[test]
    fn a_source_has_exactly_the_fields_of_its_type() {
        let restore = |source: Value| fields("Restore", &json!({ "source": source }), APP);
        assert!(restore(json!({"type": "Backup", "backup": {"name": "b"}})).is_empty());
        assert!(
            restore(json!({"type": "Location", "location": "a/b/c", "target": {"name": "t"}})).is_empty()
        );
        assert_eq!(restore(json!({"type": "Backup"})), ["spec.source.backup"]);
        assert_eq!(
            restore(json!({"type": "Backup", "backup": {"name": "b"}, "location": "a/b/c"})),
            ["spec.source.location"]
        );
        assert_eq!(
            restore(json!({"type": "BackupPlan", "backup": {"name": "b"}})),
            ["spec.source.backup", "spec.source.backupPlan"]
        );
        assert_eq!(
            restore(json!({"type": "Location", "location": "a/../c", "target": {"name": "t"}})),
            ["spec.source.location"]
        );
    }

    #[test]
    fn only_the_install_namespace_names_another_one() {
        let restore = |namespace: Option<&str>, place| {
            let mut spec = json!({"source": {"type": "Backup", "backup": {"name": "b"}}});
            if let Some(namespace) = namespace {
                spec["restoreNamespace"] = json!(namespace);
            }
            fields("Restore", &spec, place).len()
        };
        assert_eq!(restore(None, APP), 0);
        assert_eq!(restore(Some("app"), APP), 1);
        assert_eq!(restore(Some("copy"), HOME), 0);
        assert_eq!(restore(Some("holdfast"), HOME), 1);
        assert_eq!(restore(Some("Not_a_name"), HOME), 1);
        assert_eq!(restore(None, HOME), 1);
    }

    #[test]
    fn a_backup_uses_a_plan_of_its_own_namespace() {
        assert!(
            fields(
                "Backup",
                &json!({"backupPlan": {"name": "p", "namespace": "app"}}),
                APP
            )
            .is_empty()
        );
        assert_eq!(
            fields(
                "Backup",
                &json!({"backupPlan": {"name": "p", "namespace": "x"}}),
                APP
            ),
            ["spec.backupPlan.namespace"]
        );
    }

    #[test]
    fn a_target_reads_secrets_of_its_own_namespace_only_and_its_tls_fields_agree() {
        let target =
            |credentials: Value| fields("Target", &json!({ "objectStoreCredentials": credentials }), APP);
        assert!(
            target(json!({"url": "https://s3.example.com:9000/", "credentialSecret": {"name": "s"}}))
                .is_empty()
        );
        assert_eq!(
            target(json!({"credentialSecret": {"name": "s", "namespace": "kube-system"}})),
            ["spec.objectStoreCredentials.credentialSecret.namespace"]
        );
        for url in [
            "s3.example.com",
            "ftp://x",
            "https://user:secret@host",
            "https://host/path",
            "https://",
        ] {
            assert_eq!(
                target(json!({ "url": url })),
                ["spec.objectStoreCredentials.url"],
                "{url}"
            );
            let spec = json!({"objectStoreCredentials": {"url": url}});
            let messages = contradictions("Target", &spec, APP).join(" ");
            assert!(
                !messages.contains("secret"),
                "a password is not repeated: {messages}"
            );
        }
        assert_eq!(
            target(json!({"url": "http://h", "sslCertConfig": {}})),
            ["spec.objectStoreCredentials.sslCertConfig"]
        );
        assert_eq!(
            target(json!({"url": "https://h", "sslCertConfig": {}, "skipCertVerification": true})),
            ["spec.objectStoreCredentials.skipCertVerification"]
        );
    }

    #[test]
    fn a_target_has_the_block_of_its_type_and_no_other() {
        let bucket = json!({"bucketName": "b", "credentialSecret": {"name": "s"}});
        let good = [
            (
                json!({"type": "ObjectStore", "objectStoreCredentials": bucket}),
                APP,
            ),
            (
                json!({"type": "NFS", "nfsCredentials": {"nfsExport": "nas:/backups"}}),
                APP,
            ),
            (
                json!({"type": "PersistentVolumeClaim", "persistentVolumeClaim": {"claimName": "c"}}),
                HOME,
            ),
        ];
        for (spec, place) in good {
            assert_eq!(contradictions("Target", &spec, place), [""; 0], "{spec}");
        }
        assert_eq!(
            fields(
                "Target",
                &json!({"type": "NFS", "objectStoreCredentials": bucket}),
                APP
            ),
            ["spec.objectStoreCredentials", "spec.nfsCredentials"]
        );
        let claim = json!({"type": "PersistentVolumeClaim", "persistentVolumeClaim": {"claimName": "c"}});
        let refused = contradictions("Target", &claim, APP).join(" ");
        assert!(
            refused.contains("run in holdfast") && refused.contains("allowedNamespaces"),
            "{refused}"
        );
        let nfs = json!({"type": "NFS", "nfsCredentials": {"nfsExport": "nas", "nfsOptions": "exec"}});
        assert_eq!(
            fields("Target", &nfs, APP),
            ["spec.nfsCredentials.nfsExport", "spec.nfsCredentials.nfsOptions"]
        );
    }

    #[test]
    fn targets_serve_their_own_namespace_and_those_they_name() {
        let allowed = ["app".to_owned()];
        assert!(target_allows("home", &[], "home"));
        assert!(!target_allows("home", &[], "app"));
        assert!(target_allows("home", &allowed, "app"));
        assert!(!target_allows("home", &allowed, "other"));
        assert!(target_allows("home", &["*".to_owned()], "other"));
    }

    #[test]
    fn a_number_of_incrementals_is_for_locked_points() {
        let plan = |config: Value| fields("BackupPlan", &json!({ "backupConfig": config }), APP);
        let lock = json!({"retentionDays": 3});
        assert!(plan(json!({"objectLock": lock, "maxIncrBackupsPerFullBackup": 3})).is_empty());
        assert!(plan(json!({"objectLock": lock})).is_empty());
        assert_eq!(
            plan(json!({"maxIncrBackupsPerFullBackup": 3})),
            ["spec.backupConfig.maxIncrBackupsPerFullBackup"]
        );
    }

    #[test]
    fn a_plan_and_its_target_agree_about_locks() {
        for (locks, default, retention) in [
            (false, None, None),
            (true, None, Some(1)),
            (true, Some(7), Some(7)),
            (true, Some(7), Some(30)),
        ] {
            assert_eq!(lock_contradiction(locks, default, retention), None);
        }
        for (locks, default, retention, says) in [
            (true, None, None, "must say for how long"),
            (true, Some(7), None, "must say for how long"),
            (false, None, Some(30), "does not lock"),
            (false, Some(7), Some(30), "does not lock"),
            (false, Some(7), None, "7 days"),
            (true, Some(30), Some(7), "at least 30"),
        ] {
            let why = lock_contradiction(locks, default, retention).unwrap();
            assert!(why.contains(says), "{why}");
        }
    }
}
