//! From a Secret to keys: what encrypts a plan's backups, and what opens a point.
//!
//! The Secret of a plan holds an age identity under `planKey`. While it is exchanged for another one, the former lies beside
//! it under `formerPlanKey`, and the plan's controller wraps every data key anew. A restore may bring a `recoveryKey`.
//! Private halves of recovery keys never come into the cluster otherwise: the installation knows their recipients.

use holdfast_crd::names::reasons;
use holdfast_crd::{BackupPlan, Encryption, ObjectRef};
use holdfast_repository::RepositoryError;
use holdfast_repository::chain::{ChainFile, Entry};
use holdfast_repository::keys::{self, Holders, Identity};
use holdfast_seal::{KeyRing, KeyTextError, PlanKey, RecoveryKey};
use holdfast_target::Target;
use holdfast_target::layout::{Uid, VolumeHome};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use crate::Context;
use crate::failure::Failure;

/// Field of the Secret with the plan's key.
const PLAN_KEY: &str = "planKey";
/// Field with the key that the plan had before.
const FORMER_PLAN_KEY: &str = "formerPlanKey";
/// Field with a recovery key.
const RECOVERY_KEY: &str = "recoveryKey";

/// The Secret that an `encryption` in `namespace` means.
///
/// # Errors
/// `InvalidSpec` for one of another namespace: its owner has not said that his key may be used here.
pub(crate) fn secret_of(encryption: &Encryption, namespace: &str) -> Result<ObjectRef, Failure> {
    let reference = &encryption.encryption_secret;
    match reference.namespace.as_deref() {
        Some(other) if other != namespace => {
            let text = format!(
                "spec.encryption.encryptionSecret names namespace {other}; the Secret must be in {namespace}, beside what \
                 uses it"
            );
            Err(Failure::lasting(reasons::INVALID_SPEC, text))
        }
        _ => Ok(ObjectRef {
            name: reference.name.clone(),
            namespace: Some(namespace.to_owned()),
        }),
    }
}

/// Those who can open what a plan stores.
///
/// # Errors
/// `KeyMissing` when there is no plan key in the Secret, or the installation has no recovery key.
pub(crate) async fn holders(ctx: &Context, secret: &ObjectRef) -> Result<Holders, Failure> {
    let found = read(ctx, secret).await?;
    let plan = plan_key(&found, PLAN_KEY)?.ok_or_else(|| missing(&found, PLAN_KEY))?;
    Ok(Holders {
        plan,
        recovery: recovery(ctx)?,
    })
}

fn recovery(ctx: &Context) -> Result<Vec<holdfast_seal::Recipient>, Failure> {
    if ctx.recovery.is_empty() {
        let text = "this installation has no recovery key, and an encrypted backup needs one that lies outside of the \
                    cluster: make it with `holdfast keygen`, keep the private half where it survives the cluster, and \
                    give the public one to the chart as encryption.recoveryRecipients";
        return Err(Failure::lasting(reasons::KEY_MISSING, text));
    }
    Ok(ctx.recovery.clone())
}

/// What opens data keys: the plan's key, or else a recovery key.
///
/// # Errors
/// `KeyMissing` when the Secret holds neither.
pub(crate) async fn identity(ctx: &Context, secret: &ObjectRef) -> Result<Identity, Failure> {
    let found = read(ctx, secret).await?;
    if let Some(plan) = plan_key(&found, PLAN_KEY)? {
        return Ok(Identity::Plan(plan));
    }
    match text(&found, RECOVERY_KEY)? {
        Some(text) => RecoveryKey::parse(text)
            .map(Identity::Recovery)
            .map_err(|error| unreadable(&found, RECOVERY_KEY, &error)),
        None => Err(missing(&found, &format!("{PLAN_KEY} or {RECOVERY_KEY}"))),
    }
}

