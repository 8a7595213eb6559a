//! Reads a point from a target and checks it against what its commit object says.
//!
//! What lies on a target was written by whoever may write there, and what is small there may be large here. All loads
//! together therefore live within two amounts of memory: one for compressed files, one for objects. A load asks for its
//! share of the first, counts what the file will take, and asks for its share of the second before it takes it. Nobody
//! who waits for the first holds any of the second, so no two loads wait for each other.

use std::time::Duration;

use bytes::Bytes;
use holdfast_core::limit::{MAX_FILE, MAX_MEMORY, TooLarge};
use holdfast_core::objects as decode;
use holdfast_crd::names::reasons;
use holdfast_repository::chain;
use holdfast_repository::keys::{self, Identity};
use holdfast_repository::point::{self, CommitObject};
use holdfast_seal::KeyRing;
use holdfast_target::layout::{BackupManifest, Digest, Location};
use holdfast_target::{ErrorKind, InvalidKey, Key, Target};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::failure::Failure;

const MIB: u64 = 1 << 20;
/// Compressed files in memory, in MiB: room for one of the largest.
static FILES: Semaphore = Semaphore::const_new((MAX_FILE / MIB) as usize);
/// Objects in memory, in MiB: room for one of the largest points.
static OBJECTS: Semaphore = Semaphore::const_new((MAX_MEMORY / MIB) as usize);
/// How long a load waits for others to give memory back.
const QUEUE: Duration = Duration::from_secs(30 * 60);
/// How long the file of a point may take to arrive.
const ARRIVE: Duration = Duration::from_secs(5 * 60);

/// A point: its commit object and its objects.
pub(crate) struct Point {
    pub(crate) manifest: BackupManifest,
    pub(super) objects: Vec<Value>,
    /// Share of [`OBJECTS`]: what is planned from the objects takes their place, so it is kept as long as the point.
    _memory: SemaphorePermit<'static>,
}

/// Reads the commit object of a point. A point without one does not exist.
pub(super) async fn commit_object(target: &dyn Target, location: &Location) -> Result<CommitObject, Failure> {
    point::read(target, location).await?.ok_or_else(|| {
        let text =
            format!("there is no point {location} on the target: it was never committed, or it was deleted");
        Failure::lasting(reasons::NOT_FOUND, text)
    })
}

/// Opens a commit object, with the key of its backup where it is sealed. Its volumes have the chains that stand for them
/// now, which a merge may have changed since it was written.
pub(super) async fn manifest(
    target: &dyn Target,
    found: CommitObject,
    location: &Location,
    identity: Option<&Identity>,
) -> Result<(BackupManifest, Option<KeyRing>), Failure> {
    let Location { cluster, plan, .. } = location;
    let ring = match (found.key(), identity) {
        (Some(key), Some(identity)) => Some(keys::ring(target, cluster, plan, [key], identity).await?),
        // Whoever brings a key must not be given a point in clear.
        (None, Some(_)) => Some(KeyRing::default()),
        (_, None) => None,
    };
    let (mut manifest, now) = (found.open(ring.as_ref())?, Timestamp::now());
    for volume in &mut manifest.volumes {
        let ring = match identity {
            Some(identity) => {
                let ids = chain::keys_to_resolve(target, volume, now).await?;
                Some(keys::ring(target, cluster, plan, &ids, identity).await?)
            }
            None => None,
        };
        let resolved = chain::resolve(target, volume, ring.as_ref(), now).await?;
        volume.chain = resolved.chain;
    }
    Ok((manifest, ring))
}

/// Reads a point with its objects, each byte checked by the digest in the commit object.
pub(crate) async fn load(
    target: &dyn Target,
    location: &Location,
    identity: Option<&Identity>,
) -> Result<Point, Failure> {
    let found = commit_object(target, location).await?;
    let (manifest, ring) = manifest(target, found, location, identity).await?;
    let file = &manifest.objects;
    let damaged = |text: String| Failure::lasting(reasons::DAMAGED, text);
    let key: Key = format!("{}{}", location.prefix(), file.key)
        .parse()
        .map_err(|e: InvalidKey| damaged(e.to_string()))?;
    // A sealed file is longer by a head and a tag for every segment.
    let longest = if ring.is_some() {
        MAX_FILE + MAX_FILE / 1024
    } else {
        MAX_FILE
    };
    if file.size > longest {
        return Err(damaged(format!("{key} cannot be restored: {}", TooLarge::File)));
    }
    let share = share_of(&FILES, file.size).await?;
    let object = tokio::time::timeout(ARRIVE, target.get(&key, file.size))
        .await
        .map_err(|_| {
            Failure::passing(
                reasons::UNREACHABLE,
                format!("{key} did not arrive in {ARRIVE:?}"),
            )
        })?
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => damaged(format!("{key} is missing, though {location} is committed")),
            _ => Failure::from(error),
        })?;
    if object.body.len() as u64 != file.size || Digest::of(&object.body) != file.blake3 {
        return Err(damaged(format!(
            "{key} does not have the size and digest that its commit object says"
        )));
    }
    // What is worked on has its share with it: a run that is stopped meanwhile does not stop the work.
    let (body, count) = (opened(&key, object.body, ring.as_ref())?, file.count);
    let (weight, body, share) =
        off_thread(&key, move || Ok((decode::weigh(&body, count)?, body, share))).await?;
    let memory = share_of(&OBJECTS, weight.memory).await?;
    let (objects, memory) = off_thread(&key, move || {
        let objects = decode::objects(&body)?;
        drop((body, share));
        Ok((objects, memory))
    })
    .await?;
    Ok(Point {
        manifest,
        objects,
        _memory: memory,
    })
}

/// The objects file in clear.
fn opened(key: &Key, body: Bytes, ring: Option<&KeyRing>) -> Result<Bytes, Failure> {
    let Some(ring) = ring else { return Ok(body) };
    let clear = holdfast_seal::open_document(key.as_str(), &body, ring, MAX_FILE)
        .map_err(|e| Failure::lasting(reasons::DAMAGED, format!("{key} cannot be restored: {e}")))?;
    Ok(Bytes::from(clear))
}

/// Decoding takes its time, so no async thread does it.
async fn off_thread<T: Send + 'static>(
    key: &Key,
    work: impl FnOnce() -> Result<T, decode::Undecodable> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::passing(reasons::INTERNAL, format!("decoding {key} was interrupted: {e}")))?
        .map_err(|e| Failure::lasting(reasons::DAMAGED, format!("{key} cannot be restored: {e}")))
}

async fn share_of(all: &'static Semaphore, bytes: u64) -> Result<SemaphorePermit<'static>, Failure> {
    let mebibytes = u32::try_from(bytes.div_ceil(MIB).max(1)).unwrap_or(u32::MAX);
    match tokio::time::timeout(QUEUE, all.acquire_many(mebibytes)).await {
        Ok(Ok(share)) => Ok(share),
        Ok(Err(closed)) => Err(Failure::lasting(reasons::INTERNAL, closed.to_string())),
        Err(_) => {
            let text = format!(
                "other restores held the memory that the objects of this one need for {} minutes; restore again when \
                 they have ended",
                QUEUE.as_secs() / 60
            );
            Err(Failure::lasting(reasons::NO_PROGRESS, text))
        }
    }
}
