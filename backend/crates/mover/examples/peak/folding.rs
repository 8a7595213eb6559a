//! A target that keeps every distinct block of 64 KiB once.
//!
//! A disk of a TiB whose content repeats becomes an image whose blocks repeat, since payload begins on a cluster in every
//! span. So the image of a dense disk is stored in the room of one repetition, and can be read again. What is kept in
//! memory is little and does not follow the size of objects: block numbers lie in files, too.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_target::{
    Creation, ETag, ErrorKind, Immutability, Key, ListRequest, Listing, Object, ObjectMeta, OpenUpload, Part,
    PartNumber, Pin, Prefix, ProbeReport, Target, TargetError, Upload, Version, layout::Digest,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const BLOCK: usize = 64 << 10;
/// Now and then a store is slow for some parts: then everything that waits for it is full.
const EVERY: u32 = 64;
const SLOW_PARTS: u32 = 5;
const SLOW: Duration = Duration::from_secs(2);

/// What a mover asks of a target, on a folder that the next process may open again.
#[derive(Debug)]
pub(crate) struct FoldingTarget {
    folder: PathBuf,
    blocks: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Digest, u32>,
    next_block: u32,
    objects: BTreeMap<Key, Stored>,
    uploads: BTreeMap<String, Upload>,
}

/// An object; its block numbers lie in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    size: u64,
    etag: ETag,
    numbers: PathBuf,
}

