//! The JSON documents of a target, in clear and sealed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_repository::RepositoryError;
use holdfast_repository::chain::ChainFile;
use holdfast_repository::point::CommitObject;
use holdfast_seal::seal_document;
use holdfast_target::layout::{BackupManifest, Generation, ImageId, Location, VolumeHome, print_document};
use serde_json::json;

use crate::sealed::{data_key, ring};

/// Where the documents lie that are tried; the location is that of the data key.
pub(crate) const LOCATION: &str = crate::sealed::LOCATION;
pub(crate) const HOME: &str = "c-1/p-1/v";
pub(crate) const GENERATION: Generation = Generation(2);
const IMAGE: &str = "b-1-a1";

/// Bytes where a commit object should be.
pub(crate) fn commit_object(input: &[u8]) {
    let location: Location = LOCATION.parse().expect("a location");
    let point = match CommitObject::parse(&location, input) {
        Ok(point) => point,
        Err(error) => return check_error(&error),
    };
    let (needs, attempt) = (point.needs(), point.attempt());
    let again = match &point {
        CommitObject::Clear(manifest) => manifest.to_bytes(),
        CommitObject::Sealed(sealed) => print_document(sealed),
    };
    let again = CommitObject::parse(&location, &again).expect("its own text");
    assert!(again == point, "a commit object changed");
    let (ring, sealed) = (ring(), point.key().is_some());
    let (right, wrong) = if sealed {
        (Some(&ring), None)
    } else {
        (None, Some(&ring))
    };
    assert!(again.clone().open(wrong).is_err());
    let manifest = match again.open(right) {
        Ok(manifest) => manifest,
        Err(error) => return check_error(&error),
    };
    assert_eq!((&manifest.location, manifest.attempt), (&location, attempt));
    check_manifest(&manifest);
    // What was in clear can be sealed, and says the same without a key.
    let bytes = CommitObject::encode(&manifest, Some(&data_key())).expect("a key of this point");
    let point = CommitObject::parse(&location, &bytes).expect("what was encoded");
    assert_eq!((point.needs(), point.attempt()), (needs, attempt));
    let opened = point.open(Some(&ring)).expect("what was encoded");
    assert!(opened == manifest, "a sealed commit object changed");
}

fn check_manifest(manifest: &BackupManifest) {
    let _ = manifest.stored();
    for volume in &manifest.volumes {
        assert_eq!(Some(&volume.image), volume.chain.first().map(|image| &image.id));
        assert!(volume.chain.last().is_some_and(|image| image.parent.is_none()));
    }
}

/// Bytes where a chain file should be; and the same bytes as the sealed record of an image.
pub(crate) fn chain_file(input: &[u8]) {
    check_chain_file(input);
    let home: VolumeHome = HOME.parse().expect("a home");
    let context = format!("{}{IMAGE}", home.prefix());
    let sealed = seal_document(&data_key(), &context, input).expect("the context is a key");
    let entry = json!({"id": IMAGE, "files": [], "sealed": STANDARD.encode(sealed)});
    let file = json!({"format": 1, "home": HOME, "generation": GENERATION, "images": [entry]});
    let file = ChainFile::parse(&home, GENERATION, file.to_string().as_bytes()).expect("a chain file");
    let [entry] = file.images.as_slice() else {
        panic!("it has one image")
    };
    assert!(entry.is_sealed() && entry.open(&home, None).is_err());
    match entry.open(&home, Some(&ring())) {
        Ok(record) => assert!(record.id.to_string() == IMAGE && record.shards.is_empty()),
        Err(error) => check_error(&error),
    }
}

fn check_chain_file(input: &[u8]) {
    let home: VolumeHome = HOME.parse().expect("a home");
    let file = match ChainFile::parse(&home, GENERATION, input) {
        Ok(file) => file,
        Err(error) => return check_error(&error),
    };
    let again = ChainFile::parse(&home, GENERATION, &print_document(&file)).expect("its own text");
    assert!(again == file, "a chain file changed");
    let _ = (file.keys(), file.files());
    for entry in &file.images {
        let _ = entry.stored();
        let simple = simple_chain(&file, &entry.id);
        let chain = file.chain_of(&entry.id);
        let ids = chain.map(|chain| chain.iter().map(|entry| &entry.id).collect::<Vec<_>>());
        assert_eq!(ids, simple);
        for keys in [None, Some(&ring())] {
            if let Err(error) = entry.open(&home, keys) {
                check_error(&error);
            }
            let Ok(records) = file.records_of(&entry.id, keys) else {
                continue;
            };
            let linked = records
                .windows(2)
                .all(|pair| pair[0].parent.as_ref() == Some(&pair[1].id));
            assert!(linked && records.last().is_some_and(|base| base.parent.is_none()));
            assert_eq!(simple.as_ref().map(Vec::len), Some(records.len()));
        }
    }
}

/// The chain of an image, one link after the other.
fn simple_chain<'f>(file: &'f ChainFile, image: &ImageId) -> Option<Vec<&'f ImageId>> {
    let mut entry = file.entry(image)?;
    let mut chain = vec![&entry.id];
    while let Some(parent) = &entry.parent {
        entry = file.entry(parent)?;
        if chain.contains(&&entry.id) {
            return None;
        }
        chain.push(&entry.id);
    }
    Some(chain)
}

/// What is said about a document goes into a condition: one that is hostile must not flood it.
fn check_error(error: &RepositoryError) {
    let text = error.to_string();
    assert!(text.len() <= 8 << 10, "{} bytes of error", text.len());
}
