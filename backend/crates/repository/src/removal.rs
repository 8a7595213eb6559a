//! What goes from a target: images that no point needs, what dead attempts left, and keys that open nothing any more. What
//! is locked stays until its lock has ended, and goes with a later call.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_seal::KeyId;
use holdfast_target::layout::{Generation, ImageId, Uid, VolumeHome};
use holdfast_target::{Key, Target, list_all};
use jiff::Timestamp;

use crate::chain::{Linked, generations, newest, unlink};
use crate::lease::{Held, held};
use crate::lock::remove;
use crate::{MAX_OBJECTS, RepositoryError, keys, point};

/// Generations that stay beside the newest, for readers that have one open and in case the newest is damaged.
const KEPT_GENERATIONS: usize = 3;

/// What was in a home when it was looked at: what is not in here may be of a run that began meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// File names of objects and of open uploads.
    pub files: BTreeSet<String>,
    /// Images in the chain, and those that have any object.
    pub images: BTreeSet<ImageId>,
}

/// Looks at a home.
///
/// # Errors
/// Those of the store and of [`newest`].
pub async fn look(target: &dyn Target, home: &VolumeHome) -> Result<Seen, RepositoryError> {
    let mut seen = Seen::default();
    let objects = list_all(target, &home.prefix(), MAX_OBJECTS).await?;
    let uploads = target.list_uploads(&home.prefix()).await?;
    let names = objects.iter().map(|object| &object.key);
    for key in names.chain(uploads.iter().map(|open| &open.upload.key)) {
        seen.files.insert(key.file_name().to_owned());
        seen.images.extend(home.image_of(key));
    }
    let chain = newest(target, home).await?;
    seen.images
        .extend(chain.images().iter().map(|entry| entry.id.clone()));
    Ok(seen)
}

/// What stays of a home.
pub struct Rules<'r> {
    /// Images as every point of the plan named them at its commit, newest first: the first one is the point.
    pub points: &'r [Vec<Arc<ImageId>>],
    /// Images that somebody is at work with: they stay, and so does every file of theirs.
    pub busy: &'r (dyn Fn(&ImageId) -> bool + Sync),
    /// What was there before points and runs were asked for; other files and images are not touched.
    pub seen: &'r Seen,
    /// How long objects stay after a generation stopped naming them.
    pub grace: Duration,
    /// The time.
    pub now: Timestamp,
}

/// Removes from a home what may go: images are taken off the chain, and files removed when their time has come. Returns
/// how many objects went.
///
/// # Errors
/// Those of the store and of [`newest`]. What was done until then is right, and the rest is done by another call.
pub async fn tidy(
    target: &dyn Target,
    home: &VolumeHome,
    rules: &Rules<'_>,
) -> Result<usize, RepositoryError> {
    let objects = list_all(target, &home.prefix(), MAX_OBJECTS).await?;
    let there: BTreeSet<String> = objects.iter().map(|o| o.key.file_name().to_owned()).collect();
    let heads: BTreeSet<&ImageId> = rules
        .points
        .iter()
        .filter_map(|images| images.first().map(Arc::as_ref))
        .collect();
    // What a point lies upon whose image a lost generation named stays in the chain, which says what keys open it.
    let chain = newest(target, home).await?;
    let below_lost = named_by(rules, &|head| {
        chain.images().iter().all(|entry| entry.id != *head)
    });
    let keep = |image: &ImageId| {
        heads.contains(image)
            || below_lost.contains(image)
            || (rules.busy)(image)
            || !rules.seen.images.contains(image)
    };
    let linked = unlink(target, home, &keep, &there, rules.now).await?;
    // A point whose image is in no chain that reads is read by what it named itself.
    let recorded = named_by(rules, &|head| !linked.images.contains(head));
    let held = held(target, home, rules.now).await?;
    let goes = |key: &Key| {
        let name = key.file_name();
        let Some(image) = home.image_of(key) else {
            return false;
        };
        rules.seen.files.contains(name)
            && !linked.files.contains(name)
            && !waits(&linked, name, held, rules)
            && !recorded.contains(&image)
            && !(rules.busy)(&image)
    };
    let mut gone: Vec<Key> = objects
        .into_iter()
        .map(|o| o.key)
        .filter(|key| goes(key))
        .collect();
    let old = generations(target, home).await?;
    let old: &[Generation] = &old[..old.len().saturating_sub(KEPT_GENERATIONS + 1)];
    gone.extend(old.iter().map(|generation| home.chain_key(*generation)));
    let removed = remove(target, &gone).await?;
    for open in target.list_uploads(&home.prefix()).await? {
        if goes(&open.upload.key) {
            target.abort_upload(&open.upload).await?;
        }
    }
    Ok(removed)
}

