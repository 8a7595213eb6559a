//! Images, and chains of them.

use std::collections::BTreeMap;

use holdfast_qcow2::header::Header;
use holdfast_qcow2::{
    Chain, ClusterIndex, Compressor, Decompressor, Extent, Image, ImageSpec, ImageWriter, Mapping, Payload,
    ReadAt, ResolvedSpan, Source, SpanIndex, SpanMap,
};

use crate::carve::Carver;
use crate::sparse::Sparse;

/// Spans with a table that are looked at; more are only more of the same.
const SPANS: usize = 16;
/// Spans of the largest disk that is looked into: opening a larger one says all about it, and takes long enough.
const LOOKED_AT: u64 = 1 << 16;
/// Bytes that are decompressed or hashed for one input.
const WORK: u64 = 8 << 20;
/// Spans of the largest disk that a writer here makes again.
const SMALL: u64 = 4096;

/// One image: everything that can be done with it.
pub(crate) fn image(input: &[u8]) {
    let file = Sparse::carve(&mut Carver::new(input));
    let Ok(image) = Image::open(&file) else { return };
    check_header(&image);
    if image.geometry().spans() > LOOKED_AT {
        return;
    }
    let Some(content) = read(&image) else { return };
    // The digest reads every table whole.
    let tables = (0..image.geometry().spans())
        .filter(|span| image.table_extent(SpanIndex(*span)).is_some())
        .count() as u64;
    let cluster = image.geometry().cluster_size().bytes();
    let refcounts = image.header().refcount_table_clusters * cluster / 8;
    if (tables + refcounts) * cluster <= 4 * WORK
        && let Ok(digest) = image.tables_digest()
    {
        assert_eq!(image.tables_digest().ok(), Some(digest));
    }
    write_again(&image, &content);
}

/// A header that was accepted says the same again and keeps its promises about the file.
fn check_header(image: &Image<&Sparse>) {
    let (header, size) = (image.header(), image.source().size());
    let again = Header::read(image.source());
    assert_eq!(again.ok().as_ref(), Some(header));
    let cluster = header.geometry.cluster_size().bytes();
    assert!(header.l1_offset.is_multiple_of(cluster) && header.l1_offset + header.l1_entries * 8 <= size);
    assert!(header.l1_entries >= header.geometry.spans());
    assert!(header.refcount_table_offset.is_multiple_of(cluster));
    assert!(header.refcount_table_offset + header.refcount_table_clusters * cluster <= size);
    assert_eq!(image.is_overlay(), header.backing_file.is_some());
}

/// The spans of which an image has a table, some of them.
pub(crate) fn held<R: ReadAt>(image: &Image<R>) -> Vec<SpanIndex> {
    let spans = (0..image.geometry().spans()).map(SpanIndex);
    spans
        .filter(|span| image.table_extent(*span).is_some())
        .take(SPANS)
        .collect()
}

/// What an image says about its clusters, those that it says nothing about left out; `None` where a table is damaged or
/// was not looked at.
fn read(image: &Image<&Sparse>) -> Option<BTreeMap<ClusterIndex, Mapping>> {
    let (geometry, size) = (image.geometry(), image.source().size());
    let mut map = SpanMap::new();
    let mut content = BTreeMap::new();
    let spans = held(image);
    for span in &spans {
        assert!(image.table_extent(*span).is_some_and(|table| table.end <= size));
        assert!(image.read_span(*span, &mut map).ok()?);
        assert!(
            map.iter()
                .map(|(cluster, _)| cluster.0)
                .eq(geometry.clusters_of(*span))
        );
        for (cluster, mapping) in map.iter().filter(|(_, mapping)| *mapping != Mapping::Unallocated) {
            if let Mapping::Data(extent) = mapping {
                assert!(extent.offset + u64::from(extent.len) <= size && extent.len > 0);
                assert!(u64::from(extent.len) <= 2 * geometry.cluster_size().bytes());
            }
            content.insert(cluster, mapping);
        }
    }
    (spans.len() < SPANS).then_some(content)
}

/// The bytes of a cluster, unless they are damaged.
pub(crate) fn decode<R: ReadAt>(
    image: &Image<R>,
    extent: Extent,
    decompressor: &mut Decompressor,
) -> Option<Vec<u8>> {
    let mut stored = vec![0; extent.len as usize];
    let read = image.source().read_exact_at(extent.offset, &mut stored);
    read.expect("an extent lies inside the file");
    let mut raw = vec![0; image.geometry().cluster_size().as_usize()];
    if extent.compressed {
        decompressor
            .decompress(image.compression(), &stored, &mut raw)
            .ok()?;
    } else {
        assert_eq!(stored.len(), raw.len());
        raw = stored;
    }
    Some(raw)
}

