//! Object lock, as plans and targets ask for it.

use std::time::Duration;

use holdfast_core::chain::MAX_CHAIN;
use holdfast_core::spec::lock_contradiction;
use holdfast_crd::names::reasons;
use holdfast_crd::{BackupPlan, Immutability, LockTerms, Target};
use holdfast_repository::lock::Terms;
use holdfast_target::{Immutability as Found, RetentionMode, Target as Store};

use crate::failure::Failure;

/// How a run of this plan locks what it stores; `None` where nothing is locked.
///
/// # Errors
/// Lasting with `LockMismatch` where plan and target contradict each other, `ObjectLockMissing` where the bucket cannot
/// do what the target asks for; and those of the store.
pub(crate) async fn terms(
    plan: &BackupPlan,
    target: &Target,
    store: &dyn Store,
) -> Result<Option<LockTerms>, Failure> {
    let found = store.immutability().await?;
    check_target(target, &found)?;
    let config = &plan.spec.backup_config;
    let retention = config.object_lock.as_ref().map(|lock| lock.retention_days);
    let default = found.default.map(|default| default.days);
    if let Some(why) = lock_contradiction(wanted(target), default, retention) {
        return Err(Failure::lasting(reasons::LOCK_MISMATCH, why));
    }
    let longest = u32::try_from(MAX_CHAIN - 1).unwrap_or(u32::MAX);
    Ok(config.object_lock.as_ref().map(|lock| LockTerms {
        retention_days: lock.retention_days,
        chain_days: lock.chain_days,
        incrementals: config.max_incr_backups_per_full_backup.unwrap_or(longest),
    }))
}

/// Whether the target is to lock what is stored.
fn wanted(target: &Target) -> bool {
    let bucket = target.spec.object_store_credentials.as_ref();
    bucket.is_some_and(|bucket| bucket.object_locking_enabled)
}

/// A target that is to lock needs a bucket that can.
///
/// # Errors
/// Lasting with `ObjectLockMissing`.
pub(crate) fn check_target(target: &Target, found: &Found) -> Result<(), Failure> {
    if !wanted(target) || found.lockable {
        return Ok(());
    }
    let text = "spec.objectStoreCredentials.objectLockingEnabled asks for locks, but the bucket has no object lock: switch \
                versions and object lock of the bucket on (many stores can do that only when a bucket is made), or remove \
                the field";
    Err(Failure::lasting(reasons::OBJECT_LOCK_MISSING, text))
}

/// Whether images on this target are merged: what is locked cannot give its place to something else.
pub(crate) fn merges(target: &Target, found: &Found) -> bool {
    !wanted(target) && found.default.is_none()
}

/// The terms as the repository knows them.
pub(crate) fn of(terms: &LockTerms) -> Terms {
    let days = |days: u32| Duration::from_secs(u64::from(days) * 24 * 3600);
    Terms {
        retention: days(terms.retention_days),
        span: days(terms.chain_days),
        incrementals: usize::try_from(terms.incrementals).unwrap_or(usize::MAX),
    }
}

/// What a store does against deletion, as the status of a target says it.
pub(crate) fn status_of(found: &Found) -> Immutability {
    let mode = |mode: RetentionMode| match mode {
        RetentionMode::Compliance => "Compliance",
        RetentionMode::Governance => "Governance",
    };
    Immutability {
        versioned: found.versioned,
        object_lock: found.lockable,
        default_mode: found.default.map(|default| mode(default.mode).to_owned()),
        default_retention_period: found.default.map(|default| default.days),
    }
}
