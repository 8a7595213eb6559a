//! Names on the target: every part of a key is a type, so that a key can neither be misspelt nor leave its folder.
mod files;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::files::FileStem;
use super::ROOT;
use crate::{InvalidKey, Key, Prefix};

/// A name on the target that is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {what}: expected {expected}")]
pub struct NameError {
    what: &'static str,
    value: String,
    expected: &'static str,
}

impl NameError {
    fn new(what: &'static str, value: &str, expected: &'static str) -> Self {
        // A hostile name must not flood a status field.
        Self {
            what,
            value: value.chars().take(128).collect(),
            expected,
        }
    }
}

/// Serde by `Display` and `FromStr`, so that a document cannot hold a name that the code would refuse.
macro_rules! text_serde {
    ($($name:ident),+) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
text_serde!(Uid, Location, VolumeHome, ImageId, FileStem, Digest);

/// A Kubernetes UID (or what stands for one): 1 to 64 of `a-z`, `0-9`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(String);

impl Uid {
    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Uid {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::new(
                "UID",
                text,
                "1 to 64 characters of a-z, 0-9 and -",
            ))
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of an attempt of a backup, from 1; it fences: what a dead attempt left can be told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a shard of a volume, from 0: bytes `n × 128 GiB` onwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardNumber(pub u32);

impl fmt::Display for ShardNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Generation of a chain file, from 1; each is a new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The first generation of a chain.
    pub const FIRST: Self = Self(1);

    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A BLAKE3 digest, 64 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError::new("digest", text, "64 lower-case hexadecimal digits");
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(error());
        }
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| error())
    }
}

/// Address of a point on a target: `<cluster>/<plan>/<backup>`. This is what `spec.location` of a custom resource
/// holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// UID of the namespace `kube-system` of the cluster that was backed up.
    pub cluster: Uid,
    /// UID of the BackupPlan.
    pub plan: Uid,
    /// UID of the Backup.
    pub backup: Uid,
}

impl Location {
    /// Everything of the point lies below.
    pub fn prefix(&self) -> Prefix {
        Prefix::new(format!("{ROOT}points/{self}/"))
    }

    /// `backup.json`, the commit object.
    pub fn commit_key(&self) -> Key {
        self.prefix().key("backup.json")
    }

    /// File name (below [`Location::prefix`]) of the captured objects of one attempt.
    pub fn objects_name(attempt: Attempt) -> String {
        format!("objects-{attempt}.jsonl.zst")
    }

    /// The captured objects of one attempt.
    pub fn objects_key(&self, attempt: Attempt) -> Key {
        self.prefix().key(&Self::objects_name(attempt))
    }

    /// Everything of the wrapped data keys of a plan lies below, a folder for each backup.
    pub fn keys_prefix(cluster: &Uid, plan: &Uid) -> Prefix {
        Prefix::new(format!("{ROOT}keys/{cluster}/{plan}/"))
    }

    /// Every generation of the wrapped data key of this backup lies below.
    pub fn key_prefix(&self) -> Prefix {
        Prefix::new(format!("{ROOT}keys/{self}/"))
    }

    /// One generation of the wrapped data key of this backup.
    pub fn key_key(&self, generation: Generation) -> Key {
        self.key_prefix().key(&format!("key-{:010}.age", generation.0))
    }

    /// The generation that this key of a wrapped data key of this backup names; `None` for every other key.
    pub fn key_generation_of(&self, key: &Key) -> Option<Generation> {
        let name = key.as_str().strip_prefix(self.key_prefix().as_str())?;
        ten_digits(name.strip_prefix("key-")?.strip_suffix(".age")?)
    }

    /// The attempt that wrote this file of captured objects of this point; `None` for every other key.
    pub fn attempt_of(&self, key: &Key) -> Option<Attempt> {
        let name = key.as_str().strip_prefix(self.prefix().as_str())?;
        let digits = name.strip_prefix("objects-")?.strip_suffix(".jsonl.zst")?;
        let attempt = Attempt(digits.parse().ok()?);
        (Self::objects_name(attempt) == name).then_some(attempt)
    }

