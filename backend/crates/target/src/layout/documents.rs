//! The JSON documents on a target. They are read back years later by other versions of this program and by people with
//! `jq`: field names are camelCase, times RFC 3339 in UTC, sizes bytes.
use std::{collections::BTreeMap, fmt};

use holdfast_seal::Layout;
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor},
};

use super::{
    Attempt, Digest, FORMAT_VERSION, FileStem, Generation, ImageId, Location, MAX_ATTEMPT, MAX_VOLUME,
    MAX_VOLUMES, ShardNumber, Uid, VolumeHome,
};
use crate::{ETag, Pin, Version};

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not the JSON it should be.
    #[error("{document} is damaged: {source}")]
    Damaged {
        /// Which document.
        document: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A newer version of this program wrote it.
    #[error(
        "{document} has format version {found}, this program reads up to {FORMAT_VERSION}: use a newer holdfast"
    )]
    Newer {
        /// Which document.
        document: String,
        /// Its version.
        found: u64,
    },
    /// A version of this program wrote it that promised nothing about its format.
    #[error("{document} has format version {found}, which was never released: back up anew")]
    Unreleased {
        /// Which document.
        document: String,
        /// Its version.
        found: u64,
    },
    /// It parses, but what it says contradicts itself or the place it lies in.
    #[error("{document} is inconsistent: {problem}")]
    Inconsistent {
        /// Which document.
        document: String,
        /// What does not fit.
        problem: String,
    },
}

/// Reads a document of this format. Version first: a newer document may not even parse as ours, and "newer" is the message that helps.
///
/// # Errors
/// [`DocumentError::Newer`], [`DocumentError::Unreleased`], [`DocumentError::Damaged`].
pub fn parse_document<T: DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<T, DocumentError> {
    #[derive(Deserialize)]
    struct Version {
        format: u64,
    }
    let damaged = |source| DocumentError::Damaged {
        document: document.to_owned(),
        source,
    };
    let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
    if version.format > u64::from(FORMAT_VERSION) {
        return Err(DocumentError::Newer {
            document: document.to_owned(),
            found: version.format,
        });
    }
    if version.format == 0 {
        return Err(DocumentError::Unreleased {
            document: document.to_owned(),
            found: version.format,
        });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Most names in one list of a document.
const MAX_NAMES: usize = 100_000;

/// Reads a list of names. Short ones take ten times their text in memory, so their number is bounded on the way.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_NAMES} names")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = list.next_element()? {
                if names.len() == MAX_NAMES {
                    return Err(de::Error::invalid_length(MAX_NAMES + 1, &self));
                }
                names.push(name);
            }
            Ok(names)
        }
    }
    deserializer.deserialize_seq(Names)
}

/// Reads texts by their names, as many as a list may have.
fn named_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Texts;
    impl<'de> Visitor<'de> for Texts {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_NAMES} texts with names")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut texts = BTreeMap::new();
            while let Some((name, text)) = map.next_entry()? {
                if texts.len() == MAX_NAMES {
                    return Err(de::Error::invalid_length(MAX_NAMES + 1, &self));
                }
                texts.insert(name, text);
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_map(Texts)
}

/// A document as it is stored: indented JSON with a newline at the end.
pub fn print_document(document: &impl Serialize) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(document).expect("our documents have string keys and no failing parts");
    bytes.push(b'\n');
    bytes
}

/// Whether each volume of a point starts its own chain or continues one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupType {
    /// Every volume was stored whole.
    Full,
    /// Every volume continues a chain.
    Incremental,
    /// Some of each.
    Mixed,
}

