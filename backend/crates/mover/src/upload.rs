//! A stream of bytes to an object, part by part, with the first part last.
use std::{collections::VecDeque, sync::Arc};

use holdfast_qcow2::BodySink;
use holdfast_seal::{DataKey, Layout, SEGMENT, SealError, Sealer, TAG};
use holdfast_target::{
    ErrorKind, Key, ObjectMeta, Part, PartNumber, TargetError, Upload, layout::ObjectRecord,
};
use tokio::task::JoinSet;

use crate::{
    MoverError, Progress,
    buffer::{PartBuffer, Pool},
    checkpoint::{Blob, FirstPart, SealState, UploadState},
    ledger::Ledger,
    remote::Remote,
};

/// Takes appended bytes and cuts them into parts of equal size (some stores insist on that). Never waits and never
/// fails: what does not fit the current buffer is spilled until [`ObjectUpload::drain`].
#[derive(Debug)]
struct Cutter {
    current: Option<PartBuffer>,
    /// Bytes that fill the current buffer; the first one leaves room for the head.
    limit: usize,
    spill: VecDeque<u8>,
}

impl Cutter {
    fn append(&mut self, mut bytes: &[u8]) {
        if let Some(current) = self.current.as_mut().filter(|_| self.spill.is_empty()) {
            let fits = current.fill(bytes, self.limit);
            bytes = &bytes[fits..];
        }
        self.spill.extend(bytes);
    }
}

/// Seals what is uploaded: the head as a region of its own, because it is known last and leaves last.
#[derive(Debug)]
struct Seal {
    head: Sealer,
    /// What earlier attempts sealed of the body.
    before: Layout,
    body: Sealer,
    /// Sealed bytes on their way into the cutter.
    sealed: Vec<u8>,
    failed: Option<SealError>,
}

impl Seal {
    fn new(key: &DataKey) -> Self {
        Self {
            head: Sealer::new(key),
            before: Layout::default(),
            body: Sealer::new(key),
            sealed: Vec::new(),
            failed: None,
        }
    }

    /// Seals bytes of the body. An error is kept for the end: a sink does not fail.
    fn append(&mut self, plain: &[u8], cutter: &mut Cutter) {
        self.sealed.clear();
        if let Err(error) = self.body.push(plain, &mut self.sealed) {
            self.failed = Some(error);
        }
        cutter.append(&self.sealed);
    }

    /// Ends both regions; gives the sealed head and how the whole object is sealed.
    fn finish(mut self, head: &[u8], cutter: &mut Cutter) -> Result<(Vec<u8>, Layout), MoverError> {
        let internal = |error: &dyn std::fmt::Display| MoverError::Internal(format!("sealing: {error}"));
        if let Some(error) = self.failed {
            return Err(internal(&error));
        }
        self.sealed.clear();
        let body = self.body.finish(&mut self.sealed).map_err(|e| internal(&e))?;
        cutter.append(&self.sealed);
        let mut sealed = Vec::new();
        self.head.push(head, &mut sealed).map_err(|e| internal(&e))?;
        let first = self.head.finish(&mut sealed).map_err(|e| internal(&e))?;
        let layout = Layout::concat([&first, &self.before, &body]).map_err(|e| internal(&e))?;
        Ok((sealed, layout))
    }
}

/// A stored object and how it is sealed.
#[derive(Debug)]
pub(crate) struct Uploaded {
    pub(crate) meta: ObjectMeta,
    pub(crate) seal: Option<Layout>,
}

impl Uploaded {
    /// What documents say of it, whose file has this name.
    pub(crate) fn record(&self, name: String) -> ObjectRecord {
        ObjectRecord {
            key: name,
            size: self.meta.size,
            etag: self.meta.etag.clone(),
            version: self.meta.version.clone(),
            seal: self.seal.clone(),
        }
    }

    /// Bytes of the file, whatever the store holds of it.
    pub(crate) fn file_size(&self) -> u64 {
        self.seal.as_ref().map_or(self.meta.size, Layout::plain_len)
    }
}

/// One object being uploaded. All methods block.
#[derive(Debug)]
pub(crate) struct ObjectUpload {
    remote: Remote,
    ledger: Arc<Ledger>,
    progress: Arc<Progress>,
    key: Key,
    pool: Arc<Pool>,
    cutter: Cutter,
    /// The first bytes of the body, kept for part 1 where there is a head.
    held: Option<PartBuffer>,
    /// Stored bytes of the head.
    head: usize,
    seal: Option<Seal>,
    next: PartNumber,
    upload: Option<Upload>,
    tasks: JoinSet<Result<Part, TargetError>>,
    parts: Vec<Part>,
}

impl BodySink for ObjectUpload {
    fn append(&mut self, bytes: &[u8]) {
        match &mut self.seal {
            Some(seal) => seal.append(bytes, &mut self.cutter),
            None => self.cutter.append(bytes),
        }
    }
}

