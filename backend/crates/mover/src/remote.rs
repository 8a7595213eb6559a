//! Objects on the target, read from threads that may block, bound by the size and entity tag of their record.
use std::{
    cmp::Ordering,
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_qcow2::{ClusterSize, Geometry, Image, Index, ReadAt};
use holdfast_seal::{DataKey, KeyId, KeyRing, OpenError, Unlocked};
use holdfast_target::{
    Key, ObjectMeta, Pin, Target, TargetError,
    layout::{Digest, ImageId, ImageRecord, ObjectRecord, ShardRecord, VolumeHome},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{Damage, MoverError, limits};

/// Small reads fetch this much, so that opening a file takes one request, or two.
const WINDOW: u64 = 128 << 10;
/// Behind the first window, reads of so many bytes fetch just what they ask for: tables lie apart from each other.
const TABLE: u64 = 16 << 10;

/// What reading from the target needs.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) target: Arc<dyn Target>,
    pub(crate) home: VolumeHome,
    pub(crate) runtime: Handle,
    pub(crate) cancel: CancellationToken,
    /// Data keys of everything that the job reads and writes.
    pub(crate) keys: Arc<KeyRing>,
}

impl Remote {
    /// Key of a file of this home.
    pub(crate) fn key(&self, record: &ObjectRecord) -> Key {
        let key = self.home.file_key(&record.key);
        key.expect("the files in records were checked to be those of an image")
    }

    /// Waits for the network on a thread that may block; stops at once when cancelled.
    pub(crate) fn wait<T>(&self, call: impl Future<Output = Result<T, TargetError>>) -> Result<T, WaitError> {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.cancel.cancelled() => Err(WaitError::Cancelled),
                outcome = call => outcome.map_err(WaitError::Target),
            }
        })
    }

    /// Stops waiting when cancelled.
    pub(crate) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, MoverError>>,
    ) -> Result<T, MoverError> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(MoverError::Cancelled),
            outcome = work => outcome,
        }
    }

    /// The key under which files of an image are sealed, where a job says so.
    pub(crate) fn write_key(
        &self,
        seal: Option<&KeyId>,
        image: &ImageId,
    ) -> Result<Option<&DataKey>, MoverError> {
        let Some(id) = seal else {
            return Ok(None);
        };
        let key = self.keys.get(id).map(Some);
        key.ok_or_else(|| MoverError::sealed(image, OpenError::NoKey(id.clone())))
    }

    /// How an object is read, which may be sealed.
    pub(crate) fn unlock(&self, key: &Key, record: &ObjectRecord) -> Result<Opening, MoverError> {
        let Some(layout) = &record.seal else {
            return Ok(Opening(None));
        };
        let unlocked = layout
            .unlock(&self.keys)
            .map_err(|error| MoverError::sealed(key, error))?;
        if layout.sealed_len() == record.size {
            return Ok(Opening(Some(unlocked)));
        }
        let what = format!(
            "its regions have {} bytes, the object has {}",
            layout.sealed_len(),
            record.size
        );
        Err(MoverError::damaged_by(Damage::Unfitting, key, what))
    }

    fn file(&self, key: Key, record: &ObjectRecord) -> Result<RemoteFile, MoverError> {
        Ok(RemoteFile {
            remote: self.clone(),
            opening: self.unlock(&key, record)?,
            key,
            size: record.size,
            pin: record.pin(),
            window: Mutex::default(),
        })
    }

    /// Opens the index of a shard and checks that it is the one the record binds. Blocks.
    pub(crate) fn open_index(
        &self,
        image: &ImageRecord,
        shard: &ShardRecord,
    ) -> Result<Index<RemoteFile>, MoverError> {
        let key = self.key(&shard.index);
        let disk = disk(&key, image, shard)?;
        let index = Index::open_for(self.file(key.clone(), &shard.index)?, &disk)
            .map_err(|error| MoverError::index(&key, error))?;
        let spec = index.spec();
        let wrong = |what: &str| Err(MoverError::damaged(&key, what));
        if Digest(index.digest().0) != shard.index_digest {
            return wrong("its digest is not the recorded one");
        }
        if spec.image.as_str() != shard.image.key {
            return wrong("it is the index of another image");
        }
        Ok(index)
    }

    /// Opens the image of a shard. Blocks.
    pub(crate) fn open_image(
        &self,
        image: &ImageRecord,
        shard: &ShardRecord,
    ) -> Result<Image<RemoteFile>, MoverError> {
        let key = self.key(&shard.image);
        let disk = disk(&key, image, shard)?;
        Image::open_for(self.file(key.clone(), &shard.image)?, &disk)
            .map_err(|error| MoverError::image(&key, error))
    }

    /// Checks that the keys of every object of these images are at hand.
    pub(crate) fn check_keys(&self, images: &[ImageRecord]) -> Result<(), MoverError> {
        for object in objects(images) {
            self.unlock(&self.key(object), object)?;
        }
        Ok(())
    }

    /// Checks that every object of these images is there with the size and entity tag that were recorded.
    pub(crate) async fn check_bound(&self, images: &[ImageRecord]) -> Result<(), MoverError> {
        // Boxed one by one: the compiler cannot see that a stream of borrowing closures is Send.
        let checks: Vec<futures::future::BoxFuture<'_, _>> = objects(images)
            .map(|object| Box::pin(self.is_bound(object)) as _)
            .collect();
        let checks = stream::iter(checks)
            .buffer_unordered(limits::RANGES)
            .try_collect::<()>();
        self.unless_cancelled(checks).await
    }

    /// The records of these images as their objects lie here. What a copy of a store gave another entity tag, or another
    /// version, is read all the same by those who check every byte by digests and hashes.
    pub(crate) async fn located(&self, images: &[ImageRecord]) -> Result<Vec<ImageRecord>, MoverError> {
        let heads: Vec<futures::future::BoxFuture<'_, Result<ObjectMeta, MoverError>>> = objects(images)
            .map(|object| Box::pin(self.head(object)) as _)
            .collect();
        let heads = stream::iter(heads)
            .buffered(limits::RANGES)
            .try_collect::<Vec<_>>();
        let mut heads = self.unless_cancelled(heads).await?.into_iter();
        let (mut located, mut others) = (images.to_vec(), 0);
        let shards = located.iter_mut().flat_map(|image| &mut image.shards);
        for object in shards.flat_map(|shard| [&mut shard.image, &mut shard.index]) {
            let Some(found) = heads.next().filter(|found| found.etag != object.etag) else {
                continue;
            };
            (object.etag, object.version) = (found.etag, found.version);
            others += 1;
        }
        if others > 0 {
            tracing::warn!(
                home = %self.home, objects = others,
                "objects have other ETags than were recorded, as in a copy of the store; their content decides"
            );
        }
        Ok(located)
    }

    /// What the store has of an object, which has the size that was recorded.
    async fn head(&self, record: &ObjectRecord) -> Result<ObjectMeta, MoverError> {
        let key = self.key(record);
        let found = self.target.head(&key).await;
        let found = found.map_err(|error| MoverError::bound(&key, error))?;
        let damage = match found.size.cmp(&record.size) {
            Ordering::Equal => return Ok(found),
            Ordering::Less => Damage::Truncated,
            Ordering::Greater => Damage::Altered,
        };
        let what = format!("it has {} bytes, recorded are {}", found.size, record.size);
        Err(MoverError::damaged_by(damage, &key, what))
    }

    /// Checks that an object is there with the size and entity tag that were recorded.
    pub(crate) async fn is_bound(&self, record: &ObjectRecord) -> Result<(), MoverError> {
        let found = self.head(record).await?;
        if found.etag == record.etag {
            return Ok(());
        }
        let what = format!(
            "it has the ETag {}, recorded is {}; where the whole store is a copy, a restore reads it all the same",
            found.etag.as_str(),
            record.etag.as_str()
        );
        Err(MoverError::damaged_by(Damage::Altered, self.key(record), what))
    }
}

