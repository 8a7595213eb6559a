//! Reads one index, trusting nothing in it.

use std::ops::Range;

use super::page::{IndexPage, PAGE_HEADER_BYTES, states_bytes};
use super::{
    Counts, DIRECTORY_ENTRY_BYTES, FOOTER_BOUND_BYTES, FOOTER_BYTES, FOOTER_MAGIC, HASH_BYTES, HEADER_BYTES,
    IndexSpec, IndexSummary, VERSION, bind, decode_header,
};
use crate::digest::Digest;
use crate::error::{IndexError, OtherShape};
use crate::geometry::{Geometry, SpanIndex};
use crate::io::{ReadAt, array, be32, be64};

/// An index whose header, directory and footer were read and checked against its digest.
///
/// Compare [`digest`](Self::digest) with the one that the commit object holds: it covers every page.
/// Memory: 56 bytes for each span with content.
#[derive(Debug)]
pub struct Index<R> {
    source: R,
    spec: IndexSpec,
    summary: IndexSummary,
    directory: Vec<PageEntry>,
}

/// Where a page lies.
#[derive(Clone, Copy, Debug)]
struct PageEntry {
    span: SpanIndex,
    offset: u64,
    len: u64,
    checksum: [u8; HASH_BYTES],
}

impl<R: ReadAt> Index<R> {
    /// Reads header, directory and footer of the index of any disk. A directory may be as long as that of the largest
    /// disk that QCOW2 can hold: 224 MiB.
    ///
    /// # Errors
    /// [`IndexError`]: the source failed, or the index is damaged or foreign.
    pub fn open(source: R) -> Result<Self, IndexError> {
        Self::read(source, None)
    }

    /// Like [`open`](Self::open), for an index whose disk is known, which bounds the memory it takes.
    ///
    /// # Errors
    /// As `open`, and [`IndexError::OtherShape`].
    pub fn open_for(source: R, disk: &Geometry) -> Result<Self, IndexError> {
        Self::read(source, Some(disk))
    }

    fn read(source: R, disk: Option<&Geometry>) -> Result<Self, IndexError> {
        let size = source.size();
        let mut header = [0; HEADER_BYTES];
        check_size("header", HEADER_BYTES as u64, size)?;
        read_at(&source, 0, &mut header)?;
        let spec = decode_header(&header)?;
        OtherShape::check(&spec.geometry, disk)?;

        let mut footer = [0; FOOTER_BYTES];
        check_size("header and footer", (HEADER_BYTES + FOOTER_BYTES) as u64, size)?;
        read_at(&source, size - FOOTER_BYTES as u64, &mut footer)?;
        let (directory_offset, directory_len) = check_footer(&footer, &spec, size)?;
        let mut directory = vec![0; directory_len];
        read_at(&source, directory_offset, &mut directory)?;

        let digest = bind(&header, &directory, &footer[..FOOTER_BOUND_BYTES]);
        if digest.0 != footer[FOOTER_BOUND_BYTES..] {
            return Err(IndexError::Digest);
        }
        let directory = parse_directory(&directory, &spec.geometry, directory_offset)?;
        let counts = Counts {
            data: be64(&footer, 24),
            zero: be64(&footer, 32),
            trimmed: be64(&footer, 40),
        };
        let summary = IndexSummary {
            digest,
            size,
            data_clusters: counts.data,
            zero_clusters: counts.zero,
            trimmed_clusters: counts.trimmed,
        };
        Ok(Self {
            source,
            spec,
            summary,
            directory,
        })
    }

    /// What the index describes.
    #[must_use]
    pub const fn spec(&self) -> &IndexSpec {
        &self.spec
    }