/// Every image that points name whose own image is like this.
fn named_by<'r>(rules: &Rules<'r>, is_so: &dyn Fn(&ImageId) -> bool) -> BTreeSet<&'r ImageId> {
    let so = |images: &&Vec<Arc<ImageId>>| images.first().is_some_and(|head| is_so(head));
    let images = rules.points.iter().filter(so).flatten();
    images.map(Arc::as_ref).collect()
}

/// Whether a file that no image consists of any more has to stay for a while.
fn waits(linked: &Linked, name: &str, held: Held, rules: &Rules<'_>) -> bool {
    let unlinked = linked
        .unlinked
        .iter()
        .find(|u| u.files.iter().any(|file| file == name));
    unlinked.is_some_and(|unlinked| {
        let age = rules.now.duration_since(unlinked.at);
        // A full store needs the space more than a reader that might have come without a sign.
        let young = !linked.full && age.unsigned_abs() < rules.grace && rules.grace > Duration::ZERO;
        young || held.covers(unlinked.generation)
    })
}

/// Removes a volume entirely: nothing needs it and no plan will write to it again.
///
/// # Errors
/// As [`tidy`].
pub async fn erase_home(
    target: &dyn Target,
    home: &VolumeHome,
    rules: &Rules<'_>,
) -> Result<usize, RepositoryError> {
    let gone = tidy(target, home, rules).await?;
    let rest: Vec<Key> = list_all(target, &home.prefix(), MAX_OBJECTS)
        .await?
        .into_iter()
        .map(|object| object.key)
        .collect();
    // Files that wait, and signs of readers, keep the rest.
    let chains = |key: &Key| home.generation_of(key).is_some();
    if !rest.iter().all(chains) {
        return Ok(gone);
    }
    Ok(gone + remove(target, &rest).await?)
}

/// Removes the data keys of a plan that nothing on the target was sealed with. `keep` names those of points, of runs that
/// are at work, and those that were not there before points and runs were asked for: they may be of a run that began
/// meanwhile. Those of images are found here.
///
/// # Errors
/// Those of the store and of [`newest`]; a chain that does not read keeps all keys.
pub async fn erase_keys(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
    keep: impl Fn(&KeyId) -> bool,
) -> Result<usize, RepositoryError> {
    let candidates: Vec<KeyId> = keys::all(target, cluster, plan)
        .await?
        .into_iter()
        .filter(|id| !keep(id))
        .collect();
    if candidates.is_empty() {
        return Ok(0);
    }
    let mut used: BTreeSet<KeyId> = BTreeSet::new();
    for home in point::homes(target, cluster, plan).await? {
        let chain = newest(target, &home).await?;
        if chain.damage.is_some() {
            return Ok(0);
        }
        let Some(file) = chain.file else { continue };
        used.extend(file.keys().into_iter().cloned());
    }
    let mut gone = 0;
    for id in candidates.iter().filter(|id| !used.contains(*id)) {
        gone += usize::from(keys::erase(target, cluster, plan, id).await? > 0);
    }
    Ok(gone)
}

#[cfg(test)]
mod tests;
