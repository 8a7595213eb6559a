//! The interface of a store, and the types it speaks.
use std::{
    fmt::{self, Debug},
    ops::Range,
    str::FromStr,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{TargetError, layout::ROOT};

/// Most entries of one [`Listing`].
pub const MAX_LIST: u32 = 1000;

/// Full name of an object in the bucket. Always below [`ROOT`], never with a part that a file system or a URL would
/// resolve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last slash.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        // Names with a dot first are a folder's own: `.`, `..`, work in progress, what servers put there.
        let part = |p: &str| !p.is_empty() && !p.starts_with('.');
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'/');
        if text.len() <= 1024
            && text.starts_with(ROOT)
            && text.bytes().all(plain)
            && text.split('/').all(part)
        {
            Ok(Self(text))
        } else {
            Err(InvalidKey::of(&text))
        }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a key below {ROOT}")]
pub struct InvalidKey(String);

impl InvalidKey {
    /// Keeps as much of the text as an error may show.
    pub(crate) fn of(text: &str) -> Self {
        Self(text.chars().take(128).collect())
    }
}

/// Beginning of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(String);

impl Prefix {
    /// From text that the layout made.
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The prefix of everything we write.
    pub fn root() -> Self {
        Self(ROOT.to_owned())
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object of this name below. Panics on a name that the layout never makes.
    pub(crate) fn key(&self, name: &str) -> Key {
        Key::try_from(format!("{self}{name}")).expect("the layout makes valid keys from validated parts")
    }
}

impl FromStr for Prefix {
    type Err = InvalidKey;

    /// Takes what [`Listing::prefixes`] gives, and any other text below the root.
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        if text.starts_with(ROOT) && text.len() <= 1024 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKey::of(text))
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Entity tag of an object, without quotes. Changes whenever the bytes change; how it is computed is the store's
/// business.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ETag(String);

impl ETag {
    /// From a header value, with or without quotes.
    pub fn new(text: &str) -> Self {
        Self(text.trim_matches('"').to_owned())
    }

    /// The text of it, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Id of one version of an object, as the store gave it. Only stores with versioning have them; there a name may stand
/// for several objects, and this says which one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(String);

impl Version {
    /// From what the store gave.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which object is meant by a name: exactly the one that was written, whatever came or went since.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// Its entity tag.
    pub etag: ETag,
    /// Its version, where the store has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
}

/// What the store says of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Its name.
    pub key: Key,
    /// Its bytes.
    pub size: u64,
    /// Its entity tag.
    pub etag: ETag,
    /// Its version, where the store has versions.
    pub version: Option<Version>,
    /// Seconds since 1970 of its last change by the store's clock; 0 where the answer has none (after a put).
    pub modified: i64,
}

impl ObjectMeta {
    /// What binds a later read to this very object.
    pub fn pin(&self) -> Pin {
        Pin {
            etag: self.etag.clone(),
            version: self.version.clone(),
        }
    }
}

/// An object read whole.
#[derive(Clone, Debug)]
pub struct Object {
    /// What the store says of it.
    pub meta: ObjectMeta,
    /// All its bytes.
    pub body: Bytes,
}

/// Outcome of a conditional create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Creation {
    /// The object is there now and it is ours.
    Created(ObjectMeta),
    /// Somebody had created it before; nothing changed.
    Exists,
}

/// One page to list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListRequest {
    /// Only keys that start so.
    pub prefix: Prefix,
    /// Keys with a further slash after the prefix are folded into [`Listing::prefixes`].
    pub folders: bool,
    /// [`Listing::next`] of the page before.
    pub after: Option<String>,
    /// At most so many entries, 1 to [`MAX_LIST`].
    pub limit: u32,
}

impl ListRequest {
    /// The first page of everything under a prefix.
    pub fn all(prefix: Prefix) -> Self {
        Self {
            prefix,
            folders: false,
            after: None,
            limit: MAX_LIST,
        }
    }

    /// The first page of what lies directly under a prefix.
    pub fn folders(prefix: Prefix) -> Self {
        Self {
            folders: true,
            ..Self::all(prefix)
        }
    }
}

/// One page of a list, in key order. Keys under the prefix that no version of this program makes are left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Listing {
    /// Objects.
    pub objects: Vec<ObjectMeta>,
    /// Folders, each ending in a slash; only where asked for.
    pub prefixes: Vec<Prefix>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// Number of a part, 1 to 10,000. Parts may arrive in any order and end up in the order of their numbers, without gaps:
/// each begins where the one before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartNumber(pub u32);

impl PartNumber {
    /// Where the file begins.
    pub const FIRST: Self = Self(1);
    /// The highest number every store takes.
    pub const LAST: Self = Self(10_000);
}

/// A multipart upload that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upload {
    /// What the object will be called.
    pub key: Key,
    /// What the store calls the upload.
    pub id: String,
}

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its number.
    pub number: PartNumber,
    /// Its entity tag.
    pub etag: ETag,
    /// Its bytes.
    pub size: u64,
}

/// An upload that was begun and neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenUpload {
    /// The upload.
    pub upload: Upload,
    /// Seconds since 1970 when it was begun, by the store's clock; 0 where the store does not say.
    pub initiated: i64,
}

/// What a health probe found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// How long the whole probe took.
    pub took: std::time::Duration,
}

