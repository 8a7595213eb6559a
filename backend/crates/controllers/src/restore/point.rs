//! Reads a point from a target and checks it against what its commit object says.

use std::io::Read;

use holdfast_crd::names::reasons;
use holdfast_target::layout::{BackupManifest, Digest, Location, MAX_MANIFEST};
use holdfast_target::{ErrorKind, InvalidKey, Key, Target};
use serde_json::Value;

use crate::failure::Failure;

/// Largest objects file that is read, compressed; ten thousand objects are a few MiB.
const MAX_OBJECTS_FILE: u64 = 256 << 20;
/// Largest objects file after decompression: a bound against hostile data, far above any namespace.
const MAX_OBJECTS_TEXT: u64 = 2 << 30;

/// A point: its commit object and its objects.
pub(super) struct Point {
    pub(super) manifest: BackupManifest,
    pub(super) objects: Vec<Value>,
}

/// Reads the commit object of a point. A point without one does not exist.
pub(super) async fn manifest(target: &dyn Target, location: &Location) -> Result<BackupManifest, Failure> {
    let object = target
        .get(&location.commit_key(), MAX_MANIFEST)
        .await
        .map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                let text = format!(
                    "there is no point {location} on the target: it was never committed, or it was deleted"
                );
                return Failure::lasting(reasons::NOT_FOUND, text);
            }
            Failure::from(error)
        })?;
    BackupManifest::parse(location, &object.body)
        .map_err(|e| Failure::lasting(reasons::DAMAGED, e.to_string()))
}

/// Reads a point with its objects, each byte checked by the digest in the commit object.
pub(super) async fn load(target: &dyn Target, location: &Location) -> Result<Point, Failure> {
    let manifest = manifest(target, location).await?;
    let file = &manifest.objects;
    let damaged = |text: String| Failure::lasting(reasons::DAMAGED, text);
    let key: Key = format!("{}{}", location.prefix(), file.key)
        .parse()
        .map_err(|e: InvalidKey| damaged(e.to_string()))?;
    let object = target
        .get(&key, MAX_OBJECTS_FILE)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => damaged(format!("{key} is missing, though {location} is committed")),
            _ => Failure::from(error),
        })?;
    if object.body.len() as u64 != file.size || Digest::of(&object.body) != file.blake3 {
        return Err(damaged(format!(
            "{key} does not have the size and digest that its commit object says"
        )));
    }
    let count = file.count;
    let objects = tokio::task::spawn_blocking(move || decode(&object.body))
        .await
        .map_err(|e| Failure::passing(reasons::INTERNAL, format!("decoding {key} was interrupted: {e}")))?
        .map_err(|e| damaged(format!("{key} does not decode: {e}")))?;
    if objects.len() as u64 != count {
        return Err(damaged(format!(
            "{key} holds {} objects, its commit object says {count}",
            objects.len()
        )));
    }
    Ok(Point { manifest, objects })
}

fn decode(bytes: &[u8]) -> std::io::Result<Vec<Value>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?.take(MAX_OBJECTS_TEXT);
    let mut text = Vec::new();
    decoder.read_to_end(&mut text)?;
    if decoder.limit() == 0 {
        return Err(std::io::Error::other("it grows beyond every size that we write"));
    }
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).map_err(std::io::Error::other))
        .collect()
}
