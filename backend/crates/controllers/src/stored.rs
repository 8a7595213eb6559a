//! What lies on a target: chains of images and points, read and changed by runs and by the sweeper.
//!
//! A chain is changed by a new generation, created only if nobody else was there first; the objects of an image go only
//! when no generation names them any more.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_core::chain::needed;
use holdfast_crd::names::reasons;
use holdfast_target::layout::{
    Attempt, BackupManifest, ChainFile, DocumentError, FORMAT_VERSION, Generation, ImageId, ImageRecord,
    Location, MAX_CHAIN, MAX_MANIFEST, Uid, VolumeHome, points_prefix, volumes_prefix,
};
use holdfast_target::{Creation, ErrorKind, Key, ListRequest, Prefix, Target, each_page, list_all};

use crate::failure::Failure;

/// Most objects that one volume may have on a target.
const MAX_OBJECTS: usize = 200_000;
/// Most objects beside all points of a target that are counted.
const MAX_COUNTED: usize = 10_000_000;
/// Rivals for the next generation that are given way to before giving up.
const RIVALS: usize = 8;
/// Generations that stay beside the newest, for readers that have one open.
const KEPT_GENERATIONS: usize = 3;

/// The newest generation of a chain.
pub(crate) enum Chain {
    /// There is none yet.
    None,
    /// It reads.
    File(ChainFile),
    /// It does not; the next generation starts over.
    Damaged(Generation, String),
}

impl Chain {
    /// Its images, oldest first.
    pub(crate) fn images(&self) -> &[ImageRecord] {
        match self {
            Self::File(file) => &file.images,
            Self::None | Self::Damaged(..) => &[],
        }
    }

    fn generation(&self) -> Option<Generation> {
        match self {
            Self::None => None,
            Self::File(file) => Some(file.generation),
            Self::Damaged(generation, _) => Some(*generation),
        }
    }

    fn next(&self, home: &VolumeHome, images: Vec<ImageRecord>) -> ChainFile {
        let previous = self.generation();
        ChainFile {
            format: FORMAT_VERSION,
            home: home.clone(),
            generation: previous.map_or(Generation::FIRST, Generation::next),
            previous,
            images,
        }
    }
}

/// Refuses what a reader would refuse, before it is written.
pub(crate) fn check_size(what: &str, size: usize, max: u64) -> Result<(), Failure> {
    if size as u64 <= max {
        return Ok(());
    }
    let text = format!("{what} would have {size} bytes, more than the {max} that a reader takes");
    Err(Failure::lasting(reasons::CAPTURE_INCOMPLETE, text))
}

/// Reads the newest generation. A document of a newer program is an error: it must not be built upon.
pub(crate) async fn newest_chain(target: &dyn Target, home: &VolumeHome) -> Result<Chain, Failure> {
    let generations = generations(target, home).await?;
    let Some(newest) = generations.last().copied() else {
        return Ok(Chain::None);
    };
    let body = target.get(&home.chain_key(newest), MAX_CHAIN).await?.body;
    match ChainFile::parse(home, newest, &body) {
        Ok(file) => Ok(Chain::File(file)),
        Err(error @ DocumentError::Newer { .. }) => {
            Err(Failure::lasting(reasons::TARGET_ERROR, error.to_string()))
        }
        Err(error) => Ok(Chain::Damaged(newest, error.to_string())),
    }
}

async fn generations(target: &dyn Target, home: &VolumeHome) -> Result<Vec<Generation>, Failure> {
    let objects = list_all(target, &home.chain_prefix(), MAX_OBJECTS).await?;
    let mut found: Vec<Generation> = objects
        .iter()
        .filter_map(|o| home.generation_of(&o.key))
        .collect();
    found.sort();
    Ok(found)
}

/// Puts an image on top of its chain. Returns the generation that has it and its whole chain, newest first. An image
/// that is there already is not put there again.
pub(crate) async fn append_image(
    target: &dyn Target,
    home: &VolumeHome,
    image: &ImageRecord,
) -> Result<(Generation, Vec<ImageRecord>), Failure> {
    for _ in 0..RIVALS {
        let chain = newest_chain(target, home).await?;
        let file = match &chain {
            Chain::File(file) if file.images.iter().any(|i| i.id == image.id) => file.clone(),
            other => {
                let mut images = other.images().to_vec();
                images.push(image.clone());
                let file = other.next(home, images);
                let key = home.chain_key(file.generation);
                let body = Bytes::from(file.to_bytes());
                check_size("the volume's chain file", body.len(), MAX_CHAIN)?;
                if target.put_new(&key, body).await? == Creation::Exists {
                    continue;
                }
                file
            }
        };
        let whole = file.chain_of(&image.id).ok_or_else(|| {
            let text = format!(
                "image {} has lost an image below it in {home}: take a full backup",
                image.id
            );
            Failure::lasting(reasons::CONFLICT, text)
        })?;
        return Ok((file.generation, whole));
    }
    let text = format!("others keep writing the chain {home}; is the same cluster's operator running twice?");
    Err(Failure::passing(reasons::CONFLICT, text))
}

