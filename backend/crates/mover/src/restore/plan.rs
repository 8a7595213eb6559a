//! Decides, in device order, what every cluster is restored from.
use std::{ops::Range, sync::Arc};

use holdfast_qcow2::{Chain, ClusterIndex, ClusterState, EffectiveSpan, ResolvedSpan, Source, SpanIndex};
use holdfast_target::{
    Key,
    layout::{ImageRecord, ShardNumber},
};
use tokio::sync::mpsc;

use crate::{
    MoverError,
    backup::{Parents, open_indexes},
    content::{Content, Shard},
    limits,
    remote::{Remote, RemoteFile},
};

/// A piece of the volume that is restored together.
#[derive(Debug)]
pub(super) enum Piece {
    /// A range of the volume that must read as zeroes.
    Zero(Range<u64>),
    /// Clusters next to each other.
    Data(Arc<Shard>, Vec<Content>),
}

/// Plans all that lies behind this byte of the volume. Blocks.
pub(super) fn plan(
    remote: &Remote,
    chain: &[ImageRecord],
    from: u64,
    out: &mpsc::Sender<Piece>,
) -> Result<(), MoverError> {
    let mut pieces = Pieces {
        out,
        zero: 0..0,
        data: None,
    };
    let mut offset = 0;
    for shard in &chain[0].shards {
        let end = offset + shard.virtual_size;
        if from < end {
            let from = from.saturating_sub(offset);
            plan_shard(remote, chain, shard.shard, offset, from, &mut pieces)?;
        }
        offset = end;
    }
    pieces.flush()
}

fn plan_shard(
    remote: &Remote,
    chain: &[ImageRecord],
    number: ShardNumber,
    offset: u64,
    from: u64,
    pieces: &mut Pieces<'_>,
) -> Result<(), MoverError> {
    let indexes = open_indexes(remote, chain, number)?;
    let (images, shard) = open_images(remote, chain, number, offset)?;
    let shard = Arc::new(shard);
    let (mut states, mut sources) = (EffectiveSpan::new(), ResolvedSpan::new());
    // Pieces end where clusters do, so nothing that is done begins or ends inside one.
    let first = ClusterIndex(from >> shard.geometry.cluster_size().bits());
    let first_span = shard.geometry.span_of(first).0;
    for span in (first_span..shard.geometry.spans()).map(SpanIndex) {
        let read = indexes.index.read_span(span, &mut states);
        read.map_err(|error| MoverError::index_member(&indexes.keys, error))?;
        images
            .resolve(span, &mut sources)
            .map_err(|error| MoverError::image_member(&shard.keys, error))?;
        let clusters = states.iter().zip(sources.iter());
        for ((cluster, state), (_, source)) in clusters.skip_while(|((cluster, _), _)| *cluster < first) {
            match content(&shard, &indexes, cluster, state, source)? {
                Some(content) => pieces.data(&shard, content)?,
                None => {
                    let start = shard.offset_of(cluster);
                    pieces.zero(start..start + shard.geometry.bytes_of(cluster))?;
                }
            }
        }
    }
    Ok(())
}

/// Index and images must say the same about a cluster. `None`: it reads as zeroes.
fn content(
    shard: &Shard,
    indexes: &Parents,
    cluster: ClusterIndex,
    state: Option<ClusterState>,
    source: Source,
) -> Result<Option<Content>, MoverError> {
    match (state, source) {
        (Some(ClusterState::Data(hash)), Source::Data { image, extent }) => Ok(Some(Content {
            cluster,
            image,
            extent,
            hash,
        })),
        (Some(ClusterState::Data(_)), Source::Zero { image }) => Err(shard.damaged(
            &shard.keys[image],
            cluster,
            "is empty in the image, its index has content",
        )),
        (Some(ClusterState::Data(_)), Source::Unallocated) => Err(shard.damaged(
            &indexes.keys[0],
            cluster,
            "is in the index, but in no image of the chain",
        )),
        (_, Source::Data { image, .. }) => Err(shard.damaged(
            &shard.keys[image],
            cluster,
            "has content in the image, none in its index",
        )),
        _ => Ok(None),
    }
}

fn open_images(
    remote: &Remote,
    chain: &[ImageRecord],
    number: ShardNumber,
    offset: u64,
) -> Result<(Chain<RemoteFile>, Shard), MoverError> {
    let mut images = Vec::new();
    let mut keys: Vec<Key> = Vec::new();
    for record in chain {
        let shard = &record.shards[number.0 as usize];
        images.push(remote.open_image(record, shard)?);
        keys.push(remote.key(&shard.image));
    }
    let images = Chain::new(images).map_err(|error| MoverError::chain(&keys, &error))?;
    let members = chain.iter().zip(images.images());
    let shard = Shard::of(remote, members, *images.geometry(), number, offset)?;
    Ok((images, shard))
}

/// Joins clusters to pieces and hands them on.
struct Pieces<'a> {
    out: &'a mpsc::Sender<Piece>,
    zero: Range<u64>,
    data: Option<(Arc<Shard>, Vec<Content>)>,
}

/// Empty ranges are handed on in pieces of this size at most, so that progress moves.
const ZERO_PIECE: u64 = 1 << 30;

impl Pieces<'_> {
    fn zero(&mut self, range: Range<u64>) -> Result<(), MoverError> {
        if self.zero.end == range.start && self.zero.end - self.zero.start < ZERO_PIECE {
            self.zero.end = range.end;
            return Ok(());
        }
        self.flush()?;
        self.zero = range;
        Ok(())
    }

    fn data(&mut self, shard: &Arc<Shard>, content: Content) -> Result<(), MoverError> {
        let most = limits::BATCH / shard.geometry.cluster_size().bytes();
        let follows = self.data.as_ref().is_some_and(|(of, contents)| {
            let next = contents
                .last()
                .is_some_and(|last| last.cluster.0 + 1 == content.cluster.0);
            Arc::ptr_eq(of, shard) && next && (contents.len() as u64) < most
        });
        if !follows {
            self.flush()?;
        }
        self.data
            .get_or_insert_with(|| (shard.clone(), Vec::new()))
            .1
            .push(content);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MoverError> {
        // A cluster that is one kind ends a run of the other, but runs of both may be open: an empty one ends when the
        // next empty one does not follow it.
        let zero = std::mem::take(&mut self.zero);
        if !zero.is_empty() {
            self.send(Piece::Zero(zero))?;
        }
        match self.data.take() {
            Some((shard, contents)) => self.send(Piece::Data(shard, contents)),
            None => Ok(()),
        }
    }

    fn send(&self, piece: Piece) -> Result<(), MoverError> {
        // Nobody listens any more when the pass has failed; what it failed of is reported there.
        self.out.blocking_send(piece).map_err(|_| MoverError::Cancelled)
    }
}