/// What was read can be written, and reads the same again.
fn write_again(image: &Image<&Sparse>, content: &BTreeMap<ClusterIndex, Mapping>) {
    let geometry = image.geometry();
    let cluster_size = geometry.cluster_size();
    if content.len() as u64 * cluster_size.bytes() > WORK || geometry.spans() > SMALL {
        return;
    }
    let spec = ImageSpec {
        virtual_size: geometry.virtual_size(),
        cluster_size,
        backing: image
            .is_overlay()
            .then(|| "below.qcow2".parse().expect("a valid name")),
        min_head: 0,
    };
    // Foreign images may have clusters that ours do not.
    let Ok(mut writer) = ImageWriter::new(spec) else {
        return;
    };
    let mut decompressor = Decompressor::new(cluster_size).expect("zstd has memory");
    let mut compressor = Compressor::new(cluster_size, 1).expect("zstd has memory");
    let (mut body, mut frame) = (Vec::new(), Vec::new());
    let mut expected = BTreeMap::new();
    for (cluster, mapping) in content {
        let payload = match mapping {
            Mapping::Data(extent) => {
                let Some(raw) = decode(image, *extent, &mut decompressor) else {
                    continue;
                };
                compressor.compress(&raw, &mut frame).expect("a whole cluster");
                expected.insert(*cluster, Some(raw));
                Payload::Frame(&frame)
            }
            Mapping::Zero => {
                if image.is_overlay() {
                    expected.insert(*cluster, None);
                }
                Payload::Zero
            }
            Mapping::Unallocated => continue,
        };
        writer
            .push(*cluster, payload, &mut body)
            .expect("clusters come in order and are whole");
    }
    let finished = writer.finish(&mut body);
    let mut file = finished.head;
    file.append(&mut body);
    let again = Image::open(file.as_slice()).expect("what was written is read");
    assert_eq!(again.geometry(), geometry);
    assert_eq!(again.is_overlay(), image.is_overlay());
    assert_eq!(again.tables_digest().ok(), Some(finished.summary.tables));
    let mut found = BTreeMap::new();
    let mut map = SpanMap::new();
    for span in held(&again) {
        again.read_span(span, &mut map).expect("what was written is read");
        for (cluster, mapping) in map.iter() {
            match mapping {
                Mapping::Unallocated => {}
                Mapping::Zero => drop(found.insert(cluster, None)),
                Mapping::Data(extent) => {
                    drop(found.insert(cluster, decode(&again, extent, &mut decompressor)));
                }
            }
        }
    }
    assert!(
        found == expected,
        "an image that was written again holds something else"
    );
}

/// One to three images on each other, whatever they say about what lies below them.
pub(crate) fn chain(input: &[u8]) {
    let mut input = Carver::new(input);
    let count = input.byte() % 3 + 1;
    let files: Vec<Sparse> = (0..count).map(|_| Sparse::carve(&mut input)).collect();
    let images: Result<Vec<_>, _> = files.iter().map(Image::open).collect();
    let Ok(images) = images else { return };
    if images.iter().any(|image| image.geometry().spans() > LOOKED_AT) {
        return;
    }
    let spans: Vec<SpanIndex> = images.iter().flat_map(held).collect();
    let Ok(chain) = Chain::new(images) else { return };
    let members = chain.images();
    assert!(members[..members.len() - 1].iter().all(Image::is_overlay));
    assert!(members.windows(2).all(|pair| {
        let [newer, older] = [pair[0].geometry(), pair[1].geometry()];
        newer.cluster_size() == older.cluster_size() && newer.virtual_size() >= older.virtual_size()
    }));
    let mut decompressor = Decompressor::new(chain.geometry().cluster_size()).expect("zstd has memory");
    let mut left = WORK;
    let mut resolved = ResolvedSpan::new();
    let behind = SpanIndex(chain.geometry().spans());
    assert!(chain.resolve(behind, &mut resolved).is_err());
    for span in spans {
        if chain.resolve(span, &mut resolved).is_err() {
            continue;
        }
        check_span(&chain, span, &resolved);
        for (_, source) in resolved.iter() {
            let Source::Data { image, extent } = source else {
                continue;
            };
            left = left.saturating_sub(chain.geometry().cluster_size().bytes());
            if left > 0 {
                decode(&chain.images()[image], extent, &mut decompressor);
            }
        }
    }
}

/// Every cluster comes from the newest image that says something about it.
fn check_span(chain: &Chain<&Sparse>, span: SpanIndex, resolved: &ResolvedSpan) {
    // A damaged table below those that decide every cluster is not read, so the simple way may fail where this did not.
    let maps: Vec<SpanMap> = chain
        .images()
        .iter()
        .map_while(|image| {
            let mut map = SpanMap::new();
            if span.0 < image.geometry().spans() {
                image.read_span(span, &mut map).ok()?;
            }
            Some(map)
        })
        .collect();
    for (position, (_, source)) in resolved.iter().enumerate() {
        let says = |(_, map): &(usize, &SpanMap)| {
            let mapping = map.mappings().get(position);
            mapping.is_some_and(|mapping| *mapping != Mapping::Unallocated)
        };
        let simple = match maps.iter().enumerate().find(says) {
            None => Source::Unallocated,
            Some((image, map)) => match map.mappings()[position] {
                Mapping::Data(extent) => Source::Data { image, extent },
                _ => Source::Zero { image },
            },
        };
        assert_eq!(source, simple, "cluster {position} of span {span}");
    }
}
