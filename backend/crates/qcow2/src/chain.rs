//! An overlay and everything below it, resolved one span at a time.

use crate::error::{ChainError, MemberError, ReadError};
use crate::geometry::{ClusterIndex, Geometry, SpanIndex};
use crate::io::ReadAt;
use crate::l2::{Extent, Mapping};
use crate::reader::{Image, SpanMap};

/// Images on top of each other, newest first.
///
/// Their order comes from the caller, never from the names inside the images.
#[derive(Debug)]
pub struct Chain<R> {
    images: Vec<Image<R>>,
}

/// Where the content of one cluster comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// No image holds it: it reads as zeroes.
    Unallocated,
    /// It was zeroed or trimmed: it reads as zeroes.
    Zero {
        /// The image that says so, as a position in the chain.
        image: usize,
    },
    /// This payload.
    Data {
        /// The image that holds it, as a position in the chain.
        image: usize,
        /// Where in that image.
        extent: Extent,
    },
}

/// The sources of all clusters of one span. Reuse it: it keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct ResolvedSpan {
    sources: Vec<Source>,
    map: SpanMap,
    first: u64,
}

impl ResolvedSpan {
    /// An empty span to be filled by [`Chain::resolve`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The cluster at a position of the span, counted from 0; `None` behind the last one.
    pub(crate) fn get(&self, position: usize) -> Option<Source> {
        self.sources.get(position).copied()
    }

    /// Every cluster of the span in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ClusterIndex, Source)> + '_ {
        let first = self.first;
        self.sources
            .iter()
            .enumerate()
            .map(move |(i, source)| (ClusterIndex(first + i as u64), *source))
    }
}

impl<R: ReadAt> Chain<R> {
    /// Puts images together, newest first.
    ///
    /// # Errors
    /// [`ChainError`] when they cannot belong together.
    pub fn new(images: Vec<Image<R>>) -> Result<Self, ChainError> {
        Self::part(images, false)
    }

    /// Like [`new`](Self::new); with `below` the members lie on something that is no part of this, which then decides
    /// about every cluster that is unallocated here.
    pub(crate) fn part(images: Vec<Image<R>>, below: bool) -> Result<Self, ChainError> {
        let members = images.iter().map(|image| (*image.geometry(), image.is_overlay()));
        check_members(members, below)?;
        Ok(Self { images })
    }

    /// The members, newest first.
    #[must_use]
    pub fn images(&self) -> &[Image<R>] {
        &self.images
    }

    /// Shape of the newest member, which is the disk's.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.images[0].geometry()
    }

    /// Finds the source of every cluster of a span. Reads at most one L2 table from each image, none below the image
    /// that decides the last open cluster.
    ///
    /// # Errors
    /// [`ReadError`] with the position of the image it happened in.
    pub fn resolve(
        &self,
        span: SpanIndex,
        resolved: &mut ResolvedSpan,
    ) -> Result<(), MemberError<ReadError>> {
        let geometry = self.geometry();
        if span.0 >= geometry.spans() {
            return Err(MemberError {
                member: 0,
                source: ReadError::NoSuchSpan {
                    span,
                    spans: geometry.spans(),
                },
            });
        }
        let clusters = geometry.clusters_of(span);
        let mut open = (clusters.end - clusters.start) as usize;
        resolved.first = clusters.start;
        resolved.sources.clear();
        resolved.sources.resize(open, Source::Unallocated);
        for (image, member) in self.images.iter().enumerate() {
            // A disk that has grown: the older member ends before this span.
            if open == 0 || span.0 >= member.geometry().spans() {
                break;
            }
            let in_member = |source| MemberError {
                member: image,
                source,
            };
            if !member.read_span(span, &mut resolved.map).map_err(in_member)? {
                continue;
            }
            for (source, mapping) in resolved.sources.iter_mut().zip(resolved.map.mappings()) {
                if *source != Source::Unallocated {
                    continue;
                }
                *source = match *mapping {
                    Mapping::Unallocated => continue,
                    Mapping::Zero => Source::Zero { image },
                    Mapping::Data(extent) => Source::Data { image, extent },
                };
                open -= 1;
            }
        }
        Ok(())
    }
}

/// Rules for images and for indexes alike; each member with what it says about being an overlay. With `below` the
/// oldest has to be one too.
pub(crate) fn check_members(
    members: impl ExactSizeIterator<Item = (Geometry, bool)>,
    below: bool,
) -> Result<(), ChainError> {
    let count = members.len();
    let mut above: Option<Geometry> = None;
    for (member, (geometry, overlay)) in members.enumerate() {
        if overlay != (below || member + 1 < count) {
            return Err(ChainError::Order {
                member,
                members: count,
                overlay,
            });
        }
        if let Some(above) = above {
            let (found, expected) = (geometry.cluster_size().bytes(), above.cluster_size().bytes());
            if found != expected {
                return Err(ChainError::ClusterSize {
                    member,
                    found,
                    expected,
                });
            }
            let (found, newer) = (geometry.virtual_size(), above.virtual_size());
            if found > newer {
                return Err(ChainError::Shrinks { member, found, newer });
            }
        }
        above = Some(geometry);
    }
    if count == 0 {
        Err(ChainError::Empty)
    } else {
        Ok(())
    }
}
