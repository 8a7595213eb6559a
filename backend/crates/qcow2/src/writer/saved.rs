//! Saving and taking up an unfinished image.

use super::refcount::Refcounts;
use super::{ImageSpec, ImageWriter};
use crate::digest::TableChain;
use crate::error::WriteError;
use crate::geometry::{ClusterIndex, SpanIndex};
use crate::io::be64;
use crate::l2::SECTOR;
use crate::saved::{Load, Save};

const TAG: &[u8; 8] = b"HFSImg1\n";

impl ImageWriter {
    /// What has to be kept to go on after what was appended so far: a few hundred KiB at most with clusters of 64 KiB.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut save = Save::new(TAG);
        save.number(self.position);
        // Clusters are numbered from 0, so the one after the last one serves for none, too.
        save.number(self.previous.map_or(0, |previous| previous.0 + 1));
        save.bytes(&numbers(&self.l1));
        save.number(self.open.span.0);
        save.number(self.open.used.into());
        save.bytes(&self.open.bytes);
        save.bytes(&numbers(self.refcounts.table()));
        let open = self.refcounts.open();
        save.number(open.len() as u64);
        for block in open {
            let bytes: Vec<u8> = block.iter().flat_map(|count| count.to_be_bytes()).collect();
            save.bytes(&bytes);
        }
        save.bytes(&self.tables.state());
        save.number(self.data_clusters);
        save.number(self.zero_clusters);
        save.number(self.payload_bytes);
        save.finish()
    }

    /// Goes on with the image that was [saved](Self::save) under the same specification.
    ///
    /// # Errors
    /// [`WriteError::SavedState`] when it is not such a state, and those of [`new`](Self::new).
    pub fn resume(spec: ImageSpec, state: &[u8]) -> Result<Self, WriteError> {
        let mut writer = Self::new(spec)?;
        let wrong = |what| Err(WriteError::SavedState(what));
        let cluster_size = writer.geometry.cluster_size();
        let mut load = Load::new(TAG, state)?;
        writer.position = load.number()?;
        let next = load.number()?;
        writer.previous = next.checked_sub(1).map(ClusterIndex);
        writer.l1 = parse(load.exactly(writer.l1.len() * 8)?);
        writer.open.span = SpanIndex(load.number()?);
        writer.open.used = load.number()? != 0;
        let table = load.exactly(cluster_size.as_usize())?;
        writer.open.bytes.copy_from_slice(table);
        let table = parse(load.bytes()?);
        let blocks = load.number()?;
        if blocks > 2 + writer.layout.tables_end / cluster_size.bytes() {
            return wrong("it has too many refcount blocks");
        }
        let mut open = Vec::new();
        for _ in 0..blocks {
            let block = load.exactly(cluster_size.as_usize())?;
            let counts = block
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            open.push(counts.collect());
        }
        writer.refcounts = Refcounts::resume(cluster_size, table, open);
        writer.tables = TableChain::resume(load.exactly(32)?);
        writer.data_clusters = load.number()?;
        writer.zero_clusters = load.number()?;
        writer.payload_bytes = load.number()?;
        load.end()?;
        writer.check_resumed()?;
        Ok(writer)
    }

    /// A state lies on the target meanwhile. One that no writer saved must not lead a writer out of its tables, or let it
    /// count without end.
    fn check_resumed(&self) -> Result<(), WriteError> {
        let wrong = |what| Err(WriteError::SavedState(what));
        let next = self.previous.map_or(0, |previous| previous.0.saturating_add(1));
        let inside = (self.layout.body_start..=self.layout.max_file_size()).contains(&self.position);
        if !inside || !self.position.is_multiple_of(SECTOR) || next > self.geometry.clusters() {
            return wrong("its position is none of this image");
        }
        let span = self
            .previous
            .map_or(SpanIndex(0), |previous| self.geometry.span_of(previous));
        if self.open.span != span {
            return wrong("its table is not that of its last cluster");
        }
        if !self.refcounts.fit(self.position) {
            return wrong("its refcounts are not those of its position");
        }
        let clusters = self.data_clusters.checked_add(self.zero_clusters);
        if clusters.is_none_or(|clusters| clusters > next) || self.payload_bytes > self.position {
            return wrong("it counts more than it wrote");
        }
        Ok(())
    }
}

fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn parse(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|value| be64(value, 0)).collect()
}
