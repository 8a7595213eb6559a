//! One shard: read, hash, compress on all threads; write image and index in order on one.
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use holdfast_qcow2::{
    ClusterIndex, ClusterSize, ClusterState, Compressor, EffectiveSpan, Geometry, ImageName, ImageSpec,
    ImageWriter, IndexSpec, IndexWriter, Payload, SpanIndex, WriteError, cluster_hash, codec::DEFAULT_LEVEL,
    is_zero,
};
use holdfast_seal::{DataKey, SEGMENT};
use holdfast_target::{
    PartNumber,
    layout::{Digest, FileStem, ImageId, ShardNumber, ShardRecord},
};

use super::{
    Parents,
    plan::{Piece, Planner},
    resume::{Resumed, ShardState},
};
use crate::{
    MoverError, Progress,
    buffer::{AlignedBuffer, Pool},
    checkpoint::{Blob, FirstPart, Keeper},
    device::Device,
    ledger::Ledger,
    limits,
    remote::Remote,
    upload::ObjectUpload,
};

/// Everything that one shard's backup is made of.
pub(super) struct ShardBackup<'a> {
    pub(super) remote: &'a Remote,
    pub(super) ledger: &'a Arc<Ledger>,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) device: &'a Device,
    pub(super) image_parts: &'a Arc<Pool>,
    pub(super) index_parts: &'a Arc<Pool>,
    pub(super) image: &'a ImageId,
    pub(super) number: ShardNumber,
    /// Where the shard begins on the device.
    pub(super) offset: u64,
    /// Bytes of the shard.
    pub(super) size: u64,
    pub(super) cluster_size: ClusterSize,
    /// File name of the image below.
    pub(super) backing: Option<String>,
    /// Key under which image and index are sealed.
    pub(super) seal: Option<&'a DataKey>,
    /// Who writes checkpoints, where there are some.
    pub(super) keeper: Option<&'a Keeper<'a>>,
    /// Clusters that are stored even if the parents have their hash.
    pub(super) heal: Vec<Range<u64>>,
    /// Where an earlier attempt stopped.
    pub(super) resumed: Option<&'a Resumed>,
}

/// What became of one piece. Made once and used again and again: there are so many as pieces may be under way.
#[derive(Default)]
struct Output {
    sequence: u64,
    /// Bytes of the volume that the piece covers.
    covered: u64,
    /// The cluster behind it.
    end: u64,
    clusters: Vec<(ClusterIndex, Found)>,
    frames: Vec<u8>,
}

/// A cluster that belongs into the image.
enum Found {
    /// Its hash, and its frame inside [`Output::frames`].
    Data(holdfast_qcow2::Digest, Range<usize>),
    /// It was read and is empty now.
    Zero,
    /// The device has a hole there now.
    Trimmed,
}

type Outputs = Mutex<mpsc::Receiver<Output>>;
type Results = mpsc::Sender<Result<Output, MoverError>>;

