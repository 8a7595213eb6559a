//! The images and indexes of one shard that are merged, found to be what was written.
use holdfast_qcow2::{ImageName, Index, MergeError, MergedIndex, Run};
use holdfast_seal::{Layout, SEGMENT};
use holdfast_target::{
    Key, Pin,
    layout::{Digest, ImageRecord, ShardNumber},
};

use crate::{
    Damage, MoverError,
    remote::{Remote, RemoteFile},
};

/// One shard of a run, newest first.
pub(super) struct Members {
    pub(super) run: Run<RemoteFile>,
    pub(super) index: MergedIndex<RemoteFile>,
    pub(super) images: Vec<Source>,
    pub(super) index_keys: Vec<Key>,
}

/// What has to be known of an image to copy from it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) key: Key,
    pub(super) pin: Pin,
    pub(super) seal: Option<Layout>,
}

impl Source {
    /// Whether every multiple of a segment is a place where the object can be cut.
    fn is_regular(&self) -> bool {
        let slices = self.seal.as_ref().map_or(&[][..], Layout::slices);
        let all_but_last = slices.split_last().map_or(&[][..], |(_, rest)| rest);
        all_but_last
            .iter()
            .all(|slice| slice.plain.is_multiple_of(SEGMENT as u64))
    }
}

impl Members {
    /// Opens them. A merge must not carry damage of tables on, so all of them are read and compared with the records.
    /// Blocks.
    pub(super) fn open(
        remote: &Remote,
        records: &[ImageRecord],
        number: ShardNumber,
    ) -> Result<Self, MoverError> {
        let (mut sources, mut index_keys) = (Vec::new(), Vec::new());
        let (mut images, mut indexes): (Vec<_>, Vec<Index<RemoteFile>>) = (Vec::new(), Vec::new());
        for record in records {
            let shard = &record.shards[number.0 as usize];
            let key = remote.key(&shard.image);
            let image = remote.open_image(record, shard)?;
            let tables = image.tables_digest();
            let tables = tables.map_err(|error| MoverError::image(&key, error))?;
            if Digest(tables.0) != shard.tables {
                return Err(MoverError::damaged(
                    key,
                    "its tables are not those that were written",
                ));
            }
            images.push(image);
            sources.push(Source {
                key,
                pin: shard.image.pin(),
                seal: shard.image.seal.clone(),
            });
            indexes.push(remote.open_index(record, shard)?);
            index_keys.push(remote.key(&shard.index));
        }
        let oldest = &records[records.len() - 1];
        let below = oldest.parent.as_ref().map(|below| below.file_name(number));
        let below = below.map(|name| name.parse::<ImageName>()).transpose()?;
        let is_overlay = below.is_some();
        let image_keys: Vec<&Key> = sources.iter().map(|source| &source.key).collect();
        let run = Run::new(images, below).map_err(|error| MoverError::chain(&image_keys, &error))?;
        let index = match is_overlay {
            true => MergedIndex::overlays(indexes),
            false => MergedIndex::new(indexes),
        };
        let index = index.map_err(|error| MoverError::chain(&index_keys, &error))?;
        Ok(Self {
            run,
            index,
            images: sources,
            index_keys,
        })
    }

    /// Whether all members can be cut wherever a merge cuts, for an object that is sealed or not.
    pub(super) fn are_regular(&self, sealed: bool) -> bool {
        let regular = |source: &Source| source.seal.is_some() == sealed && source.is_regular();
        self.images.iter().all(regular)
    }

    pub(super) fn error(&self, error: MergeError) -> MoverError {
        let newest = &self.images[0].key;
        match error {
            MergeError::Member(error) => {
                let key = &self.images[error.member].key;
                MoverError::image(key, error.source)
            }
            MergeError::Changed => MoverError::damaged(newest, error.to_string()),
            MergeError::SharedPayload { .. } => {
                MoverError::damaged_by(Damage::Unfitting, newest, error.to_string())
            }
            MergeError::Write(_) | MergeError::Rules(_) | MergeError::TooManyPieces { .. } => {
                MoverError::CannotMerge(error.to_string())
            }
        }
    }
}