/// `backup.json`: the commit object of a point. Without it there is no point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupManifest {
    /// Format version ([`FORMAT_VERSION`]).
    pub format: u32,
    /// Where this document lies; a copy under another key is not this point.
    pub location: Location,
    /// The attempt of the backup that was committed.
    pub attempt: Attempt,
    /// `holdfast <version>`.
    pub created_by: String,
    /// The cluster that was backed up.
    pub cluster: ClusterRecord,
    /// The BackupPlan.
    pub plan: SourceRecord,
    /// The Backup.
    pub backup: SourceRecord,
    /// Full, incremental or mixed.
    pub backup_type: BackupType,
    /// Name of the user who asked for it; absent for a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// When the backup began.
    pub started: Timestamp,
    /// When everything but this document was stored.
    pub completed: Timestamp,
    /// The namespace that was backed up.
    pub namespace: NamespaceRecord,
    /// The captured objects.
    pub objects: FileRecord,
    /// The stored volumes.
    pub volumes: Vec<VolumeRecord>,
    /// Names of the claims that the plan left out by name.
    #[serde(default, deserialize_with = "names")]
    pub excluded_claims: Vec<String>,
    /// Until when everything it needs is locked; absent where the target locks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
}

impl BackupManifest {
    /// Reads and checks the document that lies at `location`.
    pub fn parse(location: &Location, bytes: &[u8]) -> Result<Self, DocumentError> {
        let document = location.commit_key().to_string();
        let manifest: Self = parse_document(&document, bytes)?;
        let inconsistent = |problem: String| {
            Err(DocumentError::Inconsistent {
                document: document.clone(),
                problem,
            })
        };
        if manifest.location != *location {
            return inconsistent(format!("it belongs to {}", manifest.location));
        }
        if let Err(problem) = manifest.check_numbers() {
            return inconsistent(problem);
        }
        for volume in &manifest.volumes {
            if let Err(problem) = check_chain(&volume.chain) {
                return inconsistent(format!("volume of claim {}: {problem}", volume.claim));
            }
            if volume.chain.first().is_none_or(|image| image.id != volume.image) {
                return inconsistent(format!(
                    "the chain of claim {} does not start with its image",
                    volume.claim
                ));
            }
        }
        Ok(manifest)
    }

    /// The document as it is stored: indented JSON with a newline at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        print_document(self)
    }

    /// Bytes on the target that this point alone added: its objects and its newest images.
    pub fn stored(&self) -> u64 {
        let images = self.volumes.iter().filter_map(|volume| volume.chain.first());
        images.fold(self.objects.size, |sum, image| sum.saturating_add(image.stored))
    }

    /// Numbers that others count up to, multiply or reserve memory for.
    fn check_numbers(&self) -> Result<(), String> {
        if self.attempt.0 > MAX_ATTEMPT {
            return Err(format!("attempt {} is beyond {MAX_ATTEMPT}", self.attempt));
        }
        if self.volumes.len() > MAX_VOLUMES {
            return Err(format!("it names more than {MAX_VOLUMES} volumes"));
        }
        for volume in &self.volumes {
            if volume.capacity > MAX_VOLUME {
                let (claim, capacity) = (&volume.claim, volume.capacity);
                return Err(format!(
                    "claim {claim} has {capacity} bytes, more than {MAX_VOLUME}"
                ));
            }
            volume.chain.iter().try_for_each(check_size)?;
        }
        Ok(())
    }
}

/// Whether the size of an image can be believed: shards are counted by it.
///
/// # Errors
/// What is wrong with it.
pub fn check_size(image: &ImageRecord) -> Result<(), String> {
    if image.virtual_size > MAX_VOLUME {
        let (id, size) = (&image.id, image.virtual_size);
        return Err(format!("image {id} has {size} bytes, more than {MAX_VOLUME}"));
    }
    Ok(())
}

/// Whether this is a newest-first chain that a restore can read: linked without gaps down to a full image.
///
/// # Errors
/// What is wrong with it.
pub fn check_chain(chain: &[ImageRecord]) -> Result<(), String> {
    for (image, parent) in chain.iter().zip(chain.iter().skip(1)) {
        if image.parent.as_ref() != Some(&parent.id) {
            return Err(format!("image {} is not followed by its parent", image.id));
        }
    }
    match chain.last() {
        Some(base) if base.parent.is_none() && base.kind == ImageKind::Full => Ok(()),
        Some(base) => Err(format!("the oldest image {} is not a full one", base.id)),
        None => Err("the chain is empty".to_owned()),
    }
}