impl ShardBackup<'_> {
    /// Stores the shard. Blocks.
    pub(super) fn store(&self, parents: Option<&Parents>) -> Result<ShardRecord, MoverError> {
        let geometry = Geometry::new(self.size, self.cluster_size)
            .map_err(|error| MoverError::Job(format!("the volume cannot be an image: {error}")))?;
        let mut files = Files::new(self, geometry)?;
        thread::scope(|scope| {
            let (spans, receiver) = mpsc::sync_channel(1);
            let start = self.resumed.map_or(0, |resumed| resumed.state.watermark);
            if let Some(parents) = parents {
                scope.spawn(move || load_spans(parents, &geometry, start, &spans));
            }
            let receiver = parents.map(|_| receiver);
            let planner = Planner::new(self.device, geometry, self.offset, start, receiver);
            let planner = Mutex::new(planner);
            let workers = limits::workers();
            let (free, taken) = mpsc::channel();
            for _ in 0..workers + limits::CHUNKS_AHEAD {
                // The receiver is alive: it is the next line's.
                let _ = free.send(Output::default());
            }
            let taken: Outputs = Mutex::new(taken);
            let (results, done) = mpsc::channel();
            thread::scope(|scope| {
                for _ in 0..workers {
                    let (planner, taken, results) = (&planner, &taken, results.clone());
                    scope.spawn(move || self.work(&geometry, planner, taken, &results));
                }
                drop(results);
                let written = self.write(&mut files, &done, &free);
                // Workers that wait for an output must not wait for ever.
                drop(free);
                written
            })
        })?;
        files.finish(self)
    }

    /// A worker: takes piece after piece until there is none, or nobody wants its results.
    fn work(&self, geometry: &Geometry, planner: &Mutex<Planner<'_>>, outputs: &Outputs, results: &Results) {
        let mut compressor = match Compressor::new(self.cluster_size, DEFAULT_LEVEL) {
            Ok(compressor) => compressor,
            Err(error) => {
                // Nobody to tell when the writer has failed already.
                let _ = results.send(Err(error.into()));
                return;
            }
        };
        let mut raw = AlignedBuffer::new(limits::CHUNK);
        let mut frame = Vec::new();
        while !self.remote.cancel.is_cancelled() {
            // The output comes first: who holds the oldest piece then never waits for one.
            let Ok(mut output) = outputs.lock().unwrap_or_else(PoisonError::into_inner).recv() else {
                return;
            };
            let skip = |clusters| self.progress.done(clusters * self.cluster_size.bytes());
            let next = planner.lock().unwrap_or_else(PoisonError::into_inner).next(skip);
            let outcome = match next {
                Ok(None) => return,
                Ok(Some(piece)) => self
                    .fill(
                        geometry,
                        &piece,
                        &mut raw,
                        &mut compressor,
                        &mut frame,
                        &mut output,
                    )
                    .map(|()| output),
                Err(error) => Err(error),
            };
            let failed = outcome.is_err();
            if results.send(outcome).is_err() || failed {
                return;
            }
        }
    }

    /// Turns a piece into what the image must hold of it.
    fn fill(
        &self,
        geometry: &Geometry,
        piece: &Piece,
        raw: &mut AlignedBuffer,
        compressor: &mut Compressor,
        frame: &mut Vec<u8>,
        output: &mut Output,
    ) -> Result<(), MoverError> {
        let start = geometry.offset_of(ClusterIndex(piece.clusters.start));
        let end = geometry
            .offset_of(ClusterIndex(piece.clusters.end))
            .min(geometry.virtual_size());
        output.sequence = piece.sequence;
        output.covered = end - start;
        output.end = piece.clusters.end;
        output.clusters.clear();
        output.frames.clear();
        let before = |cluster| piece.states.as_ref().and_then(|states| states.get(cluster));
        let had_data = |cluster| matches!(before(cluster), Some(ClusterState::Data(_)));
        let clusters = piece.clusters.clone().map(ClusterIndex);
        if piece.hole {
            output.clusters.extend(
                clusters
                    .filter(|c| had_data(*c))
                    .map(|cluster| (cluster, Found::Trimmed)),
            );
            return Ok(());
        }
        let bytes = usize::try_from(end - start).expect("a piece fits its buffer");
        self.device.read(self.offset + start, bytes, raw)?;
        self.progress.device(end - start);
        // The last cluster may reach beyond the device, where images hold zeroes.
        let whole = bytes.next_multiple_of(self.cluster_size.as_usize());
        raw[bytes..whole].fill(0);
        for (cluster, content) in clusters.zip(raw[..whole].chunks_exact(self.cluster_size.as_usize())) {
            if is_zero(content) {
                if had_data(cluster) {
                    output.clusters.push((cluster, Found::Zero));
                }
                continue;
            }
            let hash = cluster_hash(content);
            if before(cluster) == Some(ClusterState::Data(hash)) && !self.heals(cluster) {
                continue;
            }
            compressor.compress(content, frame)?;
            let at = output.frames.len();
            output.frames.extend_from_slice(frame);
            output
                .clusters
                .push((cluster, Found::Data(hash, at..output.frames.len())));
        }
        Ok(())
    }

    /// Whether what the parents have of this cluster is damaged.
    fn heals(&self, cluster: ClusterIndex) -> bool {
        self.heal.iter().any(|bad| bad.contains(&cluster.0))
    }

    /// Writes outputs in the order of their pieces. Ends early on the first failure.
    fn write(
        &self,
        files: &mut Files,
        done: &mpsc::Receiver<Result<Output, MoverError>>,
        free: &mpsc::Sender<Output>,
    ) -> Result<(), MoverError> {
        let mut early: BTreeMap<u64, Output> = BTreeMap::new();
        let mut next = 0;
        for result in done {
            let output = result?;
            early.insert(output.sequence, output);
            while let Some(output) = early.remove(&next) {
                files.push(&output)?;
                files.checkpoint(self, output.end)?;
                self.progress.done(output.covered);
                next += 1;
                // Workers that have ended want no more.
                let _ = free.send(output);
            }
            if self.remote.cancel.is_cancelled() {
                return Err(MoverError::Cancelled);
            }
        }
        // The channel also ends when workers stopped because of the token.
        if self.remote.cancel.is_cancelled() || !early.is_empty() {
            return Err(MoverError::Cancelled);
        }
        Ok(())
    }
}

