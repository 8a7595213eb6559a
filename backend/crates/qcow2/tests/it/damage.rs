//! Damaged and hostile images: typed errors, never a panic, never a read outside the file or beyond a bound.

use std::cell::Cell;
use std::io;

use holdfast_qcow2::{
    ClusterSize, CodecError, Compression, Decompressor, Geometry, Image, Index, IndexError, IndexPage,
    Mapping, ReadAt, ReadError, SpanIndex, SpanMap,
};

use crate::support::*;

mod merge;

/// A source that fails the test when a read leaves the file, and remembers the largest read.
#[derive(Debug)]
struct Probe<'a> {
    bytes: &'a [u8],
    largest: Cell<usize>,
}

impl<'a> Probe<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            largest: Cell::new(0),
        }
    }
}

impl ReadAt for Probe<'_> {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        assert!(
            offset + buf.len() as u64 <= self.size(),
            "a read of {} at {offset} leaves the file",
            buf.len()
        );
        self.largest.set(self.largest.get().max(buf.len()));
        self.bytes.read_exact_at(offset, buf)
    }
}

/// Does everything that can be done with an image.
fn use_image(bytes: &[u8]) -> Result<holdfast_qcow2::Digest, ReadError> {
    let image = Image::open(Probe::new(bytes))?;
    let cluster_size = image.geometry().cluster_size();
    let mut decompressor = Decompressor::new(cluster_size).unwrap();
    let mut raw = vec![0; cluster_size.as_usize()];
    let mut map = SpanMap::new();
    // A flipped size may make a disk of millions of empty spans; walking a few of them is enough.
    for span in 0..image.geometry().spans().min(64) {
        image.read_span(SpanIndex(span), &mut map)?;
        for mapping in map.mappings() {
            let Mapping::Data(extent) = mapping else { continue };
            assert!(u64::from(extent.len) <= 2 * cluster_size.bytes());
            let mut stored = vec![0; extent.len as usize];
            image.source().read_exact_at(extent.offset, &mut stored).unwrap();
            if extent.compressed {
                // Damaged payload may be an error or other bytes; the index tells them apart.
                let _ = decompressor.decompress(image.compression(), &stored, &mut raw);
            }
        }
    }
    let digest = image.tables_digest();
    assert!(image.source().largest.get() <= bytes.len());
    digest
}

/// Two layers of 16 KiB clusters; the overlay, a few hundred KiB.
fn overlay() -> Stored {
    let clusters = [
        (0, Content::Mixed(1)),
        (1, Content::Zero),
        (5, Content::Noise(2)),
        (2047, Content::Trimmed),
        (2050, Content::Mixed(3)),
    ];
    let layer = Layer {
        virtual_size: (2060 << 14) - 512,
        clusters: clusters.into(),
    };
    write_layer(&layer, 1, ClusterSize::new(16 << 10).unwrap(), 0)
}

#[test]
fn every_flipped_bit_of_the_tables_is_found() {
    let stored = overlay();
    let good = &stored.image;
    assert_eq!(use_image(good).unwrap(), stored.image_summary.tables);
    let mut bad = good.clone();
    for at in 0..stored.image_summary.head_size as usize {
        // Every bit where something stands, one bit of each byte in the long stretches of zeroes behind it.
        let bits = if at % (16 << 10) < 256 {
            0..8
        } else {
            at % 8..at % 8 + 1
        };
        for bit in bits {
            bad[at] ^= 1 << bit;
            let result = use_image(&bad);
            assert!(
                result.is_err() || result.is_ok_and(|digest| digest != stored.image_summary.tables),
                "{at}.{bit}"
            );
            bad[at] = good[at];
        }
    }
    let image = Image::open(good.as_slice()).unwrap();
    for table in [SpanIndex(0), SpanIndex(1)].map(|span| image.table_extent(span).unwrap()) {
        for at in table.step_by(11) {
            bad[at as usize] ^= 1 << (at % 8);
            let result = use_image(&bad);
            assert!(
                result.is_err() || result.is_ok_and(|digest| digest != stored.image_summary.tables),
                "{at}"
            );
            bad[at as usize] = good[at as usize];
        }
    }
}

#[test]
fn every_cut_is_found() {
    let stored = overlay();
    let good = &stored.image;
    for len in (0..good.len()).step_by(61).chain(0..200) {
        let result = use_image(&good[..len]);
        assert!(
            result.is_err() || result.is_ok_and(|digest| digest != stored.image_summary.tables),
            "{len}"
        );
    }
}

