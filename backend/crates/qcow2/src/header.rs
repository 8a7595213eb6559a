//! The QCOW2 header: fields, extensions and backing name, parsed from foreign bytes and written for our own images.
//!
//! Field names and rules follow `docs/interop/qcow2.rst` of qemu ("Header", "Header extensions").

use std::fmt;
use std::str::FromStr;

use crate::codec::Compression;
use crate::error::{ReadError, WriteError};
use crate::geometry::{ClusterSize, ENTRY_BYTES, Geometry, MAX_L1_ENTRIES};
use crate::io::{ReadAt, be32, be64};
use crate::l2;

/// `QFI\xfb`.
pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// Bytes of the header that we write: all fields up to and including the compression type, padded to 8.
pub(crate) const HEADER_BYTES: usize = 112;
/// Bytes that every version 3 header has.
const MIN_HEADER_BYTES: u64 = 104;
/// Refcounts of our images have 16 bits, which is 2 to this power.
pub(crate) const REFCOUNT_ORDER: u32 = 4;
/// qemu's limit for the refcount table, 8 MiB.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// qemu's limit for a backing file name.
const MAX_BACKING_NAME: u64 = 1023;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

/// Bits of the field `incompatible_features`.
mod feature {
    pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
}

/// File name of an image, also as the backing name in an overlay: `[a-z0-9-]+\.qcow2`, at most 255 bytes.
///
/// The alphabet keeps qemu from reading a protocol (`nbd:…`), a path or a JSON specification out of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// The name as it stands in the file.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = WriteError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let stem = name.strip_suffix(".qcow2").unwrap_or_default();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !stem.is_empty() && stem.bytes().all(allowed) && name.len() <= 255 {
            Ok(Self(name.to_owned()))
        } else {
            Err(WriteError::ImageName(name.chars().take(300).collect()))
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A version 3 header, checked against the specification and against the length of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Shape of the virtual disk.
    pub geometry: Geometry,
    /// Offset of the L1 table in bytes; cluster aligned, the table lies inside the file.
    pub l1_offset: u64,
    /// Entries of the L1 table; at least one for each span.
    pub l1_entries: u64,
    /// Offset of the refcount table in bytes; cluster aligned, the table lies inside the file.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u64,
    /// Refcounts have 2 to this power bits, 0..=6.
    pub refcount_order: u32,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// What the image calls the image below it: bytes to show or compare, never a name to open.
    pub backing_file: Option<Vec<u8>>,
    /// What the image says about the format of the image below it.
    pub backing_format: Option<Vec<u8>>,
}

impl Header {
    /// Reads and checks the header of an image; at most one cluster is read.
    ///
    /// # Errors
    /// [`ReadError`], one variant for each reason not to trust or not to understand these bytes.
    pub fn read(source: &(impl ReadAt + ?Sized)) -> Result<Self, ReadError> {
        let size = source.size();
        let mut fixed = [0u8; HEADER_BYTES];
        let there = size.min(HEADER_BYTES as u64) as usize;
        read_at(source, 0, &mut fixed[..there])?;
        if there < 8 || be32(&fixed, 0) != MAGIC {
            return Err(ReadError::NotQcow2);
        }
        if be32(&fixed, 4) != 3 {
            return Err(ReadError::Version(be32(&fixed, 4)));
        }
        if (there as u64) < MIN_HEADER_BYTES {
            return Err(ReadError::OutsideFile {
                what: "header",
                offset: 0,
                len: MIN_HEADER_BYTES,
                size,
            });
        }
        let cluster_size = ClusterSize::from_bits(be32(&fixed, 20))?;
        let header_len = u64::from(be32(&fixed, 100));
        if header_len < MIN_HEADER_BYTES || header_len > cluster_size.bytes() || !header_len.is_multiple_of(8)
        {
            return Err(ReadError::Field {
                field: "header_length",
                value: header_len,
            });
        }
        let mut header = parse_fields(&fixed, header_len, cluster_size)?;
        header.check_tables(size)?;

        let mut first = vec![0u8; size.min(cluster_size.bytes()) as usize];
        read_at(source, 0, &mut first)?;
        let extensions_end = match parse_backing(&fixed, &first)? {
            Some((at, name)) => {
                header.backing_file = Some(name);
                at
            }
            None => first.len(),
        };
        header.backing_format = parse_extensions(&first[..extensions_end], header_len as usize)?;
        Ok(header)
    }

