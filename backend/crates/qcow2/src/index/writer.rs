//! Writes an index as a stream.

use super::page::PageBuilder;
use super::{
    ClusterState, Counts, FOOTER_BOUND_BYTES, FOOTER_BYTES, FOOTER_MAGIC, HEADER_BYTES, IndexSpec,
    IndexSummary, VERSION, bind, encode_header,
};
use crate::error::WriteError;
use crate::geometry::{ClusterIndex, Geometry};
use crate::io::BodySink;

mod saved;

/// Writes one index; everything is appended to the sinks given to its methods, which together are the file.
///
/// State: the page of one span (at most 260 KiB at 64 KiB clusters) and 56 bytes for each page written.
#[derive(Debug)]
pub struct IndexWriter {
    geometry: Geometry,
    header: [u8; HEADER_BYTES],
    position: u64,
    previous: Option<ClusterIndex>,
    page: PageBuilder,
    directory: Vec<u8>,
    pages: u64,
    counts: Counts,
}

impl IndexWriter {
    /// Starts an index and appends its header.
    #[must_use]
    pub fn new(spec: &IndexSpec, out: &mut impl BodySink) -> Self {
        let header = encode_header(spec);
        out.append(&header);
        let mut page = PageBuilder::new();
        page.start(spec.geometry.span_of(ClusterIndex(0)), &spec.geometry);
        Self {
            geometry: spec.geometry,
            header,
            position: HEADER_BYTES as u64,
            previous: None,
            page,
            directory: Vec::new(),
            pages: 0,
            counts: Counts::default(),
        }
    }

    /// Adds the next cluster that the image holds, in ascending order; may append the page of the span before it.
    ///
    /// In a full image a cluster that is left out reads as zeroes, so zero and trimmed ones need not be pushed. In an
    /// overlay exactly those clusters are left out that show the image below.
    ///
    /// # Errors
    /// [`WriteError`]: order or range is wrong. Nothing was appended and the writer can be used on.
    pub fn push(
        &mut self,
        cluster: ClusterIndex,
        state: &ClusterState,
        out: &mut impl BodySink,
    ) -> Result<(), WriteError> {
        if let Some(previous) = self.previous.filter(|previous| *previous >= cluster) {
            return Err(WriteError::OutOfOrder { cluster, previous });
        }
        if cluster.0 >= self.geometry.clusters() {
            return Err(WriteError::BeyondEnd {
                cluster,
                clusters: self.geometry.clusters(),
            });
        }
        let span = self.geometry.span_of(cluster);
        if span != self.page.span {
            self.close_page(out);
            self.page.start(span, &self.geometry);
        }
        self.previous = Some(cluster);
        self.page
            .push(cluster.0 % self.geometry.cluster_size().span_clusters(), state);
        self.counts.add(state);
        Ok(())
    }

    /// Appends the last page, the directory and the footer.
    #[must_use]
    pub fn finish(mut self, out: &mut impl BodySink) -> IndexSummary {
        self.close_page(out);
        let mut footer = [0; FOOTER_BYTES];
        footer[0..4].copy_from_slice(FOOTER_MAGIC);
        footer[4..8].copy_from_slice(&VERSION.to_be_bytes());
        footer[8..16].copy_from_slice(&self.pages.to_be_bytes());
        footer[16..24].copy_from_slice(&self.position.to_be_bytes());
        footer[24..32].copy_from_slice(&self.counts.data.to_be_bytes());
        footer[32..40].copy_from_slice(&self.counts.zero.to_be_bytes());
        footer[40..48].copy_from_slice(&self.counts.trimmed.to_be_bytes());
        let digest = bind(&self.header, &self.directory, &footer[..FOOTER_BOUND_BYTES]);
        footer[FOOTER_BOUND_BYTES..].copy_from_slice(&digest.0);
        out.append(&self.directory);
        out.append(&footer);
        IndexSummary {
            digest,
            size: self.position + (self.directory.len() + FOOTER_BYTES) as u64,
            data_clusters: self.counts.data,
            zero_clusters: self.counts.zero,
            trimmed_clusters: self.counts.trimmed,
        }
    }

    fn close_page(&mut self, out: &mut impl BodySink) {
        if !self.page.is_used() {
            return;
        }
        let (header, states, hashes) = self.page.pieces();
        let mut hasher = blake3::Hasher::new();
        let mut len = 0;
        for piece in [&header, states, hashes] {
            hasher.update(piece);
            out.append(piece);
            len += piece.len();
        }
        let checksum = *hasher.finalize().as_bytes();
        out.append(&checksum);
        len += checksum.len();
        self.directory.extend_from_slice(&self.page.span.0.to_be_bytes());
        self.directory.extend_from_slice(&self.position.to_be_bytes());
        self.directory.extend_from_slice(&(len as u64).to_be_bytes());
        self.directory.extend_from_slice(&checksum);
        self.position += len as u64;
        self.pages += 1;
    }
}
