//! Entries of L1 and L2 tables: 64 bits, big endian.

use crate::error::ReadError;
use crate::geometry::ClusterSize;

/// Compressed payload is placed and measured in sectors of 512 bytes.
pub(crate) const SECTOR: u64 = 512;

/// Set in an entry whose cluster has refcount 1, which all tables of our images have.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZERO: u64 = 1;
/// Bits 9 to 55.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Where the payload of a cluster lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// File offset in bytes.
    pub offset: u64,
    /// Bytes to read. For compressed payload the true length rounded up to sectors, so a decoder stops at the end of
    /// the cluster, not of the input; at most two clusters.
    pub len: u32,
    /// Whether the bytes must be decompressed (by the image's compression) or are the cluster as it is.
    pub compressed: bool,
}

/// What one image says about one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// Nothing: the image below decides, without one the cluster reads as zeroes.
    Unallocated,
    /// Reads as zeroes whatever lies below.
    Zero,
    /// Holds this payload.
    Data(Extent),
}

pub(crate) const ZERO_ENTRY: u64 = READS_AS_ZERO;

/// L1 entry, or refcount-1 L2 entry, for an aligned cluster at `offset`.
pub(crate) const fn encode_l1(offset: u64) -> u64 {
    offset | COPIED
}

/// The offset in an L1 entry, 0 for none.
pub(crate) fn decode_l1(entry: u64, index: u64, cluster_size: ClusterSize) -> Result<u64, ReadError> {
    if entry & !(OFFSET_MASK | COPIED) != 0 {
        return Err(ReadError::ReservedBits {
            what: "L1",
            index,
            value: entry,
        });
    }
    let offset = entry & OFFSET_MASK;
    if cluster_size.is_aligned(offset) {
        Ok(offset)
    } else {
        Err(ReadError::Misaligned {
            what: "L2 table",
            offset,
        })
    }
}

/// L2 entry for `len` bytes of compressed payload at `offset`; both are multiples of a sector.
pub(crate) const fn encode_compressed(offset: u64, len: u64, cluster_size: ClusterSize) -> u64 {
    COMPRESSED | ((len / SECTOR - 1) << compressed_shift(cluster_size)) | offset
}

/// Bit at which the sector count of a compressed entry starts; the offset lies below.
const fn compressed_shift(cluster_size: ClusterSize) -> u32 {
    62 - (cluster_size.bits() - 8)
}

/// Largest offset that fits into a compressed entry, exclusive.
pub(crate) const fn max_compressed_offset(cluster_size: ClusterSize) -> u64 {
    1 << compressed_shift(cluster_size)
}

/// Decodes an L2 entry of the cluster at position `index` of its table, in a file of `file_size` bytes.
pub(crate) fn decode_l2(
    entry: u64,
    index: u64,
    cluster_size: ClusterSize,
    file_size: u64,
) -> Result<Mapping, ReadError> {
    if entry & COMPRESSED != 0 {
        return decode_compressed(entry, index, cluster_size, file_size);
    }
    if entry & !(OFFSET_MASK | COPIED | READS_AS_ZERO) != 0 {
        return Err(ReadError::ReservedBits {
            what: "L2",
            index,
            value: entry,
        });
    }
    let offset = entry & OFFSET_MASK;
    if !cluster_size.is_aligned(offset) {
        return Err(ReadError::Misaligned {
            what: "cluster",
            offset,
        });
    }
    if entry & READS_AS_ZERO != 0 {
        // A preallocated cluster may stand behind the flag; its content does not count.
        return Ok(Mapping::Zero);
    }
    if offset == 0 {
        return Ok(Mapping::Unallocated);
    }
    crate::header::check_inside("cluster", offset, cluster_size.bytes(), file_size)?;
    // A cluster has at most 2 MiB.
    Ok(Mapping::Data(Extent {
        offset,
        len: cluster_size.bytes() as u32,
        compressed: false,
    }))
}

fn decode_compressed(
    entry: u64,
    index: u64,
    cluster_size: ClusterSize,
    file_size: u64,
) -> Result<Mapping, ReadError> {
    if entry & COPIED != 0 {
        return Err(ReadError::ReservedBits {
            what: "L2",
            index,
            value: entry,
        });
    }
    let shift = compressed_shift(cluster_size);
    let offset = entry & ((1 << shift) - 1);
    let sectors = ((entry & !COMPRESSED) >> shift) + 1;
    let len = sectors * SECTOR - offset % SECTOR;
    // The header owns the first cluster, and at least the payload's first byte must exist. The last sector of a file
    // may be short: qemu does not pad it.
    if offset < cluster_size.bytes() || offset >= file_size || offset + len >= file_size + SECTOR {
        return Err(ReadError::OutsideFile {
            what: "compressed cluster",
            offset,
            len,
            size: file_size,
        });
    }
    // At most 2^13 sectors.
    Ok(Mapping::Data(Extent {
        offset,
        len: len.min(file_size - offset) as u32,
        compressed: true,
    }))
}
