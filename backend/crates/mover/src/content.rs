//! The stored bytes of clusters: found, fetched with few requests, unpacked and compared with their hashes.
use std::ops::Range;

use bytes::Bytes;
use holdfast_qcow2::{
    ClusterIndex, Compression, Decompressor, Digest, Extent, Geometry, Image, cluster_hash,
};
use holdfast_target::{
    Key, Pin,
    layout::{ImageRecord, ShardNumber},
};

use crate::{
    MoverError, Progress, limits,
    remote::{Opening, Remote, RemoteFile},
};

/// The images of one shard, newest first: what has to be known to read their clusters.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) keys: Vec<Key>,
    pub(crate) pins: Vec<Pin>,
    /// How each image is read.
    pub(crate) openings: Vec<Opening>,
    pub(crate) compression: Vec<Compression>,
    pub(crate) geometry: Geometry,
    /// Where the shard begins on the volume.
    pub(crate) offset: u64,
}

/// A cluster with content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) cluster: ClusterIndex,
    /// Position of the image in [`Shard::keys`].
    pub(crate) image: usize,
    pub(crate) extent: Extent,
    pub(crate) hash: Digest,
}

impl Content {
    /// The bytes of its image's file.
    pub(crate) fn range(&self) -> Range<u64> {
        self.extent.offset..self.extent.offset + u64::from(self.extent.len)
    }
}

/// Bytes of the file of one image.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) image: usize,
    pub(crate) start: u64,
    pub(crate) bytes: Bytes,
}

/// Why a cluster is not what its index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Length,
    Compression,
    Hash,
}

impl Wrong {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Length => "has another length than a cluster",
            Self::Compression => "cannot be decompressed",
            Self::Hash => "does not have the hash that its index holds",
        }
    }
}

impl Shard {
    /// Of these images, opened before, with their records.
    pub(crate) fn of<'r>(
        remote: &Remote,
        members: impl IntoIterator<Item = (&'r ImageRecord, &'r Image<RemoteFile>)>,
        geometry: Geometry,
        number: ShardNumber,
        offset: u64,
    ) -> Result<Self, MoverError> {
        let mut shard = Self {
            keys: Vec::new(),
            pins: Vec::new(),
            openings: Vec::new(),
            compression: Vec::new(),
            geometry,
            offset,
        };
        for (record, image) in members {
            let object = &record.shards[number.0 as usize].image;
            let key = remote.key(object);
            shard.openings.push(remote.unlock(&key, object)?);
            shard.keys.push(key);
            shard.pins.push(object.pin());
            shard.compression.push(image.compression());
        }
        Ok(shard)
    }

    /// Where a cluster begins on the volume.
    pub(crate) fn offset_of(&self, cluster: ClusterIndex) -> u64 {
        self.offset + self.geometry.offset_of(cluster)
    }

    pub(crate) fn damaged(&self, key: &Key, cluster: ClusterIndex, what: impl Into<String>) -> MoverError {
        let (key, offset) = (key.to_string(), self.offset_of(cluster));
        MoverError::DamagedCluster {
            key,
            cluster,
            offset,
            what: what.into(),
        }
    }

    /// The file ranges that hold the contents, sorted; ranges with little between them are joined. An extent has at most
    /// two clusters and a gap at most one, whatever the images say.
    pub(crate) fn requests(&self, contents: &[Content]) -> Vec<(usize, Range<u64>)> {
        let gap = limits::GAP.min(self.geometry.cluster_size().bytes());
        let mut extents: Vec<(usize, Range<u64>)> = contents
            .iter()
            .map(|content| (content.image, content.range()))
            .collect();
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

    /// What the store holds for these bytes of an image's file, still sealed where the image is.
    pub(crate) async fn fetch(
        &self,
        remote: &Remote,
        image: usize,
        range: &Range<u64>,
        progress: &Progress,
    ) -> Result<Bytes, MoverError> {
        let key = &self.keys[image];
        let stored = self.openings[image].stored(range);
        let stored = stored.map_err(|error| MoverError::sealed(key, error))?;
        let length = stored.end - stored.start;
        let pin = Some(&self.pins[image]);
        let bytes = remote.target.get_range(key, stored, pin).await;
        let bytes = bytes.map_err(|error| MoverError::bound(key, error))?;
        if bytes.len() as u64 != length {
            let what = format!("{} bytes came instead of {length}", bytes.len());
            return Err(MoverError::damaged(key, what));
        }
        progress.transferred(bytes.len() as u64);
        Ok(bytes)
    }

    /// Unpacks a cluster into `raw`, which has its length, and compares it with its hash.
    pub(crate) fn unpack(
        &self,
        content: &Content,
        stored: &[u8],
        decompressor: &mut Decompressor,
        raw: &mut [u8],
    ) -> Result<(), Wrong> {
        if content.extent.compressed {
            let compression = self.compression[content.image];
            let unpacked = decompressor.decompress(compression, stored, raw);
            unpacked.map_err(|_| Wrong::Compression)?;
        } else if stored.len() == raw.len() {
            raw.copy_from_slice(stored);
        } else {
            return Err(Wrong::Length);
        }
        if cluster_hash(raw) == content.hash {
            Ok(())
        } else {
            Err(Wrong::Hash)
        }
    }
}

/// The stored bytes of one cluster.
pub(crate) fn stored_bytes<'a>(stored: &'a [Stored], content: &Content) -> Option<&'a [u8]> {
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
    use holdfast_qcow2::ClusterSize;

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
        let requests = shard.requests(&contents);
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
            assert_eq!(stored_bytes(&stored, content).unwrap(), bytes(&content.range()));
        }
        assert!(stored_bytes(&stored, &content(9, 1, 9000, 101)).is_none());
        assert!(stored_bytes(&stored, &content(9, 2, 1000, 1)).is_none());
    }
}
