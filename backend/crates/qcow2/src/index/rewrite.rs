//! One index instead of several: the index of the image that a run of images was merged into.

use super::{EffectiveSpan, IndexSpec, IndexSummary, IndexWriter, MergedIndex};
use crate::error::{IndexError, MemberError};
use crate::geometry::SpanIndex;
use crate::header::ImageName;
use crate::io::{BodySink, ReadAt};

/// Streams the effective states of a run's indexes into a new index, span by span.
///
/// A cluster that no member holds stays unheld. Zero and trimmed clusters are kept apart and kept even where the merged
/// image is a full one, which does not hold them: reads and incrementals find the same states as before.
///
/// Memory: the states of one span, one page, and the directory of the new index.
#[derive(Debug)]
pub struct IndexMerge<'a, R> {
    merged: &'a MergedIndex<R>,
    writer: IndexWriter,
    next: SpanIndex,
    effective: EffectiveSpan,
}

impl<'a, R: ReadAt> IndexMerge<'a, R> {
    /// Starts the index of `image`, the merged one, and appends its header.
    #[must_use]
    pub fn new(merged: &'a MergedIndex<R>, image: ImageName, out: &mut impl BodySink) -> Self {
        let spec = IndexSpec {
            image,
            geometry: *merged.geometry(),
            overlay: merged.has_below(),
        };
        Self {
            merged,
            writer: IndexWriter::new(&spec, out),
            next: SpanIndex(0),
            effective: EffectiveSpan::new(),
        }
    }

    /// Goes on to the next span in which a member holds something; appends at most one page. Returns `false` when
    /// there is none left.
    ///
    /// # Errors
    /// [`IndexError`] with the position of the member it happened in.
    pub fn next_span(&mut self, out: &mut impl BodySink) -> Result<bool, MemberError<IndexError>> {
        let held = |span: &u64| {
            let mut indexes = self.merged.indexes().iter();
            indexes.any(|index| index.page_extent(SpanIndex(*span)).is_some())
        };
        let Some(span) = (self.next.0..self.merged.geometry().spans()).find(held) else {
            return Ok(false);
        };
        self.next = SpanIndex(span + 1);
        self.merged.read_span(SpanIndex(span), &mut self.effective)?;
        for (cluster, state) in self.effective.iter() {
            if let Some(state) = state {
                self.writer
                    .push(cluster, &state, out)
                    .expect("the clusters of a disk of the same shape, in ascending order");
            }
        }
        Ok(true)
    }

    /// Appends what is left after the last span, and tells what the index is. Its `data_clusters` are those of the
    /// merged image when image and indexes belong together.
    #[must_use]
    pub fn finish(self, out: &mut impl BodySink) -> IndexSummary {
        self.writer.finish(out)
    }
}
