//! Targets that are a folder: NFS exports and claims.
//!
//! Movers mount the folder in their own pods. The operator cannot, so each such target has a depot: a Deployment of one
//! pod in the install namespace that mounts it and serves the small objects (see [`holdfast_target::depot`]). Here depots
//! are made, looked after and removed.
//!
//! | thing | name from | goes with |
//! | --- | --- | --- |
//! | Secret, Service, Deployment | the Target's UID | the Target, or its change to another type; or the chart |
//! | of an NFS target: PersistentVolume, claim | the Target's UID, export and options | the Target, or a change of these |
//!
//! None of that is data: volumes of ours are static and retained. A claim that a Target names is its owner's and never
//! touched.

mod build;
mod removal;
mod state;

use std::fmt;
use std::time::Duration;

use holdfast_core::nfs::{Export, mount_options};
use holdfast_crd::Target;
use holdfast_crd::names::{FIELD_MANAGER, conditions, labels, reasons};
use holdfast_crd::target::TargetType;
use holdfast_k8s::{create_or_get, delete, hashed, is_true};
use holdfast_target::StoreId;
use holdfast_target::depot::DepotCredentials;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::build::PORT;
pub(crate) use self::removal::run as remove_unneeded;
use crate::Context;
use crate::failure::Failure;

/// Value of the role label of depots.
const ROLE: &str = "metamover";
/// Account that depots run as, which may do nothing. What the chart does not install does not run.
const ACCOUNT: &str = "holdfast-metamover";
/// Age at which credentials are replaced, in seconds: 90 days.
const RENEW: i64 = 90 * 86_400;
/// A depot of a target that worked is waited for so long: it may have been moved to another node.
const RESTART: Duration = Duration::from_secs(20);

/// Where the folder of a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    /// UID of the Target.
    uid: String,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Claim { namespace: String, name: String },
    Nfs { export: Export, options: Vec<String> },
}

impl Folder {
    /// `None` for a bucket.
    ///
    /// # Errors
    /// Lasting with `InvalidSpec`, when the Target lacks the block of its type or has a bad one.
    pub(crate) fn of(target: &Target) -> Result<Option<Self>, Failure> {
        let invalid = |why: String| Failure::lasting(reasons::INVALID_SPEC, why);
        let missing = |block: &str| invalid(format!("spec.{block} is missing"));
        let source = match target.spec.target_type {
            TargetType::ObjectStore => return Ok(None),
            TargetType::PersistentVolumeClaim => {
                let claim = target.spec.persistent_volume_claim.as_ref();
                Source::Claim {
                    namespace: target.namespace().unwrap_or_default(),
                    name: claim
                        .ok_or_else(|| missing("persistentVolumeClaim"))?
                        .claim_name
                        .clone(),
                }
            }
            TargetType::NFS => {
                let nfs = target.spec.nfs_credentials.as_ref();
                let nfs = nfs.ok_or_else(|| missing("nfsCredentials"))?;
                let wrong = |field: &str, why: String| invalid(format!("spec.nfsCredentials.{field}: {why}"));
                Source::Nfs {
                    export: Export::parse(&nfs.nfs_export).map_err(|why| wrong("nfsExport", why))?,
                    options: mount_options(nfs.nfs_options.as_deref())
                        .map_err(|why| wrong("nfsOptions", why))?,
                }
            }
        };
        Ok(Some(Self {
            uid: target.uid().unwrap_or_default(),
            source,
        }))
    }

    /// Deployment, Service and Secret.
    pub(crate) fn depot(&self) -> String {
        hashed("hf-depot", &[&self.uid])
    }

    /// The name in the depot's certificate.
    pub(crate) fn host(&self, install_namespace: &str) -> String {
        format!("{}.{install_namespace}.svc", self.depot())
    }

    /// The claim that pods mount, in the install namespace.
    pub(crate) fn claim(&self) -> String {
        match &self.source {
            Source::Claim { name, .. } => name.clone(),
            Source::Nfs { export, options } => {
                let (export, options) = (export.to_string(), options.join(","));
                hashed("hf-nfs", &[&self.uid, &export, &options])
            }
        }
    }