    /// Shape of the disk.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.spec.geometry
    }

    /// Digest, length and counters.
    #[must_use]
    pub const fn summary(&self) -> &IndexSummary {
        &self.summary
    }

    /// The digest that binds the index.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.summary.digest
    }

    /// File range of a span's page, for prefetching; `None` when the image holds nothing there.
    #[must_use]
    pub fn page_extent(&self, span: SpanIndex) -> Option<Range<u64>> {
        self.find(span)
            .map(|entry| entry.offset..entry.offset + entry.len)
    }

    /// Reads the page of a span into `page`. Returns whether there is one; if not, `page` is empty.
    ///
    /// # Errors
    /// [`IndexError`]: no such span, the source failed, or the page is damaged.
    pub fn read_page(&self, span: SpanIndex, page: &mut IndexPage) -> Result<bool, IndexError> {
        let geometry = self.geometry();
        if span.0 >= geometry.spans() {
            return Err(IndexError::NoSuchSpan {
                span,
                spans: geometry.spans(),
            });
        }
        let clusters = geometry.clusters_of(span);
        page.first = clusters.start;
        page.clusters = clusters.end - clusters.start;
        page.bytes.clear();
        let Some(entry) = self.find(span) else {
            return Ok(false);
        };
        let filled = self.fill(entry, page);
        if filled.is_err() {
            page.bytes.clear();
        }
        filled.map(|()| true)
    }

    fn fill(&self, entry: &PageEntry, page: &mut IndexPage) -> Result<(), IndexError> {
        page.bytes.resize(entry.len as usize, 0);
        read_at(&self.source, entry.offset, &mut page.bytes)?;
        let checksum: [u8; HASH_BYTES] = array(&page.bytes, page.bytes.len() - HASH_BYTES);
        page.bytes.truncate(page.bytes.len() - HASH_BYTES);
        if checksum != entry.checksum || *blake3::hash(&page.bytes).as_bytes() != checksum {
            return Err(IndexError::Page(entry.span));
        }
        page.check(entry.span)
    }

    fn find(&self, span: SpanIndex) -> Option<&PageEntry> {
        self.directory
            .binary_search_by_key(&span, |entry| entry.span)
            .ok()
            .map(|at| &self.directory[at])
    }
}

/// Checks the footer and returns offset and length of the directory.
fn check_footer(
    footer: &[u8; FOOTER_BYTES],
    spec: &IndexSpec,
    size: u64,
) -> Result<(u64, usize), IndexError> {
    if &footer[0..4] != FOOTER_MAGIC {
        return Err(IndexError::Field {
            what: "footer magic",
            value: be32(footer, 0).into(),
        });
    }
    if be32(footer, 4) != VERSION {
        return Err(IndexError::Version(be32(footer, 4)));
    }
    if footer[48..FOOTER_BOUND_BYTES].iter().any(|byte| *byte != 0) {
        return Err(IndexError::Field {
            what: "reserved footer bytes",
            value: 1,
        });
    }
    let (pages, offset) = (be64(footer, 8), be64(footer, 16));
    if pages > spec.geometry.spans() {
        return Err(IndexError::Field {
            what: "number of pages",
            value: pages,
        });
    }
    // A geometry has at most 4 Mi spans, so this does not overflow.
    let len = pages * DIRECTORY_ENTRY_BYTES as u64;
    if offset.checked_add(len + FOOTER_BYTES as u64) != Some(size) {
        return Err(IndexError::Field {
            what: "offset of the directory",
            value: offset,
        });
    }
    Ok((offset, len as usize))
}

/// Pages lie one after the other from the header to the directory, in ascending order of their spans.
fn parse_directory(bytes: &[u8], geometry: &Geometry, end: u64) -> Result<Vec<PageEntry>, IndexError> {
    let mut directory: Vec<PageEntry> = Vec::with_capacity(bytes.len() / DIRECTORY_ENTRY_BYTES);
    let mut expected = HEADER_BYTES as u64;
    for raw in bytes.chunks_exact(DIRECTORY_ENTRY_BYTES) {
        let entry = PageEntry {
            span: SpanIndex(be64(raw, 0)),
            offset: be64(raw, 8),
            len: be64(raw, 16),
            checksum: array(raw, 24),
        };
        let ascending = directory.last().is_none_or(|last| last.span < entry.span);
        if !ascending || entry.span.0 >= geometry.spans() {
            return Err(IndexError::Field {
                what: "span in the directory",
                value: entry.span.0,
            });
        }
        if entry.offset != expected {
            return Err(IndexError::Field {
                what: "offset in the directory",
                value: entry.offset,
            });
        }
        let clusters = geometry.clusters_of(entry.span);
        let clusters = clusters.end - clusters.start;
        let least = (PAGE_HEADER_BYTES + states_bytes(clusters) + HASH_BYTES) as u64;
        if entry.len < least || entry.len > least + clusters * HASH_BYTES as u64 {
            return Err(IndexError::Field {
                what: "length in the directory",
                value: entry.len,
            });
        }
        // The bound above and the exact offset keep this far from overflow.
        expected += entry.len;
        directory.push(entry);
    }
    if expected == end {
        Ok(directory)
    } else {
        Err(IndexError::Field {
            what: "end of the pages",
            value: expected,
        })
    }
}

fn check_size(what: &'static str, needed: u64, size: u64) -> Result<(), IndexError> {
    if size < needed {
        Err(IndexError::Truncated { what, needed, size })
    } else {
        Ok(())
    }
}

fn read_at(source: &impl ReadAt, offset: u64, buf: &mut [u8]) -> Result<(), IndexError> {
    source
        .read_exact_at(offset, buf)
        .map_err(|source| IndexError::Io {
            offset,
            len: buf.len(),
            source,
        })
}