/// Every object of these images.
fn objects(images: &[ImageRecord]) -> impl Iterator<Item = &ObjectRecord> {
    let shards = images.iter().flat_map(|image| &image.shards);
    shards.flat_map(|shard| [&shard.image, &shard.index])
}

/// The disk of a shard as its record says it. With it a file of the target cannot say how much memory its tables take.
fn disk(key: &Key, image: &ImageRecord, shard: &ShardRecord) -> Result<Geometry, MoverError> {
    ClusterSize::new(image.cluster_size.into())
        .and_then(|cluster_size| Geometry::new(shard.virtual_size, cluster_size))
        .map_err(|error| MoverError::damaged(key, format!("its record is of no volume: {error}")))
}

/// How the bytes of an object become those of its file: as they are, or opened with its keys.
#[derive(Debug)]
pub(crate) struct Opening(Option<Unlocked>);

impl Opening {
    /// Where the object holds these bytes of the file.
    pub(crate) fn stored(&self, file: &Range<u64>) -> Result<Range<u64>, OpenError> {
        match &self.0 {
            Some(seal) => Ok(seal.layout().locate(file)?),
            None => Ok(file.clone()),
        }
    }

    /// These bytes of the file, of what the object holds for them.
    pub(crate) fn open(&self, file: &Range<u64>, stored: Bytes) -> Result<Bytes, OpenError> {
        match &self.0 {
            Some(seal) => Ok(seal.open(file, stored.into())?.into()),
            None => Ok(stored),
        }
    }

