//! Decompresses, checks and writes.
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use holdfast_qcow2::{ClusterSize, Decompressor};
use tokio::sync::mpsc;

use super::front::Front;
use crate::{
    MoverError, Progress,
    buffer::AlignedBuffer,
    content::{Content, Shard, Stored, stored_bytes},
    device::{Device, PunchLied, Zeroer},
    job::Zeroing,
    limits,
    remote::Remote,
};

/// A piece with the bytes it is made from.
#[derive(Debug)]
pub(super) enum Work {
    Zero(Range<u64>),
    Data(Arc<Shard>, Vec<Content>, Vec<Stored>),
}

/// Why a pass ended early.
#[derive(Debug)]
pub(super) enum Failure {
    Error(MoverError),
    /// The device does not hold zeroes where the kernel said it does.
    PunchLied,
}

impl From<MoverError> for Failure {
    fn from(error: MoverError) -> Self {
        Self::Error(error)
    }
}

/// What a pass did.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) data: u64,
    pub(super) zeroed: u64,
    pub(super) zeroing: Zeroing,
}

/// What the writing threads share.
#[derive(Debug)]
pub(super) struct Writers {
    zeroer: Zeroer,
    device: Arc<Device>,
    cluster_size: ClusterSize,
    work: Mutex<mpsc::Receiver<Work>>,
    data: AtomicU64,
    zeroed: AtomicU64,
    front: Mutex<Front>,
}

impl Writers {
    pub(super) fn new(
        device: Arc<Device>,
        cluster_size: ClusterSize,
        zeroing: Zeroing,
        from: u64,
        work: mpsc::Receiver<Work>,
    ) -> Arc<Self> {
        Arc::new(Self {
            zeroer: Zeroer::new(device.clone(), zeroing),
            device,
            cluster_size,
            work: Mutex::new(work),
            data: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
            front: Mutex::new(Front::new(from)),
        })
    }

    /// A range is written; from time to time what is done so far is flushed, so that it need not be done again.
    fn done(&self, range: Range<u64>, progress: &Progress) -> Result<(), MoverError> {
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = front.done(range, limits::FLUSH);
        drop(front);
        if let Some(end) = reached {
            self.device.sync()?;
            progress.durable(end);
        }
        Ok(())
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            data: self.data.load(Ordering::Relaxed),
            zeroed: self.zeroed.load(Ordering::Relaxed),
            zeroing: self.zeroer.zeroing(),
        }
    }
}

/// A writing thread. Blocks until there is no more work.
pub(super) fn write(writers: &Writers, remote: &Remote, progress: &Progress) -> Result<(), Failure> {
    let mut decompressor = Decompressor::new(writers.cluster_size).map_err(MoverError::from)?;
    let mut buffer = AlignedBuffer::new(limits::BATCH);
    loop {
        let work = writers
            .work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        if remote.cancel.is_cancelled() {
            return Err(MoverError::Cancelled.into());
        }
        match work {
            None => return Ok(()),
            Some(Work::Zero(range)) => {
                zero(writers, remote, progress, range.clone(), &mut buffer)?;
                writers.done(range, progress)?;
            }
            Some(Work::Data(shard, contents, stored)) => {
                let bytes = restore_contents(&shard, &contents, &stored, &mut decompressor, &mut buffer)?;
                let start = contents
                    .first()
                    .map_or(0, |content| shard.offset_of(content.cluster));
                writers.device.write(start, &buffer[..bytes])?;
                writers.data.fetch_add(bytes as u64, Ordering::Relaxed);
                progress.device(bytes as u64);
                progress.done(bytes as u64);
                writers.done(start..start + bytes as u64, progress)?;
            }
        }
    }
}

fn zero(
    writers: &Writers,
    remote: &Remote,
    progress: &Progress,
    range: Range<u64>,
    buffer: &mut AlignedBuffer,
) -> Result<(), Failure> {
    let each = |bytes| {
        writers.zeroed.fetch_add(bytes, Ordering::Relaxed);
        progress.done(bytes);
        if remote.cancel.is_cancelled() {
            Err(MoverError::Cancelled)
        } else {
            Ok(())
        }
    };
    match writers.zeroer.zero(range, buffer, each)? {
        Ok(()) => Ok(()),
        Err(PunchLied) => Err(Failure::PunchLied),
    }
}

/// Fills the start of `buffer` with the content of a piece, every cluster checked against its hash. Returns how many
/// bytes of it belong to the volume.
fn restore_contents(
    shard: &Shard,
    contents: &[Content],
    stored: &[Stored],
    decompressor: &mut Decompressor,
    buffer: &mut AlignedBuffer,
) -> Result<usize, MoverError> {
    let cluster = shard.geometry.cluster_size().as_usize();
    let mut bytes = 0;
    for (content, raw) in contents.iter().zip(buffer.chunks_exact_mut(cluster)) {
        let key = &shard.keys[content.image];
        let source = stored_bytes(stored, content)
            .ok_or_else(|| MoverError::Internal(format!("a fetched piece of {key} lacks a cluster")))?;
        let restored = shard.unpack(content, source, decompressor, raw);
        restored.map_err(|wrong| shard.damaged(key, content.cluster, wrong.text()))?;
        bytes += usize::try_from(shard.geometry.bytes_of(content.cluster)).expect("a cluster is small");
    }
    Ok(bytes)
}
