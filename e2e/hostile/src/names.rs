//! Texts of a target that are parsed to names and numbers.

use std::fmt::Display;
use std::str::FromStr;

use holdfast_qcow2::ImageName;
use holdfast_seal::{KeyId, Recipient, RegionId};
use holdfast_target::layout::{Digest, FileStem, ImageId, Location, Uid, VolumeHome};
use holdfast_target::{Key, Prefix};

use crate::documents::{HOME, LOCATION};

/// A text; each parser either refuses it or prints it again.
pub(crate) fn names(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    same::<Uid>(text);
    same::<Location>(text);
    same::<VolumeHome>(text);
    same::<ImageId>(text);
    same::<FileStem>(text);
    same::<Digest>(text);
    same::<Key>(text);
    same::<Prefix>(text);
    same::<ImageName>(text);
    same::<KeyId>(text);
    same::<RegionId>(text);
    same::<holdfast_seal::Location>(text);
    // Space around a recipient is left out.
    if let Ok(recipient) = text.parse::<Recipient>() {
        assert_eq!(recipient.to_string().parse(), Ok(recipient));
    }
    let Ok(key) = text.parse::<Key>() else { return };
    keys(&key);
}

fn same<T: FromStr + Display>(text: &str)
where
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(parsed) => assert_eq!(parsed.to_string(), text),
        // Goes into conditions and logs.
        Err(error) => assert!(error.to_string().len() <= 4096),
    }
}

/// What a key of the layout stands for leads to the same key; everything else stands for nothing.
fn keys(key: &Key) {
    let location: Location = LOCATION.parse().expect("a location");
    let home: VolumeHome = HOME.parse().expect("a home");
    if let Some(location) = Location::of_commit_key(key) {
        assert_eq!(location.commit_key(), *key);
    }
    if let Some(attempt) = location.attempt_of(key) {
        assert_eq!(location.objects_key(attempt), *key);
    }
    if let Some(generation) = home.generation_of(key) {
        assert_eq!(home.chain_key(generation), *key);
    }
    if let Some(generation) = location.key_generation_of(key) {
        assert_eq!(location.key_key(generation), *key);
    }
    let stem = home.stem_of(key);
    assert_eq!(stem.as_ref().map(|stem| &stem.image), home.image_of(key).as_ref());
    if let Some((stem, shard)) = FileStem::of_file(key.file_name()) {
        let names = [stem.image_name(shard), stem.index_name(shard)];
        assert!(names.iter().any(|name| name == key.file_name()), "{key}");
    }
}