/// Reads the parents' spans ahead of the planner, one at a time.
fn load_spans(
    parents: &Parents,
    geometry: &Geometry,
    start: u64,
    spans: &mpsc::SyncSender<Result<Arc<EffectiveSpan>, MoverError>>,
) {
    let first = geometry.span_of(ClusterIndex(start)).0;
    for span in (first..geometry.spans()).map(SpanIndex) {
        let mut states = EffectiveSpan::new();
        let read = parents.index.read_span(span, &mut states);
        let read = read.map_err(|error| MoverError::index_member(&parents.keys, error));
        let failed = read.is_err();
        if spans.send(read.map(|()| Arc::new(states))).is_err() || failed {
            return;
        }
    }
}

/// Image and index of the shard being written.
struct Files {
    image: ImageWriter,
    image_upload: ObjectUpload,
    index: IndexWriter,
    index_upload: ObjectUpload,
    first: Option<FirstPart>,
    /// Part of the image at which the last checkpoint was taken.
    saved_at: PartNumber,
    /// A checkpoint that waits until the store has its parts.
    waiting: Option<ShardState>,
}

impl Files {
    fn new(shard: &ShardBackup<'_>, geometry: Geometry) -> Result<Self, MoverError> {
        let backing = shard
            .backing
            .as_ref()
            .map(|name| name.parse::<ImageName>())
            .transpose()?;
        let overlay = backing.is_some();
        let spec = ImageSpec {
            virtual_size: shard.size,
            cluster_size: shard.cluster_size,
            backing,
            min_head: 0,
        };
        let state = shard.resumed.map(|resumed| &resumed.state);
        let image = image_writer(spec, shard.seal.is_some(), state)?;
        let home = &shard.remote.home;
        let upload = |key, pool, head| {
            let (ledger, progress) = (shard.ledger, shard.progress);
            ObjectUpload::new(shard.remote, ledger, progress, key, pool, head, shard.seal)
        };
        let image_key = home.image_key(shard.image, shard.number);
        let mut image_upload = upload(image_key, shard.image_parts, image.head_size())?;
        let mut index_upload = upload(home.index_key(shard.image, shard.number), shard.index_parts, 0)?;
        let spec = IndexSpec {
            image: shard.image.file_name(shard.number).parse::<ImageName>()?,
            geometry,
            overlay,
        };
        let index = match shard.resumed {
            None => IndexWriter::new(&spec, &mut index_upload),
            Some(Resumed { state, first }) => {
                image_upload = image_upload.resume(&state.image_upload, first.as_deref())?;
                index_upload = index_upload.resume(&state.index_upload, None)?;
                IndexWriter::resume(&spec, &state.index.0)?
            }
        };
        Ok(Self {
            image,
            saved_at: image_upload.next(),
            image_upload,
            index,
            index_upload,
            first: state.and_then(|state| state.image_upload.first.clone()),
            waiting: None,
        })
    }

