//! Indexes, and what becomes of several.

use std::collections::BTreeMap;

use holdfast_qcow2::{
    ClusterIndex, ClusterSize, ClusterState, EffectiveSpan, Geometry, Index, IndexMerge, IndexPage,
    IndexWriter, MergedIndex, SpanIndex,
};

use crate::carve::Carver;
use crate::sparse::Sparse;

/// Of the format: bytes of header, footer, entry of the directory, hash, and the begin of the footer that is hashed.
const HEADER: usize = 288;
const FOOTER: usize = 96;
const ENTRY: usize = 56;
const HASH: usize = 32;
const BOUND: usize = 64;

/// Pages that get a hash, and are read.
const PAGES: usize = 64;
/// Longest page, one of clusters of 2 MiB without hashes being a quarter of that.
const LONGEST_PAGE: u64 = 256 << 10;
/// Spans of the largest shard with the smallest clusters.
const SPANS: u64 = 4096;

/// Takes an index out of an input. Nobody guesses hashes, so they are made right where the first byte asks for it.
fn carve(input: &mut Carver<'_>) -> Sparse {
    let hash = input.byte() % 4 != 3;
    let mut file = Sparse::carve(input);
    if hash {
        bind(&mut file);
    }
    file
}

/// Makes the hashes of pages and directory right, as far as those lie where they should.
fn bind(file: &mut Sparse) -> Option<()> {
    let size = holdfast_qcow2::ReadAt::size(file);
    let footer_at = size.checked_sub(FOOTER as u64)?;
    let footer = file.get(footer_at, FOOTER)?;
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    let (pages, directory_at) = (number(&footer[8..16])?, number(&footer[16..24])?);
    let directory_len = usize::try_from(pages).ok()?.checked_mul(ENTRY)?;
    if directory_len > 16 << 20 {
        return None;
    }
    let mut directory = file.get(directory_at, directory_len)?;
    for (page, entry) in directory.chunks_exact_mut(ENTRY).take(PAGES).enumerate() {
        let (at, len) = (number(&entry[8..16])?, number(&entry[16..24])?);
        let body = len.checked_sub(HASH as u64).filter(|body| *body <= LONGEST_PAGE);
        let Some(content) = body.and_then(|body| file.get(at, body as usize)) else {
            continue;
        };
        let hash = blake3::hash(&content);
        file.put(at + content.len() as u64, hash.as_bytes());
        entry[24..].copy_from_slice(hash.as_bytes());
        file.put(directory_at + (page * ENTRY + 24) as u64, hash.as_bytes());
    }
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&file.get(0, HEADER)?)
        .update(&file.get(directory_at, directory_len)?)
        .update(&file.get(footer_at, BOUND)?);
    file.put(footer_at + BOUND as u64, hasher.finalize().as_bytes());
    Some(())
}

/// The disk that a record would say: that of the index, or of a shard where it is larger than one.
fn disk(file: &Sparse) -> Geometry {
    let shard = Geometry::new(128 << 30, ClusterSize::DEFAULT).expect("a valid disk");
    let Some(header) = file.get(0, HEADER) else {
        return shard;
    };
    let bits = u32::from_be_bytes(header[12..16].try_into().expect("four bytes"));
    let size = u64::from_be_bytes(header[16..24].try_into().expect("eight bytes"));
    ClusterSize::from_bits(bits)
        .and_then(|cluster_size| Geometry::new(size, cluster_size))
        .ok()
        .filter(|disk| disk.spans() <= SPANS)
        .unwrap_or(shard)
}

fn held(index: &Index<&Sparse>) -> Vec<SpanIndex> {
    let spans = (0..index.geometry().spans()).map(SpanIndex);
    spans
        .filter(|span| index.page_extent(*span).is_some())
        .take(PAGES)
        .collect()
}

