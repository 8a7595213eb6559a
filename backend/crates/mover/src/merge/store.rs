//! Stores the pieces of a merged object: copies inside the store, and bytes that are sent, several at once.
use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use holdfast_seal::Layout;
use holdfast_target::{
    ErrorKind, Key, ObjectMeta, Part, PartNumber, Target, TargetError, Upload,
    layout::{Digest, ShardNumber},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinError, JoinSet},
};

use super::{
    pieces::{From, Piece},
    plan::Transport,
    resume::{IndexMade, MergeState, Stored},
};
use crate::{
    MoverError, Progress,
    checkpoint::Keeper,
    ledger::Ledger,
    limits,
    remote::Remote,
    upload::{Uploaded, settled},
};

/// Why an object was not made.
#[derive(Debug)]
pub(super) enum Failure {
    Error(MoverError),
    /// The store does not copy.
    Unsupported,
    /// The store has forgotten the upload.
    Vanished,
}

impl<E: Into<MoverError>> std::convert::From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// One merged object on its way.
pub(super) struct Store<'a> {
    pub(super) remote: &'a Remote,
    pub(super) ledger: &'a Ledger,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) key: Key,
    pub(super) shard: ShardNumber,
    pub(super) transport: Transport,
    pub(super) keeper: &'a Keeper<'a>,
}

impl Store<'_> {
    /// Stores all pieces of a plan and makes the object. `resumed` is what is stored of it already.
    pub(super) async fn run(
        &self,
        plan: oneshot::Receiver<(Digest, IndexMade)>,
        resumed: Option<MergeState>,
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<Uploaded, Failure> {
        tokio::select! {
            () = self.remote.cancel.cancelled() => Err(MoverError::Cancelled.into()),
            outcome = self.store(plan, resumed, pieces) => outcome,
        }
    }

    async fn store(
        &self,
        plan: oneshot::Receiver<(Digest, IndexMade)>,
        resumed: Option<MergeState>,
        mut pieces: mpsc::Receiver<Piece>,
    ) -> Result<Uploaded, Failure> {
        // Whoever plans has failed otherwise, and says why.
        let (plan, index) = plan.await.map_err(|_| MoverError::Cancelled)?;
        let mut progress = Stage::new(plan, index, self.transport);
        if let Some(state) = resumed.filter(|state| state.plan == plan) {
            self.ledger.begun(&state.upload);
            progress.resume(state, self.progress);
        }
        // A set that is dropped ends its tasks.
        let mut tasks: JoinSet<Result<Stored, Failure>> = JoinSet::new();
        let copies = Arc::new(Semaphore::new(limits::COPIES));
        let buffers = Arc::new(Semaphore::new(limits::MERGE_BUFFERS));
        let mut complete = false;
        while let Some(piece) = pieces.recv().await {
            complete = piece.number == PartNumber::FIRST;
            let upload = match (&progress.upload, &piece.from) {
                (Some(upload), _) => upload.clone(),
                // The whole object.
                (None, From::Bytes(bytes)) if complete => return self.put(bytes.clone(), piece.seal).await,
                (None, _) => self.begin(&mut progress).await?,
            };
            let inside = self.transport == Transport::Copy && matches!(piece.from, From::Object { .. });
            let permits = if inside { &copies } else { &buffers };
            let permit = permits.clone().acquire_owned().await;
            let permit = permit.map_err(|error| MoverError::Internal(error.to_string()))?;
            let task = Task {
                target: self.remote.target.clone(),
                progress: self.progress.clone(),
                upload,
                number: piece.number,
                offset: piece.offset,
                seal: piece.seal,
                inside,
            };
            tasks.spawn(async move {
                let done = task.run(piece.from).await;
                drop(permit);
                done
            });
            while let Some(done) = tasks.try_join_next() {
                self.keep(&mut progress, done).await?;
            }
        }
        while let Some(done) = tasks.join_next().await {
            self.keep(&mut progress, done).await?;
        }
        match &progress.upload {
            Some(upload) if complete => self.finish(upload, &progress.stored).await,
            // Whoever hands out the pieces has failed, and says why.
            _ => Err(MoverError::Cancelled.into()),
        }
    }

    /// The upload is written down before it gets its first part.
    async fn begin(&self, progress: &mut Stage) -> Result<Upload, Failure> {
        let begun = self.remote.target.begin_upload(&self.key).await?;
        self.ledger.begun(&begun);
        progress.upload = Some(begun.clone());
        self.keeper.store(self.shard, progress.state()).await;
        Ok(begun)
    }

    async fn keep(
        &self,
        progress: &mut Stage,
        done: Result<Result<Stored, Failure>, JoinError>,
    ) -> Result<(), Failure> {
        let done = done.map_err(|error| MoverError::Internal(format!("a task ended early: {error}")))??;
        progress.stored.insert(done.part.number, done);
        // Ever rarer, because each one names all pieces.
        let pieces = progress.stored.len();
        if pieces >= progress.saved + limits::CHECKPOINT_PIECES.max(progress.saved / 8) {
            progress.saved = pieces;
            self.keeper.store(self.shard, progress.state()).await;
        }
        Ok(())
    }

    async fn put(&self, bytes: Bytes, seal: Option<Layout>) -> Result<Uploaded, Failure> {
        self.ledger.creating(&self.key);
        let done = self.remote.target.put(&self.key, bytes).await;
        let meta = settled(self.ledger, &self.key, done)?;
        self.progress.transferred(meta.size);
        Ok(Uploaded { meta, seal })
    }

    async fn finish(
        &self,
        upload: &Upload,
        stored: &BTreeMap<PartNumber, Stored>,
    ) -> Result<Uploaded, Failure> {
        let parts: Vec<Part> = stored.values().map(|stored| stored.part.clone()).collect();
        let layouts: Vec<&Layout> = stored
            .values()
            .filter_map(|stored| stored.seal.as_ref())
            .collect();
        let seal = match layouts.len() {
            0 => None,
            sealed if sealed == parts.len() => {
                let joined = Layout::concat(layouts);
                Some(joined.map_err(|error| MoverError::CannotMerge(error.to_string()))?)
            }
            _ => return Err(MoverError::Internal("some parts are sealed, others are not".to_owned()).into()),
        };
        self.ledger.creating(&self.key);
        let done = self.remote.target.complete_upload(upload, &parts, true).await;
        if let Err(error) = &done
            && error.kind() == ErrorKind::NotFound
        {
            return Err(Failure::Vanished);
        }
        let meta: ObjectMeta = settled(self.ledger, &self.key, done)?;
        Ok(Uploaded { meta, seal })
    }
}

