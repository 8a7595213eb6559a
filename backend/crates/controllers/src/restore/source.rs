//! Which point a restore means, and whether its requester may have it.

use holdfast_crd::names::{GROUP, conditions, reasons};
use holdfast_crd::{Backup, ObjectRef, Restore, SourceType, Target};
use holdfast_k8s::{Access, is_true};
use holdfast_target::layout::{BackupManifest, Location};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::Context;
use crate::failure::Failure;

/// A point by its address: the target resource (with namespace) and the location on it.
pub(super) struct Address {
    pub(super) target: ObjectRef,
    pub(super) location: Location,
}

/// Resolves `spec.source`.
pub(super) async fn resolve(ctx: &Context, restore: &Restore) -> Result<Address, Failure> {
    let own = restore.namespace().unwrap_or_default();
    let source = &restore.spec.source;
    let missing = |field: &str| {
        Failure::lasting(
            reasons::INVALID_SPEC,
            format!("spec.source.{field} is needed for this type of source"),
        )
    };
    match source.source_type {
        SourceType::Backup => {
            let reference = source.backup.as_ref().ok_or_else(|| missing("backup"))?;
            let namespace = reference.namespace.as_deref().unwrap_or(&own);
            let backup = get::<Backup>(ctx, namespace, &reference.name).await?;
            of_backup(&backup)
        }
        SourceType::BackupPlan => {
            let reference = source.backup_plan.as_ref().ok_or_else(|| missing("backupPlan"))?;
            let namespace = reference.namespace.as_deref().unwrap_or(&own);
            of_backup(&newest(ctx, namespace, &reference.name).await?)
        }
        SourceType::Location => {
            let text = source.location.as_deref().ok_or_else(|| missing("location"))?;
            let location = text
                .parse()
                .map_err(|e| Failure::lasting(reasons::INVALID_SPEC, format!("spec.source.location: {e}")))?;
            let target = source.target.clone().ok_or_else(|| missing("target"))?;
            let namespace = target.namespace.clone().unwrap_or(own);
            Ok(Address {
                target: ObjectRef {
                    namespace: Some(namespace),
                    ..target
                },
                location,
            })
        }
    }
}

async fn get<K>(ctx: &Context, namespace: &str, name: &str) -> Result<K, Failure>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    api.get_opt(name).await?.ok_or_else(|| {
        Failure::lasting(
            reasons::NOT_FOUND,
            format!("there is no {} {namespace}/{name}", K::kind(&())),
        )
    })
}

fn of_backup(backup: &Backup) -> Result<Address, Failure> {
    let status = backup.status.as_ref();
    let complete = status.is_some_and(|s| is_true(&s.conditions, conditions::COMPLETE));
    let known = status.and_then(|s| Some((s.location.as_deref()?, s.target.clone()?)));
    let (Some((location, target)), true) = (known, complete) else {
        let text = format!(
            "backup {}/{} is not Complete: restore from one that is",
            backup.namespace().unwrap_or_default(),
            backup.name_any()
        );
        return Err(Failure::lasting(reasons::NOT_FOUND, text));
    };
    let location = location
        .parse()
        .map_err(|e| Failure::lasting(reasons::DAMAGED, format!("status.location: {e}")))?;
    Ok(Address { target, location })
}

async fn newest(ctx: &Context, namespace: &str, plan: &str) -> Result<Backup, Failure> {
    let api: Api<Backup> = Api::namespaced(ctx.client.clone(), namespace);
    let complete = |b: &Backup| {
        b.status
            .as_ref()
            .is_some_and(|s| is_true(&s.conditions, conditions::COMPLETE))
    };
    let backups = api.list(&ListParams::default()).await?.items.into_iter();
    backups
        .filter(|b| b.spec.backup_plan.name == plan && complete(b))
        .max_by_key(|b| b.metadata.creation_timestamp.as_ref().map(|t| t.0))
        .ok_or_else(|| {
            Failure::lasting(
                reasons::NOT_FOUND,
                format!("plan {namespace}/{plan} has no Complete backup"),
            )
        })
}

/// Whether the requester may have this point: points of the namespace the Restore lives in are its own; any other
/// point needs the verb `restore` on the Target.
pub(super) async fn check_right(
    ctx: &Context,
    restore: &Restore,
    target: &Target,
    manifest: &BackupManifest,
) -> Result<(), Failure> {
    let own = restore.namespace().unwrap_or_default();
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let namespace_uid = namespaces.get(&own).await?.uid().unwrap_or_default();
    let same_cluster = manifest.cluster.uid.as_str() == ctx.cluster_uid;
    if same_cluster
        && manifest.namespace.uid.as_str() == namespace_uid
        && restore.spec.restore_namespace.is_none()
    {
        return Ok(());
    }
    let requester = restore.spec.requester.clone().unwrap_or_default();
    let (name, home) = (target.name_any(), target.namespace().unwrap_or_default());
    let access = Access::new("restore", GROUP, "targets")
        .in_namespace(&home)
        .named(&name);
    if holdfast_k8s::review(&ctx.client.clone(), &requester, &access)
        .await?
        .allowed
    {
        return Ok(());
    }
    let text = format!(
        "the point is of namespace {} (cluster {}); {} may restore points of other namespaces only with the verb \
         `restore` on targets.holdfast.dev {home}/{name}",
        manifest.namespace.name, manifest.cluster.uid, requester.user
    );
    Err(Failure::lasting(reasons::FORBIDDEN, text))
}

/// Whether restores of `namespace` may use the target: its own namespace and those it names; the install namespace
/// always, for its restores need the verb `restore` anyway.
pub(super) fn check_allowed(
    target: &Target,
    namespace: &str,
    install_namespace: &str,
) -> Result<(), Failure> {
    let home = target.namespace().unwrap_or_default();
    let allowed = holdfast_core::spec::target_allows(&home, &target.spec.allowed_namespaces, namespace);
    if allowed || namespace == install_namespace {
        return Ok(());
    }
    let text = format!(
        "target {home}/{} does not allow namespace {namespace}: its owner adds it to spec.allowedNamespaces",
        target.name_any()
    );
    Err(Failure::lasting(reasons::NOT_ALLOWED, text))
}
