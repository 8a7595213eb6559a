//! Reads one image, trusting nothing in it.

use std::ops::Range;

use crate::codec::Compression;
use crate::digest::{Digest, TableChain};
use crate::error::{OtherShape, ReadError};
use crate::geometry::{ClusterIndex, ENTRY_BYTES, Geometry, SpanIndex};
use crate::header::{HEADER_BYTES, Header, check_inside, read_at};
use crate::io::{ReadAt, array, be64};
use crate::l2::{self, Mapping};

/// An image whose header and L1 table were read and checked.
///
/// Memory: the L1 table (2 KiB for 128 GiB at 64 KiB clusters). Payload is not read here: callers fetch the
/// [`Extent`](crate::Extent)s they are told and decompress them with a [`Decompressor`](crate::Decompressor).
#[derive(Debug)]
pub struct Image<R> {
    source: R,
    header: Header,
    /// Offset of each span's L2 table, 0 for none.
    l1: Vec<u64>,
}

/// What one image says about the clusters of one span. Reuse it: it keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct SpanMap {
    bytes: Vec<u8>,
    mappings: Vec<Mapping>,
    first: u64,
}

impl SpanMap {
    /// An empty map to be filled by [`Image::read_span`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every cluster of the span in ascending order, those cut off by the end of the disk left out.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ClusterIndex, Mapping)> + '_ {
        let first = self.first;
        self.mappings
            .iter()
            .enumerate()
            .map(move |(i, mapping)| (ClusterIndex(first + i as u64), *mapping))
    }

    /// The same without the numbers.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }
}

impl<R: ReadAt> Image<R> {
    /// Reads header and L1 table of an image of any disk. The table of the largest one has 32 MiB.
    ///
    /// # Errors
    /// [`ReadError`]: the source failed, or the image is damaged, or needs something that is not supported.
    pub fn open(source: R) -> Result<Self, ReadError> {
        Self::read(source, None)
    }

    /// Like [`open`](Self::open), for an image whose disk is known, which bounds the memory it takes.
    ///
    /// # Errors
    /// As `open`, and [`ReadError::OtherShape`].
    pub fn open_for(source: R, disk: &Geometry) -> Result<Self, ReadError> {
        Self::read(source, Some(disk))
    }

    fn read(source: R, disk: Option<&Geometry>) -> Result<Self, ReadError> {
        let header = Header::read(&source)?;
        OtherShape::check(&header.geometry, disk)?;
        let l1 = read_l1(&source, &header)?;
        Ok(Self { source, header, l1 })
    }

    /// The checked header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Shape of the virtual disk.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }

    /// How compressed extents are compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.header.compression
    }

    /// Whether the image lies on top of another one. Which one that is, is for the caller to know.
    #[must_use]
    pub const fn is_overlay(&self) -> bool {
        self.header.backing_file.is_some()
    }

    /// Where the bytes come from.
    #[must_use]
    pub const fn source(&self) -> &R {
        &self.source
    }

    /// File range of a span's L2 table, for prefetching; `None` when the image holds nothing there.
    #[must_use]
    pub fn table_extent(&self, span: SpanIndex) -> Option<Range<u64>> {
        let offset = *self.l1.get(usize::try_from(span.0).ok()?)?;
        (offset != 0).then(|| offset..offset + self.geometry().cluster_size().bytes())
    }

    /// Reads what the image says about a span into `map`. Returns whether it has a table for it at all; if not, every
    /// cluster is unallocated.
    ///
    /// # Errors
    /// [`ReadError`]: no such span, the source failed, or an entry of the table is invalid.
    pub fn read_span(&self, span: SpanIndex, map: &mut SpanMap) -> Result<bool, ReadError> {
        let geometry = self.geometry();
        if span.0 >= geometry.spans() {
            return Err(ReadError::NoSuchSpan {
                span,
                spans: geometry.spans(),
            });
        }
        let clusters = geometry.clusters_of(span);
        let count = (clusters.end - clusters.start) as usize;
        map.first = clusters.start;
        map.mappings.clear();
        let Some(table) = self.table_extent(span) else {
            map.mappings.resize(count, Mapping::Unallocated);
            return Ok(false);
        };
        // Entries for clusters beyond the end of the disk mean nothing and are not read.
        map.bytes.resize(count * ENTRY_BYTES as usize, 0);
        read_at(&self.source, table.start, &mut map.bytes)?;
        let (cluster_size, file_size) = (geometry.cluster_size(), self.source.size());
        for (index, entry) in map.bytes.chunks_exact(ENTRY_BYTES as usize).enumerate() {
            let entry = u64::from_be_bytes(array(entry, 0));
            map.mappings
                .push(l2::decode_l2(entry, index as u64, cluster_size, file_size)?);
        }
        Ok(true)
    }

    /// Computes the digest of the tables again: reads all tables, no payload.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::ForeignLayout`] for images that were not written by [`ImageWriter`](crate::ImageWriter).
    pub fn tables_digest(&self) -> Result<Digest, ReadError> {
        let cluster = self.geometry().cluster_size().bytes();
        let refcount_table = self.read_refcount_table()?;
        let tables_end = self.header.refcount_table_offset + refcount_table.len() as u64 * ENTRY_BYTES;
        let mut offsets: Vec<u64> = self.l1.iter().copied().filter(|offset| *offset != 0).collect();
        offsets.extend(refcount_table.iter().copied().filter(|offset| *offset != 0));
        offsets.sort_unstable();
        check_disjoint(&offsets, cluster)?;

        let mut chain = TableChain::new();
        let mut table = vec![0; cluster as usize];
        for offset in offsets {
            check_inside("table", offset, cluster, self.source.size())?;
            read_at(&self.source, offset, &mut table)?;
            chain.add(offset, &table);
        }
        let mut head = vec![0; tables_end as usize];
        read_at(&self.source, 0, &mut head)?;
        Ok(chain.finish(self.source.size(), &head))
    }

    fn read_refcount_table(&self) -> Result<Vec<u64>, ReadError> {
        let cluster_size = self.geometry().cluster_size();
        let l1_end = self.header.l1_offset
            + cluster_size.count(self.header.l1_entries * ENTRY_BYTES) * cluster_size.bytes();
        if self.header.l1_offset != cluster_size.bytes()
            || self.header.l1_entries != self.geometry().spans()
            || self.header.refcount_table_offset != l1_end
        {
            return Err(ReadError::ForeignLayout(
                "the head is not header, L1 table, refcount table",
            ));
        }
        let mut bytes = vec![0; (self.header.refcount_table_clusters * cluster_size.bytes()) as usize];
        read_at(&self.source, self.header.refcount_table_offset, &mut bytes)?;
        let mut table = Vec::with_capacity(bytes.len() / ENTRY_BYTES as usize);
        for (index, entry) in bytes.chunks_exact(ENTRY_BYTES as usize).enumerate() {
            let offset = u64::from_be_bytes(array(entry, 0));
            if offset % 512 != 0 {
                return Err(ReadError::ReservedBits {
                    what: "refcount table",
                    index: index as u64,
                    value: offset,
                });
            }
            if !cluster_size.is_aligned(offset) {
                return Err(ReadError::Misaligned {
                    what: "refcount block",
                    offset,
                });
            }
            table.push(offset);
        }
        Ok(table)
    }
}

fn read_l1(source: &impl ReadAt, header: &Header) -> Result<Vec<u64>, ReadError> {
    let cluster_size = header.geometry.cluster_size();
    // Entries beyond the end of the disk mean nothing and are not read.
    let mut bytes = vec![0; (header.geometry.spans() * ENTRY_BYTES) as usize];
    read_at(source, header.l1_offset, &mut bytes)?;
    let mut l1 = Vec::with_capacity(bytes.len() / ENTRY_BYTES as usize);
    for index in 0..header.geometry.spans() {
        let entry = be64(&bytes, (index * ENTRY_BYTES) as usize);
        let offset = l2::decode_l1(entry, index, cluster_size)?;
        if offset != 0 {
            check_inside("L2 table", offset, cluster_size.bytes(), source.size())?;
        }
        l1.push(offset);
    }
    check_overlaps(header, &l1)?;
    Ok(l1)
}

/// Every table has its own bytes: an entry that points into another table would let one hide the other.
fn check_overlaps(header: &Header, l1: &[u64]) -> Result<(), ReadError> {
    let cluster_size = header.geometry.cluster_size();
    let whole = |bytes: u64| cluster_size.count(bytes) * cluster_size.bytes();
    let mut tables: Vec<(u64, u64)> = vec![
        (0, whole(HEADER_BYTES as u64)),
        (header.l1_offset, whole(header.l1_entries * ENTRY_BYTES)),
        (
            header.refcount_table_offset,
            header.refcount_table_clusters * cluster_size.bytes(),
        ),
    ];
    tables.extend(
        l1.iter()
            .filter(|offset| **offset != 0)
            .map(|offset| (*offset, cluster_size.bytes())),
    );
    tables.sort_unstable();
    check_ranges(&tables)
}

fn check_disjoint(offsets: &[u64], cluster: u64) -> Result<(), ReadError> {
    let ranges: Vec<(u64, u64)> = offsets.iter().map(|offset| (*offset, cluster)).collect();
    check_ranges(&ranges)
}

/// `sorted` holds offsets and lengths.
fn check_ranges(sorted: &[(u64, u64)]) -> Result<(), ReadError> {
    for pair in sorted.windows(2) {
        let [(first, len), (second, _)] = [pair[0], pair[1]];
        if second - first < len {
            return Err(ReadError::Overlap { first, second });
        }
    }
    Ok(())
}