    /// The point whose commit object has this key; `None` for every other key.
    pub fn of_commit_key(key: &Key) -> Option<Self> {
        key.as_str()
            .strip_prefix(ROOT)?
            .strip_prefix("points/")?
            .strip_suffix("/backup.json")?
            .parse()
            .ok()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.plan, self.backup)
    }
}

impl FromStr for Location {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let [cluster, plan, backup] = three(text, "location", "<cluster>/<plan>/<backup>")?;
        Ok(Self {
            cluster: cluster.parse()?,
            plan: plan.parse()?,
            backup: backup.parse()?,
        })
    }
}

/// Where the images of one volume under one plan lie: `<cluster>/<plan>/<claim>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeHome {
    /// UID of the namespace `kube-system` of the cluster that was backed up.
    pub cluster: Uid,
    /// UID of the BackupPlan.
    pub plan: Uid,
    /// UID of the PersistentVolumeClaim.
    pub claim: Uid,
}

impl VolumeHome {
    /// Everything of the volume lies below.
    pub fn prefix(&self) -> Prefix {
        Prefix::new(format!("{ROOT}volumes/{self}/"))
    }

    /// The image of one shard.
    pub fn image_key(&self, files: impl Into<FileStem>, shard: ShardNumber) -> Key {
        self.prefix().key(&files.into().image_name(shard))
    }

    /// The index of one shard's image.
    pub fn index_key(&self, files: impl Into<FileStem>, shard: ShardNumber) -> Key {
        self.prefix().key(&files.into().index_name(shard))
    }

    /// The file that a record of this home names.
    ///
    /// # Errors
    /// [`InvalidKey`]: no file of a home has such a name.
    pub fn file_key(&self, name: &str) -> Result<Key, InvalidKey> {
        let key = Key::try_from(format!("{}{name}", self.prefix()))?;
        if key.file_name() == name {
            Ok(key)
        } else {
            Err(InvalidKey::of(name))
        }
    }

    /// Prefix of all chain files; the last one in listing order is the newest.
    pub fn chain_prefix(&self) -> Prefix {
        Prefix::new(format!("{}chain-", self.prefix()))
    }

    /// The chain file of one generation.
    pub fn chain_key(&self, generation: Generation) -> Key {
        self.prefix().key(&format!("chain-{:010}.json", generation.0))
    }

    /// The generation that this key of a chain file of this home names; `None` for every other key.
    pub fn generation_of(&self, key: &Key) -> Option<Generation> {
        let digits = key
            .as_str()
            .strip_prefix(self.chain_prefix().as_str())?
            .strip_suffix(".json")?;
        ten_digits(digits)
    }

    /// Prefix of all signs that somebody reads images of this volume.
    pub fn readers_prefix(&self) -> Prefix {
        Prefix::new(format!("{}reader-", self.prefix()))
    }

    /// A sign that somebody reads: `reader` and how often it was renewed.
    pub fn reader_key(&self, reader: &Uid, renewal: u32) -> Key {
        self.prefix().key(&format!("reader-{reader}-{renewal}.json"))
    }

    /// The `number`th checkpoint of the uploads of a shard.
    pub fn checkpoint_key(&self, files: &FileStem, shard: ShardNumber, number: u32) -> Key {
        self.prefix()
            .key(&format!("{files}-s{shard}.resume-{number}.json"))
    }

    /// What a checkpoint keeps that does not change from one to the next: the first bytes of a shard's image.
    pub fn first_part_key(&self, files: &FileStem, shard: ShardNumber, number: u32) -> Key {
        self.prefix()
            .key(&format!("{files}-s{shard}.resume-{number}.part"))
    }