/// How strictly a lock holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionMode {
    /// Nobody can delete the version or shorten its lock, not even the owner of the store.
    Compliance,
    /// Whoever has a special right can.
    Governance,
}

/// Lock that the bucket puts on every new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRetention {
    /// How strictly.
    pub mode: RetentionMode,
    /// For how long.
    pub days: u32,
}

/// What a store does against deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Immutability {
    /// A name may stand for several versions; [`ObjectMeta::version`] says which one is meant.
    pub versioned: bool,
    /// [`Target::lock`] works.
    pub lockable: bool,
    /// Every new object is locked from the beginning: also leftovers of failed attempts, which then stay so long.
    pub default: Option<DefaultRetention>,
}

/// A store of objects. Where a name stands for several versions, the oldest one counts: names are written once, and what
/// came later is not ours. Every method retries what may pass, ends within a bounded time and says in its error what, where
/// and why; see the crate's promises.
#[async_trait]
pub trait Target: Send + Sync + Debug {
    /// Where this is, for people: bucket and endpoint, no secret.
    fn describe(&self) -> String;

    /// Creates a small object (a document). Where the same bytes are there already, that counts as done, so that a
    /// restarted writer may repeat itself; other bytes are an [`crate::ErrorKind::Exists`] error.
    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError>;

    /// Creates a small object if no object has this name; of any number of rivals exactly one gets
    /// [`Creation::Created`]. (A rival that writes the same bytes is not told from a repeated request, so the bytes
    /// should name their writer.)
    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError>;

    /// Reads a whole object; one larger than `max` bytes is an [`crate::ErrorKind::TooLarge`] error.
    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError>;

    /// Reads exactly these bytes. With a pin, an object that has another entity tag is an
    /// [`crate::ErrorKind::Changed`] error; so is one that ends before the range does.
    async fn get_range(&self, key: &Key, range: Range<u64>, pin: Option<&Pin>) -> Result<Bytes, TargetError>;

    /// What the store says of an object.
    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError>;

    /// One page of a list.
    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError>;

    /// Removes objects, with all their versions; those that are not there count as removed. All keys are tried, then an
    /// error tells of one that stays: [`crate::ErrorKind::Locked`] only where nothing worse happened.
    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError>;

    /// Begins a multipart upload.
    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError>;

    /// Sends one part: at least 5 MiB unless it is the one with the highest number, and not empty. `offset` says where
    /// in the finished object it begins, which is where the part before it ends. A part that is sent again counts
    /// instead of the earlier one. No clone of `body` outlives the call, since callers reuse its memory.
    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        body: Bytes,
    ) -> Result<Part, TargetError>;

    /// Makes a part out of bytes of another object, inside the store: at least 5 MiB unless it is the one with the
    /// highest number, at most 5 GiB, and of a source of more than 5 MiB. `offset` as for [`Target::upload_part`].
    ///
    /// A source that is not the pinned one, or ends before the range does, is an [`crate::ErrorKind::Changed`] error,
    /// a missing one (or a missing upload) [`crate::ErrorKind::NotFound`], a store that cannot do it
    /// [`crate::ErrorKind::Unsupported`]: then the bytes have to be read and sent.
    async fn copy_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        source: &Key,
        range: Range<u64>,
        pin: &Pin,
    ) -> Result<Part, TargetError>;

    /// Parts of an open upload that the store has, in the order of their numbers: what an upload that is resumed need
    /// not send again.
    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>, TargetError>;

    /// Makes the object out of these parts, all of which the store must have as they were answered; it is then as long
    /// as they are together, or the call fails. With `if_absent`, an object of that name is an
    /// [`crate::ErrorKind::Exists`] error (on stores that ignore the condition it is not; names with an attempt in
    /// them do not need it).
    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        if_absent: bool,
    ) -> Result<ObjectMeta, TargetError>;

    /// Drops an upload and its parts; one that is not there counts as dropped.
    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError>;

    /// Open uploads under a prefix, at most [`MAX_LIST`]. (MinIO knows them only by the exact key.)
    async fn list_uploads(&self, prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError>;

    /// What the store does against deletion, as it is set now (some seconds old at most).
    async fn immutability(&self) -> Result<Immutability, TargetError>;

    /// Locks a version in compliance mode until `until` (in whole seconds, rounded up). A lock is never shortened: one
    /// that lasts longer stays. A store without locks is an [`crate::ErrorKind::Unsupported`] error.
    async fn lock(&self, key: &Key, version: &Version, until: Timestamp) -> Result<(), TargetError>;

    /// Until when a version is locked, in whatever mode; the date may have passed. `None`: never was, or cannot be.
    async fn locked_until(&self, key: &Key, version: &Version) -> Result<Option<Timestamp>, TargetError>;

    /// Writes, reads, lists and removes an object of its own and checks that the store refuses to overwrite it. Where
    /// every new object is locked, it uses one object again and again.
    async fn probe(&self) -> Result<ProbeReport, TargetError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_ours_are_keys() {
        for good in ["holdfast/a", "holdfast/points/a/b/c/backup.json"] {
            assert_eq!(good.parse::<Key>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "holdfast",
            "holdfast/",
            "x/holdfast/a",
            "holdfast//a",
            "holdfast/../a",
            "holdfast/a b",
            "holdfast/./a",
            "holdfast/.work/a",
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?}");
        }
    }
}
