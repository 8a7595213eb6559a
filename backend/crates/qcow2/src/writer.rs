//! Writes an image as a stream: the body in ascending device order, the head last.
//!
//! ```text
//! | header | L1 table | refcount table | body: payload … L2 table | payload … L2 table, refcount block | … |
//! |<----------- head: emitted last --->|<------------------ appended in this order --------------------------->|
//! ```
//!
//! The sizes of the head follow from the virtual size alone, so the body's offsets are known from the start and
//! nothing that was appended is ever touched again.

use crate::digest::{Digest, TableChain};
use crate::error::WriteError;
use crate::geometry::{ClusterIndex, ClusterSize, ENTRY_BYTES, Geometry, SpanIndex};
use crate::header::{HeadLayout, ImageName};
use crate::io::{BodySink, append_zeros};
use crate::l2::{self, SECTOR};

mod refcount;
mod saved;

use refcount::Refcounts;

/// Most bytes a caller may reserve for a head.
const MAX_MIN_HEAD: u64 = 64 << 20;

/// What an image is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// Bytes of the virtual disk, a multiple of 512.
    pub virtual_size: u64,
    /// Bytes per cluster, 16 KiB to 2 MiB; belongs to the chain.
    pub cluster_size: ClusterSize,
    /// The image below, for an overlay.
    pub backing: Option<ImageName>,
    /// Least bytes of the head, so that it may be an upload's first part on its own; 0 for no padding. A caller that
    /// can hold back the first bytes of the body needs none.
    pub min_head: u64,
}

/// What one cluster holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A zstd frame of the whole cluster, from [`Compressor`](crate::Compressor). A cluster that reaches beyond the end
    /// of the disk is filled up with zeroes before it is compressed.
    Frame(&'a [u8]),
    /// Reads as zeroes, because it was zeroed or trimmed. An overlay stores an explicit zero cluster, so that nothing
    /// shines through from below; a full image stores nothing.
    Zero,
}

/// What a finished image is, for the object that commits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Length of the whole file in bytes, head included.
    pub file_size: u64,
    /// Bytes of the head; the body begins here.
    pub head_size: u64,
    /// Digest of the tables, which [`Image::tables_digest`](crate::Image::tables_digest) computes again.
    pub tables: Digest,
    /// Clusters with payload.
    pub data_clusters: u64,
    /// Explicit zero clusters.
    pub zero_clusters: u64,
    /// Bytes of payload that the tables name, padding to sectors included.
    pub payload_bytes: u64,
}

/// The end of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Bytes 0 to [`ImageSummary::head_size`] of the file.
    pub head: Vec<u8>,
    /// What the file is.
    pub summary: ImageSummary,
}

/// Writes one image. Bytes that follow the head are appended to the sink given to [`push`](Self::push) and
/// [`finish`](Self::finish); the head comes out at the end.
///
/// State: one L2 table, one or two refcount blocks, and the two tables of the head (together a few KiB for 128 GiB).
#[derive(Debug)]
pub struct ImageWriter {
    geometry: Geometry,
    layout: HeadLayout,
    backing: Option<ImageName>,
    /// File offset of the next byte of the body; a multiple of a sector.
    position: u64,
    /// The last cluster pushed.
    previous: Option<ClusterIndex>,
    l1: Vec<u64>,
    open: OpenTable,
    refcounts: Refcounts,
    tables: TableChain,
    data_clusters: u64,
    zero_clusters: u64,
    payload_bytes: u64,
}

/// The L2 table of the span being written, as it will stand in the file.
#[derive(Debug)]
struct OpenTable {
    span: SpanIndex,
    bytes: Vec<u8>,
    used: bool,
}

impl ImageWriter {
    /// Starts an image.
    ///
    /// # Errors
    /// [`WriteError`] when the specification describes no image that QCOW2 can hold.
    pub fn new(spec: ImageSpec) -> Result<Self, WriteError> {
        let geometry = Geometry::new(spec.virtual_size, spec.cluster_size)?;
        check_cluster_size(spec.cluster_size)?;
        if spec.min_head > MAX_MIN_HEAD {
            return Err(WriteError::HeadTooLarge(spec.min_head));
        }
        let layout = HeadLayout::new(&geometry, spec.min_head, 0);
        if !layout.is_addressable(spec.cluster_size) {
            return Err(WriteError::TooLarge(spec.virtual_size));
        }
        let mut refcounts = Refcounts::new(spec.cluster_size);
        refcounts.add(0, layout.tables_end);
        let spans = usize::try_from(geometry.spans()).expect("a geometry has at most 4 Mi spans");
        Ok(Self {
            layout,
            backing: spec.backing,
            position: layout.body_start,
            previous: None,
            l1: vec![0; spans],
            open: OpenTable {
                span: SpanIndex(0),
                bytes: vec![0; spec.cluster_size.as_usize()],
                used: false,
            },
            refcounts,
            tables: TableChain::new(),
            data_clusters: 0,
            zero_clusters: 0,
            payload_bytes: 0,
            geometry,
        })
    }

