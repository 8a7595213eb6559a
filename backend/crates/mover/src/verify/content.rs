//! Fetches content, unpacks it and compares it with its hashes. What is wrong is noted and ends nothing.
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};
use holdfast_qcow2::{ClusterSize, Decompressor};
use tokio::sync::mpsc;

use super::{
    Shared,
    findings::{Kind, Object},
};
use crate::{
    Damage, MoverError, Progress,
    content::{Content, Shard, Stored, stored_bytes},
    limits,
    remote::Remote,
};

/// Clusters of one shard that are fetched together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) unit: usize,
    pub(super) shard: Arc<Shard>,
    pub(super) contents: Vec<Content>,
}

/// A range of the file, and what the store holds for it or why it gave nothing.
type Piece = (Range<u64>, Result<Bytes, (Damage, String)>);

/// A batch with what the store holds for it.
#[derive(Debug)]
pub(super) struct Fetched {
    batch: Batch,
    pieces: Vec<Piece>,
}

/// Content that was read.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) clusters: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// Fetches batches ahead and hands them on.
pub(super) async fn fetch_all(
    remote: &Remote,
    batches: mpsc::Receiver<Batch>,
    work: &mpsc::Sender<Fetched>,
    progress: &Progress,
) -> Result<(), MoverError> {
    let batches = stream::unfold(batches, async |mut batches| {
        batches.recv().await.map(|batch| (batch, batches))
    });
    let mut fetched = std::pin::pin!(
        batches
            .map(|batch| fetch(remote, batch, progress))
            .buffer_unordered(limits::FETCHES)
    );
    let hand_on = async {
        while let Some(batch) = fetched.next().await {
            // The receiver lives as long as the workers; when they have failed, that is reported there.
            if work.send(batch?).await.is_err() {
                return Err(MoverError::Cancelled);
            }
        }
        Ok(())
    };
    tokio::select! {
        () = remote.cancel.cancelled() => Err(MoverError::Cancelled),
        outcome = hand_on => outcome,
    }
}

async fn fetch(remote: &Remote, batch: Batch, progress: &Progress) -> Result<Fetched, MoverError> {
    let shard = &batch.shard;
    let requests: Vec<BoxFuture<'_, Result<Piece, MoverError>>> = shard
        .requests(&batch.contents)
        .into_iter()
        .map(|(image, range)| {
            let request = async move {
                match shard.fetch(remote, image, &range, progress).await {
                    Ok(bytes) => Ok((range, Ok(bytes))),
                    Err(MoverError::Damaged { damage, what, .. }) => Ok((range, Err((damage, what)))),
                    Err(error) => Err(error),
                }
            };
            Box::pin(request) as _
        })
        .collect();
    let pieces: Vec<_> = stream::iter(requests).buffered(limits::RANGES).collect().await;
    let pieces = pieces.into_iter().collect::<Result<_, _>>()?;
    Ok(Fetched { batch, pieces })
}

/// A thread that checks what was fetched. Blocks until there is no more.
pub(super) fn check_all(
    remote: &Remote,
    shared: &Shared,
    work: &Mutex<mpsc::Receiver<Fetched>>,
    progress: &Progress,
) -> Result<(), MoverError> {
    let mut context: Option<(ClusterSize, Decompressor)> = None;
    let mut raw = Vec::new();
    loop {
        let next = work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        if remote.cancel.is_cancelled() {
            return Err(MoverError::Cancelled);
        }
        let Some(Fetched { batch, pieces }) = next else {
            return Ok(());
        };
        // Chains of one volume may differ in their cluster size.
        let size = batch.shard.geometry.cluster_size();
        let decompressor = match &mut context {
            Some((of, decompressor)) if *of == size => decompressor,
            context => &mut context.insert((size, Decompressor::new(size)?)).1,
        };
        raw.resize(size.as_usize(), 0);
        let opened = Opened::new(shared, &batch, pieces);
        for content in &batch.contents {
            let checked = opened.check(&batch, content, decompressor, &mut raw);
            if let Err((damage, what)) = checked {
                let kind = kind(batch.unit, damage, what);
                let cluster = content.cluster.0;
                shared.findings.clusters(kind, cluster..cluster + 1);
            }
            let bytes = u64::from(content.extent.len);
            shared.counters.clusters.fetch_add(1, Ordering::Relaxed);
            shared.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
            progress.done(bytes);
        }
    }
}

fn kind(unit: usize, damage: Damage, what: impl Into<String>) -> Kind {
    Kind {
        unit,
        object: Object::Image,
        damage,
        what: what.into(),
    }
}

/// Pieces of a file in clear, as far as they could be opened, and those that could not.
struct Opened {
    clear: Vec<Stored>,
    /// Sealed pieces in which something is wrong.
    torn: Vec<(Range<u64>, Bytes)>,
    /// What the store did not give.
    missing: Vec<(Range<u64>, Damage, String)>,
}

impl Opened {
    fn new(shared: &Shared, batch: &Batch, pieces: Vec<Piece>) -> Self {
        let mut opened = Self {
            clear: Vec::new(),
            torn: Vec::new(),
            missing: Vec::new(),
        };
        let opening = &batch.shard.openings[0];
        for (range, piece) in pieces {
            let stored = match piece {
                Ok(stored) => stored,
                Err((damage, what)) => {
                    shared.findings.object(kind(batch.unit, damage, what.as_str()));
                    opened.missing.push((range, damage, what));
                    continue;
                }
            };
            match opening.open(&range, stored.clone()) {
                Ok(bytes) => opened.clear.push(Stored {
                    image: 0,
                    start: range.start,
                    bytes,
                }),
                Err(_) => opened.torn.push((range, stored)),
            }
        }
        opened
    }

    fn check(
        &self,
        batch: &Batch,
        content: &Content,
        decompressor: &mut Decompressor,
        raw: &mut [u8],
    ) -> Result<(), (Damage, String)> {
        let altered = |what: &str| (Damage::Altered, what.to_owned());
        let wanted = content.range();
        let within = |range: &Range<u64>| range.start <= wanted.start && wanted.end <= range.end;
        if let Some((_, damage, what)) = self.missing.iter().find(|(range, ..)| within(range)) {
            return Err((*damage, what.clone()));
        }
        let reopened;
        let stored = match stored_bytes(&self.clear, content) {
            Some(stored) => stored,
            None => {
                let torn = self.torn.iter().find(|(range, _)| within(range));
                let bytes = torn.and_then(|(range, stored)| {
                    let opening = &batch.shard.openings[0];
                    let (all, part) = (opening.stored(range).ok()?, opening.stored(&wanted).ok()?);
                    let at = |offset: u64| usize::try_from(offset - all.start).ok();
                    let part = stored.slice(at(part.start)?..at(part.end)?);
                    opening.open(&wanted, part).ok()
                });
                reopened = bytes.ok_or_else(|| altered("lies in a sealed segment that was altered"))?;
                &reopened
            }
        };
        let unpacked = batch.shard.unpack(content, stored, decompressor, raw);
        unpacked.map_err(|wrong| altered(wrong.text()))
    }
}