/// How far an object is.
struct Stage {
    plan: Digest,
    index: IndexMade,
    transport: Transport,
    upload: Option<Upload>,
    stored: BTreeMap<PartNumber, Stored>,
    /// Pieces that the last checkpoint names.
    saved: usize,
}

impl Stage {
    fn new(plan: Digest, index: IndexMade, transport: Transport) -> Self {
        Self {
            plan,
            index,
            transport,
            upload: None,
            stored: BTreeMap::new(),
            saved: 0,
        }
    }

    fn resume(&mut self, state: MergeState, progress: &Progress) {
        self.upload = Some(state.upload);
        self.saved = state.pieces.len();
        for stored in state.pieces {
            progress.done(stored.part.size);
            self.stored.insert(stored.part.number, stored);
        }
    }

    /// For a checkpoint; none before there is an upload.
    fn state(&self) -> Option<MergeState> {
        Some(MergeState {
            plan: self.plan,
            transport: self.transport,
            upload: self.upload.clone()?,
            index: self.index.clone(),
            pieces: self.stored.values().cloned().collect(),
        })
    }
}

/// One piece being stored.
struct Task {
    target: Arc<dyn Target>,
    progress: Arc<Progress>,
    upload: Upload,
    number: PartNumber,
    offset: u64,
    seal: Option<Layout>,
    /// Whether the store copies it.
    inside: bool,
}

impl Task {
    async fn run(self, from: From) -> Result<Stored, Failure> {
        let part = match from {
            From::Bytes(bytes) => self.send(bytes).await?,
            From::Object { key, pin, range } if self.inside => {
                let copied = self
                    .target
                    .copy_part(&self.upload, self.number, self.offset, &key, range, &pin)
                    .await;
                match copied {
                    Ok(part) => part,
                    Err(error) => return Err(self.failed_copy(&key, error).await),
                }
            }
            From::Object { key, pin, range } => {
                let bytes = self.target.get_range(&key, range, Some(&pin)).await;
                let bytes = bytes.map_err(|error| MoverError::bound(&key, error))?;
                self.progress.transferred(bytes.len() as u64);
                self.send(bytes).await?
            }
        };
        self.progress.done(part.size);
        Ok(Stored {
            part,
            seal: self.seal,
        })
    }

    async fn send(&self, bytes: Bytes) -> Result<Part, Failure> {
        let sent = self
            .target
            .upload_part(&self.upload, self.number, self.offset, bytes)
            .await;
        let part = sent.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::Vanished,
            _ => error.into(),
        })?;
        self.progress.transferred(part.size);
        Ok(part)
    }

    /// The store says the same of a source that is missing as of an upload that is.
    async fn failed_copy(&self, source: &Key, error: TargetError) -> Failure {
        match error.kind() {
            ErrorKind::Unsupported => Failure::Unsupported,
            ErrorKind::NotFound => match self.target.head(source).await {
                Ok(_) => Failure::Vanished,
                Err(gone) => MoverError::bound(source, gone).into(),
            },
            _ => MoverError::bound(source, error).into(),
        }
    }
}
