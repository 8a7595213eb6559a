//! `holdfast export`: a point as files that need nothing of Holdfast any more.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use holdfast_core::limit::{MAX_FILE, MAX_OBJECT};
use holdfast_seal::{KeyRing, SEGMENT, Unlocked};
use holdfast_target::Key;
use holdfast_target::layout::{Digest, ImageRecord, Location, ObjectRecord, VolumeRecord};
use serde_json::Value;

use super::{Opened, Shelf};

/// Bytes that are fetched at once.
const PIECE: u64 = 8 << 20;
/// Largest window of a frame, as a power of two.
const WINDOW: u32 = 23;

pub(super) async fn run(shelf: &Shelf, location: &Location, to: &Path) -> anyhow::Result<()> {
    let opened = shelf.point(location).await?;
    fs::create_dir(to).with_context(|| to.display().to_string())?;
    write(&to.join("backup.json"), &opened.manifest.to_bytes())?;
    let count = objects(shelf, &opened, &to.join("objects.yaml")).await?;
    println!("{count} objects in {}", to.join("objects.yaml").display());
    for volume in &opened.manifest.volumes {
        let folder = to.join(name_of(volume)?);
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        for record in &volume.chain {
            image(shelf, &opened, volume, record, &folder).await?;
        }
        let newest = &volume.chain[0];
        let files = newest.shards.iter().map(|shard| newest.id.file_name(shard.shard));
        println!(
            "volume {} ({} bytes): {}",
            volume.claim,
            newest.virtual_size,
            files
                .map(|file| folder.join(file).display().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        );
    }
    Ok(())
}

/// A claim's name as the name of a folder.
fn name_of(volume: &VolumeRecord) -> anyhow::Result<&str> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let name = volume.claim.as_str();
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        bail!("{name:?} is not the name of a claim");
    }
    Ok(name)
}

/// A new file that only its owner reads: what is in it was secret.
fn create(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.with_context(|| path.display().to_string())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| path.display().to_string())
}

/// Writes the captured objects as YAML documents; returns how many.
async fn objects(shelf: &Shelf, opened: &Opened, path: &Path) -> anyhow::Result<u64> {
    let file = &opened.manifest.objects;
    let key: Key = format!("{}{}", opened.manifest.location.prefix(), file.key).parse()?;
    let body = shelf.target.get(&key, file.size).await?.body;
    if Digest::of(&body) != file.blake3 {
        bail!("{key} does not have the digest that its commit object says");
    }
    let clear = match &opened.ring {
        Some(ring) => holdfast_seal::open_document(key.as_str(), &body, ring, MAX_FILE)?,
        None => body.to_vec(),
    };
    let mut decoder = zstd::stream::read::Decoder::new(clear.as_slice())?;
    decoder.window_log_max(WINDOW)?;
    let mut lines = BufReader::new(decoder);
    let (mut out, mut line, mut count) = (create(path)?, Vec::new(), 0);
    loop {
        line.clear();
        let most = MAX_OBJECT as u64 + 1;
        if (&mut lines).take(most).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let object: Value =
            serde_json::from_slice(&line).with_context(|| format!("{key}, line {}", count + 1))?;
        writeln!(out, "---\n{}", serde_saphyr::to_string(&object)?.trim_end())?;
        count += 1;
    }
    if count != file.count {
        bail!("{key} has {count} objects, its commit object says {}", file.count);
    }
    out.sync_all()?;
    Ok(count)
}

/// Writes the images of a record under the names that the images above them know.
async fn image(
    shelf: &Shelf,
    opened: &Opened,
    volume: &VolumeRecord,
    record: &ImageRecord,
    folder: &Path,
) -> anyhow::Result<()> {
    for shard in &record.shards {
        let key = volume.home.file_key(&shard.image.key)?;
        let path = folder.join(record.id.file_name(shard.shard));
        let mut out = create(&path)?;
        match (&shard.image.seal, &opened.ring) {
            (None, None) => copy(shelf, &key, &shard.image, &mut out).await?,
            (Some(layout), Some(ring)) => {
                let unlocked = unlock(layout, ring, &key)?;
                decrypt(shelf, &key, &shard.image, &unlocked, &mut out).await?;
            }
            _ => bail!("{key} is sealed though its point is not, or the other way round"),
        }
        out.sync_all().with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn unlock(layout: &holdfast_seal::Layout, ring: &KeyRing, key: &Key) -> anyhow::Result<Unlocked> {
    layout.unlock(ring).with_context(|| key.to_string())
}

async fn copy(shelf: &Shelf, key: &Key, record: &ObjectRecord, out: &mut File) -> anyhow::Result<()> {
    let mut at = 0;
    while at < record.size {
        let end = (at + PIECE).min(record.size);
        let bytes = shelf.target.get_range(key, at..end, Some(&record.pin())).await?;
        out.write_all(&bytes)?;
        at = end;
    }
    Ok(())
}

async fn decrypt(
    shelf: &Shelf,
    key: &Key,
    record: &ObjectRecord,
    unlocked: &Unlocked,
    out: &mut File,
) -> anyhow::Result<()> {
    let layout = unlocked.layout();
    let plain = layout.plain_len();
    let piece = PIECE - PIECE % SEGMENT as u64;
    let mut at = 0;
    while at < plain {
        let range = at..(at + piece).min(plain);
        let stored = layout.locate(&range)?;
        let sealed = shelf.target.get_range(key, stored, Some(&record.pin())).await?;
        out.write_all(&unlocked.open(&range, sealed.to_vec())?)?;
        at = range.end;
    }
    Ok(())
}
