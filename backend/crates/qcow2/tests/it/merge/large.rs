//! A shard at its full size: how many pieces it takes, and how much memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Command;

use holdfast_qcow2::{
    BodySink, ClusterIndex, ClusterSize, Image, ImageSpec, ImageWriter, Merge, MergeRules, Payload,
    PieceContent, ReadAt, Run, is_zero,
};

const SHARD: u64 = 128 << 30;
const CLUSTERS: u64 = SHARD >> 16;
const PAGE: u64 = 64 << 10;
/// A frame of a cluster that does not shrink, as far as tables are concerned.
static FRAME: [u8; (64 << 10) + 512] = [0; (64 << 10) + 512];

/// A file of which only those pages are kept that are not zero: the tables, for all payload is zero here.
struct Sparse {
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE as usize - from));
            if !is_zero(now) {
                let page = self.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize]);
                page[from..from + now.len()].copy_from_slice(now);
            }
            (at, bytes) = (at + now.len() as u64, rest);
        }
    }
}

impl BodySink for Sparse {
    fn append(&mut self, bytes: &[u8]) {
        if !std::ptr::eq(bytes.as_ptr(), FRAME.as_ptr()) {
            self.write(self.len, bytes);
        }
        self.len += bytes.len() as u64;
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        assert!(end <= self.len);
        for (page, bytes) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = page * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }
}

/// An image of the shard that holds these clusters.
fn image(overlay: bool, holds: impl Fn(u64) -> bool) -> Image<Sparse> {
    let spec = ImageSpec {
        virtual_size: SHARD,
        cluster_size: ClusterSize::DEFAULT,
        backing: overlay.then(|| "below.qcow2".parse().unwrap()),
        min_head: 0,
    };
    let mut writer = ImageWriter::new(spec).unwrap();
    let mut file = Sparse {
        len: writer.head_size(),
        pages: BTreeMap::new(),
    };
    for cluster in (0..CLUSTERS).filter(|cluster| holds(*cluster)) {
        let payload = Payload::Frame(&FRAME);
        writer.push(ClusterIndex(cluster), payload, &mut file).unwrap();
    }
    let finished = writer.finish(&mut file);
    file.write(0, &finished.head);
    Image::open(file).unwrap()
}

#[test]
fn a_full_shard_that_does_not_shrink_never_takes_too_many_pieces() {
    // Clusters of the base that stay, and that are rewritten, in turn: the worst are stretches about as long as the
    // least copy, with gaps somewhat longer than is bridged, or as long as themselves.
    let patterns = [
        (1, 1),
        (5, 1),
        (88, 24),
        (80, 80),
        (79, 40),
        (96, 144),
        (288, 288),
        (640, 650),
    ];
    let mut base = image(false, |_| true);
    for (stays, goes) in patterns {
        let overlay = image(true, |cluster| cluster % (stays + goes) >= stays);
        let run = Run::new(vec![overlay, base], None).unwrap();
        let survey = run.survey(&MergeRules::STORE).unwrap();
        println!("{stays} stay, {goes} go: {survey:?}");
        assert!(survey.pieces <= 10_000);
        assert!(survey.dead <= survey.copied / 2 && survey.result < 2 * SHARD);
        // Where less than half is dead, nothing but edges of copies is packed.
        if stays > goes {
            assert!(survey.packed < SHARD / 16, "{survey:?}");
        }
        base = image(false, |_| true);
    }
    // Nothing to copy at all: every cluster of every second MiB, in single ones.
    let sparse = |cluster: u64| cluster.is_multiple_of(5);
    let run = Run::new(vec![image(true, |cluster| !sparse(cluster)), base], None).unwrap();
    let rules = MergeRules {
        // All of it is read and packed.
        min_piece: 16 << 20,
        dead_weight: 1000,
        max_copy: u64::MAX / 4,
        ..MergeRules::STORE
    };
    assert!(run.survey(&rules).unwrap().pieces <= 10_000);
}

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let kib: u64 = line
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}

/// Bytes of memory that the merge of these images takes at its peak, besides the images.
fn memory_of(images: Vec<Image<Sparse>>) -> u64 {
    let run = Run::new(images, None).unwrap();
    // Resets the peak to what is in use now.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let mut merge = Merge::plan(&run, MergeRules::STORE).unwrap();
    let (mut copied, mut literal) = (0, 0);
    while let Some(piece) = merge.next_piece().unwrap() {
        match piece.content {
            PieceContent::Copy { .. } => copied += piece.len(),
            PieceContent::Bytes(_) => literal += piece.len(),
        }
    }
    let outcome = merge.outcome().unwrap();
    assert_eq!(copied, outcome.copied);
    assert_eq!(copied + literal, outcome.image.file_size);
    let peak = status("VmHWM") - before;
    println!("{} MiB at the peak: {outcome:?}", peak >> 20);
    peak
}

#[test]
#[ignore = "started by a_full_shard_merges_in_little_memory, in a process of its own"]
fn measured() {
    // Stays as it is, is rewritten in single clusters, in short runs, or nearly wholly.
    let rewritten = |cluster: u64| match cluster * 8 / CLUSTERS {
        0 | 1 => cluster.is_multiple_of(50),
        2 => !cluster.is_multiple_of(3),
        3 => cluster % 2000 < 1000,
        _ => false,
    };
    let dense = vec![
        image(true, |cluster| cluster % 1000 == 7),
        image(true, rewritten),
        image(false, |_| true),
    ];
    let dense = memory_of(dense);
    let sparse = |overlay| image(overlay, |cluster| cluster % 100_000 == 0);
    let sparse = memory_of(vec![sparse(true), sparse(false)]);
    assert!(dense <= 64 << 20 && sparse <= 8 << 20, "{dense} {sparse}");
}

#[test]
fn a_full_shard_merges_in_little_memory() {
    let name = "merge::large::measured";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}
