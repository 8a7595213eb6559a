//! A target in memory, for tests of what lies above it.
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    Creation, ETag, ErrorKind, Immutability, Key, ListRequest, Listing, MAX_LIST, Object, ObjectMeta,
    OpenUpload, Part, PartNumber, Pin, Prefix, ProbeReport, Target, TargetError, Upload, Version,
    layout::Digest,
};

/// A bucket that is gone with the test.
#[derive(Debug, Default)]
pub struct MemoryTarget {
    state: Mutex<State>,
}

/// Parts with the offsets that were announced for them.
type Parts = BTreeMap<PartNumber, (u64, Bytes)>;

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, (Bytes, ETag, i64)>,
    uploads: BTreeMap<String, (Key, Parts)>,
    uploads_begun: u64,
}

impl MemoryTarget {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every key there is, in order.
    pub fn keys(&self) -> Vec<Key> {
        self.state().objects.keys().cloned().collect()
    }

    /// Replaces bytes behind everybody's back, as a broken disk would: the entity tag stays.
    pub fn damage(&self, key: &Key, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let (bytes, _, _) = state.objects.get_mut(key).expect("the object to damage is there");
        let mut changed = bytes.to_vec();
        change(&mut changed);
        *bytes = changed.into();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, key: &Key) -> TargetError {
        TargetError::new(kind, operation, key, &self.describe(), format!("{kind:?}"))
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}

impl State {
    fn insert(&mut self, key: &Key, body: Bytes, etag: ETag) -> ObjectMeta {
        let (size, modified) = (body.len() as u64, now());
        self.objects.insert(key.clone(), (body, etag.clone(), modified));
        ObjectMeta {
            key: key.clone(),
            size,
            etag,
            version: None,
            modified,
        }
    }

    fn slice(&self, key: &Key, range: &Range<u64>, pin: Option<&Pin>) -> Result<Bytes, ErrorKind> {
        let (body, found, _) = self.objects.get(key).ok_or(ErrorKind::NotFound)?;
        if pin.is_some_and(|pin| pin.etag != *found) || range.end > body.len() as u64 {
            return Err(ErrorKind::Changed);
        }
        let at = |offset| usize::try_from(offset).expect("it is inside memory");
        Ok(body.slice(at(range.start)..at(range.end)))
    }

    fn store_part(
        &mut self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        body: Bytes,
    ) -> Result<Part, ErrorKind> {
        let (_, parts) = self.uploads.get_mut(&upload.id).ok_or(ErrorKind::NotFound)?;
        let part = part(number, &body);
        parts.insert(number, (offset, body));
        Ok(part)
    }

