//! Data keys on a target: one for each backup, wrapped by its plan's key and by recovery keys.
//!
//! ```text
//! holdfast/keys/<cluster>/<plan>/<backup>/key-<generation>.age
//! ```
//! A wrapped key is written before anything that is sealed with it. Rotation adds a generation and removes the older ones
//! when the new one is there; a reader takes the newest that opens.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_seal::{
    DataKey, KeyId, KeyRing, MAX_WRAPPED, PlanKey, Recipient, Recovered, RecoveryKey, UnwrapError,
    unwrap_with_plan, unwrap_with_recovery, wrap,
};
use holdfast_target::layout::{Generation, Location, Uid};
use holdfast_target::{Creation, ErrorKind, Key, ListRequest, Target, each_page, list_all};
use jiff::Timestamp;

use crate::{MAX_OBJECTS, RepositoryError, lock};

/// Wrapped keys that are read at the same time.
const PARALLEL: usize = 8;
/// Most generations of one wrapped key.
const MAX_GENERATIONS: usize = 1000;
/// Generations of a wrapped key that are tried, newest first.
const MAX_TRIED: usize = 8;
/// Lists that are made anew because a rotation went on meanwhile.
const ROUNDS: usize = 3;

/// What a reader opens wrapped keys with.
#[derive(Debug)]
pub enum Identity {
    /// The plan's key: it also proves who made them.
    Plan(PlanKey),
    /// A recovery key. Nothing proves who made what it opens; whoever uses it has told a person so.
    Recovery(RecoveryKey),
}

/// Those who can open what a plan stores.
#[derive(Debug)]
pub struct Holders {
    /// The plan's key.
    pub plan: PlanKey,
    /// Recovery keys, at least one.
    pub recovery: Vec<Recipient>,
}

/// The data key of the backup at this location: the one that is there, or a new one.
///
/// # Errors
/// When there is one that the plan's key does not open, when wrapping is impossible, and those of the store.
pub async fn ensure(
    target: &dyn Target,
    location: &Location,
    holders: &Holders,
) -> Result<DataKey, RepositoryError> {
    let sealed = seal_location(location)?;
    // Twice: whoever was faster has left one to read.
    for _ in 0..2 {
        let there = open_newest(target, location, |body| {
            unwrap_with_plan(body, &sealed, &holders.plan)
        })
        .await?;
        if let Some((_, key)) = there {
            return Ok(key);
        }
        let key = DataKey::generate(sealed.clone());
        let body = Bytes::from(wrap(&key, &holders.plan, &holders.recovery)?);
        let created = target.put_new(&location.key_key(Generation::FIRST), body).await?;
        if matches!(created, Creation::Created(_)) {
            return Ok(key);
        }
    }
    Err(RepositoryError::Internal(format!(
        "the wrapped key of {location} comes and goes"
    )))
}

/// The data keys of a plan with these ids.
///
/// # Errors
/// The first that is missing or does not open; nothing else was read then.
pub async fn ring<'a>(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
    ids: impl IntoIterator<Item = &'a KeyId>,
    identity: &Identity,
) -> Result<KeyRing, RepositoryError> {
    let ids: BTreeSet<KeyId> = ids.into_iter().cloned().collect();
    let keys = open_all(target, cluster, plan, ids, identity).await?;
    KeyRing::of(keys.into_iter().map(|(_, key)| key))
        .map_err(|error| RepositoryError::Internal(error.to_string()))
}

/// The same without those that are gone. After the newest chain file was lost, an older one may name images, and with
/// them keys, that were removed since: what needs them is found when it is opened, and must not stop anything else.
///
/// # Errors
/// The first that does not open, and those of the store.
pub async fn ring_of_present<'a>(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
    ids: impl IntoIterator<Item = &'a KeyId>,
    identity: &Identity,
) -> Result<KeyRing, RepositoryError> {
    let there = all(target, cluster, plan).await?;
    let ids: Vec<&KeyId> = ids.into_iter().filter(|id| there.contains(*id)).collect();
    ring(target, cluster, plan, ids, identity).await
}

/// The objects that the data keys of a plan with these ids are opened from.
///
/// # Errors
/// As [`ring`].
pub(crate) async fn wrapped(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
    ids: &BTreeSet<KeyId>,
    identity: &Identity,
) -> Result<Vec<Key>, RepositoryError> {
    let keys = open_all(target, cluster, plan, ids.clone(), identity).await?;
    Ok(keys.into_iter().map(|(key, _)| key).collect())
}

async fn open_all(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
    ids: BTreeSet<KeyId>,
    identity: &Identity,
) -> Result<Vec<(Key, DataKey)>, RepositoryError> {
    stream::iter(ids)
        .map(|id| async move {
            let location = location_of(cluster, plan, &id)?;
            let sealed = seal_location(&location)?;
            let open = |body: &[u8]| match identity {
                Identity::Plan(plan) => unwrap_with_plan(body, &sealed, plan),
                Identity::Recovery(recovery) => {
                    unwrap_with_recovery(body, &sealed, recovery).map(Recovered::accept_unproven_origin)
                }
            };
            let opened = open_newest(target, &location, open).await?;
            opened.ok_or(RepositoryError::KeyGone { key: id })
        })
        .buffered(PARALLEL)
        .try_collect()
        .await
}

/// What a rotation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Keys that were wrapped anew.
    pub rewrapped: usize,
    /// Keys that the new plan key opened already.
    pub kept: usize,
}

