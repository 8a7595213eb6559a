//! The index of an image: state and hash of every cluster the image itself holds.
//!
//! ```text
//! | header | page of a span | page of a later span | … | directory | footer |
//! ```
//!
//! Each page carries its own checksum, which the directory repeats; the footer's digest covers header, directory and
//! footer. So one digest binds the whole index, and yet every page can be read and checked alone.
//! Byte tables stand in `docs/FORMAT.md`, "Index".

use crate::digest::Digest;
use crate::error::IndexError;
use crate::geometry::{ClusterSize, Geometry};
use crate::header::ImageName;
use crate::io::{be32, be64};

mod merge;
mod page;
mod reader;
mod rewrite;
mod writer;

pub use merge::{EffectiveSpan, MergedIndex};
pub use page::IndexPage;
pub use reader::Index;
pub use rewrite::IndexMerge;
pub use writer::IndexWriter;

const HEADER_MAGIC: &[u8; 4] = b"HFIX";
const PAGE_MAGIC: &[u8; 4] = b"HFPG";
const FOOTER_MAGIC: &[u8; 4] = b"HFIE";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 288;
/// Where the image's name stands in the header; it fills the rest, less one byte that is always zero.
const NAME_OFFSET: usize = 32;
const FOOTER_BYTES: usize = 96;
/// The footer's bytes before its digest, which the digest covers.
const FOOTER_BOUND_BYTES: usize = 64;
const DIRECTORY_ENTRY_BYTES: usize = 56;
const HASH_BYTES: usize = 32;
const FLAG_OVERLAY: u32 = 1;

/// What an index knows about one cluster of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterState {
    /// It holds content with this hash ([`cluster_hash`](crate::cluster_hash) of the raw cluster).
    Data(Digest),
    /// It was read and is all zeroes.
    Zero,
    /// The source said that it is not in use; it reads as zeroes.
    Trimmed,
}

/// What an index describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSpec {
    /// File name of the image.
    pub image: ImageName,
    /// Shape of its disk.
    pub geometry: Geometry,
    /// Whether the image is an overlay.
    pub overlay: bool,
}

/// What a finished index is, for the object that commits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSummary {
    /// Binds the whole index.
    pub digest: Digest,
    /// Length of the file in bytes.
    pub size: u64,
    /// Clusters with content.
    pub data_clusters: u64,
    /// Clusters that were read as zeroes.
    pub zero_clusters: u64,
    /// Clusters that the source does not use.
    pub trimmed_clusters: u64,
}

/// The counters in the footer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    data: u64,
    zero: u64,
    trimmed: u64,
}

impl Counts {
    fn add(&mut self, state: &ClusterState) {
        match state {
            ClusterState::Data(_) => self.data += 1,
            ClusterState::Zero => self.zero += 1,
            ClusterState::Trimmed => self.trimmed += 1,
        }
    }
}

fn encode_header(spec: &IndexSpec) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(HEADER_MAGIC);
    header[4..8].copy_from_slice(&VERSION.to_be_bytes());
    header[8..12].copy_from_slice(&if spec.overlay { FLAG_OVERLAY } else { 0 }.to_be_bytes());
    header[12..16].copy_from_slice(&spec.geometry.cluster_size().bits().to_be_bytes());
    header[16..24].copy_from_slice(&spec.geometry.virtual_size().to_be_bytes());
    let name = spec.image.as_str().as_bytes();
    header[24..28].copy_from_slice(&(name.len() as u32).to_be_bytes());
    header[NAME_OFFSET..NAME_OFFSET + name.len()].copy_from_slice(name);
    header
}

fn decode_header(header: &[u8; HEADER_BYTES]) -> Result<IndexSpec, IndexError> {
    if &header[0..4] != HEADER_MAGIC {
        return Err(IndexError::NotIndex);
    }
    if be32(header, 4) != VERSION {
        return Err(IndexError::Version(be32(header, 4)));
    }
    let flags = be32(header, 8);
    if flags & !FLAG_OVERLAY != 0 {
        return Err(IndexError::Field {
            what: "flags",
            value: flags.into(),
        });
    }
    let cluster_size = ClusterSize::from_bits(be32(header, 12))?;
    Ok(IndexSpec {
        image: decode_name(header)?,
        geometry: Geometry::new(be64(header, 16), cluster_size)?,
        overlay: flags & FLAG_OVERLAY != 0,
    })
}

fn decode_name(header: &[u8; HEADER_BYTES]) -> Result<ImageName, IndexError> {
    let invalid = || IndexError::Field {
        what: "image name of length",
        value: be32(header, 24).into(),
    };
    let end = NAME_OFFSET + be32(header, 24) as usize;
    let name = header.get(NAME_OFFSET..end).ok_or_else(invalid)?;
    let reserved = header[28..NAME_OFFSET].iter().chain(&header[end..]);
    if reserved.into_iter().any(|byte| *byte != 0) {
        return Err(IndexError::Field {
            what: "reserved header bytes",
            value: 1,
        });
    }
    let name = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    name.ok_or_else(invalid)
}

/// The digest that binds an index.
fn bind(header: &[u8], directory: &[u8], footer: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(directory).update(footer);
    Digest(*hasher.finalize().as_bytes())
}