/// Files that an image's record names and the target does not have as recorded.
pub(crate) async fn missing_files(
    target: &dyn Target,
    home: &VolumeHome,
    images: &[ImageRecord],
) -> Result<BTreeMap<ImageId, Vec<String>>, Failure> {
    let objects = list_all(target, &home.prefix(), MAX_OBJECTS).await?;
    let there: BTreeMap<&str, (u64, &str)> = objects
        .iter()
        .map(|o| (o.key.file_name(), (o.size, o.etag.as_str())))
        .collect();
    let mut missing = BTreeMap::new();
    for image in images {
        let files = image.shards.iter().flat_map(|shard| [&shard.image, &shard.index]);
        let gone = files.filter(|f| there.get(f.key.as_str()) != Some(&(f.size, f.etag.as_str())));
        missing.insert(image.id.clone(), gone.map(|f| f.key.clone()).collect());
    }
    Ok(missing)
}

/// Images of a volume that have anything on the target: objects, open uploads, or a place in the chain.
pub(crate) async fn images(target: &dyn Target, home: &VolumeHome) -> Result<BTreeSet<ImageId>, Failure> {
    let objects = list_all(target, &home.prefix(), MAX_OBJECTS).await?;
    let mut found: BTreeSet<ImageId> = objects.iter().filter_map(|o| home.image_of(&o.key)).collect();
    let uploads = target.list_uploads(&home.prefix()).await?;
    found.extend(uploads.iter().filter_map(|u| home.image_of(&u.upload.key)));
    found.extend(
        newest_chain(target, home)
            .await?
            .images()
            .iter()
            .map(|i| i.id.clone()),
    );
    Ok(found)
}

/// Removes every image of a volume that neither `keep` names nor an image that stays lies upon: first from the chain,
/// then its objects and open uploads. Returns how many objects went.
pub(crate) async fn erase_images(
    target: &dyn Target,
    home: &VolumeHome,
    keep: impl Fn(&ImageId) -> bool,
) -> Result<usize, Failure> {
    // Objects first, the chain after: what is written meanwhile is not in this list.
    let objects = list_all(target, &home.prefix(), MAX_OBJECTS).await?;
    let kept = unlink_images(target, home, &keep).await?;
    let stays = |image: &ImageId| kept.contains(&image.to_string()) || keep(image);
    let mut gone: Vec<Key> = Vec::new();
    for object in &objects {
        if home.image_of(&object.key).is_some_and(|image| !stays(&image)) {
            gone.push(object.key.clone());
        }
    }
    let old = generations(target, home).await?;
    let old = &old[..old.len().saturating_sub(KEPT_GENERATIONS)];
    gone.extend(old.iter().map(|generation| home.chain_key(*generation)));
    target.delete(&gone).await?;
    for open in target.list_uploads(&home.prefix()).await? {
        if home
            .image_of(&open.upload.key)
            .is_some_and(|image| !stays(&image))
        {
            target.abort_upload(&open.upload).await?;
        }
    }
    Ok(gone.len())
}

