//! Checkpoints: what an attempt leaves on the target so that another one can go on with its uploads.
//!
//! A checkpoint is a document of a new name each time; older ones are removed when a newer one is there. It is used only
//! when it was made by the same work ([`Checkpoint::work`]) and the store still has all that it names. What is wrong with
//! one, or with the store when one is written, never ends a job: it only costs the time to begin again.
use std::sync::{Mutex, PoisonError};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use holdfast_seal::{DataKey, KeyRing, Layout, open_document, peek, seal_document};
use holdfast_target::{
    Key, Part, PartNumber, Prefix, TargetError, Upload,
    layout::{Digest, FORMAT_VERSION, FileStem, ShardNumber, ShardRecord, parse_document},
    list_all,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _};
use serde_json::value::RawValue;

use crate::{MoverError, ledger::Ledger, remote::Remote};

/// Largest checkpoint that is read, in bytes: a part of an index in base64, and the tables under way.
const MAX_CHECKPOINT: u64 = 64 << 20;
/// Most objects that are looked at to find one.
const MAX_OBJECTS: usize = 100_000;

/// How far an image has come. `S` is what is kept of the shard under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Checkpoint<S> {
    pub(crate) format: u32,
    /// The files it is about.
    pub(crate) files: FileStem,
    /// Binds what is done: the same source, onto the same images, in the same way.
    pub(crate) work: Digest,
    /// Shards that are stored.
    pub(crate) finished: Vec<ShardRecord>,
    /// The shard that follows them, if it had begun.
    pub(crate) shard: Option<S>,
}

/// What is stored: the checkpoint with the digest of its text.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    blake3: Digest,
    #[serde(borrow)]
    checkpoint: &'a RawValue,
}

/// An unfinished upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UploadState {
    /// Absent as long as everything fits into the tail.
    pub(crate) upload: Option<Upload>,
    /// Parts that the store has.
    pub(crate) parts: Vec<Part>,
    /// The part that comes next.
    pub(crate) next: PartNumber,
    /// Bytes behind those parts, as they are to be stored.
    pub(crate) tail: Blob,
    /// The first bytes of the body, which wait for the head.
    pub(crate) first: Option<FirstPart>,
    /// How all those bytes are sealed.
    pub(crate) seal: Option<SealState>,
}

/// Bytes that lie in an object of their own, because they stay the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FirstPart {
    pub(crate) key: Key,
    pub(crate) size: u64,
    pub(crate) blake3: Digest,
}

/// A region that was interrupted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SealState {
    /// What was sealed of the body. What follows is sealed in a new region.
    pub(crate) layout: Layout,
    /// Bytes of the file behind it that were not sealed yet.
    pub(crate) held: Blob,
}

/// Bytes in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        BASE64_STANDARD.decode(&*text).map(Self).map_err(D::Error::custom)
    }
}

/// Writes the checkpoints of one job.
pub(crate) struct Keeper<'a> {
    remote: &'a Remote,
    ledger: &'a Ledger,
    files: FileStem,
    work: Digest,
    seal: Option<&'a DataKey>,
    /// Whether an earlier attempt was at work under these names.
    goes_on: bool,
    state: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    finished: Vec<ShardRecord>,
    /// Number of the next checkpoint.
    next: u32,
    /// Objects that are there.
    documents: Vec<Key>,
    firsts: Vec<Key>,
}

/// A checkpoint to go on from, and what else is there of its files.
#[derive(Debug)]
pub(crate) struct Found<S> {
    pub(crate) checkpoint: Checkpoint<S>,
    /// Checkpoints of these files, and what they kept besides.
    documents: Vec<Key>,
    firsts: Vec<Key>,
    /// The highest of their numbers.
    number: u32,
}