#[test]
fn header_fields_are_checked_one_by_one() {
    let good = overlay().image;
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        Image::open(Probe::new(&bad)).map(|_| ()).unwrap_err()
    };
    let be32 = |value: u32| value.to_be_bytes();
    let be64 = |value: u64| value.to_be_bytes();
    assert!(matches!(with(0, b"QFIX"), ReadError::NotQcow2));
    assert!(matches!(with(4, &be32(2)), ReadError::Version(2)));
    assert!(matches!(with(4, &be32(4)), ReadError::Version(4)));
    assert!(matches!(
        with(8, &be64(50)),
        ReadError::Field {
            field: "backing_file_offset",
            value: 50
        }
    ));
    assert!(matches!(
        with(8, &be64(u64::MAX)),
        ReadError::OutsideFile {
            what: "backing file name",
            ..
        }
    ));
    assert!(matches!(
        with(16, &be32(0)),
        ReadError::Field {
            field: "backing_file_size",
            value: 0
        }
    ));
    assert!(matches!(
        with(16, &be32(1024)),
        ReadError::Field {
            field: "backing_file_size",
            value: 1024
        }
    ));
    assert!(matches!(with(20, &be32(8)), ReadError::Geometry(_)));
    assert!(matches!(with(20, &be32(22)), ReadError::Geometry(_)));
    assert!(matches!(with(20, &be32(u32::MAX)), ReadError::Geometry(_)));
    assert!(matches!(with(24, &be64(0)), ReadError::Geometry(_)));
    assert!(matches!(with(24, &be64(u64::MAX - 511)), ReadError::Geometry(_)));
    assert!(matches!(
        with(24, &be64(1 << 40)),
        ReadError::Field {
            field: "l1_size",
            value: 2
        }
    ));
    assert!(matches!(with(32, &be32(1)), ReadError::Encrypted(1)));
    assert!(matches!(
        with(36, &be32(1)),
        ReadError::Field {
            field: "l1_size",
            value: 1
        }
    ));
    assert!(matches!(
        with(36, &be32(4 << 20)),
        ReadError::OutsideFile { what: "L1 table", .. }
    ));
    assert!(matches!(
        with(36, &be32(u32::MAX)),
        ReadError::TooLarge { what: "L1 table", .. }
    ));
    assert!(matches!(with(40, &be64(0)), ReadError::Overlap { .. }));
    assert!(matches!(
        with(40, &be64(1024)),
        ReadError::Misaligned {
            what: "L1 table",
            offset: 1024
        }
    ));
    assert!(matches!(
        with(40, &be64(1 << 63)),
        ReadError::OutsideFile { what: "L1 table", .. }
    ));
    assert!(matches!(with(48, &be64(16 << 10)), ReadError::Overlap { .. }));
    assert!(matches!(
        with(48, &be64(u64::MAX << 14)),
        ReadError::OutsideFile {
            what: "refcount table",
            ..
        }
    ));
    assert!(matches!(
        with(56, &be32(0)),
        ReadError::Field {
            field: "refcount_table_clusters",
            value: 0
        }
    ));
    assert!(matches!(
        with(56, &be32(u32::MAX)),
        ReadError::TooLarge {
            what: "refcount table",
            ..
        }
    ));
    assert!(matches!(with(60, &be32(3)), ReadError::Snapshots(3)));
    for bit in [0, 1, 4, 5, 63] {
        let features = 1u64 << bit | 1 << 3;
        assert!(matches!(with(72, &be64(features)), ReadError::Features(found) if found == features));
    }
    assert!(matches!(with(72, &be64(0xc)), ReadError::ExternalData));
    assert!(matches!(
        with(72, &be64(0)),
        ReadError::Field {
            field: "compression_type",
            value: 1
        }
    ));
    assert!(matches!(
        with(96, &be32(7)),
        ReadError::Field {
            field: "refcount_order",
            value: 7
        }
    ));
    for len in [0, 96, 105, (16 << 10) + 8] {
        assert!(matches!(
            with(100, &be32(len)),
            ReadError::Field {
                field: "header_length",
                ..
            }
        ));
    }
    assert!(matches!(
        with(104, &[0]),
        ReadError::Field {
            field: "compression_type",
            value: 0
        }
    ));
    assert!(matches!(with(104, &[2]), ReadError::Compression(2)));
    // That of the backing format, and the end marker behind it.
    for length in [116, 132] {
        assert!(matches!(
            with(length, &be32(u32::MAX)),
            ReadError::OutsideFile {
                what: "header extension",
                ..
            }
        ));
    }
}