impl FoldingTarget {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let blocks = options.open(folder.join("blocks"))?;
        let objects = match fs::read(folder.join("objects.json")) {
            Ok(json) => serde_json::from_slice(&json)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let next_block = u32::try_from(blocks.metadata()?.len() / BLOCK as u64).map_err(io::Error::other)?;
        let state = State {
            next_block,
            objects,
            ..State::default()
        };
        Ok(Self {
            folder: folder.to_owned(),
            blocks,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, key: &Key, why: &str) -> TargetError {
        TargetError::new(kind, operation, key, &self.describe(), why)
    }

    fn broken(&self, operation: &'static str, key: &Key, error: &io::Error) -> TargetError {
        self.error(ErrorKind::Other, operation, key, &error.to_string())
    }

    /// Stores what is new of some bytes and writes their block numbers to a file. Returns their tag.
    fn fold(&self, bytes: &[u8], numbers: &Path) -> io::Result<ETag> {
        let mut digests = Vec::with_capacity(bytes.len().div_ceil(BLOCK) * 32);
        let mut list = Vec::with_capacity(bytes.len().div_ceil(BLOCK) * 4);
        for block in bytes.chunks(BLOCK) {
            let digest = Digest::of(block);
            let (number, is_new) = {
                let state = &mut *self.state();
                let next = state.next_block;
                let number = *state.known.entry(digest).or_insert(next);
                state.next_block += u32::from(number == next);
                (number, number == next)
            };
            if is_new {
                let mut whole = block.to_vec();
                whole.resize(BLOCK, 0);
                self.blocks
                    .write_all_at(&whole, u64::from(number) * BLOCK as u64)?;
            }
            digests.extend_from_slice(&digest.0);
            list.extend_from_slice(&number.to_le_bytes());
        }
        fs::write(numbers, list)?;
        Ok(ETag::new(&Digest::of(&digests).to_string()[..32]))
    }

    fn unfold(&self, stored: &Stored, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let (block, numbers) = (BLOCK as u64, File::open(&stored.numbers)?);
        let first = range.start / block;
        let mut list = vec![0; (range.end.div_ceil(block) - first) as usize * 4];
        numbers.read_exact_at(&mut list, first * 4)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (at, number) in (first..).zip(list.chunks_exact(4)) {
            let number = number
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u64::from(*byte));
            let (from, to) = (range.start.max(at * block), range.end.min((at + 1) * block));
            let into = &mut bytes[(from - range.start) as usize..(to - range.start) as usize];
            self.blocks.read_exact_at(into, number * block + from % block)?;
        }
        Ok(bytes)
    }

    /// Makes an object visible, to the next process as well.
    fn insert(&self, key: &Key, stored: Stored) -> io::Result<ObjectMeta> {
        let mut state = self.state();
        let meta = stored.meta(key);
        state.objects.insert(key.clone(), stored);
        fs::write(
            self.folder.join("objects.json"),
            serde_json::to_vec(&state.objects)?,
        )?;
        Ok(meta)
    }

    fn numbers_of(&self, key: &Key) -> PathBuf {
        self.folder.join(key.as_str().replace('/', "_"))
    }

    fn part_of(&self, upload: &Upload, number: PartNumber) -> PathBuf {
        self.folder.join(format!("{}-part-{:05}", upload.id, number.0))
    }

    fn find(&self, key: &Key) -> Result<Stored, TargetError> {
        let found = self.state().objects.get(key).cloned();
        found.ok_or_else(|| self.error(ErrorKind::NotFound, "read", key, "it is not there"))
    }
}

impl Stored {
    fn meta(&self, key: &Key) -> ObjectMeta {
        ObjectMeta {
            key: key.clone(),
            size: self.size,
            etag: self.etag.clone(),
            version: None,
            modified: 0,
        }
    }
}

#[async_trait]
impl Target for FoldingTarget {
    fn describe(&self) -> String {
        format!("folder {}", self.folder.display())
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError> {
        match self.put_new(key, body).await? {
            Creation::Created(meta) => Ok(meta),
            Creation::Exists => Err(self.error(ErrorKind::Exists, "write", key, "it exists")),
        }
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError> {
        if self.state().objects.contains_key(key) {
            return Ok(Creation::Exists);
        }
        let numbers = self.numbers_of(key);
        let stored = self.fold(&body, &numbers).map(|etag| Stored {
            size: body.len() as u64,
            etag,
            numbers,
        });
        let meta = stored.and_then(|stored| self.insert(key, stored));
        meta.map(Creation::Created)
            .map_err(|error| self.broken("write", key, &error))
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError> {
        let stored = self.find(key)?;
        if stored.size > max {
            return Err(self.error(ErrorKind::TooLarge, "read", key, "it is too large"));
        }
        let body = self.unfold(&stored, &(0..stored.size));
        let body = body.map_err(|error| self.broken("read", key, &error))?.into();
        Ok(Object {
            meta: stored.meta(key),
            body,
        })
    }

    async fn get_range(&self, key: &Key, range: Range<u64>, pin: Option<&Pin>) -> Result<Bytes, TargetError> {
        let stored = self.find(key)?;
        if pin.is_some_and(|pin| pin.etag != stored.etag) || range.end > stored.size {
            return Err(self.error(ErrorKind::Changed, "read", key, "it is another one"));
        }
        let bytes = self.unfold(&stored, &range);
        bytes
            .map(Bytes::from)
            .map_err(|error| self.broken("read", key, &error))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError> {
        self.find(key).map(|stored| stored.meta(key))
    }

    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError> {
        let state = self.state();
        let prefix = request.prefix.as_str();
        let objects = state
            .objects
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix));
        Ok(Listing {
            objects: objects.map(|(key, stored)| stored.meta(key)).collect(),
            ..Listing::default()
        })
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError> {
        let mut state = self.state();
        keys.iter().for_each(|key| drop(state.objects.remove(key)));
        Ok(())
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError> {
        let mut state = self.state();
        let upload = Upload {
            key: key.clone(),
            id: format!("{}-upload-{}", key.file_name(), state.uploads.len()),
        };
        state.uploads.insert(upload.id.clone(), upload.clone());
        Ok(upload)
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        _offset: u64,
        body: Bytes,
    ) -> Result<Part, TargetError> {
        if number.0 % EVERY < SLOW_PARTS {
            tokio::time::sleep(SLOW).await;
        }
        let folded = self.fold(&body, &self.part_of(upload, number));
        Ok(Part {
            number,
            etag: folded.map_err(|error| self.broken("upload a part of", &upload.key, &error))?,
            size: body.len() as u64,
        })
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        _number: PartNumber,
        _offset: u64,
        _source: &Key,
        _range: Range<u64>,
        _pin: &Pin,
    ) -> Result<Part, TargetError> {
        let why = "no job that is measured copies";
        Err(self.error(ErrorKind::Unsupported, "copy a part of", &upload.key, why))
    }

    async fn list_parts(&self, _upload: &Upload) -> Result<Vec<Part>, TargetError> {
        Ok(Vec::new())
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        _if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
        let mut sorted: Vec<&Part> = parts.iter().collect();
        sorted.sort_by_key(|part| part.number);
        let whole = |part: &&Part| part.size.is_multiple_of(BLOCK as u64);
        if !sorted[..sorted.len().saturating_sub(1)].iter().all(whole) {
            let why = "a part in the middle is not made of whole blocks";
            return Err(self.error(ErrorKind::Invalid, "finish the upload of", &upload.key, why));
        }
        let join = || {
            let numbers = self.numbers_of(&upload.key);
            let mut joined = File::create(&numbers)?;
            for part in &sorted {
                let path = self.part_of(upload, part.number);
                io::copy(&mut File::open(&path)?, &mut joined)?;
                fs::remove_file(path)?;
            }
            let tags: String = sorted.iter().map(|part| part.etag.as_str()).collect();
            let stored = Stored {
                size: sorted.iter().map(|part| part.size).sum(),
                etag: ETag::new(&Digest::of(tags.as_bytes()).to_string()[..32]),
                numbers,
            };
            self.insert(&upload.key, stored)
        };
        join().map_err(|error| self.broken("finish the upload of", &upload.key, &error))
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError> {
        self.state().uploads.remove(&upload.id);
        Ok(())
    }

    async fn list_uploads(&self, _prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError> {
        Ok(Vec::new())
    }

    async fn immutability(&self) -> Result<Immutability, TargetError> {
        Ok(Immutability::default())
    }

    async fn lock(&self, _: &Key, _: &Version, _: Timestamp) -> Result<(), TargetError> {
        unreachable!("no volume is locked")
    }

    async fn locked_until(&self, _: &Key, _: &Version) -> Result<Option<Timestamp>, TargetError> {
        Ok(None)
    }

    async fn probe(&self) -> Result<ProbeReport, TargetError> {
        Ok(ProbeReport { took: Duration::ZERO })
    }
}