    /// Whether an object of this kind and name belongs to it.
    fn needs(&self, name: &str) -> bool {
        name == self.depot() || matches!(self.source, Source::Nfs { .. }) && name == self.claim()
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Claim { namespace, name } => write!(f, "PersistentVolumeClaim {namespace}/{name}"),
            Source::Nfs { export, .. } => write!(f, "NFS export {export}"),
        }
    }
}

/// The store that was found in the folder of a target; `None` before that, and after a change of the folder.
pub(crate) fn store_of(target: &Target, folder: &Folder) -> Option<StoreId> {
    let known = target.status.as_ref()?.directory.as_ref()?;
    (known.place == folder.to_string())
        .then(|| known.store.parse().ok())
        .flatten()
}

/// Makes what the depot of a target needs, and the depot; succeeds when it runs, and says since when.
///
/// # Errors
/// `NotFound` and `InvalidSpec` for a claim that cannot be used, passing `DepotNotReady` with what it waits for.
pub(crate) async fn ensure(
    ctx: &Context,
    target: &Target,
    folder: &Folder,
) -> Result<Option<Timestamp>, Failure> {
    if let Source::Nfs { export, options } = &folder.source {
        let (volume, claim) = build::nfs(target, folder, &ctx.install_namespace, export, options);
        renew_volume(ctx, &volume).await?;
        create_or_get(&ctx.cluster_wide::<PersistentVolume>(), &volume).await?;
        create_or_get(&ctx.installed::<PersistentVolumeClaim>(), &claim).await?;
    }
    state::check_claim(ctx, folder).await?;
    let secret = credentials(ctx, target, folder).await?;
    let account = ctx.installed::<ServiceAccount>().get_opt(ACCOUNT).await?;
    let owner = account.as_ref().and_then(|account| account.owner_ref(&()));
    let service = build::service(target, folder, &ctx.install_namespace, owner.clone());
    apply(&ctx.installed::<Service>(), &service).await?;
    let deployment = build::deployment(target, folder, ctx, &secret, owner);
    apply(&ctx.installed::<Deployment>(), &deployment).await?;
    let conditions = target.status.as_ref().map(|status| status.conditions.as_slice());
    let worked = conditions.is_some_and(|all| is_true(all, conditions::ACCEPTED));
    let patience = if worked { RESTART } else { Duration::ZERO };
    state::ready(ctx, folder, patience).await
}

/// A volume whose claim was deleted is never bound again: it is made anew. What lies on the export stays.
async fn renew_volume(ctx: &Context, wanted: &PersistentVolume) -> Result<(), Failure> {
    let api = ctx.cluster_wide::<PersistentVolume>();
    let name = wanted.name_any();
    let Some(found) = api.get_opt(&name).await? else {
        return Ok(());
    };
    if found.labels().get(labels::TARGET) != wanted.labels().get(labels::TARGET) {
        let text = format!("there is another PersistentVolume {name}; delete it, or rename this Target");
        return Err(Failure::lasting(reasons::CONFLICT, text));
    }
    let phase = found.status.as_ref().and_then(|status| status.phase.as_deref());
    if found.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Released" | "Failed")) {
        return Ok(());
    }
    delete(&api, &name, found.uid().as_deref()).await?;
    let text = format!("the PersistentVolume {name} of an earlier claim is being removed");
    Err(Failure::passing(reasons::DEPOT_NOT_READY, text))
}

