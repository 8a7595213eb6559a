//! Signs that somebody reads images of a volume, so that what a reader holds open is not removed under it.
//!
//! A sign is an object; nothing is overwritten, so it is renewed by a new one. Its age is by the store's clock. A reader
//! that died leaves one behind that counts for an hour more.

use std::time::Duration;

use bytes::Bytes;
use holdfast_target::layout::{FORMAT_VERSION, Generation, Uid, VolumeHome, parse_document, print_document};
use holdfast_target::{ErrorKind, Key, Target, list_all};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::lock::remove;
use crate::{MAX_OBJECTS, RepositoryError};

/// How long a sign counts.
pub const LIFE: Duration = Duration::from_secs(3600);
/// How often a reader renews it.
pub const RENEW: Duration = Duration::from_secs(1200);
/// Largest sign that is read, in bytes.
const MAX_SIGN: u64 = 4096;

/// `reader-<reader>-<n>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sign {
    format: u32,
    /// The generation that is read; absent: what a commit object names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<Generation>,
}

/// Says that `reader` reads this generation; `renewal` counts up from 0, and the sign before it goes.
///
/// # Errors
/// Those of the store: a target that cannot be written to is read without a sign, under the grace period alone.
pub async fn hold(
    target: &dyn Target,
    home: &VolumeHome,
    reader: &Uid,
    generation: Option<Generation>,
    renewal: u32,
) -> Result<(), RepositoryError> {
    let sign = Sign {
        format: FORMAT_VERSION,
        generation,
    };
    target
        .put(
            &home.reader_key(reader, renewal),
            Bytes::from(print_document(&sign)),
        )
        .await?;
    match renewal.checked_sub(1) {
        Some(before) => remove(target, &[home.reader_key(reader, before)])
            .await
            .map(|_| ()),
        None => Ok(()),
    }
}

/// Takes every sign of a reader away.
///
/// # Errors
/// Those of the store.
pub async fn release(target: &dyn Target, home: &VolumeHome, reader: &Uid) -> Result<(), RepositoryError> {
    let own = format!("reader-{reader}-");
    let signs = list_all(target, &home.readers_prefix(), MAX_OBJECTS).await?;
    let keys: Vec<Key> = signs
        .into_iter()
        .map(|object| object.key)
        .filter(|key| key.file_name().starts_with(&own))
        .collect();
    remove(target, &keys).await.map(|_| ())
}

/// What readers hold open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Nobody reads.
    Nothing,
    /// Everything that this generation or a later one named.
    From(Generation),
    /// Somebody reads what a commit object names, or something that does not say what it is.
    Everything,
}

impl Held {
    /// Whether objects that this generation was the first not to name may be in use.
    pub(crate) fn covers(self, without: Generation) -> bool {
        match self {
            Self::Nothing => false,
            Self::From(oldest) => oldest < without,
            Self::Everything => true,
        }
    }
}

/// What readers hold open now. Signs that are too old are removed.
pub(crate) async fn held(
    target: &dyn Target,
    home: &VolumeHome,
    now: Timestamp,
) -> Result<Held, RepositoryError> {
    let (mut held, mut dead) = (Held::Nothing, Vec::new());
    for object in list_all(target, &home.readers_prefix(), MAX_OBJECTS).await? {
        let age = now.as_second().saturating_sub(object.modified);
        if age > LIFE.as_secs().cast_signed() {
            dead.push(object.key);
            continue;
        }
        let body = match target.get(&object.key, MAX_SIGN).await {
            Ok(found) => found.body,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.kind() == ErrorKind::TooLarge => Bytes::new(),
            Err(error) => return Err(error.into()),
        };
        let generation = parse_document::<Sign>(object.key.as_str(), &body)
            .ok()
            .and_then(|sign| sign.generation);
        held = match (held, generation) {
            (Held::Everything, _) | (_, None) => Held::Everything,
            (Held::Nothing, Some(generation)) => Held::From(generation),
            (Held::From(oldest), Some(generation)) => Held::From(oldest.min(generation)),
        };
    }
    remove(target, &dead).await?;
    Ok(held)
}
