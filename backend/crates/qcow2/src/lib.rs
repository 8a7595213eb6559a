//! `holdfast-qcow2`: the on-disk formats of a volume backup, and nothing else.
//!
//! **May enter:** bytes, offsets, cluster numbers, compression and hashing.
//! **Must not know:** networks, object stores, Kubernetes, async runtimes, files by name, threads, clocks, keys.
//!
//! Two objects describe one backup of one shard of a volume (`docs/FORMAT.md` is their specification):
//!
//! * the **image**, a QCOW2 v3 file written as a stream by [`ImageWriter`] and read back, strictly checked, by
//!   [`Image`] (one file) and [`Chain`] (an overlay with everything below it);
//! * the **index**, the state and BLAKE3 hash of every cluster the image holds, written by [`IndexWriter`] and read by
//!   [`Index`] (one file) and [`MergedIndex`] (a chain's effective content).
//!
//! Neighbouring images of a chain become one by a [`Merge`], which plans how their data move inside the store, and an
//! [`IndexMerge`].
//!
//! Everything is processed one *span* at a time, the part of the virtual disk that one L2 table describes
//! (512 MiB at 64 KiB clusters), so memory follows the cluster size and never the volume.
//!
//! Nothing here ever opens a file because an image names it: a chain is put together by the caller.
#![forbid(unsafe_code)]

pub mod chain;
pub mod codec;
pub mod digest;
pub mod error;
pub mod geometry;
pub mod header;
pub mod index;
pub mod io;
pub mod l2;
pub mod merge;
pub mod reader;
mod saved;
pub mod writer;

pub use chain::{Chain, ResolvedSpan, Source};
pub use codec::{Compression, Compressor, Decompressor, cluster_hash, is_zero};
pub use digest::Digest;
pub use error::{
    ChainError, CodecError, IndexError, MemberError, MergeError, OtherShape, ReadError, WriteError,
};
pub use geometry::{ClusterIndex, ClusterSize, Geometry, SpanIndex};
pub use header::ImageName;
pub use index::{
    ClusterState, EffectiveSpan, Index, IndexMerge, IndexPage, IndexSpec, IndexSummary, IndexWriter,
    MergedIndex,
};
pub use io::{BodySink, ReadAt};
pub use l2::{Extent, Mapping};
pub use merge::{Merge, MergeOutcome, MergePiece, MergeRules, MergeSurvey, PieceContent, Run};
pub use reader::{Image, SpanMap};
pub use writer::{Finished, ImageSpec, ImageSummary, ImageWriter, Payload};