    /// Shape of the disk.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes of the head, known from the start: the first byte appended has this file offset.
    #[must_use]
    pub const fn head_size(&self) -> u64 {
        self.layout.body_start
    }

    /// File offset of the next byte that will be appended.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Adds the next cluster. Clusters come in ascending order; those left out are unallocated: they show the image
    /// below, or zeroes in a full image.
    ///
    /// Besides the payload this may append the L2 table of the span before it and refcount blocks.
    ///
    /// # Errors
    /// [`WriteError`]: order, range or length is wrong. Nothing was appended and the writer can be used on.
    pub fn push(
        &mut self,
        cluster: ClusterIndex,
        payload: Payload<'_>,
        out: &mut impl BodySink,
    ) -> Result<(), WriteError> {
        self.check(cluster, payload)?;
        let span = self.geometry.span_of(cluster);
        if span != self.open.span {
            self.close_table(out);
            self.open.span = span;
        }
        self.previous = Some(cluster);
        let entry = match payload {
            Payload::Frame(frame) => self.append_payload(frame, out),
            Payload::Zero if self.backing.is_some() => {
                self.zero_clusters += 1;
                l2::ZERO_ENTRY
            }
            Payload::Zero => return Ok(()),
        };
        let at = (cluster.0 % self.geometry.cluster_size().span_clusters() * ENTRY_BYTES) as usize;
        self.open.bytes[at..at + ENTRY_BYTES as usize].copy_from_slice(&entry.to_be_bytes());
        self.open.used = true;
        Ok(())
    }

    /// Appends the last tables and returns the head.
    #[must_use]
    pub fn finish(mut self, out: &mut impl BodySink) -> Finished {
        self.close_table(out);
        self.refcounts
            .write_all(&mut self.position, &mut self.tables, out);

        let head = self.layout.write(
            &self.geometry,
            self.backing.as_ref(),
            &self.l1,
            self.refcounts.table(),
        );
        let tables = self
            .tables
            .finish(self.position, &head[..self.layout.tables_end as usize]);
        let summary = ImageSummary {
            file_size: self.position,
            head_size: self.layout.body_start,
            tables,
            data_clusters: self.data_clusters,
            zero_clusters: self.zero_clusters,
            payload_bytes: self.payload_bytes,
        };
        Finished { head, summary }
    }

    fn check(&self, cluster: ClusterIndex, payload: Payload<'_>) -> Result<(), WriteError> {
        if let Some(previous) = self.previous.filter(|previous| *previous >= cluster) {
            return Err(WriteError::OutOfOrder { cluster, previous });
        }
        if cluster.0 >= self.geometry.clusters() {
            return Err(WriteError::BeyondEnd {
                cluster,
                clusters: self.geometry.clusters(),
            });
        }
        // Content that does not shrink takes one sector more than the cluster; refcount table and entry count on it.
        let max = self.geometry.cluster_size().bytes() + SECTOR;
        match payload {
            Payload::Frame(frame) if frame.is_empty() || frame.len() as u64 > max => {
                Err(WriteError::PayloadLength {
                    cluster,
                    len: frame.len(),
                    max,
                })
            }
            _ => Ok(()),
        }
    }

    fn append_payload(&mut self, frame: &[u8], out: &mut impl BodySink) -> u64 {
        let len = (frame.len() as u64).next_multiple_of(SECTOR);
        let entry = l2::encode_compressed(self.position, len, self.geometry.cluster_size());
        out.append(frame);
        append_zeros(out, len - frame.len() as u64);
        self.refcounts.add(self.position, len);
        self.position += len;
        self.data_clusters += 1;
        self.payload_bytes += len;
        entry
    }

    /// Writes the open L2 table behind its data, and every refcount block that cannot change any more.
    fn close_table(&mut self, out: &mut impl BodySink) {
        if !self.open.used {
            return;
        }
        let cluster_size = self.geometry.cluster_size();
        align(&mut self.position, cluster_size, out);
        self.l1[self.open.span.0 as usize] = l2::encode_l1(self.position);
        self.refcounts.add(self.position, cluster_size.bytes());
        self.tables.add(self.position, &self.open.bytes);
        out.append(&self.open.bytes);
        self.position += cluster_size.bytes();
        self.open.bytes.fill(0);
        self.open.used = false;
        self.refcounts
            .write_complete(&mut self.position, &mut self.tables, out);
    }
}

/// New images use only a part of what QCOW2 allows.
pub(crate) fn check_cluster_size(cluster_size: ClusterSize) -> Result<(), WriteError> {
    match cluster_size.bytes() {
        0x4000..=0x20_0000 => Ok(()),
        bytes => Err(WriteError::ClusterSize(bytes)),
    }
}

/// Pads the body to a cluster boundary.
fn align(position: &mut u64, cluster_size: ClusterSize, out: &mut impl BodySink) {
    let aligned = position.next_multiple_of(cluster_size.bytes());
    append_zeros(out, aligned - *position);
    *position = aligned;
}
