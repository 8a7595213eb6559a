//! Chains: which images of a volume there are, and which objects stand for them.
//!
//! A point names images. Which objects those are is said by the newest generation of the volume's chain file, so that a
//! merge can put one image in the place of several without touching a point. Each generation is a new object; of several
//! writers that try to create the same one, one succeeds, and the others look again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use holdfast_core::chain::needed;
use holdfast_seal::{KeyId, KeyRing, open_document, seal_document};
use holdfast_target::layout::{
    DocumentError, FORMAT_VERSION, Generation, ImageId, ImageRecord, MAX_CHAIN, ObjectRecord, VolumeHome,
    VolumeRecord, check_chain, check_size as check_image_size, parse_document, print_document,
};
use holdfast_target::{Creation, ETag, ErrorKind, Target, Version, list_all};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::check_size;
use crate::shell::Sealed;
use crate::{MAX_OBJECTS, RepositoryError};

/// Rivals for the next generation that are given way to before giving up.
const RIVALS: usize = 8;
/// Generations that are looked at when the newest ones do not read.
const MAX_TRIED: usize = 4;

/// Keys to open records with, and the one to seal a new record under.
#[derive(Clone, Copy, Debug)]
pub struct Sealing<'k> {
    /// Data keys of every image of the chain, and of the new one.
    pub ring: &'k KeyRing,
    /// The key of the new one.
    pub key: &'k KeyId,
}

/// `chain-<generation>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainFile {
    format: u32,
    home: VolumeHome,
    /// Its generation.
    pub generation: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Generation>,
    /// Every image there is, oldest first.
    pub images: Vec<Entry>,
    /// Objects that no image consists of any more, until they are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlinked: Vec<Unlinked>,
}

/// An image of a chain: what is known of it without a key, and its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its id.
    pub id: ImageId,
    /// The image it lies upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ImageId>,
    /// Its objects: image and index of each shard.
    pub files: Vec<StoredFile>,
    /// Data keys that are needed to read it; none where it lies in clear.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<KeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<ImageRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
}

/// An object of an image, as the store describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredFile {
    /// File name in the home.
    pub key: String,
    /// Bytes as stored.
    pub size: u64,
    /// Entity tag.
    pub etag: ETag,
    /// Version, where the store keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
}

/// Objects that no image consists of any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unlinked {
    /// The image they were.
    pub image: ImageId,
    /// File names in the home.
    pub files: Vec<String>,
    /// The generation that was the first without them.
    pub generation: Generation,
    /// When that was.
    pub at: Timestamp,
}

/// What is known of a chain.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// The newest generation that reads.
    pub file: Option<ChainFile>,
    /// Why a newer one does not.
    pub damage: Option<String>,
    newest: Option<Generation>,
}

fn files_of(record: &ImageRecord) -> Vec<StoredFile> {
    let objects = record
        .shards
        .iter()
        .flat_map(|shard| [&shard.image, &shard.index]);
    let file = |object: &ObjectRecord| StoredFile {
        key: object.key.clone(),
        size: object.size,
        etag: object.etag.clone(),
        version: object.version.clone(),
    };
    objects.map(file).collect()
}

/// Data keys that the objects of an image are sealed under.
pub fn keys_of(record: &ImageRecord) -> BTreeSet<KeyId> {
    let objects = record
        .shards
        .iter()
        .flat_map(|shard| [&shard.image, &shard.index]);
    let layouts = objects.filter_map(|object| object.seal.as_ref());
    layouts.flat_map(|layout| layout.key_ids()).cloned().collect()
}

/// What the record of an image is bound to: the place of the image.
fn context(home: &VolumeHome, id: &ImageId) -> String {
    format!("{}{id}", home.prefix())
}

impl Entry {
    fn new(
        home: &VolumeHome,
        record: &ImageRecord,
        seal: Option<Sealing<'_>>,
    ) -> Result<Self, RepositoryError> {
        let mut entry = Self {
            id: record.id.clone(),
            parent: record.parent.clone(),
            files: files_of(record),
            keys: keys_of(record),
            record: None,
            sealed: None,
        };
        let Some(seal) = seal else {
            if entry.keys.is_empty() {
                entry.record = Some(record.clone());
                return Ok(entry);
            }
            let text = format!("the record of the sealed image {} would lie in clear", record.id);
            return Err(RepositoryError::Internal(text));
        };
        let internal = |text: String| RepositoryError::Internal(text);
        let key = seal
            .ring
            .get(seal.key)
            .ok_or_else(|| internal(format!("the key {} is not at hand", seal.key)))?;
        let clear = serde_json::to_vec(record).map_err(|error| internal(error.to_string()))?;
        let sealed = seal_document(key, &context(home, &record.id), &clear)
            .map_err(|error| internal(error.to_string()))?;
        entry.keys.insert(seal.key.clone());
        entry.sealed = Some(Sealed(sealed));
        Ok(entry)
    }

