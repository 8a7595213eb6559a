//! An outside judge: what `qemu-img` says of the images that our reader accepted and of those that our merge made.
//!
//! A process for each image is too slow to be a part of fuzzing, so a sample of what fuzzing collected is shown to it
//! afterwards.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use holdfast_qcow2::{Decompressor, Image, Mapping, ReadAt as _, SpanIndex, SpanMap};
use serde_json::json;

use crate::carve::Carver;
use crate::image::{decode, held};
use crate::merge::merged;
use crate::sparse::Sparse;

/// Largest disk whose content is compared, in bytes.
const COMPARED: u64 = 256 << 20;
/// Seconds for one call.
const PATIENCE: &str = "60";

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Images that our reader accepts and whose tables the judge checked.
    pub images: usize,
    /// Those whose content was compared, too.
    pub compared: usize,
    /// Of these, how many had other bytes in compressed clusters: what a damaged frame holds differs among versions of
    /// zstd. (The hash in the index decides.)
    pub damaged: usize,
    /// Merged images.
    pub merged: usize,
    /// What the judge says against ours, and of which input.
    pub objections: Vec<(PathBuf, String)>,
}

/// Shows a sample of the inputs in `corpus/image` and `corpus/merge` to the judge, at most so many of each that are images.
///
/// # Errors
/// When there is no `qemu-img`, or files cannot be written.
pub fn judge(corpus: &Path, sample: usize) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let folder = tempfile::tempdir()?;
    for path in spread(&corpus.join("image"))? {
        if verdict.images == sample {
            break;
        }
        let input = std::fs::read(&path)?;
        let file = Sparse::carve(&mut Carver::new(&input));
        let Some(content) = accepted(&file) else { continue };
        let image = folder.path().join("image.qcow2");
        store(&file, &image)?;
        verdict.images += 1;
        if let Some(objection) = check(&image, true)? {
            verdict.objections.push((path, objection));
            continue;
        }
        if content.size <= COMPARED {
            verdict.compared += 1;
            match compare(&image, &content, folder.path())? {
                Comparison::Same => {}
                Comparison::Damaged => verdict.damaged += 1,
                Comparison::Other(offset) => {
                    let objection = format!("another content at {offset}");
                    verdict.objections.push((path, objection));
                }
            }
        }
    }
    for path in spread(&corpus.join("merge"))? {
        if verdict.merged == sample {
            break;
        }
        let Some(file) = merged(&std::fs::read(&path)?) else {
            continue;
        };
        let image = folder.path().join("merged.qcow2");
        std::fs::write(&image, file)?;
        verdict.merged += 1;
        let objection = check(&image, false)?;
        verdict
            .objections
            .extend(objection.map(|objection| (path, objection)));
    }
    Ok(verdict)
}

/// The files of a folder in an order that depends on nothing but their names and spreads over all of them.
fn spread(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    let name = |path: &PathBuf| {
        path.file_name()
            .map(|name| *blake3::hash(name.as_encoded_bytes()).as_bytes())
    };
    paths.sort_by_key(name);
    Ok(paths)
}

/// What a disk holds.
struct Content {
    size: u64,
    clusters: Vec<Stored>,
}

/// A cluster with content, as far as it belongs to the disk.
struct Stored {
    offset: u64,
    bytes: Vec<u8>,
    compressed: bool,
}

enum Comparison {
    Same,
    /// Only compressed clusters differ.
    Damaged,
    /// Something else does, here.
    Other(u64),
}