    /// Whether opening takes work.
    pub(crate) fn is_sealed(&self) -> bool {
        self.0.is_some()
    }

    /// Bytes of the file of an object with this many.
    fn size(&self, stored: u64) -> u64 {
        self.0.as_ref().map_or(stored, |seal| seal.layout().plain_len())
    }
}

/// Why a wait for the network ended without success.
#[derive(Debug)]
pub(crate) enum WaitError {
    Cancelled,
    Target(TargetError),
}

impl From<WaitError> for MoverError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Cancelled => Self::Cancelled,
            WaitError::Target(error) => Self::Target(error),
        }
    }
}

/// One object with random access. Errors of the target travel inside the [`io::Error`].
#[derive(Debug)]
pub(crate) struct RemoteFile {
    remote: Remote,
    key: Key,
    size: u64,
    pin: Pin,
    opening: Opening,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    start: u64,
    bytes: Bytes,
}

impl RemoteFile {
    /// These bytes of the file, opened where it is sealed.
    fn fetch(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let wanted = start..end;
        let stored = self.opening.stored(&wanted).map_err(io::Error::other)?;
        let length = stored.end - stored.start;
        let call = self.remote.target.get_range(&self.key, stored, Some(&self.pin));
        let bytes = self.remote.wait(call).map_err(|error| match error {
            WaitError::Target(error) => io::Error::other(error),
            WaitError::Cancelled => io::ErrorKind::Interrupted.into(),
        })?;
        if bytes.len() as u64 != length {
            let what = format!("{} bytes came instead of {length}", bytes.len());
            return Err(io::Error::other(what));
        }
        self.opening.open(&wanted, bytes).map_err(io::Error::other)
    }
}

impl ReadAt for RemoteFile {
    fn size(&self) -> u64 {
        self.opening.size(self.size)
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = buf.len() as u64;
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.size())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        if len > WINDOW / 2 || len >= TABLE && offset >= WINDOW {
            buf.copy_from_slice(&self.fetch(offset, end)?);
            return Ok(());
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < window.start || end > window.start + window.bytes.len() as u64 {
            // A read at the end is followed by reads before it: footers point back.
            let last = self.size().saturating_sub(WINDOW);
            let start = offset.min(last).max(end.saturating_sub(WINDOW));
            window.bytes = self.fetch(start, (start + WINDOW).min(self.size()))?;
            window.start = start;
        }
        let from = usize::try_from(offset - window.start).expect("a window is small");
        buf.copy_from_slice(&window.bytes[from..from + buf.len()]);
        Ok(())
    }
}