/// Writes a generation without the images that may go; returns the ids that stay in the chain.
async fn unlink_images(
    target: &dyn Target,
    home: &VolumeHome,
    keep: &impl Fn(&ImageId) -> bool,
) -> Result<BTreeSet<String>, Failure> {
    for _ in 0..RIVALS {
        let chain = newest_chain(target, home).await?;
        let ids: Vec<(String, Option<String>)> = chain
            .images()
            .iter()
            .map(|i| (i.id.to_string(), i.parent.as_ref().map(ToString::to_string)))
            .collect();
        let wanted: Vec<String> = chain
            .images()
            .iter()
            .filter(|i| keep(&i.id))
            .map(|i| i.id.to_string())
            .collect();
        let stay: BTreeSet<String> = needed(
            ids.iter().map(|(id, parent)| (id.as_str(), parent.as_deref())),
            wanted.iter().map(String::as_str),
        )
        .into_iter()
        .map(str::to_owned)
        .collect();
        if chain.images().iter().all(|i| stay.contains(&i.id.to_string())) {
            return Ok(stay);
        }
        let images = chain
            .images()
            .iter()
            .filter(|i| stay.contains(&i.id.to_string()))
            .cloned()
            .collect();
        let file = chain.next(home, images);
        let key = home.chain_key(file.generation);
        match target.put_new(&key, Bytes::from(file.to_bytes())).await {
            Ok(Creation::Exists) => {}
            Ok(Creation::Created(_)) => return Ok(stay),
            // Deleting is what makes space. The chain still names the images that go now; who builds upon it looks
            // whether they are there, and the next pass takes them off.
            Err(error) if error.kind() == ErrorKind::Full => return Ok(stay),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::passing(
        reasons::CONFLICT,
        format!("others keep writing the chain {home}"),
    ))
}

/// Removes a volume entirely: nothing needs it and no plan will write to it again.
pub(crate) async fn erase_home(target: &dyn Target, home: &VolumeHome) -> Result<(), Failure> {
    erase_images(target, home, |_| false).await?;
    let rest: Vec<Key> = list_all(target, &home.prefix(), MAX_OBJECTS)
        .await?
        .into_iter()
        .map(|o| o.key)
        .collect();
    Ok(target.delete(&rest).await?)
}

/// Removes a point: the commit object first, so that it is no point from then on, then its files.
pub(crate) async fn erase_point(target: &dyn Target, location: &Location) -> Result<(), Failure> {
    target.delete(&[location.commit_key()]).await?;
    let rest: Vec<Key> = list_all(target, &location.prefix(), MAX_OBJECTS)
        .await?
        .into_iter()
        .map(|o| o.key)
        .collect();
    Ok(target.delete(&rest).await?)
}

/// Removes what a run without commit left under its point: every file, unless there is a commit object.
pub(crate) async fn erase_uncommitted(target: &dyn Target, location: &Location) -> Result<usize, Failure> {
    if is_committed(target, location).await? {
        return Ok(0);
    }
    let rest: Vec<Key> = list_all(target, &location.prefix(), MAX_OBJECTS)
        .await?
        .into_iter()
        .map(|o| o.key)
        .collect();
    // Committed meanwhile, or something between us and the store answers that it is not.
    if rest.contains(&location.commit_key()) {
        return Ok(0);
    }
    target.delete(&rest).await?;
    Ok(rest.len())
}

/// Whether the point has its commit object.
pub(crate) async fn is_committed(target: &dyn Target, location: &Location) -> Result<bool, Failure> {
    match target.head(&location.commit_key()).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The commit object of a point, if there is one.
pub(crate) async fn manifest(
    target: &dyn Target,
    location: &Location,
) -> Result<Option<BackupManifest>, Failure> {
    let body = match target.get(&location.commit_key(), MAX_MANIFEST).await {
        Ok(object) => object.body,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let manifest = BackupManifest::parse(location, &body);
    manifest
        .map(Some)
        .map_err(|e| Failure::lasting(reasons::DAMAGED, e.to_string()))
}

/// Plans of a cluster that have anything on the target.
pub(crate) async fn plans(target: &dyn Target, cluster: &Uid) -> Result<BTreeSet<Uid>, Failure> {
    let mut found = BTreeSet::new();
    for root in [points_prefix(), volumes_prefix()] {
        found.extend(children(target, &format!("{root}{cluster}/")).await?);
    }
    Ok(found)
}

/// Points of a plan, committed or not.
pub(crate) async fn points(target: &dyn Target, cluster: &Uid, plan: &Uid) -> Result<Vec<Location>, Failure> {
    let backups = children(target, &format!("{}{cluster}/{plan}/", points_prefix())).await?;
    let location = |backup| Location {
        cluster: cluster.clone(),
        plan: plan.clone(),
        backup,
    };
    Ok(backups.into_iter().map(location).collect())
}

/// Volumes of a plan.
pub(crate) async fn homes(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
) -> Result<Vec<VolumeHome>, Failure> {
    let claims = children(target, &format!("{}{cluster}/{plan}/", volumes_prefix())).await?;
    let home = |claim| VolumeHome {
        cluster: cluster.clone(),
        plan: plan.clone(),
        claim,
    };
    Ok(claims.into_iter().map(home).collect())
}

/// Names of the folders under a prefix that are UIDs; others are none of ours.
async fn children(target: &dyn Target, prefix: &str) -> Result<Vec<Uid>, Failure> {
    let prefix: Prefix = prefix
        .parse()
        .map_err(|e| Failure::lasting(reasons::INTERNAL, format!("{e}")))?;
    let mut found = Vec::new();
    let folders = ListRequest::folders(prefix.clone());
    each_page(target, folders, MAX_OBJECTS, |page| {
        let names = page
            .prefixes
            .iter()
            .filter_map(|p| p.as_str().strip_prefix(prefix.as_str()));
        found.extend(names.filter_map(|name| name.trim_end_matches('/').parse().ok()));
    })
    .await?;
    Ok(found)
}

/// How many points there are on a target, of every cluster.
pub(crate) async fn count_points(target: &dyn Target) -> Result<u64, Failure> {
    let mut count = 0;
    let all = ListRequest::all(points_prefix());
    each_page(target, all, MAX_COUNTED, |page| {
        let commits = page
            .objects
            .iter()
            .filter_map(|o| Location::of_commit_key(&o.key));
        count += commits.count() as u64;
    })
    .await?;
    Ok(count)
}

/// Files of captured objects that attempts before this one left beside a point. Looked up, not thought up: the number
/// is what somebody wrote on the target.
pub(crate) async fn abandoned(
    target: &dyn Target,
    location: &Location,
    committed: Attempt,
) -> Result<Vec<Key>, Failure> {
    if committed <= Attempt(1) {
        return Ok(Vec::new());
    }
    let files = list_all(target, &location.prefix(), MAX_OBJECTS).await?;
    let older = |key: &Key| {
        location
            .attempt_of(key)
            .is_some_and(|attempt| attempt < committed)
    };
    Ok(files.into_iter().map(|o| o.key).filter(older).collect())
}

#[cfg(test)]
mod tests;
