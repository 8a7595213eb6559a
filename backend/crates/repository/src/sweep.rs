//! What may go of a whole plan: leftovers of dead runs, images that no point needs, keys that open nothing.
//!
//! Order that makes this safe beside running backups: [`look`] lists the target, the caller finds out who is at work, and
//! [`sweep`] lists the points again and reads their commit objects. What a run wrote before the look is either of a run
//! that is still there, or committed, or dead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_seal::KeyId;
use holdfast_target::layout::{ImageId, Location, Uid, VolumeHome};
use holdfast_target::{Key, Target};
use jiff::Timestamp;

use crate::lock::remove;
use crate::removal::{self, Rules, Seen};
use crate::{RepositoryError, keys, point};

/// Most images of one plan, counted once for each point that needs them (eight bytes each): two thousand points of a
/// hundred volumes with chains of fifty.
const MAX_IMAGES: usize = 10_000_000;

/// What lay on the target before anybody asked who is at work.
#[derive(Clone, Debug)]
pub struct Look {
    cluster: Uid,
    plan: Uid,
    folders: BTreeSet<Location>,
    homes: BTreeMap<VolumeHome, Seen>,
    keys: BTreeSet<KeyId>,
}

/// Looks at everything of a plan.
///
/// # Errors
/// Those of the store, and [`RepositoryError::TooMany`].
pub async fn look(target: &dyn Target, cluster: &Uid, plan: &Uid) -> Result<Look, RepositoryError> {
    let folders = point::points(target, cluster, plan).await?.into_iter().collect();
    let (mut homes, mut number) = (BTreeMap::new(), 0);
    for home in point::homes(target, cluster, plan).await? {
        let seen = removal::look(target, &home).await?;
        number += seen.images.len();
        check_number(number)?;
        homes.insert(home, seen);
    }
    Ok(Look {
        cluster: cluster.clone(),
        plan: plan.clone(),
        folders,
        homes,
        keys: keys::all(target, cluster, plan).await?,
    })
}

/// Who was at work when that was asked, after the look.
pub struct AtWork<'w> {
    /// Backups that are not over: their folders and keys stay.
    pub runs: &'w BTreeSet<Uid>,
    /// Images that somebody is at work with: they stay, and so does every file of theirs.
    pub images: &'w (dyn Fn(&VolumeHome, &ImageId) -> bool + Sync),
    /// Whether the plan will write to its volumes again.
    pub plan_lives: bool,
}

/// Removes what may go. Returns how many objects went.
///
/// # Errors
/// Those of the store, and of a commit object that does not read: what it needs is not known then, and everything stays.
pub async fn sweep(
    target: &dyn Target,
    look: &Look,
    at_work: &AtWork<'_>,
    grace: Duration,
    now: Timestamp,
) -> Result<usize, RepositoryError> {
    // Asked again: a run may have written, committed and ended since the look. Its images were seen there, so its point has
    // to be known too. What has no commit object now but did not exist then is of a run that has just begun.
    let points = point::points(target, &look.cluster, &look.plan).await?;
    let survey = Survey::read(target, &points).await?;
    let mut gone = 0;
    let dead =
        |location: &&Location| look.folders.contains(location) && !at_work.runs.contains(&location.backup);
    for location in survey.uncommitted.iter().filter(dead) {
        gone += point::erase_uncommitted(target, location).await?;
    }
    gone += remove(target, &survey.abandoned).await?;
    for (home, seen) in &look.homes {
        let rules = Rules {
            points: survey.points_of(home),
            busy: &|image| (at_work.images)(home, image),
            seen,
            grace,
            now,
        };
        gone += match at_work.plan_lives || survey.points > 0 {
            true => removal::tidy(target, home, &rules).await?,
            false => removal::erase_home(target, home, &rules).await?,
        };
    }
    let of_run = |key: &KeyId| at_work.runs.iter().any(|run| run.as_str() == key.as_str());
    // A key that came after the look is of a run that began after it was asked who is at work.
    let keeps = |key: &KeyId| survey.keys.contains(key) || of_run(key) || !look.keys.contains(key);
    gone += removal::erase_keys(target, &look.cluster, &look.plan, keeps).await?;
    Ok(gone)
}

/// What the points of a plan need.
#[derive(Debug, Default)]
pub struct Survey {
    /// Points that are committed.
    pub points: usize,
    /// Folders without commit object.
    uncommitted: Vec<Location>,
    /// Objects files of attempts before the one that was committed.
    abandoned: Vec<Key>,
    /// Data keys of the points, and of the backups whose images they name.
    keys: BTreeSet<KeyId>,
    /// The images of every point, newest first.
    images: BTreeMap<VolumeHome, Vec<Vec<Arc<ImageId>>>>,
}