impl ObjectUpload {
    /// Prepares an upload whose first `head` bytes will be given at the end, sealed where there is a key; nothing is sent
    /// yet.
    pub(crate) fn new(
        remote: &Remote,
        ledger: &Arc<Ledger>,
        progress: &Arc<Progress>,
        key: Key,
        pool: &Arc<Pool>,
        head: u64,
        seal: Option<&DataKey>,
    ) -> Result<Self, MoverError> {
        let head = match seal {
            Some(_) => head + head.div_ceil(SEGMENT as u64) * TAG as u64,
            None => head,
        };
        let head = usize::try_from(head).ok().filter(|head| *head < pool.part());
        let head = head.ok_or_else(|| MoverError::Internal("the head is larger than a part".to_owned()))?;
        Ok(Self {
            remote: remote.clone(),
            ledger: ledger.clone(),
            progress: progress.clone(),
            key,
            pool: pool.clone(),
            cutter: Cutter {
                current: None,
                limit: pool.part() - head,
                spill: VecDeque::new(),
            },
            held: None,
            head,
            seal: seal.map(Seal::new),
            next: PartNumber::FIRST,
            upload: None,
            tasks: JoinSet::new(),
            parts: Vec::new(),
        })
    }

    /// Goes on with an upload that was [saved](Self::save), whose first bytes are `first` where there is a head and they
    /// do not lie in the tail.
    pub(crate) fn resume(mut self, state: &UploadState, first: Option<&[u8]>) -> Result<Self, MoverError> {
        let unfit = || MoverError::Internal("a checkpoint does not fit the upload it was made of".to_owned());
        if (state.next > PartNumber::FIRST && self.head > 0) != first.is_some() {
            return Err(unfit());
        }
        if let Some(upload) = &state.upload {
            self.ledger.begun(upload);
        }
        self.upload.clone_from(&state.upload);
        self.parts.clone_from(&state.parts);
        self.next = state.next;
        if let Some(first) = first {
            let mut held = self.pool.take(&self.remote.cancel).ok_or(MoverError::Cancelled)?;
            if held.fill(first, self.cutter.limit) < first.len() || held.len() < self.cutter.limit {
                return Err(unfit());
            }
            self.held = Some(held);
        }
        if state.next > PartNumber::FIRST {
            self.cutter.limit = self.pool.part();
        }
        self.cutter.append(&state.tail.0);
        match (&mut self.seal, &state.seal) {
            (None, None) => {}
            (Some(seal), Some(before)) => {
                seal.before.clone_from(&before.layout);
                seal.append(&before.held.0, &mut self.cutter);
            }
            _ => return Err(unfit()),
        }
        self.drain()?;
        Ok(self)
    }

    /// What has to be kept to go on from here, once the store has all parts before [`UploadState::next`].
    pub(crate) fn save(&self, first: Option<FirstPart>) -> UploadState {
        let current = self.cutter.current.as_ref().map_or(&[][..], AsRef::as_ref);
        let (front, back) = self.cutter.spill.as_slices();
        let seal = self.seal.as_ref().map(|seal| {
            // Two valid layouts of one object; only their sum could be too large, and that ends the upload anyway.
            let layout = Layout::concat([&seal.before, &seal.body.layout()]);
            SealState {
                layout: layout.unwrap_or_default(),
                held: Blob(seal.body.held().to_vec()),
            }
        });
        UploadState {
            upload: self.upload.clone(),
            parts: Vec::new(),
            next: self.next,
            tail: Blob([current, front, back].concat()),
            first,
            seal,
        }
    }

    /// The upload and its parts before this number; `None` while some are on the wire.
    pub(crate) fn parts_before(&mut self, next: PartNumber) -> Result<Option<Vec<Part>>, MoverError> {
        while let Some(done) = self.tasks.try_join_next() {
            self.parts.push(joined(done)?);
        }
        let before = self.parts.iter().filter(|part| part.number < next);
        let parts: Vec<Part> = before.cloned().collect();
        let waits_for_head = u32::from(self.head > 0 && next > PartNumber::FIRST);
        let expected = (next.0 - PartNumber::FIRST.0 - waits_for_head) as usize;
        Ok((parts.len() == expected).then_some(parts))
    }

    /// The part that will be sent next.
    pub(crate) fn next(&self) -> PartNumber {
        self.next
    }

    /// The first bytes of the body, if they wait for the head.
    pub(crate) fn held(&self) -> Option<&[u8]> {
        self.held.as_ref().map(AsRef::as_ref)
    }

    /// Sends what is complete and makes room for more; waits while all buffers are on the wire.
    pub(crate) fn drain(&mut self) -> Result<(), MoverError> {
        loop {
            let full = self
                .cutter
                .current
                .as_ref()
                .is_some_and(|current| current.len() == self.cutter.limit);
            if full && let Some(part) = self.cutter.current.take() {
                self.complete_part(part)?;
            }
            if self.cutter.spill.is_empty() {
                return Ok(());
            }
            if self.cutter.current.is_none() {
                self.cutter.current = Some(self.pool.take(&self.remote.cancel).ok_or(MoverError::Cancelled)?);
            }
            let Cutter {
                current,
                limit,
                spill,
            } = &mut self.cutter;
            if let Some(current) = current {
                let (front, _) = spill.as_slices();
                let fits = current.fill(front, *limit);
                spill.drain(..fits);
            }
        }
    }