/// The Secret of the depot, made where there is none; one that is old or damaged is removed first.
async fn credentials(ctx: &Context, target: &Target, folder: &Folder) -> Result<Secret, Failure> {
    let api = ctx.installed::<Secret>();
    let name = folder.depot();
    let now = Timestamp::now();
    if let Some(found) = api.get_opt(&name).await? {
        let made = found.creation_timestamp().map_or(0, |time| time.0.as_second());
        if read(&found).is_ok() && now.as_second() - made < RENEW {
            return Ok(found);
        }
        delete(&api, &name, found.uid().as_deref()).await?;
    }
    let internal = |error: &dyn fmt::Display| Failure::lasting(reasons::INTERNAL, error.to_string());
    let host = folder.host(&ctx.install_namespace);
    let made = DepotCredentials::make(&host, now).map_err(|error| internal(&error))?;
    let owner = ctx.installed::<ServiceAccount>().get_opt(ACCOUNT).await?;
    let owner = owner.and_then(|account| account.owner_ref(&()));
    let secret = build::secret(target, folder, &ctx.install_namespace, &made, owner);
    Ok(create_or_get(&api, &secret).await?)
}

/// What a depot's Secret holds.
pub(crate) fn read(secret: &Secret) -> Result<DepotCredentials, Failure> {
    let file = |name: &str| {
        let ByteString(bytes) = secret.data.as_ref()?.get(name)?;
        Some(bytes.clone())
    };
    DepotCredentials::from_files(file)
        .map_err(|error| Failure::passing(reasons::DEPOT_NOT_READY, error.to_string()))
}

/// Writes the whole object; nothing happens where it is so already.
async fn apply<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource + Clone + fmt::Debug + Serialize + DeserializeOwned,
{
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&object.name_any(), &params, &Patch::Apply(object))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(super) fn target(spec: &Value, status: &Value) -> Target {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1", "kind": "Target",
            "metadata": {"name": "store", "namespace": "holdfast", "uid": "t-uid"}, "spec": spec, "status": status,
        }))
        .unwrap()
    }

    pub(super) fn nfs(options: &str) -> Target {
        let block = json!({"nfsExport": "nas:/backups", "nfsOptions": options});
        target(
            &json!({"type": "NFS", "vendor": "Other", "nfsCredentials": block}),
            &json!({}),
        )
    }

    pub(super) fn claim(name: &str, status: &Value) -> Target {
        let block = json!({ "claimName": name });
        target(
            &json!({"type": "PersistentVolumeClaim", "vendor": "Other", "persistentVolumeClaim": block}),
            status,
        )
    }

    #[test]
    fn an_nfs_target_gets_another_claim_with_other_options_and_the_same_depot() {
        let folder = |options| Folder::of(&nfs(options)).unwrap().unwrap();
        let (one, other) = (folder("hard"), folder("hard,nfsvers=4.1"));
        assert_ne!(one.claim(), other.claim());
        assert_eq!(one.depot(), other.depot());
        assert!(one.needs(&one.claim()) && !one.needs(&other.claim()) && one.needs(&other.depot()));
    }

    #[test]
    fn a_claim_that_a_target_names_is_never_ours() {
        let folder = Folder::of(&claim("backups", &json!({}))).unwrap().unwrap();
        assert_eq!(folder.claim(), "backups");
        assert!(!folder.needs("backups"));
        assert_eq!(folder.to_string(), "PersistentVolumeClaim holdfast/backups");
    }

    #[test]
    fn a_store_counts_only_for_the_folder_it_was_found_in() {
        let id = "0a0b0c0d-0000-4000-8000-000000000001";
        let status = json!({"directory": {"store": id, "place": "PersistentVolumeClaim holdfast/backups"}});
        let store = |name: &str| {
            let target = claim(name, &status);
            store_of(&target, &Folder::of(&target).unwrap().unwrap())
        };
        assert_eq!(store("backups").unwrap().to_string(), id);
        assert_eq!(store("others"), None);
    }

    #[test]
    fn what_came_past_admission_is_refused_here() {
        let bad = target(&json!({"type": "NFS", "vendor": "Other"}), &json!({}));
        assert_eq!(Folder::of(&bad).unwrap_err().reason, reasons::INVALID_SPEC);
        let refused = Folder::of(&nfs("suid")).unwrap_err();
        assert!(
            refused.message.starts_with("spec.nfsCredentials.nfsOptions"),
            "{refused}"
        );
    }
}