impl Survey {
    /// Reads every commit object. One that cannot be read ends it: what it needs would not be known.
    ///
    /// # Errors
    /// [`RepositoryError::Document`], [`RepositoryError::TooMany`] and those of the store.
    pub async fn read(target: &dyn Target, folders: &[Location]) -> Result<Self, RepositoryError> {
        let (mut survey, mut number) = (Self::default(), 0);
        // Every point names its whole chain: each id is kept once.
        let mut known: BTreeSet<Arc<ImageId>> = BTreeSet::new();
        for location in folders {
            let Some(found) = point::read(target, location).await? else {
                survey.uncommitted.push(location.clone());
                continue;
            };
            survey.points += 1;
            survey.keys.extend(found.key().cloned());
            let abandoned = point::abandoned(target, location, found.attempt()).await?;
            survey.abandoned.extend(abandoned);
            for needs in found.needs() {
                number += needs.images.len();
                if found.key().is_some() {
                    // Where every chain file is lost, nothing else says that they are needed.
                    let of_images = needs
                        .images
                        .iter()
                        .filter_map(|image| image.backup.as_str().parse().ok());
                    survey.keys.extend::<Vec<KeyId>>(of_images.collect());
                }
                let images = needs.images.into_iter().map(|image| match known.get(&image) {
                    Some(known) => known.clone(),
                    None => {
                        let image = Arc::new(image);
                        known.insert(image.clone());
                        image
                    }
                });
                let images = images.collect();
                survey.images.entry(needs.home).or_default().push(images);
            }
            check_number(number + survey.abandoned.len())?;
        }
        Ok(survey)
    }

    /// What every point that has this volume needs of it.
    pub fn points_of(&self, home: &VolumeHome) -> &[Vec<Arc<ImageId>>] {
        self.images.get(home).map_or(&[], Vec::as_slice)
    }
}

/// Refuses a plan with more images than fit into memory beside those of other plans.
fn check_number(images: usize) -> Result<(), RepositoryError> {
    if images <= MAX_IMAGES {
        return Ok(());
    }
    Err(RepositoryError::TooMany { max: MAX_IMAGES })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use holdfast_target::testing::MemoryTarget;

    use super::*;

    #[tokio::test]
    async fn the_key_of_a_run_that_has_just_begun_stays() {
        let store = MemoryTarget::new();
        let holders = keys::tests::holders();
        let (dead, began) = ("c/p/dead".parse().unwrap(), "c/p/began".parse().unwrap());
        keys::ensure(&store, &dead, &holders).await.unwrap();
        let (cluster, plan): (Uid, Uid) = ("c".parse().unwrap(), "p".parse().unwrap());
        let look = look(&store, &cluster, &plan).await.unwrap();
        keys::ensure(&store, &began, &holders).await.unwrap();
        let at_work = AtWork {
            runs: &BTreeSet::new(),
            images: &|_, _| false,
            plan_lives: true,
        };
        let swept = sweep(&store, &look, &at_work, Duration::ZERO, Timestamp::UNIX_EPOCH).await;
        assert_eq!(swept.unwrap(), 1);
        let left = keys::all(&store, &cluster, &plan).await.unwrap();
        assert_eq!(left.into_iter().map(String::from).collect::<Vec<_>>(), ["began"]);
    }

    #[tokio::test]
    async fn the_keys_of_images_that_a_point_names_stay_though_no_chain_names_them() {
        let store = MemoryTarget::new();
        let holders = keys::tests::holders();
        let below: Location = "c/p/below".parse().unwrap();
        keys::ensure(&store, &below, &holders).await.unwrap();
        let mut manifest = point::tests::manifest("c/p/b");
        let volume = &mut manifest.volumes[0];
        let mut base = volume.chain[0].clone();
        base.id = "below-a1".parse().unwrap();
        volume.chain[0].parent = Some(base.id.clone());
        volume.chain[0].kind = holdfast_target::layout::ImageKind::Incremental;
        volume.chain.push(base);
        let key = keys::ensure(&store, &manifest.location, &holders).await.unwrap();
        point::commit(&store, &manifest, Some(&key)).await.unwrap();
        let survey = Survey::read(&store, &[manifest.location]).await.unwrap();
        let keys: Vec<&str> = survey.keys.iter().map(KeyId::as_str).collect();
        assert_eq!(keys, ["b", "below"]);
    }

    #[tokio::test]
    async fn an_attempt_beyond_every_count_is_damage() {
        let store = MemoryTarget::new();
        let mut manifest = point::tests::manifest("c/p/b");
        manifest.attempt.0 = u32::MAX;
        let body = Bytes::from(manifest.to_bytes());
        let location = manifest.location.clone();
        store.put(&location.commit_key(), body).await.unwrap();
        let error = Survey::read(&store, &[location]).await.unwrap_err();
        assert!(error.is_damage(), "{error}");
    }

    #[test]
    fn a_plan_of_countless_images_is_refused() {
        assert!(check_number(MAX_IMAGES).is_ok());
        assert!(!check_number(MAX_IMAGES + 1).unwrap_err().is_retryable());
    }
}