/// One index: every page, and written again.
pub(crate) fn index(input: &[u8]) {
    let file = carve(&mut Carver::new(input));
    let disk = disk(&file);
    let Ok(index) = Index::open_for(&file, &disk) else {
        return;
    };
    assert_eq!(*index.geometry(), disk);
    let mut page = IndexPage::new();
    let mut states = BTreeMap::new();
    for span in held(&index) {
        match index.read_page(span, &mut page) {
            Ok(there) => assert!(there),
            Err(_) => {
                assert_eq!(page.iter().count(), 0, "a page that was refused is empty");
                return;
            }
        }
        let clusters = disk.clusters_of(span);
        let mut last = None;
        for (cluster, state) in page.iter() {
            assert!(clusters.contains(&cluster.0) && last < Some(cluster));
            last = Some(cluster);
            states.insert(cluster, state);
        }
    }
    write_again(&index, &states);
}

fn write_again(index: &Index<&Sparse>, states: &BTreeMap<ClusterIndex, ClusterState>) {
    let write = || {
        let mut file = Vec::new();
        let mut writer = IndexWriter::new(index.spec(), &mut file);
        for (cluster, state) in states {
            writer
                .push(*cluster, state, &mut file)
                .expect("clusters come in order");
        }
        let summary = writer.finish(&mut file);
        (file, summary)
    };
    let (file, summary) = write();
    let again = Index::open_for(file.as_slice(), index.geometry()).expect("what was written is read");
    assert_eq!(again.spec(), index.spec());
    assert_eq!(again.summary(), &summary);
    let mut page = IndexPage::new();
    let mut found = BTreeMap::new();
    for span in (0..again.geometry().spans()).map(SpanIndex) {
        again
            .read_page(span, &mut page)
            .expect("what was written is read");
        found.extend(page.iter());
    }
    assert!(
        found == *states,
        "an index that was written again says something else"
    );
}

/// One to three indexes on each other, resolved and merged.
pub(crate) fn index_merge(input: &[u8]) {
    let mut input = Carver::new(input);
    let kind = input.byte();
    let files: Vec<Sparse> = (0..kind / 2 % 3 + 1).map(|_| carve(&mut input)).collect();
    let indexes: Result<Vec<_>, _> = files
        .iter()
        .map(|file| Index::open_for(file, &disk(file)))
        .collect();
    let Ok(indexes) = indexes else { return };
    let mut spans: Vec<SpanIndex> = indexes.iter().flat_map(held).collect();
    spans.sort_unstable();
    spans.dedup();
    let merged = if kind.is_multiple_of(2) {
        MergedIndex::new(indexes)
    } else {
        MergedIndex::overlays(indexes)
    };
    let Ok(merged) = merged else { return };
    let mut expected = BTreeMap::new();
    let mut effective = EffectiveSpan::new();
    for span in spans
        .into_iter()
        .filter(|span| span.0 < merged.geometry().spans())
    {
        if merged.read_span(span, &mut effective).is_err() {
            return;
        }
        let simple = simple(&merged, span);
        for (cluster, state) in effective.iter() {
            assert_eq!(state, simple.get(&cluster).copied(), "cluster {cluster}");
            assert_eq!(state, effective.get(cluster));
        }
        expected.extend(simple);
    }
    let mut file = Vec::new();
    let name = "merged.qcow2".parse().expect("a valid name");
    let mut merge = IndexMerge::new(&merged, name, &mut file);
    loop {
        match merge.next_span(&mut file) {
            Ok(true) => {}
            Ok(false) => break,
            // A page that was not looked at above.
            Err(_) => return,
        }
    }
    let summary = merge.finish(&mut file);
    let again = Index::open_for(file.as_slice(), merged.geometry()).expect("what was written is read");
    assert_eq!(again.summary(), &summary);
    let mut page = IndexPage::new();
    for span in (0..again.geometry().spans()).map(SpanIndex) {
        again
            .read_page(span, &mut page)
            .expect("what was written is read");
        for (cluster, state) in page.iter() {
            if let Some(expected) = expected.remove(&cluster) {
                assert_eq!(state, expected);
            }
        }
    }
    assert!(expected.is_empty(), "a merged index lacks clusters");
}

/// The states of a span, oldest member first.
fn simple(merged: &MergedIndex<&Sparse>, span: SpanIndex) -> BTreeMap<ClusterIndex, ClusterState> {
    let mut states = BTreeMap::new();
    let mut page = IndexPage::new();
    for index in merged.indexes().iter().rev() {
        if span.0 < index.geometry().spans() && index.read_page(span, &mut page).is_ok() {
            states.extend(page.iter());
        }
    }
    states
}