    fn check_tables(&self, size: u64) -> Result<(), ReadError> {
        let cluster_size = self.geometry.cluster_size();
        let tables = [
            ("L1 table", self.l1_offset, self.l1_entries * ENTRY_BYTES),
            (
                "refcount table",
                self.refcount_table_offset,
                self.refcount_table_clusters * cluster_size.bytes(),
            ),
        ];
        for (what, offset, len) in tables {
            if !cluster_size.is_aligned(offset) {
                return Err(ReadError::Misaligned { what, offset });
            }
            // The first cluster belongs to the header.
            if offset == 0 {
                return Err(ReadError::Overlap { first: 0, second: 0 });
            }
            check_inside(what, offset, len, size)?;
        }
        Ok(())
    }
}

fn parse_fields(
    fixed: &[u8; HEADER_BYTES],
    header_len: u64,
    cluster_size: ClusterSize,
) -> Result<Header, ReadError> {
    let features = be64(fixed, 72);
    if features & feature::EXTERNAL_DATA != 0 {
        return Err(ReadError::ExternalData);
    }
    if features & !feature::COMPRESSION_TYPE != 0 {
        return Err(ReadError::Features(features));
    }
    if be32(fixed, 32) != 0 {
        return Err(ReadError::Encrypted(be32(fixed, 32)));
    }
    if be32(fixed, 60) != 0 {
        return Err(ReadError::Snapshots(be32(fixed, 60)));
    }
    let geometry = Geometry::new(be64(fixed, 24), cluster_size)?;
    let l1_entries = u64::from(be32(fixed, 36));
    if l1_entries > MAX_L1_ENTRIES {
        return Err(ReadError::TooLarge {
            what: "L1 table",
            len: l1_entries,
            limit: MAX_L1_ENTRIES,
        });
    }
    if l1_entries < geometry.spans() {
        return Err(ReadError::Field {
            field: "l1_size",
            value: l1_entries,
        });
    }
    let refcount_table_clusters = u64::from(be32(fixed, 56));
    let limit = MAX_REFCOUNT_TABLE_BYTES / cluster_size.bytes();
    if refcount_table_clusters > limit {
        return Err(ReadError::TooLarge {
            what: "refcount table",
            len: refcount_table_clusters,
            limit,
        });
    }
    if refcount_table_clusters == 0 {
        return Err(ReadError::Field {
            field: "refcount_table_clusters",
            value: 0,
        });
    }
    let refcount_order = be32(fixed, 96);
    if refcount_order > 6 {
        return Err(ReadError::Field {
            field: "refcount_order",
            value: refcount_order.into(),
        });
    }
    // The field exists only when the header is long enough; the bit and a type other than zlib imply each other.
    let compression_type = if header_len > MIN_HEADER_BYTES {
        fixed[104]
    } else {
        0
    };
    let compression = match (compression_type, features & feature::COMPRESSION_TYPE != 0) {
        (0, false) => Compression::Zlib,
        (1, true) => Compression::Zstd,
        (0 | 1, _) => {
            return Err(ReadError::Field {
                field: "compression_type",
                value: compression_type.into(),
            });
        }
        (other, _) => return Err(ReadError::Compression(other)),
    };
    Ok(Header {
        geometry,
        l1_offset: be64(fixed, 40),
        l1_entries,
        refcount_table_offset: be64(fixed, 48),
        refcount_table_clusters,
        refcount_order,
        compression,
        backing_file: None,
        backing_format: None,
    })
}

/// The backing name and where it starts in the first cluster.
fn parse_backing(fixed: &[u8; HEADER_BYTES], first: &[u8]) -> Result<Option<(usize, Vec<u8>)>, ReadError> {
    let (offset, len) = (be64(fixed, 8), u64::from(be32(fixed, 16)));
    if offset == 0 {
        return Ok(None);
    }
    if offset < u64::from(be32(fixed, 100)) {
        return Err(ReadError::Field {
            field: "backing_file_offset",
            value: offset,
        });
    }
    if len == 0 || len > MAX_BACKING_NAME {
        return Err(ReadError::Field {
            field: "backing_file_size",
            value: len,
        });
    }
    let end = offset.checked_add(len).filter(|end| *end <= first.len() as u64);
    let Some(end) = end else {
        return Err(ReadError::OutsideFile {
            what: "backing file name",
            offset,
            len,
            size: first.len() as u64,
        });
    };
    Ok(Some((
        offset as usize,
        first[offset as usize..end as usize].to_vec(),
    )))
}

