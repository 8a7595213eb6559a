//! One image instead of a run of neighbouring ones, with their data moved inside the store.
//!
//! A merge is planned from the tables of the run alone: the live payload of each member is drawn on a map of its file,
//! and stretches of the file that are mostly live become *copies*, made by the store (part copies of an upload, or
//! `copy_file_range`). What lies outside is read and packed; together with the new tables it forms the *literals*.
//!
//! ```text
//! | head, first literals | copy | copy | … | literals: packed payload, L2 tables, refcount blocks | … |
//! |<----- piece 1 ------>|<- 2 >|<- 3 >|   |<----------- pieces of one size, the last shorter ----->|
//! ```
//!
//! So all copies are known before anything moves, there is one seam between literals and copies at either end, and
//! every piece is one part of an upload. Copies take dead bytes along: those have refcount 0, and the next merge of
//! the image sees them as dead.
//!
//! The plan follows from the members and the [`MergeRules`] alone. A merge that was interrupted is planned again, is
//! told which pieces are stored ([`Merge::skip`]), and goes on with the others.

use crate::chain::Chain;
use crate::codec::Compression;
use crate::error::{ChainError, MemberError, MergeError, ReadError};
use crate::geometry::{Geometry, SpanIndex};
use crate::header::ImageName;
use crate::io::ReadAt;
use crate::l2::{Extent, SECTOR};
use crate::reader::Image;
use crate::writer::ImageSummary;

mod count;
mod literal;
mod live;
mod pieces;
mod place;
mod select;
mod survey;
mod walk;

pub use pieces::Merge;
pub use survey::MergeSurvey;

/// Neighbouring images of a chain, newest first, that are to become one.
#[derive(Debug)]
pub struct Run<R> {
    chain: Chain<R>,
    below: Option<ImageName>,
}

impl<R: ReadAt> Run<R> {
    /// Puts a run together. `below` is the image that the oldest member lies on: the merged image becomes an overlay on
    /// it. Without one the oldest member has to be a full image, and so is the merged one.
    ///
    /// The caller knows the members to be what their records say ([`Image::tables_digest`] has not changed): a merge
    /// would carry damage of their tables on.
    ///
    /// # Errors
    /// [`ChainError`] when the members cannot belong together, or do not fit to `below`.
    pub fn new(images: Vec<Image<R>>, below: Option<ImageName>) -> Result<Self, ChainError> {
        Ok(Self {
            chain: Chain::part(images, below.is_some())?,
            below,
        })
    }

    /// The members, newest first.
    #[must_use]
    pub fn images(&self) -> &[Image<R>] {
        self.chain.images()
    }

    /// What the merged image will call the image below it.
    #[must_use]
    pub const fn below(&self) -> Option<&ImageName> {
        self.below.as_ref()
    }

    /// Shape of the merged image's disk: that of the newest member.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.chain.geometry()
    }

    /// What a merge would move and free. Reads the tables of the run, nothing else.
    ///
    /// # Errors
    /// [`MergeError`]: a member cannot be read or merged.
    pub fn survey(&self, rules: &MergeRules) -> Result<MergeSurvey, MergeError> {
        Ok(*Merge::plan(self, *rules)?.survey())
    }

    fn holds(&self, span: SpanIndex) -> bool {
        let mut images = self.images().iter();
        images.any(|image| image.table_extent(span).is_some())
    }

    /// The bytes of a member's file that a payload owns: whole sectors. Refuses payload that none of our writers makes.
    fn sectors(&self, member: usize, extent: Extent) -> Result<Sectors, MergeError> {
        let foreign = |what| {
            let source = ReadError::ForeignLayout(what);
            Err(MergeError::Member(MemberError { member, source }))
        };
        let max = self.geometry().cluster_size().bytes() + SECTOR;
        if !extent.compressed || self.images()[member].compression() != Compression::Zstd {
            return foreign("its clusters are not all compressed with zstd");
        }
        if u64::from(extent.len) > max {
            return foreign("a cluster takes more than a sector above its size");
        }
        Ok(Sectors {
            start: extent.offset - extent.offset % SECTOR,
            end: (extent.offset + u64::from(extent.len)).next_multiple_of(SECTOR),
        })
    }
}

/// Whole sectors of a file, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sectors {
    start: u64,
    end: u64,
}

impl Sectors {
    const fn len(self) -> u64 {
        self.end - self.start
    }
}