    /// Whether its record needs a key.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Bytes of all its objects.
    pub fn stored(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Its record. As with points, a record in clear is refused where a key is given.
    ///
    /// # Errors
    /// [`RepositoryError::NotSealed`], [`RepositoryError::NeedsKey`], [`RepositoryError::Sealed`],
    /// [`RepositoryError::Document`].
    pub fn open(&self, home: &VolumeHome, keys: Option<&KeyRing>) -> Result<ImageRecord, RepositoryError> {
        let document = context(home, &self.id);
        let record = match (&self.record, &self.sealed, keys) {
            (Some(record), None, None) => record.clone(),
            (Some(_), None, Some(_)) => return Err(RepositoryError::NotSealed { document }),
            (_, Some(_), None) => return Err(RepositoryError::NeedsKey { document }),
            (_, Some(sealed), Some(keys)) => {
                let clear = open_document(&document, &sealed.0, keys, MAX_CHAIN)
                    .map_err(|source| RepositoryError::sealed(&document, source))?;
                parse_record(&document, &clear)?
            }
            (None, None, _) => return Err(inconsistent(document, "it has no record")),
        };
        if (&record.id, &record.parent) != (&self.id, &self.parent)
            || files_of(&record) != self.files
            || !keys_of(&record).is_subset(&self.keys)
        {
            return Err(inconsistent(document, "it says something else than its record"));
        }
        check_image_size(&record).map_err(|problem| inconsistent(document, &problem))?;
        Ok(record)
    }
}

fn parse_record(document: &str, clear: &[u8]) -> Result<ImageRecord, RepositoryError> {
    let damaged = |source| DocumentError::Damaged {
        document: document.to_owned(),
        source,
    };
    Ok(serde_json::from_slice(clear).map_err(damaged)?)
}

fn inconsistent(document: String, problem: &str) -> RepositoryError {
    let problem = problem.to_owned();
    DocumentError::Inconsistent { document, problem }.into()
}

impl ChainFile {
    /// Reads and checks the document that lies in `home` under `generation`.
    ///
    /// # Errors
    /// [`RepositoryError::Document`].
    pub fn parse(home: &VolumeHome, generation: Generation, bytes: &[u8]) -> Result<Self, RepositoryError> {
        let document = home.chain_key(generation).to_string();
        let file: Self = parse_document(&document, bytes)?;
        if file.home != *home || file.generation != generation {
            let problem = format!("it is generation {} of {}", file.generation, file.home);
            return Err(inconsistent(document, &problem));
        }
        let ids: BTreeSet<&ImageId> = file.images.iter().map(|entry| &entry.id).collect();
        if ids.len() != file.images.len() {
            return Err(inconsistent(document, "it has an image twice"));
        }
        Ok(file)
    }

    /// The entry of an image.
    pub fn entry(&self, image: &ImageId) -> Option<&Entry> {
        self.images.iter().find(|entry| entry.id == *image)
    }

    /// Entries from `image` down to its base, newest first; `None` where a link is missing.
    pub fn chain_of(&self, image: &ImageId) -> Option<Vec<&Entry>> {
        // A file may name more images than could be looked through for each of them.
        let entries: HashMap<&ImageId, &Entry> = self.images.iter().map(|entry| (&entry.id, entry)).collect();
        let mut chain: Vec<&Entry> = Vec::new();
        let mut wanted = Some(image);
        while let Some(id) = wanted {
            // A circle of parents would never end.
            if chain.len() >= self.images.len() {
                return None;
            }
            let entry = *entries.get(id)?;
            chain.push(entry);
            wanted = entry.parent.as_ref();
        }
        Some(chain)
    }

    /// Data keys that are needed to open everything in it.
    pub fn keys(&self) -> BTreeSet<&KeyId> {
        self.images.iter().flat_map(|entry| &entry.keys).collect()
    }

    /// Names of the files that its images consist of.
    pub fn files(&self) -> BTreeSet<&str> {
        let files = self.images.iter().flat_map(|entry| &entry.files);
        files.map(|file| file.key.as_str()).collect()
    }