impl<'a> Keeper<'a> {
    /// Begins, or goes on after what was found.
    pub(crate) fn new<S>(
        remote: &'a Remote,
        ledger: &'a Ledger,
        files: FileStem,
        work: Digest,
        seal: Option<&'a DataKey>,
        found: Option<&Found<S>>,
    ) -> Self {
        let mut state = Kept {
            next: 1,
            ..Kept::default()
        };
        if let Some(found) = found {
            state.finished.clone_from(&found.checkpoint.finished);
            state.next = found.number.saturating_add(1);
            state.documents.clone_from(&found.documents);
            state.firsts.clone_from(&found.firsts);
            for key in found.documents.iter().chain(&found.firsts) {
                ledger.creating(key);
            }
        }
        Self {
            remote,
            ledger,
            files,
            work,
            seal,
            goes_on: found.is_some(),
            state: Mutex::new(state),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps the first bytes of a shard, which checkpoints then name; `None` when they cannot be kept.
    pub(crate) async fn first_part(&self, shard: ShardNumber, bytes: &[u8]) -> Option<FirstPart> {
        let number = self.with(|kept| kept.next);
        let key = self.remote.home.first_part_key(&self.files, shard, number);
        // Also one whose answer was lost has to go again.
        self.with(|kept| kept.firsts.push(key.clone()));
        if let Err(error) = self.put(&key, Bytes::copy_from_slice(bytes)).await {
            self.missed(&error);
            return None;
        }
        Some(FirstPart {
            key,
            size: bytes.len() as u64,
            blake3: Digest::of(bytes),
        })
    }

    /// A shard is stored: no attempt needs to do it again.
    pub(crate) async fn finished(&self, record: &ShardRecord) {
        let firsts = self.with(|kept| {
            kept.finished.push(record.clone());
            std::mem::take(&mut kept.firsts)
        });
        let next = ShardNumber(record.shard.0 + 1);
        self.store::<()>(next, None).await;
        self.remove(&firsts).await;
    }

    /// Writes a checkpoint in the middle of a shard. A failure costs only that the next attempt has more to do.
    pub(crate) async fn store<S: Serialize>(&self, shard: ShardNumber, state: Option<S>) {
        if let Err(error) = self.try_store(shard, state).await {
            self.missed(&error);
        }
    }

    fn missed(&self, error: &MoverError) {
        if !self.remote.cancel.is_cancelled() {
            tracing::warn!(files = %self.files, %error, "no checkpoint could be written");
        }
    }

    async fn try_store<S: Serialize>(&self, shard: ShardNumber, state: Option<S>) -> Result<(), MoverError> {
        let (number, finished) = self.with(|kept| {
            kept.next += 1;
            (kept.next - 1, kept.finished.clone())
        });
        let checkpoint = Checkpoint {
            format: FORMAT_VERSION,
            files: self.files.clone(),
            work: self.work,
            finished,
            shard: state,
        };
        let key = self.remote.home.checkpoint_key(&self.files, shard, number);
        let mut bytes = encode(&checkpoint)?;
        if let Some(data_key) = self.seal {
            let sealed = seal_document(data_key, key.as_str(), &bytes);
            bytes = sealed.map_err(|error| MoverError::Internal(format!("sealing: {error}")))?;
        }
        if let Err(error) = self.put(&key, bytes.into()).await {
            // It may be there all the same.
            self.with(|kept| kept.documents.push(key));
            return Err(error);
        }
        let older = self.with(|kept| std::mem::replace(&mut kept.documents, vec![key]));
        self.remove(&older).await;
        Ok(())
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), MoverError> {
        self.ledger.creating(key);
        tokio::select! {
            () = self.remote.cancel.cancelled() => Err(MoverError::Cancelled),
            done = self.remote.target.put(key, bytes) => Ok(done.map(|_| ())?),
        }
    }

    /// The image is there: checkpoints are of no use any more, nor is anything else that was begun under its names.
    pub(crate) async fn done(&self) {
        let (mut all, firsts) = self.with(|kept| {
            let documents = std::mem::take(&mut kept.documents);
            (documents, std::mem::take(&mut kept.firsts))
        });
        all.extend(firsts);
        self.remove(&all).await;
        let others = async { Ok(self.abort_others().await?) };
        if self.goes_on
            && let Err(error) = self.remote.unless_cancelled(others).await
        {
            tracing::warn!(files = %self.files, %error, "uploads of earlier attempts stay on the target");
        }
    }

    /// Uploads under these names that an earlier attempt had begun and no checkpoint knew.
    async fn abort_others(&self) -> Result<(), TargetError> {
        let Ok(prefix) = format!("{}{}-s", self.remote.home.prefix(), self.files).parse() else {
            return Ok(());
        };
        for open in self.remote.target.list_uploads(&prefix).await? {
            self.remote.target.abort_upload(&open.upload).await?;
        }
        Ok(())
    }

    /// What stays is found by the sweeper.
    async fn remove(&self, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        let removed = tokio::select! {
            () = self.remote.cancel.cancelled() => return,
            removed = self.remote.target.delete(keys) => removed,
        };
        if let Err(error) = removed {
            tracing::warn!(files = %self.files, %error, "old checkpoints stay on the target");
        }
    }
}

fn encode<S: Serialize>(checkpoint: &Checkpoint<S>) -> Result<Vec<u8>, MoverError> {
    let internal = |error: serde_json::Error| MoverError::Internal(error.to_string());
    let text = serde_json::value::to_raw_value(checkpoint).map_err(internal)?;
    let envelope = Envelope {
        format: FORMAT_VERSION,
        blake3: Digest::of(text.get().as_bytes()),
        checkpoint: &text,
    };
    serde_json::to_vec(&envelope).map_err(internal)
}

/// `None` for what is no checkpoint of ours, or not whole.
fn decode<S: DeserializeOwned>(key: &Key, bytes: &[u8]) -> Option<Checkpoint<S>> {
    parse_document::<serde::de::IgnoredAny>(key.as_str(), bytes).ok()?;
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).ok()?;
    let text = envelope.checkpoint.get();
    if Digest::of(text.as_bytes()) != envelope.blake3 {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Readable checkpoints of this work among those of files that `wanted` takes, the newest first. Of rival attempts one may
/// have sent parts again that a checkpoint of the other names, so the newest is not always the one to go on from.
pub(crate) async fn find<S: DeserializeOwned>(
    remote: &Remote,
    prefix: &str,
    wanted: impl Fn(&FileStem) -> bool,
    work: &Digest,
    sealed: bool,
) -> Result<Vec<Found<S>>, TargetError> {
    let Ok(prefix) = format!("{}{prefix}", remote.home.prefix()).parse::<Prefix>() else {
        return Ok(Vec::new());
    };
    let objects = list_all(&*remote.target, &prefix, MAX_OBJECTS).await?;
    let mut there: Vec<(FileStem, ShardNumber, u32, &Key)> = objects
        .iter()
        .filter_map(|object| {
            let (files, shard, number) = remote.home.checkpoint_of(&object.key)?;
            wanted(&files).then_some((files, shard, number, &object.key))
        })
        .collect();
    there.sort_unstable();
    let mut all = Vec::new();
    for (files, _, _, key) in there.iter().rev() {
        let read = remote.target.get(key, MAX_CHECKPOINT).await;
        let Ok(object) = read else { continue };
        let Some(checkpoint) = open::<S>(remote, key, &object.body, sealed) else {
            continue;
        };
        if checkpoint.files == *files && checkpoint.work == *work {
            let of_these = there.iter().filter(|(other, ..)| other == files);
            let is_first = |key: &&Key| {
                key.as_str().ends_with(".part") && remote.home.stem_of(key).as_ref() == Some(files)
            };
            let firsts = objects.iter().map(|object| &object.key).filter(is_first);
            all.push(Found {
                checkpoint,
                firsts: firsts.cloned().collect(),
                number: of_these
                    .clone()
                    .map(|(_, _, number, _)| *number)
                    .max()
                    .unwrap_or(0),
                documents: of_these.map(|(.., key)| (*key).clone()).collect(),
            });
        }
    }
    Ok(all)
}

fn open<S: DeserializeOwned>(
    remote: &Remote,
    key: &Key,
    bytes: &[u8],
    sealed: bool,
) -> Option<Checkpoint<S>> {
    // Somebody without the key cannot have us go on with what he wrote.
    if sealed != peek(bytes).is_ok() {
        return None;
    }
    if !sealed {
        return decode(key, bytes);
    }
    let keys: &KeyRing = &remote.keys;
    let plain = open_document(key.as_str(), bytes, keys, MAX_CHECKPOINT).ok()?;
    decode(key, &plain)
}

/// Whether the store still has the parts of an upload as they were answered.
pub(crate) async fn is_there(remote: &Remote, upload: &Upload, parts: &[Part]) -> bool {
    let there = remote.target.list_parts(upload).await;
    there.is_ok_and(|there| parts.iter().all(|part| there.contains(part)))
}

/// Whether shards are stored as the records of these files say.
pub(crate) async fn are_stored(remote: &Remote, files: &FileStem, finished: &[ShardRecord]) -> bool {
    for (record, number) in finished.iter().zip((0..).map(ShardNumber)) {
        let names = (files.image_name(number), files.index_name(number));
        let ours = record.shard == number && (&record.image.key, &record.index.key) == (&names.0, &names.1);
        if !ours
            || remote.is_bound(&record.image).await.is_err()
            || remote.is_bound(&record.index).await.is_err()
        {
            return false;
        }
    }
    true
}

/// The first bytes of a shard, if they are what was kept.
pub(crate) async fn read_first(remote: &Remote, first: &FirstPart) -> Option<Bytes> {
    let object = remote.target.get(&first.key, first.size).await.ok()?;
    let whole = object.body.len() as u64 == first.size && Digest::of(&object.body) == first.blake3;
    whole.then_some(object.body)
}
