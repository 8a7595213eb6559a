//! Saving and taking up an unfinished index.

use super::IndexWriter;
use crate::error::WriteError;
use crate::geometry::ClusterIndex;
use crate::index::page::{PageBuilder, longest_page};
use crate::index::{Counts, DIRECTORY_ENTRY_BYTES, HEADER_BYTES, IndexSpec, encode_header};
use crate::saved::{Load, Save};

const TAG: &[u8; 8] = b"HFSIdx1\n";

impl IndexWriter {
    /// What has to be kept to go on after what was appended so far: the open page and the directory.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut save = Save::new(TAG);
        save.number(self.position);
        save.number(self.previous.map_or(0, |previous| previous.0 + 1));
        self.page.save(&mut save);
        save.bytes(&self.directory);
        save.number(self.pages);
        for count in [self.counts.data, self.counts.zero, self.counts.trimmed] {
            save.number(count);
        }
        save.finish()
    }

    /// Goes on with the index that was [saved](Self::save) under the same specification.
    ///
    /// # Errors
    /// [`WriteError::SavedState`]: it is not such a state.
    pub fn resume(spec: &IndexSpec, state: &[u8]) -> Result<Self, WriteError> {
        let mut load = Load::new(TAG, state)?;
        let position = load.number()?;
        let next = load.number()?;
        let page = PageBuilder::load(&mut load, &spec.geometry)?;
        let directory = load.bytes()?.to_vec();
        let pages = load.number()?;
        let [data, zero, trimmed] = [load.number()?, load.number()?, load.number()?];
        load.end()?;
        let counted = data.checked_add(zero).and_then(|sum| sum.checked_add(trimmed));
        let span = spec.geometry.span_of(ClusterIndex(next.saturating_sub(1)));
        // Pages of at most a hash for each cluster.
        let per_page = longest_page(spec.geometry.cluster_size().span_clusters());
        if next > spec.geometry.clusters()
            || pages > spec.geometry.spans()
            || directory.len() as u64 != pages * DIRECTORY_ENTRY_BYTES as u64
            || position < HEADER_BYTES as u64
            || position - HEADER_BYTES as u64 > pages * per_page
            || page.span != span
            || counted.is_none_or(|counted| counted > next)
        {
            return Err(WriteError::SavedState("its position is none of this index"));
        }
        Ok(Self {
            geometry: spec.geometry,
            header: encode_header(spec),
            position,
            previous: next.checked_sub(1).map(ClusterIndex),
            page,
            directory,
            pages,
            counts: Counts { data, zero, trimmed },
        })
    }
}
