//! Refcounts of a window of the merged file.

use crate::error::MergeError;
use crate::geometry::ClusterSize;

/// Counts the references to the clusters of some neighbouring refcount blocks, and ignores those to others.
#[derive(Debug)]
pub(super) struct Counts {
    cluster_size: ClusterSize,
    first_block: u64,
    /// Empty as long as nothing was counted in a block.
    blocks: Vec<Vec<u16>>,
}

impl Counts {
    /// A window that starts with block number `first_block` and takes at most `memory` bytes, but one block at least.
    pub(super) fn new(cluster_size: ClusterSize, first_block: u64, memory: u64) -> Self {
        let blocks = (memory / cluster_size.bytes()).max(1);
        Self {
            cluster_size,
            first_block,
            blocks: vec![Vec::new(); usize::try_from(blocks).expect("memory holds fewer blocks")],
        }
    }

    /// Whether the window holds a block.
    pub(super) fn holds(&self, block: u64) -> bool {
        (self.first_block..self.first_block + self.blocks.len() as u64).contains(&block)
    }

    /// Counts one reference to every cluster of the file that a range of bytes touches.
    pub(super) fn add(&mut self, offset: u64, len: u64) -> Result<(), MergeError> {
        let bits = self.cluster_size.bits();
        let by_block = self.cluster_size.bytes() / 2;
        for cluster in offset >> bits..=(offset + len - 1) >> bits {
            let block = (cluster / by_block).checked_sub(self.first_block);
            let Some(block) = block.and_then(|block| self.blocks.get_mut(block as usize)) else {
                continue;
            };
            if block.is_empty() {
                block.resize(by_block as usize, 0);
            }
            let count = &mut block[(cluster % by_block) as usize];
            *count = count.checked_add(1).ok_or(MergeError::SharedPayload {
                offset: cluster << bits,
            })?;
        }
        Ok(())
    }

    /// A block of the window as it stands in the file.
    pub(super) fn block(&self, block: u64) -> Vec<u8> {
        let counts = &self.blocks[(block - self.first_block) as usize];
        if counts.is_empty() {
            vec![0; self.cluster_size.as_usize()]
        } else {
            counts.iter().flat_map(|count| count.to_be_bytes()).collect()
        }
    }
}