/// Wraps every data key of a plan for other holders. Moves no data, may be repeated after an interruption, and leaves
/// every key open to the old or the new plan key at every moment.
///
/// # Errors
/// A key that neither the old nor the new plan key opens, wrapping, and those of the store.
pub async fn rotate(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
    old: &PlanKey,
    new: &Holders,
) -> Result<Rotation, RepositoryError> {
    let mut done = Rotation::default();
    for id in all(target, cluster, plan).await? {
        let location = location_of(cluster, plan, &id)?;
        let sealed = seal_location(&location)?;
        let generations = generations(target, &location).await?;
        let Some(newest) = generations.last().copied() else {
            continue;
        };
        // With the old key first: also when the plan key stays, recovery keys may have changed, which only a new
        // wrapping shows.
        let with_old = |body: &[u8]| unwrap_with_plan(body, &sealed, old);
        let with_new = |body: &[u8]| unwrap_with_plan(body, &sealed, &new.plan);
        let (before, key) = match open_newest(target, &location, with_old).await {
            Ok(Some(opened)) => opened,
            Ok(None) => continue,
            Err(refused) => {
                let opened = open_newest(target, &location, with_new).await;
                opened.map_err(|_| refused)?;
                done.kept += 1;
                continue;
            }
        };
        let body = Bytes::from(wrap(&key, &new.plan, &new.recovery)?);
        let next = location.key_key(newest.next());
        if target.put_new(&next, body).await? == Creation::Exists {
            return Err(RepositoryError::Internal(format!(
                "{next} appeared while keys were rotated; rotate again"
            )));
        }
        // What was locked stays, and so must what takes its place.
        lock::as_long_as(target, &before, &next, Timestamp::now()).await?;
        let older: Vec<Key> = generations.iter().map(|g| location.key_key(*g)).collect();
        lock::remove(target, &older).await?;
        done.rewrapped += 1;
    }
    Ok(done)
}

/// Every data key of a plan that is on the target.
///
/// # Errors
/// Those of the store.
pub async fn all(target: &dyn Target, cluster: &Uid, plan: &Uid) -> Result<BTreeSet<KeyId>, RepositoryError> {
    let prefix = Location::keys_prefix(cluster, plan);
    let mut found = BTreeSet::new();
    let folders = ListRequest::folders(prefix.clone());
    each_page(target, folders, MAX_OBJECTS, |page| {
        let names = page
            .prefixes
            .iter()
            .filter_map(|p| p.as_str().strip_prefix(prefix.as_str()));
        found.extend(names.filter_map(|name| name.trim_end_matches('/').parse().ok()));
    })
    .await?;
    Ok(found)
}

/// Removes a data key, whatever was sealed with it cannot be opened any more. Returns how many of its objects went: those
/// that are locked stay.
///
/// # Errors
/// Those of the store.
pub async fn erase(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
    id: &KeyId,
) -> Result<usize, RepositoryError> {
    let location = location_of(cluster, plan, id)?;
    let objects = list_all(target, &location.key_prefix(), MAX_GENERATIONS).await?;
    let keys: Vec<Key> = objects.into_iter().map(|object| object.key).collect();
    lock::remove(target, &keys).await
}

/// A location as the crate that seals spells it.
pub(crate) fn seal_location(location: &Location) -> Result<holdfast_seal::Location, RepositoryError> {
    let text = location.to_string();
    text.parse()
        .map_err(|error: holdfast_seal::NameError| RepositoryError::Internal(error.to_string()))
}

/// The backup that a data key was made for.
fn location_of(cluster: &Uid, plan: &Uid, id: &KeyId) -> Result<Location, RepositoryError> {
    let backup = id
        .as_str()
        .parse()
        .map_err(|error| RepositoryError::Internal(format!("{error}")))?;
    Ok(Location {
        cluster: cluster.clone(),
        plan: plan.clone(),
        backup,
    })
}

async fn generations(target: &dyn Target, location: &Location) -> Result<Vec<Generation>, RepositoryError> {
    let objects = list_all(target, &location.key_prefix(), MAX_GENERATIONS).await?;
    let mut found: Vec<Generation> = objects
        .iter()
        .filter_map(|object| location.key_generation_of(&object.key))
        .collect();
    found.sort();
    Ok(found)
}

/// Opens the newest generation of a wrapped key that opens, and says which one that is; `None` when there is none at all.
/// One that somebody else put there, or a rotation that has just removed what was found, must not hide the others; where
/// objects are locked, those that are come first.
async fn open_newest(
    target: &dyn Target,
    location: &Location,
    open: impl Fn(&[u8]) -> Result<DataKey, UnwrapError> + Send + Sync,
) -> Result<Option<(Key, DataKey)>, RepositoryError> {
    let mut refused = None;
    for _ in 0..ROUNDS {
        let mut vanished = false;
        let found = generations(target, location).await?.into_iter().rev();
        let newest_first = found.map(|generation| location.key_key(generation)).collect();
        for key in lock::locked_first(target, newest_first)
            .await?
            .into_iter()
            .take(MAX_TRIED)
        {
            let body = match target.get(&key, MAX_WRAPPED as u64).await {
                Ok(object) => object.body,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    vanished = true;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match open(&body) {
                Ok(opened) => return Ok(Some((key, opened))),
                Err(source) => refused = refused.or(Some(unwrap_error(&key, source))),
            }
        }
        if !vanished {
            break;
        }
    }
    refused.map_or(Ok(None), Err)
}

fn unwrap_error(key: &Key, source: UnwrapError) -> RepositoryError {
    RepositoryError::Unwrap {
        key: key.to_string(),
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests;