/// Walks the header extensions and returns the backing format; unknown ones are skipped, as the specification asks.
fn parse_extensions(area: &[u8], start: usize) -> Result<Option<Vec<u8>>, ReadError> {
    let mut at = start;
    let mut format = None;
    while at + 8 <= area.len() {
        let (kind, len) = (be32(area, at), be32(area, at + 4) as usize);
        at += 8;
        let outside = ReadError::OutsideFile {
            what: "header extension",
            offset: at as u64,
            len: len as u64,
            size: area.len() as u64,
        };
        let data = at
            .checked_add(len)
            .and_then(|end| area.get(at..end))
            .ok_or(outside)?;
        // As in qemu, the end marker has to make sense, too.
        match kind {
            EXTENSION_END => break,
            EXTENSION_BACKING_FORMAT => format = Some(data.to_vec()),
            _ => {}
        }
        at += len.next_multiple_of(8);
    }
    Ok(format)
}

/// Where the tables of one of our images lie; everything follows from the virtual size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadLayout {
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u64,
    /// End of the refcount table: what lies before is covered by the digest of the tables.
    pub(crate) tables_end: u64,
    /// Where the body begins.
    pub(crate) body_start: u64,
    /// No image with this head is larger.
    max_file_size: u64,
}

impl HeadLayout {
    /// Lays out the head of an image whose body may hold every cluster at its largest and `extra` bytes besides.
    pub(crate) fn new(geometry: &Geometry, min_head: u64, extra: u64) -> Self {
        let cluster_size = geometry.cluster_size();
        let cluster = cluster_size.bytes();
        let l1_clusters = cluster_size.count(geometry.spans() * ENTRY_BYTES);
        let refcount_table_offset = cluster * (1 + l1_clusters);
        // Refcounts have two bytes.
        let counted_by_block = cluster / 2;
        // The largest payload, plus for each span an L2 table and the padding before it.
        let payload = geometry.clusters() * (cluster + l2::SECTOR);
        let body_without_blocks =
            cluster_size.count(payload) + 2 * geometry.spans() + cluster_size.count(extra);
        let mut table_clusters = 1;
        loop {
            let tables_end = refcount_table_offset + cluster * table_clusters;
            let body_start = cluster_size.count(tables_end.max(min_head)) * cluster;
            let counted = body_start / cluster + body_without_blocks;
            // Blocks count themselves: one block more for each block's worth of blocks.
            let blocks = counted.div_ceil(counted_by_block - 1);
            let needed = cluster_size.count(blocks * ENTRY_BYTES);
            if needed <= table_clusters {
                return Self {
                    l1_offset: cluster,
                    refcount_table_offset,
                    refcount_table_clusters: table_clusters,
                    tables_end,
                    body_start,
                    max_file_size: (counted + blocks) * cluster,
                };
            }
            table_clusters = needed;
        }
    }

    /// No image with this head is larger, in bytes.
    pub(crate) const fn max_file_size(&self) -> u64 {
        self.max_file_size
    }

    /// Whether every offset fits into a compressed entry and the refcount table is one that readers accept.
    pub(crate) fn is_addressable(&self, cluster_size: ClusterSize) -> bool {
        self.max_file_size <= l2::max_compressed_offset(cluster_size)
            && self.refcount_table_clusters * cluster_size.bytes() <= MAX_REFCOUNT_TABLE_BYTES
    }

    /// The finished head: bytes 0 to `body_start` of the file.
    pub(crate) fn write(
        &self,
        geometry: &Geometry,
        backing: Option<&ImageName>,
        l1: &[u64],
        refcount_table: &[u64],
    ) -> Vec<u8> {
        let mut head = vec![0; self.body_start as usize];
        encode(&mut head, geometry, self, backing);
        put_table(&mut head, self.l1_offset, l1);
        put_table(&mut head, self.refcount_table_offset, refcount_table);
        head
    }
}

fn put_table(head: &mut [u8], offset: u64, entries: &[u64]) {
    let slots = head[offset as usize..].chunks_exact_mut(ENTRY_BYTES as usize);
    for (slot, entry) in slots.zip(entries) {
        slot.copy_from_slice(&entry.to_be_bytes());
    }
}