    /// Keeps the first part if it waits for a head, sends every other.
    fn complete_part(&mut self, part: PartBuffer) -> Result<(), MoverError> {
        self.cutter.limit = self.pool.part();
        if self.next == PartNumber::FIRST && self.head > 0 {
            self.held = Some(part);
            self.next = PartNumber(2);
            return Ok(());
        }
        let number = self.next;
        if number > PartNumber::LAST {
            return Err(MoverError::Internal(format!(
                "{} needs more parts than a store takes",
                self.key
            )));
        }
        self.next = PartNumber(number.0 + 1);
        self.send(number, part)
    }

    fn send(&mut self, number: PartNumber, part: PartBuffer) -> Result<(), MoverError> {
        while let Some(done) = self.tasks.try_join_next() {
            self.parts.push(joined(done)?);
        }
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let upload = self.remote.wait(self.remote.target.begin_upload(&self.key))?;
                self.ledger.begun(&upload);
                self.upload.insert(upload).clone()
            }
        };
        let (target, progress) = (self.remote.target.clone(), self.progress.clone());
        // All parts before it are full.
        let offset = u64::from(number.0 - 1) * self.pool.part() as u64;
        let bytes = part.into_bytes();
        let send = async move {
            let part = target.upload_part(&upload, number, offset, bytes).await?;
            progress.transferred(part.size);
            Ok(part)
        };
        self.tasks.spawn_on(send, &self.remote.runtime);
        Ok(())
    }

    /// Sends the rest and the head, and makes the object.
    pub(crate) fn finish(mut self, head: &[u8]) -> Result<Uploaded, MoverError> {
        let sealed = match self.seal.take() {
            Some(seal) => Some(seal.finish(head, &mut self.cutter)?),
            None => None,
        };
        let head = sealed.as_ref().map_or(head, |(head, _)| head);
        let meta = self.finish_stored(head)?;
        Ok(Uploaded {
            meta,
            seal: sealed.map(|(_, layout)| layout),
        })
    }

    fn finish_stored(mut self, head: &[u8]) -> Result<ObjectMeta, MoverError> {
        if head.len() != self.head {
            return Err(MoverError::Internal(
                "the head has another length than was announced".to_owned(),
            ));
        }
        self.drain()?;
        if self.next == PartNumber::FIRST {
            return self.put_whole(head);
        }
        if let Some(rest) = self.cutter.current.take() {
            self.complete_part(rest)?;
        }
        if let Some(mut first) = self.held.take() {
            first.prepend(head);
            self.send(PartNumber::FIRST, first)?;
        }
        let Self {
            remote,
            tasks,
            parts,
            key,
            ledger,
            upload,
            ..
        } = &mut self;
        while let Some(done) = remote.wait(async { Ok(tasks.join_next().await) })? {
            parts.push(joined(done)?);
        }
        let upload = upload
            .as_ref()
            .ok_or_else(|| MoverError::Internal("no upload was begun".to_owned()))?;
        ledger.creating(key);
        let done = remote.wait(async { Ok(remote.target.complete_upload(upload, parts, true).await) });
        settled(ledger, key, done?)
    }

    /// An object smaller than a part takes one request.
    fn put_whole(&mut self, head: &[u8]) -> Result<ObjectMeta, MoverError> {
        let mut whole = match self.cutter.current.take() {
            Some(current) => current,
            None => self.pool.take(&self.remote.cancel).ok_or(MoverError::Cancelled)?,
        };
        whole.prepend(head);
        self.ledger.creating(&self.key);
        let target = &self.remote.target;
        let done = self
            .remote
            .wait(async { Ok(target.put(&self.key, whole.into_bytes()).await) });
        let meta = settled(&self.ledger, &self.key, done?)?;
        self.progress.transferred(meta.size);
        Ok(meta)
    }
}

/// An object of that name that somebody else made is not ours to remove.
pub(crate) fn settled(
    ledger: &Ledger,
    key: &Key,
    done: Result<ObjectMeta, TargetError>,
) -> Result<ObjectMeta, MoverError> {
    if let Err(error) = &done
        && error.kind() == ErrorKind::Exists
    {
        ledger.not_ours(key);
    }
    Ok(done?)
}

fn joined(done: Result<Result<Part, TargetError>, tokio::task::JoinError>) -> Result<Part, MoverError> {
    match done {
        Ok(part) => Ok(part?),
        Err(error) => Err(MoverError::Internal(format!(
            "an upload task ended early: {error}"
        ))),
    }
}
