//! Brings the stored bytes of a piece with few requests.
use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use tokio::task::spawn_blocking;

use super::{
    join,
    plan::{Content, Piece, Shard},
    write::Work,
};
use crate::{MoverError, Progress, limits, remote::Remote};

/// Bytes of one image.
#[derive(Debug)]
pub(super) struct Stored {
    image: usize,
    start: u64,
    bytes: Bytes,
}

/// Fetches what a piece needs.
pub(super) async fn fetch(remote: &Remote, piece: Piece, progress: &Progress) -> Result<Work, MoverError> {
    let (shard, contents) = match piece {
        Piece::Zero(range) => return Ok(Work::Zero(range)),
        Piece::Data(shard, contents) => (shard, contents),
    };
    let requests: Vec<BoxFuture<'_, _>> = requests(&shard, &contents)
        .into_iter()
        .map(|(image, range)| Box::pin(get(remote, shard.clone(), image, range, progress)) as _)
        .collect();
    let stored = stream::iter(requests)
        .buffered(limits::RANGES)
        .try_collect()
        .await?;
    Ok(Work::Data(shard, contents, stored))
}

async fn get(
    remote: &Remote,
    shard: Arc<Shard>,
    image: usize,
    range: Range<u64>,
    progress: &Progress,
) -> Result<Stored, MoverError> {
    let (key, start) = (&shard.keys[image], range.start);
    let opening = &shard.openings[image];
    let sealed = |error| MoverError::sealed(key, error);
    let stored = opening.stored(&range).map_err(sealed)?;
    let bytes = remote
        .target
        .get_range(key, stored, Some(&shard.pins[image]))
        .await;
    let mut bytes = bytes.map_err(|error| MoverError::bound(key, error))?;
    progress.transferred(bytes.len() as u64);
    if opening.is_sealed() {
        let shard = shard.clone();
        let opened = spawn_blocking(move || {
            let opened = shard.openings[image].open(&range, bytes);
            opened.map_err(|error| MoverError::sealed(&shard.keys[image], error))
        });
        bytes = join(opened.await)?;
    }
    Ok(Stored { image, start, bytes })
}

/// The file ranges that hold the contents, sorted; ranges with little between them are joined. Together they are at most
/// a few times as long as the piece, whatever the images say: an extent has at most two clusters, a gap at most one.
fn requests(shard: &Shard, contents: &[Content]) -> Vec<(usize, Range<u64>)> {
    let gap = limits::GAP.min(shard.geometry.cluster_size().bytes());
    let extent = |content: &Content| {
        let Content { image, extent, .. } = *content;
        (image, extent.offset..extent.offset + u64::from(extent.len))
    };
    let mut extents: Vec<(usize, Range<u64>)> = contents.iter().map(extent).collect();
    extents.sort_unstable_by_key(|(image, range)| (*image, range.start));
    let mut requests: Vec<(usize, Range<u64>)> = Vec::new();
    for (image, range) in extents {
        match requests.last_mut() {
            Some((last, joined)) if *last == image && range.start <= joined.end + gap => {
                joined.end = joined.end.max(range.end);
            }
            _ => requests.push((image, range)),
        }
    }
    requests
}

/// The stored bytes of one cluster.
pub(super) fn stored_bytes<'a>(stored: &'a [Stored], content: &Content) -> Option<&'a [u8]> {
    let (image, offset) = (content.image, content.extent.offset);
    let after = stored.partition_point(|piece| (piece.image, piece.start) <= (image, offset));
    let piece = stored
        .get(after.checked_sub(1)?)
        .filter(|piece| piece.image == image)?;
    let from = usize::try_from(offset - piece.start).ok()?;
    piece
        .bytes
        .get(from..from.checked_add(content.extent.len as usize)?)
}

#[cfg(test)]
mod tests {
    use holdfast_qcow2::{ClusterIndex, ClusterSize, Digest, Extent, Geometry};

    use super::*;

    fn content(cluster: u64, image: usize, offset: u64, len: u32) -> Content {
        let extent = Extent {
            offset,
            len,
            compressed: true,
        };
        Content {
            cluster: ClusterIndex(cluster),
            image,
            extent,
            hash: Digest([0; 32]),
        }
    }

    #[test]
    fn neighbours_share_a_request_and_everyone_finds_its_bytes() {
        let geometry = Geometry::new(1 << 30, ClusterSize::DEFAULT).unwrap();
        let shard = Shard {
            keys: Vec::new(),
            pins: Vec::new(),
            openings: Vec::new(),
            compression: Vec::new(),
            geometry,
            offset: 0,
        };
        let contents = [
            content(0, 0, 1000, 500),
            content(1, 1, 9000, 100),
            content(2, 0, 1500, 700),
            content(3, 0, 2200 + (64 << 10), 10),
            content(4, 0, 10 << 20, 10),
            content(5, 0, 1100, 50),
        ];
        let requests = requests(&shard, &contents);
        let expected = [
            (0, 1000..2210 + (64 << 10)),
            (0, 10 << 20..(10 << 20) + 10),
            (1, 9000..9100),
        ];
        assert_eq!(requests, expected);
        let bytes = |range: &Range<u64>| range.clone().map(|at| (at % 251) as u8).collect::<Vec<_>>();
        let stored: Vec<Stored> = requests
            .iter()
            .map(|(image, range)| Stored {
                image: *image,
                start: range.start,
                bytes: bytes(range).into(),
            })
            .collect();
        for content in &contents {
            let range = content.extent.offset..content.extent.offset + u64::from(content.extent.len);
            assert_eq!(stored_bytes(&stored, content).unwrap(), bytes(&range));
        }
        assert!(stored_bytes(&stored, &content(9, 1, 9000, 101)).is_none());
        assert!(stored_bytes(&stored, &content(9, 2, 1000, 1)).is_none());
    }
}