    /// Whose checkpoint this is, and its number; `None` for every other key.
    pub fn checkpoint_of(&self, key: &Key) -> Option<(FileStem, ShardNumber, u32)> {
        let name = key.as_str().strip_prefix(self.prefix().as_str())?;
        let (rest, digits) = name.strip_suffix(".json")?.rsplit_once(".resume-")?;
        let (stem, shard) = FileStem::of_shard(rest)?;
        let number: u32 = digits.parse().ok()?;
        (self.checkpoint_key(&stem, shard, number) == *key).then_some((stem, shard, number))
    }

    /// What this object of this home (an image, an index, a checkpoint) is called, without its shard; `None` for every
    /// other key.
    pub fn stem_of(&self, key: &Key) -> Option<FileStem> {
        let name = key.as_str().strip_prefix(self.prefix().as_str())?;
        let unfinished = || {
            let rest = name
                .strip_suffix(".json")
                .or_else(|| name.strip_suffix(".part"))?;
            FileStem::of_shard(rest.rsplit_once(".resume-")?.0)
        };
        let (stem, _) = FileStem::of_file(name).or_else(unfinished)?;
        Some(stem)
    }

    /// The attempt that wrote this object of this home (an image, an index, a checkpoint), or the newest of those whose images it
    /// was merged from; `None` for every other key.
    pub fn image_of(&self, key: &Key) -> Option<ImageId> {
        self.stem_of(key).map(|stem| stem.image)
    }
}

impl fmt::Display for VolumeHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.plan, self.claim)
    }
}

impl FromStr for VolumeHome {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let [cluster, plan, claim] = three(text, "volume home", "<cluster>/<plan>/<claim>")?;
        Ok(Self {
            cluster: cluster.parse()?,
            plan: plan.parse()?,
            claim: claim.parse()?,
        })
    }
}

/// A generation as names spell it.
fn ten_digits(digits: &str) -> Option<Generation> {
    let plain = digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(Generation)).flatten()
}

/// Exactly three parts between slashes.
fn three<'a>(text: &'a str, what: &'static str, expected: &'static str) -> Result<[&'a str; 3], NameError> {
    let mut parts = text.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(a), Some(b), Some(c), None) => Ok([a, b, c]),
        _ => Err(NameError::new(what, text, expected)),
    }
}

/// Id of an image of a volume: `<backup>-a<attempt>`. The same backup tried again makes another image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId {
    /// UID of the Backup that made it.
    pub backup: Uid,
    /// Its attempt.
    pub attempt: Attempt,
}

impl ImageId {
    /// What the image of a shard is called in the images that lie upon it: `<image>-s<shard>.qcow2`. Matches
    /// `[a-z0-9-]+\.qcow2`, as backing file names must. Its file on the target may be called otherwise ([`FileStem`]).
    pub fn file_name(&self, shard: ShardNumber) -> String {
        FileStem::from(self).image_name(shard)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-a{}", self.backup, self.attempt)
    }
}

impl FromStr for ImageId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError::new("image id", text, "<backup uid>-a<attempt>");
        let (backup, attempt) = text.rsplit_once("-a").ok_or_else(error)?;
        let number: u32 = attempt.parse().map_err(|_| error())?;
        if number.to_string() != attempt {
            return Err(error());
        }
        Ok(Self {
            backup: backup.parse()?,
            attempt: Attempt(number),
        })
    }
}

/// Key of the report of a restore, one JSON document a line, compressed.
pub fn report_key(cluster: &Uid, restore: &Uid) -> Key {
    Prefix::new(format!("{ROOT}reports/{cluster}/")).key(&format!("restore-{restore}.jsonl.zst"))
}

/// Key of the object of the health probe where objects cannot be removed: always the same.
pub fn standing_probe_key() -> Key {
    Prefix::new(format!("{ROOT}probe/")).key("standing")
}

/// Key of an object of the health probe; a new one each time.
pub fn probe_key() -> Key {
    Prefix::new(format!("{ROOT}probe/")).key(&uuid::Uuid::new_v4().to_string())
}

#[cfg(test)]
mod tests;