/// What the place where the merged image is made asks of its pieces. All sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeRules {
    /// Least size of every piece but the last of the file. Live stretches that make no copy of this size are read and
    /// packed.
    pub min_piece: u64,
    /// Largest copy; at least `2 * (min_piece + align)`.
    pub max_copy: u64,
    /// Size of the pieces that are not copied; at least `min_piece`.
    pub literal_piece: u64,
    /// Copies start, end and land on multiples of this power of two; where it is smaller than a cluster, of clusters.
    /// All pieces begin on one. Objects that are sealed in segments need at least a segment.
    pub align: u64,
    /// A copy goes on over dead bytes up to this many in a row, as long as it is worth it altogether. One that would
    /// otherwise be too short goes on over more.
    pub max_gap: u64,
    /// How many live bytes one may rather read and pack than copy one dead byte along. With 1, at most half of a copy
    /// is dead; with 3, a quarter.
    pub dead_weight: u32,
    /// Most pieces. Where there would be more, copies have to be longer and may bridge longer gaps.
    pub max_pieces: u32,
    /// Most bytes for the map of live payload, and then for refcounts. With less the map becomes coarser, and refcounts
    /// are counted by reading the tables more than once.
    pub memory: u64,
}

impl MergeRules {
    /// For stores that make objects from parts of others: at least 5 MiB, at most 5 GiB and 10,000 of them. Copies stay
    /// well below 5 GiB, because one that fails is made again as a whole.
    ///
    /// Pieces of 16 MiB keep a shard of 128 GiB below 10,000 whatever has to be packed: 129 GiB of payload make 8,256
    /// of them, and copies of 40 MiB or more, at least half of them live, are fewer still.
    pub const STORE: Self = Self {
        min_piece: 5 << 20,
        max_copy: 1 << 30,
        literal_piece: 16 << 20,
        align: 64 << 10,
        max_gap: 1 << 20,
        dead_weight: 1,
        max_pieces: 10_000,
        memory: 16 << 20,
    };

    /// For files, where a piece is a call and costs little.
    pub const FILES: Self = Self {
        min_piece: 1 << 20,
        max_pieces: 200_000,
        ..Self::STORE
    };

    /// The rules with their sizes brought to multiples of what copies are aligned to.
    fn for_disk(mut self, geometry: &Geometry) -> Result<Self, MergeError> {
        if !self.align.is_power_of_two() {
            return Err(MergeError::Rules("align is no power of two"));
        }
        self.align = self.align.max(geometry.cluster_size().bytes());
        self.max_copy -= self.max_copy % self.align;
        self.literal_piece = self
            .literal_piece
            .checked_next_multiple_of(self.align)
            .ok_or(MergeError::Rules("literal_piece is too large"))?;
        if self.max_copy / 2 < self.min_piece.saturating_add(self.align) {
            return Err(MergeError::Rules("max_copy is less than two least copies"));
        }
        if self.literal_piece < self.min_piece {
            return Err(MergeError::Rules("literal_piece is below min_piece"));
        }
        if self.max_pieces == 0 || self.dead_weight == 0 {
            return Err(MergeError::Rules("max_pieces or dead_weight is zero"));
        }
        Ok(self)
    }
}

/// One stretch of the merged file. Those with numbers from 2 come in ascending order of numbers and of offsets; the
/// piece with number 1, the head, comes last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergePiece {
    /// Part number, without gaps from 1 in the order of the file.
    pub number: u32,
    /// Where it lies in the merged file.
    pub at: u64,
    /// Its bytes.
    pub content: PieceContent,
}

impl MergePiece {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.content {
            PieceContent::Copy { source, .. } => source.end - source.start,
            PieceContent::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it has no bytes, which none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the bytes of a piece come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceContent {
    /// The same bytes of a member's file.
    Copy {
        /// The member, as a position in the run.
        member: usize,
        /// Range of its file.
        source: std::ops::Range<u64>,
    },
    /// These.
    Bytes(Vec<u8>),
}

/// What a merge made, known when its head came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOutcome {
    /// The merged image, as for one that was streamed. `head_size` counts the head's tables only, not the literals
    /// that share piece 1 with them.
    pub image: ImageSummary,
    /// Bytes copied inside the store.
    pub copied: u64,
    /// Bytes of them that hold payload which the image does not name, or nothing.
    pub dead: u64,
    /// Bytes of payload that were read and packed.
    pub packed: u64,
    /// Number of pieces.
    pub pieces: u32,
}