/// The keys of a plan's chain, where it is sealed.
///
/// # Errors
/// `KeyMissing` when the plan has no key, or another one; those of the store.
pub(crate) async fn chain_ring(
    ctx: &Context,
    plan: &BackupPlan,
    store: &dyn Target,
    home: &VolumeHome,
    file: &ChainFile,
) -> Result<Option<KeyRing>, Failure> {
    if !file.images.iter().any(Entry::is_sealed) {
        return Ok(None);
    }
    let Some(encryption) = &plan.spec.encryption else {
        return Err(RepositoryError::NeedsKey {
            document: home.chain_key(file.generation).to_string(),
        }
        .into());
    };
    let secret = secret_of(encryption, &plan.namespace().unwrap_or_default())?;
    let identity = identity(ctx, &secret).await?;
    let (cluster, id) = (&home.cluster, &home.plan);
    let ring = keys::ring_of_present(store, cluster, id, file.keys(), &identity).await?;
    Ok(Some(ring))
}

/// Brings the wrapped keys of a plan up to the key in its Secret, where that has changed, and returns its public half.
///
/// # Errors
/// `KeyMissing` when the key changed and the former one is not beside it; nothing is stored under a key that cannot open
/// what there is.
pub(crate) async fn follow(
    ctx: &Context,
    plan: &BackupPlan,
    store: &dyn Target,
) -> Result<Option<String>, Failure> {
    let Some(encryption) = &plan.spec.encryption else {
        return Ok(None);
    };
    let secret = secret_of(encryption, &plan.namespace().unwrap_or_default())?;
    let holders = holders(ctx, &secret).await?;
    let recipient = holders.plan.recipient().to_string();
    let known = plan
        .status
        .as_ref()
        .and_then(|status| status.encryption_recipient.as_ref());
    if known.is_none_or(|known| *known == recipient) {
        return Ok(Some(recipient));
    }
    let found = read(ctx, &secret).await?;
    let Some(former) = plan_key(&found, FORMER_PLAN_KEY)? else {
        let text = format!(
            "the key in Secret {} is another one than before; to exchange it, put the former one beside it as \
             {FORMER_PLAN_KEY}, and every data key is wrapped anew",
            found.name_any()
        );
        return Err(Failure::lasting(reasons::KEY_MISSING, text));
    };
    let uid = |text: &str| -> Result<Uid, Failure> {
        text.parse()
            .map_err(|error| Failure::lasting(reasons::INTERNAL, format!("{error}")))
    };
    let (cluster, id) = (uid(&ctx.cluster_uid)?, uid(&plan.uid().unwrap_or_default())?);
    let done = keys::rotate(store, &cluster, &id, &former, &holders).await?;
    tracing::info!(
        plan.namespace = plan.namespace(), plan.name = %plan.name_any(), rewrapped = done.rewrapped, kept = done.kept,
        "data keys wrapped for another plan key"
    );
    Ok(Some(recipient))
}

async fn read(ctx: &Context, secret: &ObjectRef) -> Result<Secret, Failure> {
    let namespace = secret.namespace.as_deref().unwrap_or_default();
    let api: Api<Secret> = ctx.namespaced(namespace);
    api.get_opt(&secret.name).await?.ok_or_else(|| {
        let text = format!(
            "there is no Secret {} in namespace {namespace}, which holds the key of the encryption",
            secret.name
        );
        Failure::lasting(reasons::KEY_MISSING, text)
    })
}

fn plan_key(secret: &Secret, field: &'static str) -> Result<Option<PlanKey>, Failure> {
    match text(secret, field)? {
        Some(text) => PlanKey::parse(text)
            .map(Some)
            .map_err(|error| unreadable(secret, field, &error)),
        None => Ok(None),
    }
}

fn text<'s>(secret: &'s Secret, field: &str) -> Result<Option<&'s str>, Failure> {
    let Some(ByteString(bytes)) = secret.data.as_ref().and_then(|data| data.get(field)) else {
        return Ok(None);
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => {
            let text = format!("the Secret {} has no text under {field}", secret.name_any());
            Err(Failure::lasting(reasons::KEY_MISSING, text))
        }
    }
}

fn missing(secret: &Secret, field: &str) -> Failure {
    let text = format!(
        "the Secret {} has nothing under {field}: put the private key there (`holdfast keygen` makes one)",
        secret.name_any()
    );
    Failure::lasting(reasons::KEY_MISSING, text)
}

fn unreadable(secret: &Secret, field: &str, error: &KeyTextError) -> Failure {
    let text = format!("the Secret {}, field {field}: {error}", secret.name_any());
    Failure::lasting(reasons::KEY_MISSING, text)
}