    /// Takes a checkpoint behind the clusters before `watermark` where it is time for one, and stores it as soon as the
    /// store has all it names.
    fn checkpoint(&mut self, shard: &ShardBackup<'_>, watermark: u64) -> Result<(), MoverError> {
        let Some(keeper) = shard.keeper else {
            return Ok(());
        };
        let next = self.image_upload.next();
        if self.waiting.is_none() && next.0 >= self.saved_at.0 + limits::CHECKPOINT_PARTS {
            self.saved_at = next;
            if self.first.is_none()
                && let Some(held) = self.image_upload.held()
            {
                let first = keeper.first_part(shard.number, held);
                self.first = shard.remote.runtime.block_on(first);
            }
            // Without the first part nobody could go on.
            if self.first.is_some() {
                self.waiting = Some(ShardState {
                    watermark,
                    image: Blob(self.image.save()),
                    index: Blob(self.index.save()),
                    image_upload: self.image_upload.save(self.first.clone()),
                    index_upload: self.index_upload.save(None),
                });
            }
        }
        let Some(state) = &mut self.waiting else {
            return Ok(());
        };
        let image_parts = self.image_upload.parts_before(state.image_upload.next)?;
        let index_parts = self.index_upload.parts_before(state.index_upload.next)?;
        if let (Some(image_parts), Some(index_parts)) = (image_parts, index_parts) {
            state.image_upload.parts = image_parts;
            state.index_upload.parts = index_parts;
            let stored = keeper.store(shard.number, self.waiting.take());
            shard.remote.runtime.block_on(stored);
        }
        Ok(())
    }

    fn push(&mut self, output: &Output) -> Result<(), MoverError> {
        for (cluster, found) in &output.clusters {
            let (payload, state) = match found {
                Found::Data(hash, at) => (
                    Payload::Frame(&output.frames[at.clone()]),
                    ClusterState::Data(*hash),
                ),
                Found::Zero => (Payload::Zero, ClusterState::Zero),
                Found::Trimmed => (Payload::Zero, ClusterState::Trimmed),
            };
            self.image.push(*cluster, payload, &mut self.image_upload)?;
            self.image_upload.drain()?;
            self.index.push(*cluster, &state, &mut self.index_upload)?;
            self.index_upload.drain()?;
        }
        Ok(())
    }

    fn finish(mut self, shard: &ShardBackup<'_>) -> Result<ShardRecord, MoverError> {
        let index = self.index.finish(&mut self.index_upload);
        let index_object = self.index_upload.finish(&[])?;
        let image = self.image.finish(&mut self.image_upload);
        let image_object = self.image_upload.finish(&image.head)?;
        let sizes = [
            (index.size, index_object.file_size()),
            (image.summary.file_size, image_object.file_size()),
        ];
        if sizes.iter().any(|(written, stored)| written != stored) {
            return Err(MoverError::Internal(format!(
                "written and stored sizes differ: {sizes:?}"
            )));
        }
        let files = FileStem::from(shard.image);
        Ok(ShardRecord {
            shard: shard.number,
            virtual_size: shard.size,
            image: image_object.record(files.image_name(shard.number)),
            tables: Digest(image.summary.tables.0),
            index: index_object.record(files.index_name(shard.number)),
            index_digest: Digest(index.digest.0),
        })
    }
}

/// A writer for the image. The body of a sealed one begins with a segment, as all its clusters then do that begin on a
/// multiple of one: merges copy from there.
fn image_writer(
    mut spec: ImageSpec,
    sealed: bool,
    state: Option<&ShardState>,
) -> Result<ImageWriter, WriteError> {
    loop {
        let writer = ImageWriter::new(spec.clone())?;
        let head = writer.head_size();
        if !sealed || head.is_multiple_of(SEGMENT as u64) {
            return match state {
                None => Ok(writer),
                Some(state) => ImageWriter::resume(spec, &state.image.0),
            };
        }
        spec.min_head = head.next_multiple_of(SEGMENT as u64);
    }
}