/// Writes header, extensions and backing name into the first cluster of a head.
fn encode(first: &mut [u8], geometry: &Geometry, layout: &HeadLayout, backing: Option<&ImageName>) {
    let mut put = |at: usize, bytes: &[u8]| first[at..at + bytes.len()].copy_from_slice(bytes);
    let l1_entries = u32::try_from(geometry.spans()).expect("a geometry has at most 4 Mi spans");
    let table_clusters =
        u32::try_from(layout.refcount_table_clusters).expect("a refcount table is a few clusters");
    put(0, &MAGIC.to_be_bytes());
    put(4, &3u32.to_be_bytes());
    put(20, &geometry.cluster_size().bits().to_be_bytes());
    put(24, &geometry.virtual_size().to_be_bytes());
    put(36, &l1_entries.to_be_bytes());
    put(40, &layout.l1_offset.to_be_bytes());
    put(48, &layout.refcount_table_offset.to_be_bytes());
    put(56, &table_clusters.to_be_bytes());
    put(72, &feature::COMPRESSION_TYPE.to_be_bytes());
    put(96, &REFCOUNT_ORDER.to_be_bytes());
    put(100, &(HEADER_BYTES as u32).to_be_bytes());
    put(104, &[1]);
    let Some(backing) = backing else { return };
    // Without this extension qemu would probe the format of the backing file, which lets its content decide.
    let mut at = HEADER_BYTES;
    put(at, &EXTENSION_BACKING_FORMAT.to_be_bytes());
    put(at + 4, &5u32.to_be_bytes());
    put(at + 8, b"qcow2");
    // Eight bytes of extension header, eight of padded data; the end marker is the eight zero bytes that follow.
    at += 24;
    put(8, &(at as u64).to_be_bytes());
    put(16, &(backing.as_str().len() as u32).to_be_bytes());
    put(at, backing.as_str().as_bytes());
}

pub(crate) fn check_inside(what: &'static str, offset: u64, len: u64, size: u64) -> Result<(), ReadError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(ReadError::OutsideFile {
            what,
            offset,
            len,
            size,
        }),
    }
}

pub(crate) fn read_at(source: &(impl ReadAt + ?Sized), offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
    source.read_exact_at(offset, buf).map_err(|source| ReadError::Io {
        offset,
        len: buf.len(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length in clusters of the largest image with this head: every cluster at its largest, placed as the writer does.
    fn worst_case(geometry: &Geometry, layout: &HeadLayout) -> (u64, u64) {
        let cluster_size = geometry.cluster_size();
        let counted_by_block = cluster_size.bytes() / 2;
        let (mut position, mut blocks) = (layout.body_start / cluster_size.bytes(), 0);
        for span in 0..geometry.spans() {
            let clusters = geometry.clusters_of(crate::SpanIndex(span));
            let payload = (clusters.end - clusters.start) * (cluster_size.bytes() + l2::SECTOR);
            position += cluster_size.count(payload) + 1;
            while (blocks + 1) * counted_by_block <= position {
                (position, blocks) = (position + 1, blocks + 1);
            }
        }
        while blocks * counted_by_block < position {
            (position, blocks) = (position + 1, blocks + 1);
        }
        (position, blocks)
    }

    #[test]
    fn the_refcount_table_holds_the_largest_image() {
        // One cluster of table holds 2048 blocks of 128 MiB, so the second one is needed somewhat below 256 GiB.
        let cluster_size = ClusterSize::new(16 << 10).expect("a valid size");
        let mut sizes = [0; 5];
        for spans in (7000..8300).chain([16_000, 24_000]) {
            let geometry = Geometry::new(spans << 25, cluster_size).expect("a valid disk");
            let layout = HeadLayout::new(&geometry, 0, 0);
            let (clusters, blocks) = worst_case(&geometry, &layout);
            assert!(clusters << 14 <= layout.max_file_size, "{spans}");
            assert!(
                blocks <= layout.refcount_table_clusters << 11,
                "{spans}: {blocks} blocks"
            );
            // Generous by a block or two at most.
            assert!(
                layout.refcount_table_clusters <= (blocks + 2).div_ceil(2048),
                "{spans}: {blocks} blocks"
            );
            sizes[layout.refcount_table_clusters as usize] += 1;
        }
        assert!(sizes[1..].iter().all(|count| *count > 0), "{sizes:?}");
    }

    #[test]
    fn the_refcount_table_grows_with_what_the_body_holds_besides() {
        let cluster_size = ClusterSize::new(16 << 10).expect("a valid size");
        let geometry = Geometry::new(128 << 30, cluster_size).expect("a valid disk");
        let clusters = |extra| HeadLayout::new(&geometry, 0, extra).refcount_table_clusters;
        // One cluster of table counts 256 GiB, and the disk may take 132 GiB of payload and some tables.
        assert_eq!([0, 120 << 30, 125 << 30, 400 << 30].map(clusters), [1, 1, 2, 3]);
    }
}