    /// Records of the chain that ends in `image`, newest first.
    ///
    /// # Errors
    /// [`RepositoryError::Broken`] where a link is missing, and those of [`Entry::open`].
    pub fn records_of(
        &self,
        image: &ImageId,
        keys: Option<&KeyRing>,
    ) -> Result<Vec<ImageRecord>, RepositoryError> {
        let broken = || RepositoryError::Broken {
            image: image.clone(),
            home: self.home.clone(),
        };
        let entries = self.chain_of(image).ok_or_else(broken)?;
        let records: Result<Vec<ImageRecord>, RepositoryError> =
            entries.iter().map(|entry| entry.open(&self.home, keys)).collect();
        let records = records?;
        check_chain(&records).map_err(|_| broken())?;
        Ok(records)
    }
}

impl Chain {
    /// Its images, oldest first.
    pub fn images(&self) -> &[Entry] {
        self.file.as_ref().map_or(&[], |file| &file.images)
    }

    fn unlinked(&self) -> &[Unlinked] {
        self.file.as_ref().map_or(&[], |file| &file.unlinked)
    }

    /// The generation after the newest, whether that reads or not.
    pub fn next_generation(&self) -> Generation {
        self.newest.map_or(Generation::FIRST, Generation::next)
    }

    fn next(&self, home: &VolumeHome, images: Vec<Entry>, unlinked: Vec<Unlinked>) -> ChainFile {
        ChainFile {
            format: FORMAT_VERSION,
            home: home.clone(),
            generation: self.next_generation(),
            previous: self.newest,
            images,
            unlinked,
        }
    }
}

/// Reads the newest generation that reads. A document of a newer program is an error: it must not be built upon.
///
/// # Errors
/// [`RepositoryError::Document`] for a newer document, and those of the store.
pub async fn newest(target: &dyn Target, home: &VolumeHome) -> Result<Chain, RepositoryError> {
    let generations = generations(target, home).await?;
    let mut chain = Chain {
        newest: generations.last().copied(),
        ..Chain::default()
    };
    for generation in generations.into_iter().rev().take(MAX_TRIED) {
        let body = match target.get(&home.chain_key(generation), MAX_CHAIN).await {
            Ok(object) => object.body,
            // The list is older than this call.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        match ChainFile::parse(home, generation, &body) {
            Ok(file) => {
                chain.file = Some(file);
                break;
            }
            Err(RepositoryError::Document(error @ DocumentError::Newer { .. })) => return Err(error.into()),
            Err(error) => chain.damage = chain.damage.or(Some(error.to_string())),
        }
    }
    Ok(chain)
}

/// Every generation there is, oldest first.
pub(crate) async fn generations(
    target: &dyn Target,
    home: &VolumeHome,
) -> Result<Vec<Generation>, RepositoryError> {
    let objects = list_all(target, &home.chain_prefix(), MAX_OBJECTS).await?;
    let mut found: Vec<Generation> = objects
        .iter()
        .filter_map(|object| home.generation_of(&object.key))
        .collect();
    found.sort();
    Ok(found)
}

async fn write(target: &dyn Target, file: &ChainFile) -> Result<Creation, RepositoryError> {
    let body = Bytes::from(print_document(file));
    check_size("the volume's chain file", body.len(), MAX_CHAIN)?;
    Ok(target
        .put_new(&file.home.chain_key(file.generation), body)
        .await?)
}

/// Puts an image on top of its chain. Returns the generation that has it and its whole chain, newest first. An image
/// that is there already is not put there again.
///
/// # Errors
/// [`RepositoryError::Broken`], [`RepositoryError::Rivals`], [`RepositoryError::TooLarge`], those of [`Entry::open`] and of
/// the store.
pub async fn append(
    target: &dyn Target,
    home: &VolumeHome,
    image: &ImageRecord,
    seal: Option<Sealing<'_>>,
) -> Result<(Generation, Vec<ImageRecord>), RepositoryError> {
    let keys = seal.map(|seal| seal.ring);
    for _ in 0..RIVALS {
        let chain = newest(target, home).await?;
        if let Some(file) = &chain.file
            && file.entry(&image.id).is_some()
        {
            return Ok((file.generation, file.records_of(&image.id, keys)?));
        }
        let mut images = chain.images().to_vec();
        images.push(Entry::new(home, image, seal)?);
        let file = chain.next(home, images, chain.unlinked().to_vec());
        // Before it is written: an image without a base must not get in.
        let records = file.records_of(&image.id, keys)?;
        if write(target, &file).await? != Creation::Exists {
            return Ok((file.generation, records));
        }
    }
    Err(RepositoryError::Rivals { home: home.clone() })
}

/// Puts a merged image in the place of the run it was made from, newest first, whose files stay until they are removed.
///
/// # Errors
/// [`RepositoryError::Broken`] when the chain does not hold this run any more, as it was when it was merged, or something
/// else lies upon one of its older members; and those of [`append`].
pub async fn replace(
    target: &dyn Target,
    home: &VolumeHome,
    run: &[ImageRecord],
    merged: &ImageRecord,
    seal: Option<Sealing<'_>>,
    now: Timestamp,
) -> Result<Generation, RepositoryError> {
    let broken = || RepositoryError::Broken {
        image: merged.id.clone(),
        home: home.clone(),
    };
    let (Some(newest_member), Some(oldest)) = (run.first(), run.last()) else {
        return Err(broken());
    };
    if (&merged.id, &merged.parent) != (&newest_member.id, &oldest.parent) {
        return Err(broken());
    }
    let gone: BTreeSet<&ImageId> = run.iter().skip(1).map(|record| &record.id).collect();
    for _ in 0..RIVALS {
        let chain = newest(target, home).await?;
        let entry = Entry::new(home, merged, seal)?;
        if let Some(file) = &chain.file
            && file
                .entry(&merged.id)
                .is_some_and(|there| there.files == entry.files)
        {
            return Ok(file.generation);
        }
        let unchanged = |record: &ImageRecord| {
            let there = chain.images().iter().find(|entry| entry.id == record.id);
            there.is_some_and(|there| there.files == files_of(record) && there.parent == record.parent)
        };
        let others_above = chain.images().iter().any(|entry| {
            let parent = entry.parent.as_ref();
            parent.is_some_and(|p| gone.contains(p)) && !run.iter().any(|record| record.id == entry.id)
        });
        if !run.iter().all(unchanged) || others_above {
            return Err(broken());
        }
        // Whoever sweeps may have taken the files of a merge for those of a dead one.
        if missing_files(target, home, std::slice::from_ref(&entry))
            .await?
            .values()
            .any(|gone| !gone.is_empty())
        {
            return Err(broken());
        }
        let generation = chain.next_generation();
        let mut unlinked = chain.unlinked().to_vec();
        unlinked.extend(run.iter().map(|record| Unlinked {
            image: record.id.clone(),
            files: files_of(record).into_iter().map(|file| file.key).collect(),
            generation,
            at: now,
        }));
        let images = chain.images().iter().filter(|entry| !gone.contains(&entry.id));
        let images = images.map(|old| match old.id == merged.id {
            true => entry.clone(),
            false => old.clone(),
        });
        let file = chain.next(home, images.collect(), unlinked);
        if write(target, &file).await? != Creation::Exists {
            return Ok(generation);
        }
    }
    Err(RepositoryError::Rivals { home: home.clone() })
}

/// What [`unlink`] left.
#[derive(Debug)]
pub(crate) struct Linked {
    /// Images that stay.
    pub(crate) images: BTreeSet<ImageId>,
    /// Their files.
    pub(crate) files: BTreeSet<String>,
    /// Objects that wait for their removal.
    pub(crate) unlinked: Vec<Unlinked>,
    /// The store took no new generation: what goes is named by the newest one still.
    pub(crate) full: bool,
}

/// Writes a generation without the images that neither `keep` names nor an image that stays lies upon. `there` are the
/// files in the home: what is unlinked and gone needs no mention any more.
pub(crate) async fn unlink(
    target: &dyn Target,
    home: &VolumeHome,
    keep: &(impl Fn(&ImageId) -> bool + Sync),
    there: &BTreeSet<String>,
    now: Timestamp,
) -> Result<Linked, RepositoryError> {
    for _ in 0..RIVALS {
        let chain = newest(target, home).await?;
        let stay = staying(&chain, keep);
        let (images, gone): (Vec<&Entry>, Vec<&Entry>) =
            chain.images().iter().partition(|entry| stay.contains(&entry.id));
        let mut linked = Linked {
            files: images
                .iter()
                .flat_map(|entry| entry.files.iter().map(|file| file.key.clone()))
                .collect(),
            unlinked: chain.unlinked().to_vec(),
            images: stay,
            full: false,
        };
        if gone.is_empty() {
            return Ok(linked);
        }
        let mut unlinked: Vec<Unlinked> = chain
            .unlinked()
            .iter()
            .filter(|old| old.files.iter().any(|file| there.contains(file)))
            .cloned()
            .collect();
        unlinked.extend(gone.iter().map(|entry| Unlinked {
            image: entry.id.clone(),
            files: entry.files.iter().map(|file| file.key.clone()).collect(),
            generation: chain.next_generation(),
            at: now,
        }));
        let images = images.into_iter().cloned().collect();
        let file = chain.next(home, images, unlinked.clone());
        match write(target, &file).await {
            Ok(Creation::Exists) => continue,
            Ok(Creation::Created(_)) => {}
            // Deleting is what makes space. The chain still names the images that go now; who builds upon it looks
            // whether they are there, and the next pass takes them off.
            Err(RepositoryError::Target(error)) if error.kind() == ErrorKind::Full => linked.full = true,
            Err(error) => return Err(error),
        }
        linked.unlinked = unlinked;
        return Ok(linked);
    }
    Err(RepositoryError::Rivals { home: home.clone() })
}

/// Images that are kept, and those they lie upon.
fn staying(chain: &Chain, keep: impl Fn(&ImageId) -> bool) -> BTreeSet<ImageId> {
    let text = |id: &ImageId| id.to_string();
    let ids: BTreeMap<String, &ImageId> = chain.images().iter().map(|e| (text(&e.id), &e.id)).collect();
    let links: Vec<(String, Option<String>)> = chain
        .images()
        .iter()
        .map(|entry| (text(&entry.id), entry.parent.as_ref().map(text)))
        .collect();
    let wanted: Vec<String> = chain
        .images()
        .iter()
        .filter(|entry| keep(&entry.id))
        .map(|entry| text(&entry.id))
        .collect();
    needed(
        links.iter().map(|(id, parent)| (id.as_str(), parent.as_deref())),
        wanted.iter().map(String::as_str),
    )
    .into_iter()
    .filter_map(|id| ids.get(id).copied().cloned())
    .collect()
}

/// Files that the chain names and the target does not have as recorded, by image.
///
/// # Errors
/// Those of the store.
pub async fn missing_files(
    target: &dyn Target,
    home: &VolumeHome,
    images: &[Entry],
) -> Result<BTreeMap<ImageId, Vec<String>>, RepositoryError> {
    let objects = list_all(target, &home.prefix(), MAX_OBJECTS).await?;
    let there: BTreeMap<&str, (u64, &ETag)> = objects
        .iter()
        .map(|object| (object.key.file_name(), (object.size, &object.etag)))
        .collect();
    let gone = |file: &&StoredFile| there.get(file.key.as_str()) != Some(&(file.size, &file.etag));
    let missing = images.iter().map(|entry| {
        let files = entry.files.iter().filter(gone).map(|file| file.key.clone());
        (entry.id.clone(), files.collect())
    });
    Ok(missing.collect())
}

/// What a reader of a point reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The generation that says so; `None` where no chain file names the image and the point's own record is all there is.
    pub generation: Option<Generation>,
    /// Newest first, down to a full image.
    pub chain: Vec<ImageRecord>,
}

