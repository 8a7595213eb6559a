//! Everything that can go wrong, by who has to act on it.

use std::io;

use thiserror::Error;

use crate::geometry::{ClusterIndex, Geometry, GeometryError, SpanIndex};

/// A caller broke the contract of a writer. None of these depends on data read from outside.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// The disk cannot be described.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// New chains use 16 KiB to 2 MiB: below, tables outgrow their use; above, QCOW2 ends.
    #[error("cluster size {0} is outside the 16 KiB to 2 MiB a chain may use")]
    ClusterSize(u64),
    /// The head would not fit into memory that is worth spending on it.
    #[error("a head of at least {0} bytes was asked for, more than 64 MiB")]
    HeadTooLarge(u64),
    /// Offsets or refcounts of the image could outgrow what QCOW2 can express.
    #[error("a disk of {0} bytes does not fit into one image with clusters of this size")]
    TooLarge(u64),
    /// A name that a by-hand restore, a shell or qemu could misread.
    #[error("image name {0:?} does not match [a-z0-9-]+\\.qcow2 or is longer than 255 bytes")]
    ImageName(String),
    /// Clusters must come in ascending order, each at most once.
    #[error("cluster {cluster} came after cluster {previous}")]
    OutOfOrder {
        /// The cluster that was pushed.
        cluster: ClusterIndex,
        /// The last one before it.
        previous: ClusterIndex,
    },
    /// The cluster lies beyond the end of the disk.
    #[error("cluster {cluster} is beyond the disk's {clusters} clusters")]
    BeyondEnd {
        /// The cluster that was pushed.
        cluster: ClusterIndex,
        /// Clusters the disk has.
        clusters: u64,
    },
    /// A state to resume from is none of this writer.
    #[error("the saved state of a writer cannot be used: {0}")]
    SavedState(&'static str),
    /// A payload that no cluster can have.
    #[error("payload of {len} bytes for cluster {cluster}, allowed are 1 to {max}")]
    PayloadLength {
        /// The cluster that was pushed.
        cluster: ClusterIndex,
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: u64,
    },
}

