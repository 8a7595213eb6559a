//! Object lock: until when nobody can delete what a point consists of, not even whoever owns the store.
//!
//! A chain gets one date when its full image is committed: the last moment at which an incremental may be put on it, and
//! the retention of a point. Everything that a restore of a point reads is locked until the dates of its chains just
//! before the commit object is written, so what a failed attempt left can be removed; the commit object itself is locked
//! right after. Who dies in between leaves a point that says that it is locked and is not: [`complete`] closes that gap,
//! for the run that goes on and for everybody who sweeps.
//!
//! What is locked is never merged. So as long as a point is locked, its commit object alone says what it consists of.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_core::chain::FullReason;
use holdfast_seal::KeyId;
use holdfast_target::layout::{
    Attempt, BackupManifest, ImageRecord, Location, Uid, VolumeHome, VolumeRecord,
};
use holdfast_target::{ErrorKind, InvalidKey, Key, ObjectMeta, Target, Version, list_all};
use jiff::Timestamp;

use crate::chain::keys_of;
use crate::keys::{self, Identity};
use crate::{MAX_OBJECTS, RepositoryError, point};

/// Objects that are locked or asked for their lock at the same time.
const PARALLEL: usize = 8;

/// For how long a plan locks what it stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// A point stays locked for at least so long after its commit.
    pub retention: Duration,
    /// Incrementals are put on a full image for so long after its commit.
    pub span: Duration,
    /// Most incrementals on a full image.
    pub incrementals: usize,
}

impl Terms {
    /// Until when a point that is committed now has to be locked.
    fn of_point(&self, now: Timestamp) -> Timestamp {
        later(now, self.retention)
    }

    /// Until when a chain is locked whose full image is committed now.
    fn of_chain(&self, now: Timestamp) -> Timestamp {
        later(now, self.span.saturating_add(self.retention))
    }
}

/// So much later, in whole seconds, rounded up: stores know no parts of them.
fn later(now: Timestamp, by: Duration) -> Timestamp {
    let then = now.checked_add(by).unwrap_or(Timestamp::MAX);
    let whole = then.as_second() + i64::from(then.subsec_nanosecond() > 0);
    Timestamp::from_second(whole).unwrap_or(then)
}

/// An object to be locked.
struct Item {
    key: Key,
    /// The version that is meant; the one that counts where none is named.
    version: Option<Version>,
    until: Timestamp,
}

/// Whether the next image of a volume may lie upon this chain, newest first; if not, why.
///
/// # Errors
/// Those of the store.
pub async fn continues(
    target: &dyn Target,
    home: &VolumeHome,
    chain: &[ImageRecord],
    terms: &Terms,
    now: Timestamp,
) -> Result<Result<(), FullReason>, RepositoryError> {
    let incrementals = chain.len().saturating_sub(1);
    if incrementals >= terms.incrementals {
        return Ok(Err(FullReason::Planned(incrementals)));
    }
    Ok(match of_base(target, home, chain).await? {
        None => Err(FullReason::NotLocked),
        Some(until) if until < terms.of_point(now) => Err(FullReason::LockEnds(until.to_string())),
        Some(_) => Ok(()),
    })
}

/// Until when the full image of a chain is locked: that is the chain's date.
async fn of_base(
    target: &dyn Target,
    home: &VolumeHome,
    chain: &[ImageRecord],
) -> Result<Option<Timestamp>, RepositoryError> {
    let Some(shard) = chain.last().and_then(|base| base.shards.first()) else {
        return Ok(None);
    };
    let key = home.file_key(&shard.image.key).map_err(no_key)?;
    lock_of(target, &key, shard.image.version.as_ref()).await
}

