//! Counts how many payloads and tables touch each cluster of the file, in the one pass that writes it.

use std::collections::VecDeque;

use crate::digest::TableChain;
use crate::geometry::ClusterSize;
use crate::io::BodySink;
use crate::l2::SECTOR;

/// Refcounts of 16 bits. Only blocks that can still change are held: one, or two around a boundary.
#[derive(Debug)]
pub(super) struct Refcounts {
    cluster_size: ClusterSize,
    /// Offsets of the blocks written so far: the refcount table.
    table: Vec<u64>,
    /// The blocks after those, in order.
    open: VecDeque<Vec<u16>>,
}

impl Refcounts {
    pub(super) fn new(cluster_size: ClusterSize) -> Self {
        Self {
            cluster_size,
            table: Vec::new(),
            open: VecDeque::new(),
        }
    }

    /// Goes on behind the blocks in `table`, with these open.
    pub(super) fn resume(cluster_size: ClusterSize, table: Vec<u64>, open: Vec<Vec<u16>>) -> Self {
        Self {
            cluster_size,
            table,
            open: open.into(),
        }
    }

    /// Whether these can be the refcounts of a file that ends at `position`: the block that counts its end is open or the
    /// next one, and no cluster is touched more often than it has sectors.
    pub(super) fn fit(&self, position: u64) -> bool {
        let block = (position >> self.cluster_size.bits()) / self.counted_by_block();
        let open = block.checked_sub(self.table.len() as u64);
        let sectors = self.cluster_size.bytes() / SECTOR;
        open.is_some_and(|open| open <= 1)
            && self.open.len() <= 2
            && self
                .open
                .iter()
                .flatten()
                .all(|count| u64::from(*count) <= sectors)
    }

    /// The blocks that may still change.
    pub(super) fn open(&self) -> impl ExactSizeIterator<Item = &[u16]> {
        self.open.iter().map(Vec::as_slice)
    }

    pub(super) fn table(&self) -> &[u64] {
        &self.table
    }

    /// Counts one reference to every cluster of the file that a range of bytes touches.
    pub(super) fn add(&mut self, offset: u64, len: u64) {
        let bits = self.cluster_size.bits();
        for cluster in offset >> bits..=(offset + len - 1) >> bits {
            let by_block = self.counted_by_block();
            let block = (cluster / by_block) as usize - self.table.len();
            while self.open.len() <= block {
                self.open.push_back(vec![0; by_block as usize]);
            }
            // A cluster holds at most 4096 sectors, so 16 bits never overflow.
            self.open[block][(cluster % by_block) as usize] += 1;
        }
    }

    /// Writes the blocks whose clusters all lie before `position`, which is aligned.
    pub(super) fn write_complete(
        &mut self,
        position: &mut u64,
        tables: &mut TableChain,
        out: &mut impl BodySink,
    ) {
        while (self.table.len() as u64 + 1) * self.counted_by_block() <= *position >> self.cluster_size.bits()
        {
            self.write_next(position, tables, out);
        }
    }

    /// Writes all blocks that are left. The last one counts itself.
    pub(super) fn write_all(&mut self, position: &mut u64, tables: &mut TableChain, out: &mut impl BodySink) {
        while !self.open.is_empty() {
            self.write_next(position, tables, out);
        }
    }

    fn write_next(&mut self, position: &mut u64, tables: &mut TableChain, out: &mut impl BodySink) {
        // First, because the block may have to count itself.
        self.add(*position, self.cluster_size.bytes());
        let block = self.open.pop_front().expect("counting opened a block");
        let bytes: Vec<u8> = block.into_iter().flat_map(u16::to_be_bytes).collect();
        tables.add(*position, &bytes);
        out.append(&bytes);
        self.table.push(*position);
        *position += self.cluster_size.bytes();
    }

    /// Clusters of the file that one block counts.
    const fn counted_by_block(&self) -> u64 {
        self.cluster_size.bytes() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length of a body around the boundaries of three blocks: all clusters of the file are counted once, none
    /// beyond it, and the table names every block.
    #[test]
    fn blocks_count_themselves_at_every_position() {
        let cluster_size = ClusterSize::new(512).unwrap();
        for clusters in 1..800u64 {
            for step in [1, 7, 64] {
                let mut refcounts = Refcounts::new(cluster_size);
                let (mut file, mut tables) = (Vec::new(), TableChain::new());
                let mut position = 0;
                for start in (0..clusters).step_by(step) {
                    let len = (clusters - start).min(step as u64) * 512;
                    refcounts.add(position, len);
                    file.resize(file.len() + len as usize, 0);
                    position += len;
                    refcounts.write_complete(&mut position, &mut tables, &mut file);
                }
                refcounts.write_all(&mut position, &mut tables, &mut file);
                assert_eq!(file.len() as u64, position);
                let mut counts = refcounts.table().iter().flat_map(|offset| {
                    file[*offset as usize..][..512]
                        .chunks(2)
                        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                });
                let inside: Vec<u16> = counts.by_ref().take((position / 512) as usize).collect();
                assert_eq!(inside.len() as u64, position / 512, "{clusters} {step}");
                assert!(inside.iter().all(|count| *count == 1), "{clusters} {step}");
                assert!(counts.all(|count| count == 0), "{clusters} {step}");
            }
        }
    }
}