/// An image cannot be read: I/O failed, or its bytes are not what this crate accepts.
///
/// Everything but [`Io`](Self::Io) means that the object itself is damaged or foreign; a retry will not help.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The source failed.
    #[error("reading {len} bytes at {offset} failed")]
    Io {
        /// Where.
        offset: u64,
        /// How much.
        len: usize,
        /// What the source said.
        #[source]
        source: io::Error,
    },
    /// The file does not begin with the QCOW2 magic.
    #[error("not a QCOW2 image")]
    NotQcow2,
    /// Only version 3 is read.
    #[error("QCOW2 version {0} is not supported, only 3 is")]
    Version(u32),
    /// A structure reaches beyond the end of the file.
    #[error("{what} at {offset} with {len} bytes reaches beyond the file's {size} bytes")]
    OutsideFile {
        /// Which structure.
        what: &'static str,
        /// Where it should lie.
        offset: u64,
        /// Its length.
        len: u64,
        /// Length of the file.
        size: u64,
    },
    /// A structure does not start on a cluster boundary.
    #[error("{what} at {offset} does not start on a cluster boundary")]
    Misaligned {
        /// Which structure.
        what: &'static str,
        /// Where it lies.
        offset: u64,
    },
    /// Two tables share bytes.
    #[error("the tables at {first} and {second} overlap")]
    Overlap {
        /// Offset of one.
        first: u64,
        /// Offset of the other.
        second: u64,
    },
    /// A header field has a value that the specification does not allow.
    #[error("header field {field} has the invalid value {value:#x}")]
    Field {
        /// Name in the QCOW2 specification.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The disk cannot be described.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The image needs something this crate does not do (dirty, corrupt, extended L2, unknown bits).
    #[error("unsupported incompatible features {0:#x}")]
    Features(u64),
    /// The payload lies in another file, which is never opened.
    #[error("the image keeps its data in an external file")]
    ExternalData,
    /// The image uses QCOW2's own encryption.
    #[error("the image is encrypted with QCOW2 method {0}")]
    Encrypted(u32),
    /// The image holds internal snapshots.
    #[error("the image holds {0} internal snapshots")]
    Snapshots(u32),
    /// The compression type is neither zlib nor zstd.
    #[error("unknown compression type {0}")]
    Compression(u8),
    /// A table is larger than anything a disk of this size can need.
    #[error("{what} has {len} entries, more than {limit}")]
    TooLarge {
        /// Which table.
        what: &'static str,
        /// What the header claims.
        len: u64,
        /// Most that is accepted.
        limit: u64,
    },
    /// An entry of a table has reserved bits set.
    #[error("{what} entry {index} has reserved bits set: {value:#018x}")]
    ReservedBits {
        /// Which table.
        what: &'static str,
        /// Position in the table.
        index: u64,
        /// The entry.
        value: u64,
    },
    /// The span lies beyond the end of the disk.
    #[error("span {span} is beyond the disk's {spans} spans")]
    NoSuchSpan {
        /// The span asked for.
        span: SpanIndex,
        /// Spans the disk has.
        spans: u64,
    },
    /// It describes another disk than the caller expects.
    #[error(transparent)]
    OtherShape(#[from] OtherShape),
    /// The image is valid but not laid out as this crate lays out its own, so it has no digest of tables.
    #[error("the image was not written by this system: {0}")]
    ForeignLayout(&'static str),
}

/// Images or indexes that do not belong on top of each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// A chain has at least one member.
    #[error("the chain is empty")]
    Empty,
    /// Cluster size belongs to the chain.
    #[error("member {member} has clusters of {found} bytes, the newest has {expected}")]
    ClusterSize {
        /// Position in the chain, newest is 0.
        member: usize,
        /// Bytes per cluster of this member.
        found: u64,
        /// Bytes per cluster of the newest.
        expected: u64,
    },
    /// A disk never shrinks inside a chain; a shrunk one starts a new full.
    #[error("member {member} describes {found} bytes, more than the {newer} of the one above it")]
    Shrinks {
        /// Position in the chain, newest is 0.
        member: usize,
        /// Virtual size of this member.
        found: u64,
        /// Virtual size of the member above it.
        newer: u64,
    },
    /// Every member but the oldest has a backing file. The oldest has none, unless something lies below the members.
    #[error("member {member} of {members} is at the wrong place of its chain (overlay: {overlay})")]
    Order {
        /// Position in the chain, newest is 0.
        member: usize,
        /// Members of the chain.
        members: usize,
        /// What the member says about itself.
        overlay: bool,
    },
}

/// A cluster could not be compressed or decompressed.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Input or output has not the length of one cluster.
    #[error("{found} bytes where a cluster of {expected} was expected")]
    Length {
        /// Bytes given or produced.
        found: u64,
        /// Bytes of a cluster.
        expected: u64,
    },
    /// The compression library refused; for stored data this means damage.
    #[error("{codec} failed")]
    Library {
        /// zlib or zstd.
        codec: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// An index cannot be read: I/O failed, or its bytes are damaged or foreign.
#[derive(Debug, Error)]
pub enum IndexError {
    /// The source failed.
    #[error("reading {len} bytes at {offset} failed")]
    Io {
        /// Where.
        offset: u64,
        /// How much.
        len: usize,
        /// What the source said.
        #[source]
        source: io::Error,
    },
    /// The file does not begin with the index magic.
    #[error("not an index")]
    NotIndex,
    /// Only version 0 is read.
    #[error("index version {0} is not supported, only 0 is")]
    Version(u32),
    /// A field has a value that the format does not allow.
    #[error("{what} is invalid: {value}")]
    Field {
        /// Which field.
        what: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The disk cannot be described.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The index is shorter than it claims to be.
    #[error("the index has {size} bytes, {what} needs {needed}")]
    Truncated {
        /// Which structure.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        size: u64,
    },
    /// Header, directory and footer do not hash to what the footer says.
    #[error("the index does not match its own digest")]
    Digest,
    /// A page does not hash to what the directory says.
    #[error("the index page of span {0} does not match its checksum")]
    Page(SpanIndex),
    /// The span lies beyond the end of the disk.
    #[error("span {span} is beyond the disk's {spans} spans")]
    NoSuchSpan {
        /// The span asked for.
        span: SpanIndex,
        /// Spans the disk has.
        spans: u64,
    },
    /// It describes another disk than the caller expects.
    #[error(transparent)]
    OtherShape(#[from] OtherShape),
}

/// A disk of another size, or cut into other clusters, than the caller knows it to be. Found before anything is read
/// whose length follows from the disk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "it describes a volume of another size: {} bytes in clusters of {}, expected are {} in clusters of {}",
    found.virtual_size(), found.cluster_size().bytes(), expected.virtual_size(), expected.cluster_size().bytes()
)]
pub struct OtherShape {
    /// What the object describes.
    pub found: Geometry,
    /// What the caller knows.
    pub expected: Geometry,
}

impl OtherShape {
    pub(crate) fn check(found: &Geometry, expected: Option<&Geometry>) -> Result<(), Self> {
        match expected {
            Some(expected) if expected != found => Err(Self {
                found: *found,
                expected: *expected,
            }),
            _ => Ok(()),
        }
    }
}

/// A run of images cannot be merged.
#[derive(Debug, Error)]
pub enum MergeError {
    /// A member cannot be read, or is an image that was not written by this system; the position is that in the run.
    #[error(transparent)]
    Member(#[from] MemberError<ReadError>),
    /// The merged image would be none that QCOW2 can hold.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The rules contradict each other.
    #[error("the rules for the pieces of a merge contradict each other: {0}")]
    Rules(&'static str),
    /// The merged image would consist of more pieces than the rules allow, however they are cut.
    #[error("the merged image needs {needed} pieces, more than {limit}")]
    TooManyPieces {
        /// Pieces needed at least.
        needed: u64,
        /// Pieces allowed.
        limit: u32,
    },
    /// So many clusters share the same payload that a refcount overflows. None of our images does that once.
    #[error("more than 65535 clusters share the payload that would lie at {offset}")]
    SharedPayload {
        /// Offset in the merged file.
        offset: u64,
    },
    /// The members' tables were not the same when they were read again.
    #[error("the tables of the merged images changed while they were read")]
    Changed,
}

/// What went wrong in which member of a chain.
#[derive(Debug, Error)]
#[error("member {member} of the chain cannot be read (0 is the newest)")]
pub struct MemberError<E: std::error::Error + 'static> {
    /// Position in the chain, newest is 0.
    pub member: usize,
    /// What went wrong.
    #[source]
    pub source: E,
}