/// Locks everything that a restore of this point reads, but for its commit object, which is to be written next; and says
/// in it until when. `identity` opens the data keys where the point is sealed.
///
/// # Errors
/// Those of the store, [`RepositoryError::NoVersion`], and a data key that does not open.
pub async fn secure(
    target: &dyn Target,
    manifest: &mut BackupManifest,
    identity: Option<&Identity>,
    terms: &Terms,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    let mut items = Vec::new();
    let (mut first, mut last) = (None, None);
    for volume in &mut manifest.volumes {
        let until = date_of(target, volume, terms, now).await?;
        volume.locked_until = Some(until);
        first = first.min(Some(until)).or(Some(until));
        last = last.max(Some(until));
        items_of(volume, until, &mut items)?;
    }
    let least = terms.of_point(now);
    let (first, last) = (first.unwrap_or(least), last.unwrap_or(least));
    manifest.locked_until = Some(first);
    let location = &manifest.location;
    let objects = format!("{}{}", location.prefix(), manifest.objects.key);
    items.push(Item {
        key: objects.parse().map_err(no_key)?,
        version: manifest.objects.version.clone(),
        until: first,
    });
    if let Some(identity) = identity {
        let Location { cluster, plan, .. } = location;
        // Points that come later need the keys of the images below them for as long as the chain is locked.
        for key in keys::wrapped(target, cluster, plan, &key_ids(manifest)?, identity).await? {
            items.push(Item {
                key,
                version: None,
                until: last,
            });
        }
    }
    stream::iter(items)
        .map(|item| async move { lock(target, &item).await })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

/// Until when the chain of a volume is to be locked: a new one for its whole time; an older one as its full image is,
/// but no less than the point needs, since the upload took its time, and no more than a new one, since whoever may
/// write to the store may lock for ever.
async fn date_of(
    target: &dyn Target,
    volume: &VolumeRecord,
    terms: &Terms,
    now: Timestamp,
) -> Result<Timestamp, RepositoryError> {
    let longest = terms.of_chain(now);
    if volume.chain.len() <= 1 {
        return Ok(longest);
    }
    let of_base = of_base(target, &volume.home, &volume.chain).await?;
    let least = terms.of_point(now);
    Ok(of_base.unwrap_or(least).max(least).min(longest))
}

/// Every object of a volume's chain, and the chain file that named it first.
fn items_of(volume: &VolumeRecord, until: Timestamp, items: &mut Vec<Item>) -> Result<(), RepositoryError> {
    let shards = volume.chain.iter().flat_map(|image| &image.shards);
    for object in shards.flat_map(|shard| [&shard.image, &shard.index]) {
        items.push(Item {
            key: volume.home.file_key(&object.key).map_err(no_key)?,
            version: object.version.clone(),
            until,
        });
    }
    items.push(Item {
        key: volume.home.chain_key(volume.generation),
        version: None,
        until,
    });
    Ok(())
}

/// Data keys that the point was sealed with, and its images.
fn key_ids(manifest: &BackupManifest) -> Result<BTreeSet<KeyId>, RepositoryError> {
    let id = |backup: &Uid| {
        let parsed = backup.as_str().parse();
        parsed.map_err(|error: holdfast_seal::NameError| RepositoryError::Internal(error.to_string()))
    };
    let images = || manifest.volumes.iter().flat_map(|volume| &volume.chain);
    let mut ids: BTreeSet<KeyId> = images().flat_map(keys_of).collect();
    ids.insert(id(&manifest.location.backup)?);
    // The record of an image is sealed under the key of its backup.
    for image in images() {
        ids.insert(id(&image.id.backup)?);
    }
    Ok(ids)
}

async fn lock(target: &dyn Target, item: &Item) -> Result<(), RepositoryError> {
    let key = &item.key;
    if let Some(version) = &item.version {
        match target.lock(key, version, item.until).await {
            // The bucket is a copy of the one that gave the version: the one that counts is meant.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            outcome => return Ok(outcome?),
        }
    }
    let Some(version) = target.head(key).await?.version else {
        return Err(RepositoryError::NoVersion { key: key.clone() });
    };
    Ok(target.lock(key, &version, item.until).await?)
}

/// Until when a version is locked; of the one that counts where none is named.
async fn lock_of(
    target: &dyn Target,
    key: &Key,
    version: Option<&Version>,
) -> Result<Option<Timestamp>, RepositoryError> {
    if let Some(version) = version {
        match target.locked_until(key, version).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            outcome => return Ok(outcome?),
        }
    }
    match target.head(key).await {
        Ok(meta) => latest(target, &[meta]).await,
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Locks the commit object of a point that says that it is locked until `until`, unless it is. Returns whether it had
/// to be. Only what this program has locked before counts: a document that somebody else put there must not make us lock
/// it for ever.
///
/// # Errors
/// [`RepositoryError::NotLocked`] where its objects are not locked, [`RepositoryError::NoVersion`], and those of the
/// store.
pub async fn complete(
    target: &dyn Target,
    location: &Location,
    attempt: Attempt,
    until: Timestamp,
) -> Result<bool, RepositoryError> {
    let key = location.commit_key();
    let meta = target.head(&key).await?;
    if latest(target, std::slice::from_ref(&meta))
        .await?
        .is_some_and(|held| held >= until)
    {
        return Ok(false);
    }
    let of_objects = lock_of(target, &location.objects_key(attempt), None).await?;
    if of_objects.is_none_or(|held| held < until) {
        return Err(RepositoryError::NotLocked {
            location: location.clone(),
            until,
        });
    }
    let version = meta.version;
    lock(target, &Item { key, version, until }).await?;
    Ok(true)
}

/// What a look at the locks of a plan's points found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Points whose commit object was locked now: whoever wrote it died before.
    pub locked: Vec<Location>,
    /// Points that say that they are locked, and are not.
    pub doubtful: Vec<Location>,
}

/// Locks every commit object of a plan that says that it is locked and is not.
///
/// # Errors
/// Those of the store. A commit object that does not read is not looked at.
pub async fn complete_all(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
    now: Timestamp,
) -> Result<Completed, RepositoryError> {
    let mut done = Completed::default();
    if !target.immutability().await?.lockable {
        return Ok(done);
    }
    for location in point::points(target, cluster, plan).await? {
        let found = match point::read(target, &location).await {
            Ok(Some(found)) => found,
            Ok(None) | Err(RepositoryError::Document(_)) => continue,
            Err(error) => return Err(error),
        };
        let Some(until) = found.locked_until().filter(|until| *until > now) else {
            continue;
        };
        match complete(target, &location, found.attempt(), until).await {
            Ok(true) => done.locked.push(location),
            Ok(false) => {}
            Err(RepositoryError::NotLocked { .. }) => done.doubtful.push(location),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Until when a point cannot be removed; `None` where nothing of it is locked any more.
///
/// # Errors
/// Those of the store.
pub async fn held_until(
    target: &dyn Target,
    location: &Location,
    now: Timestamp,
) -> Result<Option<Timestamp>, RepositoryError> {
    if !target.immutability().await?.lockable {
        return Ok(None);
    }
    let objects = list_all(target, &location.prefix(), MAX_OBJECTS).await?;
    let until = latest(target, &objects).await?;
    Ok(until.filter(|until| *until > now))
}

/// Whether any of these images is locked: what is locked cannot be merged away.
///
/// # Errors
/// Those of the store.
pub async fn any_locked(
    target: &dyn Target,
    home: &VolumeHome,
    images: &[ImageRecord],
    now: Timestamp,
) -> Result<bool, RepositoryError> {
    if !target.immutability().await?.lockable {
        return Ok(false);
    }
    for object in images.iter().filter_map(|image| image.shards.first()) {
        let key = home.file_key(&object.image.key).map_err(no_key)?;
        let until = lock_of(target, &key, object.image.version.as_ref()).await?;
        if until.is_some_and(|until| until > now) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Locks an object that takes the place of another one for as long as that is locked.
pub(crate) async fn as_long_as(
    target: &dyn Target,
    before: &Key,
    next: &Key,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    if !target.immutability().await?.lockable {
        return Ok(());
    }
    match lock_of(target, before, None).await?.filter(|until| *until > now) {
        Some(until) => {
            let item = Item {
                key: next.clone(),
                version: None,
                until,
            };
            lock(target, &item).await
        }
        None => Ok(()),
    }
}

/// The same objects, those first that are locked or were: whoever may only write can put others among them.
pub(crate) async fn locked_first(target: &dyn Target, keys: Vec<Key>) -> Result<Vec<Key>, RepositoryError> {
    if keys.len() < 2 || !target.immutability().await?.lockable {
        return Ok(keys);
    }
    let (mut locked, mut others) = (Vec::new(), Vec::new());
    for key in keys {
        match lock_of(target, &key, None).await? {
            Some(_) => locked.push(key),
            None => others.push(key),
        }
    }
    locked.append(&mut others);
    Ok(locked)
}

/// The latest date until which any of these is locked.
pub(crate) async fn latest(
    target: &dyn Target,
    objects: &[ObjectMeta],
) -> Result<Option<Timestamp>, RepositoryError> {
    let mut found = None;
    for object in objects {
        if let Some(version) = &object.version {
            found = found.max(target.locked_until(&object.key, version).await?);
        }
    }
    Ok(found)
}

/// Removes objects. What is locked stays: it is found again, and goes when its lock has ended. Returns how many went.
pub(crate) async fn remove(target: &dyn Target, keys: &[Key]) -> Result<usize, RepositoryError> {
    match target.delete(keys).await {
        Ok(()) => return Ok(keys.len()),
        Err(error) if error.kind() == ErrorKind::Locked => {}
        Err(error) => return Err(error.into()),
    }
    let mut gone = 0;
    for key in keys {
        match target.head(key).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => gone += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(gone)
}

/// A record with such a name was refused when it was read.
#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn no_key(error: InvalidKey) -> RepositoryError {
    RepositoryError::Internal(error.to_string())
}