/// The content of an image that our reader reads to the end.
fn accepted(file: &Sparse) -> Option<Content> {
    let image = Image::open(file).ok()?;
    let geometry = *image.geometry();
    let tables = (0..geometry.spans()).filter(|span| image.table_extent(SpanIndex(*span)).is_some());
    let spans = held(&image);
    if tables.count() > spans.len() {
        return None;
    }
    let mut decompressor = Decompressor::new(geometry.cluster_size()).ok()?;
    let (mut map, mut clusters) = (SpanMap::new(), Vec::new());
    for span in spans {
        image.read_span(span, &mut map).ok()?;
        for (cluster, mapping) in map.iter() {
            let Mapping::Data(extent) = mapping else { continue };
            let mut raw = decode(&image, extent, &mut decompressor)?;
            raw.truncate(geometry.bytes_of(cluster) as usize);
            clusters.push(Stored {
                offset: geometry.offset_of(cluster),
                bytes: raw,
                compressed: extent.compressed,
            });
        }
        if clusters.len() > 4096 {
            return None;
        }
    }
    Some(Content {
        size: geometry.virtual_size(),
        clusters,
    })
}

fn store(file: &Sparse, path: &Path) -> Result<()> {
    let stored = File::create(path)?;
    stored.set_len(file.size())?;
    for (at, piece) in file.pieces() {
        stored.write_all_at(piece, at)?;
    }
    Ok(())
}

/// The image without what it says about images below: names in it must not be opened.
fn alone(image: &Path) -> String {
    let file = json!({"driver": "file", "filename": image});
    format!(
        "json:{}",
        json!({"driver": "qcow2", "file": file, "backing": null})
    )
}

/// What `qemu-img check` says against an image. Our reader does not look at refcounts, so with `any_refcounts` wrong ones
/// are no objection.
fn check(image: &Path, any_refcounts: bool) -> Result<Option<String>> {
    let output = Command::new("timeout")
        .args([PATIENCE, "qemu-img", "check"])
        .arg(alone(image))
        .output()
        .context("qemu-img is needed")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let about_refcounts = |line: &str| line.contains("refcount") || line.contains("OFLAG_COPIED");
    // 2: corrupt, 3: leaks.
    let fine = match output.status.code() {
        Some(0) => true,
        Some(2 | 3) if any_refcounts => text
            .lines()
            .filter(|line| line.starts_with("ERROR"))
            .all(about_refcounts),
        _ => false,
    };
    Ok((!fine).then(|| {
        format!(
            "{}: {}",
            output.status,
            text.lines().take(5).collect::<Vec<_>>().join("; ")
        )
    }))
}

/// Whether qemu reads the same content.
fn compare(image: &Path, content: &Content, folder: &Path) -> Result<Comparison> {
    let (ours, theirs) = (folder.join("ours.raw"), folder.join("theirs.raw"));
    let expected = File::create(&ours)?;
    expected.set_len(content.size)?;
    for cluster in &content.clusters {
        expected.write_all_at(&cluster.bytes, cluster.offset)?;
    }
    let raw = json!({"driver": "raw", "file": {"driver": "file", "filename": ours}});
    if qemu_img(&["compare"], &[alone(image), format!("json:{raw}")])? {
        return Ok(Comparison::Same);
    }
    let output = theirs.display().to_string();
    ensure!(
        qemu_img(&["convert", "-O", "raw"], &[alone(image), output])?,
        "qemu-img convert failed"
    );
    // What differs is taken over cluster by cluster where it may differ; then all has to be the same.
    let found = File::open(&theirs)?;
    for cluster in &content.clusters {
        let mut bytes = vec![0; cluster.bytes.len()];
        found.read_exact_at(&mut bytes, cluster.offset)?;
        if bytes != cluster.bytes && !cluster.compressed {
            return Ok(Comparison::Other(cluster.offset));
        }
        expected.write_all_at(&bytes, cluster.offset)?;
    }
    match qemu_img(&["compare"], &[alone(image), format!("json:{raw}")])? {
        true => Ok(Comparison::Damaged),
        false => Ok(Comparison::Other(content.size)),
    }
}

fn qemu_img(verb: &[&str], arguments: &[String]) -> Result<bool> {
    let output = Command::new("timeout")
        .args([PATIENCE, "qemu-img"])
        .args(verb)
        .args(arguments)
        .output()
        .context("qemu-img is needed")?;
    Ok(output.status.success())
}