/// Data keys that [`resolve`] and whoever reads what it finds need.
///
/// # Errors
/// Those of [`newest`].
pub async fn keys_to_resolve(
    target: &dyn Target,
    volume: &VolumeRecord,
    now: Timestamp,
) -> Result<BTreeSet<KeyId>, RepositoryError> {
    if volume.is_locked(now) {
        return Ok(volume.chain.iter().flat_map(keys_of).collect());
    }
    let file = newest(target, &volume.home).await?.file;
    let linked = file.as_ref().and_then(|file| file.chain_of(&volume.image));
    Ok(match linked {
        Some(entries) => entries.iter().flat_map(|entry| &entry.keys).cloned().collect(),
        None => volume.chain.iter().flat_map(keys_of).collect(),
    })
}

/// The chain that stands for a volume of a point now. What its commit object named counts where no chain file that reads
/// names its image; and as long as that is locked: it was not merged then, and a chain file that says so is forged.
///
/// # Errors
/// Those of [`ChainFile::records_of`] and of the store.
pub async fn resolve(
    target: &dyn Target,
    volume: &VolumeRecord,
    keys: Option<&KeyRing>,
    now: Timestamp,
) -> Result<Resolved, RepositoryError> {
    let (home, recorded) = (&volume.home, &volume.chain);
    if volume.is_locked(now) {
        return Ok(Resolved {
            generation: None,
            chain: recorded.clone(),
        });
    }
    let chain = newest(target, home).await?;
    let head = recorded.first().map(|record| &record.id);
    if let (Some(file), Some(head)) = (&chain.file, head)
        && file.chain_of(head).is_some()
    {
        return Ok(Resolved {
            generation: Some(file.generation),
            chain: file.records_of(head, keys)?,
        });
    }
    Ok(Resolved {
        generation: None,
        chain: recorded.to_vec(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