#[test]
fn table_entries_are_checked_one_by_one() {
    let good = overlay().image;
    let l2 = Image::open(good.as_slice())
        .unwrap()
        .table_extent(SpanIndex(0))
        .unwrap()
        .start;
    let with = |at: u64, entry: u64| {
        let mut bad = good.clone();
        bad[at as usize..at as usize + 8].copy_from_slice(&entry.to_be_bytes());
        use_image(&bad).unwrap_err()
    };
    let l1 = 16 << 10;
    assert!(matches!(
        with(l1, 1 << 62 | l2),
        ReadError::ReservedBits {
            what: "L1",
            index: 0,
            ..
        }
    ));
    assert!(matches!(
        with(l1, l2 + 512),
        ReadError::Misaligned { what: "L2 table", .. }
    ));
    assert!(matches!(
        with(l1, 1 << 50),
        ReadError::OutsideFile { what: "L2 table", .. }
    ));
    // The table of the other span, the L1 table itself, and the refcount table.
    assert!(matches!(with(l1 + 8, l2), ReadError::Overlap { .. }));
    assert!(matches!(with(l1 + 8, l1), ReadError::Overlap { .. }));
    assert!(matches!(with(l1 + 8, 2 * l1), ReadError::Overlap { .. }));
    assert!(matches!(
        with(l2, 2),
        ReadError::ReservedBits {
            what: "L2",
            index: 0,
            value: 2
        }
    ));
    assert!(matches!(
        with(l2 + 8, l1 + 512),
        ReadError::Misaligned { what: "cluster", .. }
    ));
    assert!(matches!(
        with(l2, 1 << 40),
        ReadError::OutsideFile { what: "cluster", .. }
    ));
    assert!(matches!(
        with(l2, 1 << 62),
        ReadError::OutsideFile {
            what: "compressed cluster",
            offset: 0,
            ..
        }
    ));
    assert!(matches!(
        with(l2, 1 << 62 | 1 << 40),
        ReadError::OutsideFile {
            what: "compressed cluster",
            ..
        }
    ));
    assert!(matches!(
        with(l2, 3 << 62 | l1),
        ReadError::ReservedBits { what: "L2", .. }
    ));
    let near_end = good.len() as u64 - 512;
    assert!(matches!(
        with(l2, 1 << 62 | 1 << 56 | near_end),
        ReadError::OutsideFile {
            what: "compressed cluster",
            ..
        }
    ));
}

/// Otherwise a header decides how much memory its tables take.
#[test]
fn of_another_disk_than_the_known_one_no_table_is_read() {
    let stored = overlay();
    let known = *Image::open(stored.image.as_slice()).unwrap().geometry();
    assert!(Image::open_for(stored.image.as_slice(), &known).is_ok());
    assert!(Index::open_for(stored.index.as_slice(), &known).is_ok());
    let larger = Geometry::new(known.virtual_size() + 512, known.cluster_size()).unwrap();
    let coarser = Geometry::new(known.virtual_size(), ClusterSize::DEFAULT).unwrap();
    for other in [larger, coarser] {
        let (image, index) = (Probe::new(&stored.image), Probe::new(&stored.index));
        let error = Image::open_for(&image, &other).unwrap_err();
        assert!(matches!(error, ReadError::OtherShape(_)), "{error}");
        assert!(
            image.largest.get() <= 16 << 10,
            "more than the first cluster was read"
        );
        let error = Index::open_for(&index, &other).unwrap_err();
        let IndexError::OtherShape(shape) = error else {
            panic!("{error}")
        };
        assert_eq!((shape.found, shape.expected), (known, other));
        assert_eq!(index.largest.get(), 288, "more than the header was read");
    }
}

#[test]
fn a_bomb_fills_one_cluster_at_most() {
    let cluster_size = ClusterSize::DEFAULT;
    let mut decompressor = Decompressor::new(cluster_size).unwrap();
    let mut raw = vec![0; cluster_size.as_usize()];
    let frame = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    assert!(frame.len() < 8192);
    let error = decompressor
        .decompress(Compression::Zstd, &frame, &mut raw)
        .unwrap_err();
    assert!(matches!(error, CodecError::Library { codec: "zstd", .. }));
    // Too little is no cluster either.
    let frame = zstd::bulk::compress(&[1; 1000], 1).unwrap();
    let error = decompressor
        .decompress(Compression::Zstd, &frame, &mut raw)
        .unwrap_err();
    assert!(matches!(
        error,
        CodecError::Length {
            found: 1000,
            expected: 65536
        }
    ));
    for (compression, codec) in [(Compression::Zstd, "zstd"), (Compression::Zlib, "zlib")] {
        for stored in [&[][..], &[0xff; 600][..]] {
            let error = decompressor
                .decompress(compression, stored, &mut raw)
                .unwrap_err();
            assert!(
                matches!(error, CodecError::Library { codec: found, .. } if found == codec),
                "{error:?}"
            );
        }
    }
}

#[test]
fn random_damage_never_panics() {
    let stored = overlay();
    let mut state = 42;
    for round in 0..3000 {
        let mut image = stored.image.clone();
        let mut index = stored.index.clone();
        // Tables and header more often than payload; sometimes nothing but noise.
        for _ in 0..=next(&mut state) % 16 {
            let limit = if next(&mut state).is_multiple_of(2) {
                256
            } else {
                image.len() as u64
            };
            let at = (next(&mut state) % limit) as usize;
            image[at] = next(&mut state) as u8;
            let at = next(&mut state) as usize % index.len();
            index[at] = next(&mut state) as u8;
        }
        if round % 10 == 0 {
            let len = (next(&mut state) % 4096) as usize;
            image.truncate(len);
            noise(next(&mut state), &mut image[len.min(8)..]);
        }
        let _ = use_image(&image);
        if let Ok(index) = Index::open(Probe::new(&index)) {
            let mut page = IndexPage::new();
            for span in 0..index.geometry().spans() {
                let _ = index
                    .read_page(SpanIndex(span), &mut page)
                    .map(|_| page.iter().count());
            }
        }
    }
}
