//! Runs, rules and members that cannot be merged.

use std::cell::Cell;
use std::io;

use holdfast_qcow2::{ReadError, WriteError};

use super::cases::{SMALL, base_and_overlay};
use super::*;

#[test]
fn runs_and_rules_that_cannot_be_are_refused() {
    let layers = base_and_overlay(400, |c| c < 200, cluster_size());
    let chain = members(&layers, cluster_size());
    let images = |range: Range<usize>| {
        let open = |member| Image::open(Member::image(member)).unwrap();
        chain[range].iter().rev().map(open).collect::<Vec<_>>()
    };
    let below = || Some("below.qcow2".parse().unwrap());
    assert!(Run::new(images(0..2), below()).is_err());
    assert!(Run::new(images(1..2), None).is_err());
    assert!(Run::new(images(0..0), None).is_err());
    assert!(Run::new(images(1..2), below()).is_ok());

    let run = open_run(&chain, None);
    let refused = |rules| Merge::plan(&run, rules).unwrap_err();
    let contradictions = [
        MergeRules {
            align: 3 << 14,
            ..SMALL
        },
        MergeRules {
            max_copy: 640 << 10,
            min_piece: 257 << 10,
            ..SMALL
        },
        MergeRules {
            literal_piece: 64 << 10,
            ..SMALL
        },
        MergeRules {
            literal_piece: u64::MAX,
            ..SMALL
        },
        MergeRules {
            min_piece: u64::MAX,
            ..SMALL
        },
        MergeRules {
            max_pieces: 0,
            ..SMALL
        },
        MergeRules {
            dead_weight: 0,
            ..SMALL
        },
    ];
    for rules in contradictions {
        assert!(matches!(refused(rules), MergeError::Rules(_)), "{rules:?}");
    }
    let few = MergeRules {
        max_pieces: 3,
        ..SMALL
    };
    assert!(matches!(
        refused(few),
        MergeError::TooManyPieces {
            needed: 4..,
            limit: 3
        }
    ));
}

/// Answers otherwise once its tables were read so many times.
struct Changing<'a> {
    bytes: &'a [u8],
    tables: Vec<Range<u64>>,
    reads_left: Cell<usize>,
}

impl ReadAt for Changing<'_> {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.bytes.read_exact_at(offset, buf)?;
        if self.tables.iter().any(|table| table.contains(&offset)) {
            match self.reads_left.get() {
                // The first hundred clusters of the span are gone.
                0 => buf[..800].fill(0),
                left => self.reads_left.set(left - 1),
            }
        }
        Ok(())
    }
}

#[test]
fn tables_that_change_under_a_merge_are_found() {
    // Two refcount blocks, of which the window holds one: tables are read to plan, for the pieces, and for the second
    // block again.
    let layers = base_and_overlay(8300, |_| false, cluster_size());
    let chain = members(&layers, cluster_size());
    let image = Image::open(chain[0].image()).unwrap();
    let tables: Vec<_> = (0..5)
        .map(|span| image.table_extent(SpanIndex(span)).unwrap())
        .collect();
    let rules = MergeRules {
        memory: 16 << 10,
        ..SMALL
    };
    for passes in 1..4 {
        let source = Changing {
            bytes: chain[0].image(),
            tables: tables.clone(),
            reads_left: Cell::new(passes * tables.len()),
        };
        let run = Run::new(vec![Image::open(source).unwrap()], None).unwrap();
        let mut merge = Merge::plan(&run, rules).unwrap();
        let error = loop {
            match merge.next_piece() {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if passes == 3 {
            assert!(error.is_none() && merge.outcome().is_some(), "{error:?}");
        } else {
            assert!(matches!(error, Some(MergeError::Changed)), "{error:?}");
            assert!(merge.next_piece().unwrap().is_none() && merge.outcome().is_none());
        }
    }
}

#[test]
fn images_of_others_are_refused_where_they_differ() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image.qcow2"));
    let mut bytes = vec![7; 1 << 20];
    noise(1, &mut bytes[..300_000]);
    std::fs::write(&raw, &bytes).unwrap();
    for options in [
        &["-c", "-o", "compression_type=zlib"][..],
        &["-o", "compression_type=zstd"],
    ] {
        let convert = ["convert", "-f", "raw", "-O", "qcow2"];
        let files = [raw.to_str().unwrap(), image.to_str().unwrap()];
        run("qemu-img", &[&convert[..], options, &files].concat());
        let run = Run::new(vec![open_file(&image).unwrap()], None).unwrap();
        let error = run.survey(&MergeRules::STORE).unwrap_err();
        let MergeError::Member(error) = error else {
            panic!("{error:?}")
        };
        assert!(matches!(error.source, ReadError::ForeignLayout(_)), "{error:?}");
    }
    // Smaller clusters than ours.
    let options = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=8k,compression_type=zstd",
    ];
    run(
        "qemu-img",
        &[&options[..], &[image.to_str().unwrap(), "1M"]].concat(),
    );
    let small = Run::new(vec![open_file(&image).unwrap()], None).unwrap();
    let error = small.survey(&MergeRules::STORE).unwrap_err();
    assert!(
        matches!(error, MergeError::Write(WriteError::ClusterSize(8192))),
        "{error:?}"
    );
    // Compressed throughout by qemu, at whatever bytes it likes: fits.
    std::fs::write(&raw, vec![9; 8 << 20]).unwrap();
    let options = [
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-c",
        "-o",
        "compression_type=zstd",
    ];
    run(
        "qemu-img",
        &[&options[..], &[raw.to_str().unwrap(), image.to_str().unwrap()]].concat(),
    );
    let foreign = Run::new(vec![open_file(&image).unwrap()], None).unwrap();
    let (file, _) = execute(
        &foreign,
        MergeRules {
            min_piece: 1,
            ..SMALL
        },
    );
    std::fs::write(&image, file).unwrap();
    check(&image);
    compare(&image, &raw);
}