/// The cluster a point comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRecord {
    /// UID of its namespace `kube-system`.
    pub uid: Uid,
}

/// A custom resource that took part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
}

/// The namespace that was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceRecord {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
    /// Its labels.
    #[serde(default, deserialize_with = "named_texts")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default, deserialize_with = "named_texts")]
    pub annotations: BTreeMap<String, String>,
}

/// A file of the point with what binds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileRecord {
    /// Name below the prefix of the point.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// Version that the store gave it, where it has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Digest of the stored bytes.
    pub blake3: Digest,
    /// JSON documents inside.
    pub count: u64,
}

/// How a volume is given to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeMode {
    /// Mounted.
    Filesystem,
    /// As a raw device.
    Block,
}

/// One volume of a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRecord {
    /// Name of the claim.
    pub claim: String,
    /// UID of the claim.
    pub claim_uid: Uid,
    /// Where its images lie: `<cluster>/<plan>/<claim>`.
    pub home: VolumeHome,
    /// Generation of the chain file that was current at the commit.
    pub generation: Generation,
    /// The image that is this point.
    pub image: ImageId,
    /// Size to provision, in bytes; not smaller than the image's virtual size.
    pub capacity: u64,
    /// Filesystem or Block.
    pub volume_mode: VolumeMode,
    /// StorageClass of the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// CSI driver of the volume.
    pub driver: String,
    /// File system on the volume, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    /// Access modes of the claim, as Kubernetes spells them.
    #[serde(deserialize_with = "names")]
    pub access_modes: Vec<String>,
    /// When the snapshot was cut.
    pub snapshot_time: Timestamp,
    /// Newest first: everything a restore reads, with what binds it.
    pub chain: Vec<ImageRecord>,
    /// Until when all objects of the chain are locked; absent where the target locks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
}

impl VolumeRecord {
    /// Whether the objects of its chain are locked still: nobody can have put others in their place.
    pub fn is_locked(&self, now: Timestamp) -> bool {
        self.locked_until.is_some_and(|until| until > now)
    }
}

/// Whether an image stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageKind {
    /// Base of a chain.
    Full,
    /// Overlay on its parent.
    Incremental,
}

/// One image of a volume: its shards and what binds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// Id. What its files are called says [`ImageRecord::stem`].
    pub id: ImageId,
    /// The image this one lies upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ImageId>,
    /// Full or incremental.
    pub kind: ImageKind,
    /// Bytes of the volume.
    pub virtual_size: u64,
    /// Bytes of a cluster; the same in the whole chain.
    pub cluster_size: u32,
    /// Its shards in order.
    pub shards: Vec<ShardRecord>,
    /// Stored bytes: images and indexes.
    pub stored: u64,
}

impl ImageRecord {
    /// What its files are called; `None` where a shard names files of another image, or others than its fellows.
    pub fn stem(&self) -> Option<FileStem> {
        let (stem, _) = FileStem::of_file(&self.shards.first()?.image.key)?;
        let named = |shard: &ShardRecord| {
            shard.image.key == stem.image_name(shard.shard) && shard.index.key == stem.index_name(shard.shard)
        };
        (stem.image == self.id && self.shards.iter().all(named)).then_some(stem)
    }
}

/// One shard of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardRecord {
    /// Number, from 0.
    pub shard: ShardNumber,
    /// Virtual bytes of this shard.
    pub virtual_size: u64,
    /// The QCOW2 file.
    pub image: ObjectRecord,
    /// Digest of the image's tables, which pins where every cluster lies.
    pub tables: Digest,
    /// The index file.
    pub index: ObjectRecord,
    /// Digest of the index file.
    pub index_digest: Digest,
}

/// A stored object with what binds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRecord {
    /// File name below the volume's home.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// ETag that the store gave it.
    pub etag: ETag,
    /// Version that the store gave it, where it has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// How its bytes are sealed; absent: they lie in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Layout>,
}

impl ObjectRecord {
    /// What binds a read to the recorded object.
    pub fn pin(&self) -> Pin {
        Pin {
            etag: self.etag.clone(),
            version: self.version.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
