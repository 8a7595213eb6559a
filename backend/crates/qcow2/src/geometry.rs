//! Sizes and positions on the virtual disk: bytes, clusters, and the spans that one L2 table covers.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

/// Size of one L2 (and L1, and refcount table) entry in bytes.
pub(crate) const ENTRY_BYTES: u64 = 8;

/// Number of a cluster on the virtual disk, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterIndex(pub u64);

/// Number of a span: the clusters that one L2 table describes, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanIndex(pub u64);

impl fmt::Display for ClusterIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SpanIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a disk cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GeometryError {
    /// QCOW2 allows powers of two from 512 bytes to 2 MiB.
    #[error("cluster size {0} is not a power of two between 512 bytes and 2 MiB")]
    ClusterSize(u64),
    /// A block device has at least one sector and consists of whole ones.
    #[error("virtual size {0} is not a positive multiple of 512 bytes")]
    VirtualSize(u64),
    /// qemu refuses L1 tables above 32 MiB; so do we, which bounds every table.
    #[error("virtual size {virtual_size} needs {spans} L2 tables of {cluster_size} bytes, more than {limit}")]
    TooManySpans {
        /// Bytes asked for.
        virtual_size: u64,
        /// L2 tables this would take.
        spans: u64,
        /// Bytes per cluster.
        cluster_size: u64,
        /// Most L2 tables allowed.
        limit: u64,
    },
}

/// Bytes per cluster: a power of two from 512 bytes to 2 MiB, kept as its logarithm as in the QCOW2 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterSize(u8);

impl ClusterSize {
    /// What new chains use: small enough for incrementals of databases, large enough to compress well.
    pub const DEFAULT: Self = Self(16);

    /// From a size in bytes.
    ///
    /// # Errors
    /// [`GeometryError::ClusterSize`] when QCOW2 does not allow it.
    pub fn new(bytes: u64) -> Result<Self, GeometryError> {
        if bytes.is_power_of_two() && (512..=2 << 20).contains(&bytes) {
            // The range above keeps the logarithm between 9 and 21.
            Ok(Self(bytes.trailing_zeros() as u8))
        } else {
            Err(GeometryError::ClusterSize(bytes))
        }
    }

    /// From the `cluster_bits` field of a header.
    ///
    /// # Errors
    /// [`GeometryError::ClusterSize`] outside 9..=21; the size is given as 0 when it does not fit an integer.
    pub fn from_bits(bits: u32) -> Result<Self, GeometryError> {
        match bits {
            9..=21 => Ok(Self(bits as u8)),
            _ => Err(GeometryError::ClusterSize(1u64.checked_shl(bits).unwrap_or(0))),
        }
    }

    /// The `cluster_bits` field of a header.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Bytes, as a length of memory.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        1 << self.0
    }

    /// Entries in one L2 table, which fills one cluster; also the clusters in one span.
    #[must_use]
    pub const fn span_clusters(self) -> u64 {
        self.bytes() / ENTRY_BYTES
    }

    /// `bytes` rounded up to whole clusters, as a count.
    pub(crate) const fn count(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes())
    }

    pub(crate) const fn is_aligned(self, offset: u64) -> bool {
        offset & (self.bytes() - 1) == 0
    }
}

/// Shape of one virtual disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    virtual_size: u64,
    cluster_size: ClusterSize,
}

/// Most L1 entries, from qemu's `QCOW_MAX_L1_SIZE` of 32 MiB.
pub(crate) const MAX_L1_ENTRIES: u64 = (32 << 20) / ENTRY_BYTES;

impl Geometry {
    /// A disk of `virtual_size` bytes.
    ///
    /// # Errors
    /// When the size is 0 or no multiple of 512, or the disk needs more than 4 Mi L2 tables.
    pub fn new(virtual_size: u64, cluster_size: ClusterSize) -> Result<Self, GeometryError> {
        if virtual_size == 0 || !virtual_size.is_multiple_of(512) {
            return Err(GeometryError::VirtualSize(virtual_size));
        }
        let spans = virtual_size.div_ceil(cluster_size.bytes() * cluster_size.span_clusters());
        if spans > MAX_L1_ENTRIES {
            return Err(GeometryError::TooManySpans {
                virtual_size,
                spans,
                cluster_size: cluster_size.bytes(),
                limit: MAX_L1_ENTRIES,
            });
        }
        Ok(Self {
            virtual_size,
            cluster_size,
        })
    }

    /// Bytes of the virtual disk.
    #[must_use]
    pub const fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Bytes per cluster.
    #[must_use]
    pub const fn cluster_size(&self) -> ClusterSize {
        self.cluster_size
    }

    /// Number of clusters; the last one may reach beyond the virtual size.
    #[must_use]
    pub const fn clusters(&self) -> u64 {
        self.cluster_size.count(self.virtual_size)
    }

    /// Number of spans.
    #[must_use]
    pub const fn spans(&self) -> u64 {
        self.clusters().div_ceil(self.cluster_size.span_clusters())
    }

    /// The span that holds a cluster.
    #[must_use]
    pub const fn span_of(&self, cluster: ClusterIndex) -> SpanIndex {
        SpanIndex(cluster.0 / self.cluster_size.span_clusters())
    }

    /// The clusters of a span, cut at the end of the disk; empty for a span beyond it.
    #[must_use]
    pub fn clusters_of(&self, span: SpanIndex) -> Range<u64> {
        let per_span = self.cluster_size.span_clusters();
        let start = span.0.saturating_mul(per_span).min(self.clusters());
        start..start.saturating_add(per_span).min(self.clusters())
    }

    /// Where a cluster starts on the virtual disk, in bytes.
    #[must_use]
    pub const fn offset_of(&self, cluster: ClusterIndex) -> u64 {
        cluster.0 << self.cluster_size.bits()
    }

    /// How many bytes of a cluster belong to the disk: the cluster size, less only in the last one.
    #[must_use]
    pub fn bytes_of(&self, cluster: ClusterIndex) -> u64 {
        self.virtual_size
            .saturating_sub(self.offset_of(cluster))
            .min(self.cluster_size.bytes())
    }
}
