//! Stores the pieces of a merged object: copies inside the store, and bytes that are sent, several at once.
use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use holdfast_seal::Layout;
use holdfast_target::{ErrorKind, Key, ObjectMeta, Part, PartNumber, Target, TargetError, Upload};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinError, JoinSet},
};

use super::{
    pieces::{From, Piece},
    plan::Transport,
};
use crate::{
    MoverError, Progress,
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

/// A piece that the store has.
#[derive(Debug)]
struct Stored {
    part: Part,
    seal: Option<Layout>,
}

/// One merged object on its way.
pub(super) struct Store<'a> {
    pub(super) remote: &'a Remote,
    pub(super) ledger: &'a Ledger,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) key: Key,
    pub(super) transport: Transport,
}

impl Store<'_> {
    /// Stores all pieces and makes the object.
    pub(super) async fn run(&self, pieces: mpsc::Receiver<Piece>) -> Result<Uploaded, Failure> {
        tokio::select! {
            () = self.remote.cancel.cancelled() => Err(MoverError::Cancelled.into()),
            outcome = self.store(pieces) => outcome,
        }
    }

    async fn store(&self, mut pieces: mpsc::Receiver<Piece>) -> Result<Uploaded, Failure> {
        let mut upload: Option<Upload> = None;
        let mut stored: BTreeMap<PartNumber, Stored> = BTreeMap::new();
        // A set that is dropped ends its tasks.
        let mut tasks: JoinSet<Result<Stored, Failure>> = JoinSet::new();
        let copies = Arc::new(Semaphore::new(limits::COPIES));
        let buffers = Arc::new(Semaphore::new(limits::MERGE_BUFFERS));
        let mut complete = false;
        while let Some(piece) = pieces.recv().await {
            complete = piece.number == PartNumber::FIRST;
            let upload = match (&upload, piece.from) {
                // The whole object.
                (None, From::Bytes(bytes)) if complete => return self.put(bytes, piece.seal).await,
                (None, from) => {
                    let begun = self.remote.target.begin_upload(&self.key).await?;
                    self.ledger.begun(&begun);
                    (upload.insert(begun).clone(), from)
                }
                (Some(upload), from) => (upload.clone(), from),
            };
            let (upload, from) = upload;
            let inside = self.transport == Transport::Copy && matches!(from, From::Object { .. });
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
                let done = task.run(from).await;
                drop(permit);
                done
            });
            while let Some(done) = tasks.try_join_next() {
                keep(&mut stored, done)?;
            }
        }
        while let Some(done) = tasks.join_next().await {
            keep(&mut stored, done)?;
        }
        match upload {
            Some(upload) if complete => self.finish(&upload, stored).await,
            // Whoever hands out the pieces has failed, and says why.
            _ => Err(MoverError::Cancelled.into()),
        }
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
        stored: BTreeMap<PartNumber, Stored>,
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

fn keep(
    stored: &mut BTreeMap<PartNumber, Stored>,
    done: Result<Result<Stored, Failure>, JoinError>,
) -> Result<(), Failure> {
    let done = done.map_err(|error| MoverError::Internal(format!("a task ended early: {error}")))??;
    stored.insert(done.part.number, done);
    Ok(())
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