    fn meta(&self, key: &Key) -> Option<ObjectMeta> {
        let (body, etag, modified) = self.objects.get(key)?;
        Some(ObjectMeta {
            key: key.clone(),
            size: body.len() as u64,
            etag: etag.clone(),
            version: None,
            modified: *modified,
        })
    }
}

fn part(number: PartNumber, body: &[u8]) -> Part {
    Part {
        number,
        etag: etag(body),
        size: body.len() as u64,
    }
}

fn etag(body: &[u8]) -> ETag {
    ETag::new(&Digest::of(body).to_string()[..32])
}

#[async_trait]
impl Target for MemoryTarget {
    fn describe(&self) -> String {
        "bucket in memory".to_owned()
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError> {
        match self.put_new(key, body.clone()).await? {
            Creation::Created(meta) => Ok(meta),
            Creation::Exists => {
                let state = self.state();
                let same = state.objects.get(key).is_some_and(|(there, ..)| *there == body);
                state
                    .meta(key)
                    .filter(|_| same)
                    .ok_or_else(|| self.error(ErrorKind::Exists, "write", key))
            }
        }
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError> {
        let mut state = self.state();
        if state.objects.contains_key(key) {
            return Ok(Creation::Exists);
        }
        let etag = etag(&body);
        Ok(Creation::Created(state.insert(
            key,
            Bytes::copy_from_slice(&body),
            etag,
        )))
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError> {
        let state = self.state();
        let meta = state
            .meta(key)
            .ok_or_else(|| self.error(ErrorKind::NotFound, "read", key))?;
        if meta.size > max {
            return Err(self.error(ErrorKind::TooLarge, "read", key));
        }
        let body = state.objects[key].0.clone();
        Ok(Object { meta, body })
    }

    async fn get_range(&self, key: &Key, range: Range<u64>, pin: Option<&Pin>) -> Result<Bytes, TargetError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let read = self.state().slice(key, &range, pin);
        read.map_err(|kind| self.error(kind, "read", key))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError> {
        self.state()
            .meta(key)
            .ok_or_else(|| self.error(ErrorKind::NotFound, "look up", key))
    }

    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError> {
        let state = self.state();
        let mut listing = Listing::default();
        let mut entries = 0;
        let mut last: Option<String> = None;
        let prefix = request.prefix.as_str();
        for key in state
            .objects
            .keys()
            .filter(|key| key.as_str().starts_with(prefix))
        {
            let folder = key.as_str()[prefix.len()..].find('/').filter(|_| request.folders);
            let entry = match folder {
                Some(slash) => &key.as_str()[..=prefix.len() + slash],
                None => key.as_str(),
            };
            // A folder sorts before what lies in it, so one comparison serves both.
            if request.after.as_deref().is_some_and(|after| entry <= after) || last.as_deref() == Some(entry)
            {
                continue;
            }
            if entries == request.limit.clamp(1, MAX_LIST) {
                listing.next = last;
                break;
            }
            match folder {
                Some(_) => listing.prefixes.push(Prefix::new(entry.to_owned())),
                None => listing.objects.extend(state.meta(key)),
            }
            entries += 1;
            last = Some(entry.to_owned());
        }
        Ok(listing)
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError> {
        let mut state = self.state();
        for key in keys {
            state.objects.remove(key);
        }
        Ok(())
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError> {
        let mut state = self.state();
        state.uploads_begun += 1;
        let id = format!("upload-{}", state.uploads_begun);
        state.uploads.insert(id.clone(), (key.clone(), BTreeMap::new()));
        Ok(Upload { key: key.clone(), id })
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        body: Bytes,
    ) -> Result<Part, TargetError> {
        // The caller's memory may be a buffer that it waits for.
        let body = Bytes::copy_from_slice(&body);
        let stored = self.state().store_part(upload, number, offset, body);
        stored.map_err(|kind| self.error(kind, "upload a part of", &upload.key))
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        source: &Key,
        range: Range<u64>,
        pin: &Pin,
    ) -> Result<Part, TargetError> {
        let mut state = self.state();
        let copied = state
            .slice(source, &range, Some(pin))
            .and_then(|body| state.store_part(upload, number, offset, body));
        copied.map_err(|kind| self.error(kind, "copy a part of", source))
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>, TargetError> {
        let state = self.state();
        let (_, parts) = state
            .uploads
            .get(&upload.id)
            .ok_or_else(|| self.error(ErrorKind::NotFound, "list the parts of", &upload.key))?;
        Ok(parts
            .iter()
            .map(|(number, (_, body))| part(*number, body))
            .collect())
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
        let mut state = self.state();
        let refuse = |kind| Err(self.error(kind, "finish the upload of", &upload.key));
        let Some((key, stored)) = state.uploads.get(&upload.id).cloned() else {
            return refuse(ErrorKind::NotFound);
        };
        if if_absent && state.objects.contains_key(&key) {
            return refuse(ErrorKind::Exists);
        }
        let mut sorted = parts.to_vec();
        sorted.sort_by_key(|part| part.number);
        let mut body = Vec::new();
        for (position, part) in sorted.iter().enumerate() {
            let last = position + 1 == sorted.len();
            match stored.get(&part.number) {
                // As real stores do; and as a folder does, which puts each part to where it was announced.
                Some((offset, bytes))
                    if etag(bytes) == part.etag
                        && *offset == body.len() as u64
                        && (last || bytes.len() >= 5 << 20) =>
                {
                    body.extend_from_slice(bytes);
                }
                _ => return refuse(ErrorKind::Other),
            }
        }
        state.uploads.remove(&upload.id);
        let tag = ETag::new(&format!("{}-{}", etag(&body).as_str(), sorted.len()));
        Ok(state.insert(&key, body.into(), tag))
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError> {
        self.state().uploads.remove(&upload.id);
        Ok(())
    }

    async fn list_uploads(&self, prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError> {
        let state = self.state();
        let uploads = state
            .uploads
            .iter()
            .filter(|(_, (key, _))| key.as_str().starts_with(prefix.as_str()));
        let open = |(id, (key, _)): (&String, &(Key, _))| OpenUpload {
            upload: Upload {
                key: key.clone(),
                id: id.clone(),
            },
            initiated: 0,
        };
        Ok(uploads.map(open).collect())
    }

    async fn immutability(&self) -> Result<Immutability, TargetError> {
        Ok(Immutability::default())
    }

    async fn lock(&self, key: &Key, _: &Version, _: Timestamp) -> Result<(), TargetError> {
        Err(self.error(ErrorKind::Unsupported, "lock", key))
    }

    async fn locked_until(&self, _: &Key, _: &Version) -> Result<Option<Timestamp>, TargetError> {
        Ok(None)
    }

    async fn probe(&self) -> Result<ProbeReport, TargetError> {
        Ok(ProbeReport { took: Duration::ZERO })
    }
}
