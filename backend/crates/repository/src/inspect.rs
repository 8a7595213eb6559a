//! What lies on a target and what it costs, told without a key.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_target::layout::{Generation, ImageId, Location, Uid, VolumeHome};
use holdfast_target::{Target, list_all};
use jiff::Timestamp;
use serde::Serialize;

use crate::chain::{Chain, ChainFile, newest};
use crate::point::{self, CommitObject, Needs};
use crate::{MAX_OBJECTS, RepositoryError, lock};

/// A plan on a target.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanReport {
    /// The cluster it is of.
    pub cluster: Uid,
    /// The plan.
    pub plan: Uid,
    /// Its points, committed or not.
    pub points: Vec<PointReport>,
    /// Its volumes.
    pub volumes: Vec<VolumeReport>,
}

/// A point.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PointReport {
    /// Where it lies.
    pub location: Location,
    /// What state its commit object is in.
    pub state: PointState,
    /// Name of the Backup, where that can be read without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// When it was complete, RFC 3339, where that can be read without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<String>,
    /// Bytes of its documents.
    pub documents: u64,
    /// Bytes that the target would hold less without it, once the grace period is over.
    pub frees: u64,
    /// Until when the store lets nobody delete it, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
    /// Why its commit object cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// State of a commit object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum PointState {
    /// There, in clear.
    Clear,
    /// There, sealed.
    Encrypted,
    /// There, and it cannot be used.
    Damaged,
    /// Not there: a run that is at work, or has died.
    Uncommitted,
}

/// A volume.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeReport {
    /// Where it lies.
    pub home: VolumeHome,
    /// Newest generation of its chain file that reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Why a newer one does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its images, oldest first.
    pub images: Vec<ImageReport>,
    /// Bytes of images that no point is, but that others lie upon: merges free what is theirs alone.
    pub hidden: u64,
    /// Bytes that wait for the end of their grace period.
    pub unlinked: u64,
    /// Bytes of objects that no generation names: of a run that is at work, or of a dead one.
    pub garbage: u64,
}

/// An image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageReport {
    /// Its id.
    pub id: ImageId,
    /// The image it lies upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<ImageId>,
    /// Bytes of its objects.
    pub stored: u64,
    /// Whether a key is needed to read it.
    pub encrypted: bool,
    /// Whether a point is this image.
    pub is_point: bool,
}

/// Looks at a plan.
///
/// # Errors
/// Those of the store. Documents that do not read are told in the report.
pub async fn inspect(target: &dyn Target, cluster: &Uid, plan: &Uid) -> Result<PlanReport, RepositoryError> {
    let mut needs: BTreeMap<Location, Vec<Needs>> = BTreeMap::new();
    let mut points = Vec::new();
    for location in point::points(target, cluster, plan).await? {
        let (report, of_point) = look_at_point(target, &location).await?;
        needs.insert(location, of_point);
        points.push(report);
    }
    let (mut volumes, mut chains) = (Vec::new(), BTreeMap::new());
    for home in point::homes(target, cluster, plan).await? {
        let chain = newest(target, &home).await?;
        volumes.push(look_at_volume(target, &home, &chain, &needs).await?);
        chains.insert(home, chain);
    }
    for report in &mut points {
        report.frees = report.documents + freed(&report.location, &needs, &chains);
    }
    Ok(PlanReport {
        cluster: cluster.clone(),
        plan: plan.clone(),
        points,
        volumes,
    })
}

async fn look_at_point(
    target: &dyn Target,
    location: &Location,
) -> Result<(PointReport, Vec<Needs>), RepositoryError> {
    let objects = list_all(target, &location.prefix(), MAX_OBJECTS).await?;
    let mut report = PointReport {
        location: location.clone(),
        state: PointState::Uncommitted,
        backup: None,
        completed: None,
        documents: objects.iter().map(|object| object.size).sum(),
        frees: 0,
        locked_until: lock::latest(target, &objects).await?,
        problem: None,
    };
    let found = match point::read(target, location).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok((report, Vec::new())),
        Err(RepositoryError::Document(error)) => {
            report.state = PointState::Damaged;
            report.problem = Some(error.to_string());
            return Ok((report, Vec::new()));
        }
        Err(error) => return Err(error),
    };
    match &found {
        CommitObject::Clear(manifest) => {
            report.state = PointState::Clear;
            report.backup = Some(format!("{}/{}", manifest.backup.namespace, manifest.backup.name));
            report.completed = Some(manifest.completed.to_string());
        }
        CommitObject::Sealed(_) => report.state = PointState::Encrypted,
    }
    if let Some(said) = found.locked_until()
        && report.locked_until.is_none_or(|held| held < said)
    {
        report.problem = Some(format!("it says that it is locked until {said}, and is not"));
    }
    Ok((report, found.needs()))
}

async fn look_at_volume(
    target: &dyn Target,
    home: &VolumeHome,
    chain: &Chain,
    needs: &BTreeMap<Location, Vec<Needs>>,
) -> Result<VolumeReport, RepositoryError> {
    let heads: BTreeSet<&ImageId> = needs
        .values()
        .flatten()
        .filter(|needs| needs.home == *home)
        .filter_map(|needs| needs.images.first())
        .collect();
    let images: Vec<ImageReport> = chain
        .images()
        .iter()
        .map(|entry| ImageReport {
            id: entry.id.clone(),
            parent: entry.parent.clone(),
            stored: entry.stored(),
            encrypted: entry.is_sealed(),
            is_point: heads.contains(&entry.id),
        })
        .collect();
    let named: BTreeSet<&str> = chain.file.as_ref().map(ChainFile::files).unwrap_or_default();
    let waiting = chain
        .file
        .iter()
        .flat_map(|file| &file.unlinked)
        .flat_map(|unlinked| &unlinked.files);
    let waiting: BTreeSet<&str> = waiting.map(String::as_str).collect();
    let (mut unlinked, mut garbage) = (0, 0);
    for object in list_all(target, &home.prefix(), MAX_OBJECTS).await? {
        let name = object.key.file_name();
        if home.image_of(&object.key).is_none() || named.contains(name) {
            continue;
        }
        match waiting.contains(name) {
            true => unlinked += object.size,
            false => garbage += object.size,
        }
    }
    Ok(VolumeReport {
        home: home.clone(),
        generation: chain.file.as_ref().map(|file| file.generation),
        problem: chain.damage.clone(),
        hidden: images
            .iter()
            .filter(|image| !image.is_point)
            .map(|image| image.stored)
            .sum(),
        images,
        unlinked,
        garbage,
    })
}

/// Bytes of images that only this point needs.
fn freed(
    location: &Location,
    needs: &BTreeMap<Location, Vec<Needs>>,
    chains: &BTreeMap<VolumeHome, Chain>,
) -> u64 {
    let mut freed = 0;
    for own in needs.get(location).into_iter().flatten() {
        let Some(file) = chains.get(&own.home).and_then(|chain| chain.file.as_ref()) else {
            continue;
        };
        let below = |of: &Needs| -> BTreeSet<ImageId> {
            let chain = of
                .images
                .first()
                .and_then(|head| file.chain_of(head))
                .unwrap_or_default();
            chain.into_iter().map(|entry| entry.id.clone()).collect()
        };
        let others = needs
            .iter()
            .filter(|(other, _)| *other != location)
            .flat_map(|(_, needs)| needs);
        let kept: BTreeSet<ImageId> = others
            .filter(|needs| needs.home == own.home)
            .flat_map(below)
            .collect();
        let gone = below(own).into_iter().filter(|id| !kept.contains(id));
        freed += gone
            .filter_map(|id| file.entry(&id))
            .map(crate::chain::Entry::stored)
            .sum::<u64>();
    }
    freed
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use holdfast_target::testing::MemoryTarget;

    use super::*;
    use crate::chain::tests::{home, image, put_chain};

    /// A point in clear whose volume has these images, newest first.
    async fn put_point(target: &MemoryTarget, backup: &str, images: &[&str]) {
        let mut manifest = point::tests::manifest(&format!("cluster/plan/{backup}"));
        let chain = newest(target, &home()).await.unwrap().file.unwrap();
        let volume = &mut manifest.volumes[0];
        volume.home = home();
        volume.chain = chain
            .records_of(&crate::chain::tests::id(images[0]), None)
            .unwrap();
        volume.image = volume.chain[0].id.clone();
        let body = Bytes::from(manifest.to_bytes());
        target.put(&manifest.location.commit_key(), body).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_point_would_free_is_what_it_alone_needs() {
        let target = MemoryTarget::new();
        put_chain(
            &target,
            &[
                ("aaaa", None),
                ("bb", Some("aaaa")),
                ("c", Some("bb")),
                ("full", None),
            ],
        )
        .await;
        put_point(&target, "bb", &["bb", "aaaa"]).await;
        put_point(&target, "c", &["c", "bb", "aaaa"]).await;
        put_point(&target, "full", &["full"]).await;
        image(&target, "dead", None).await;
        let (cluster, plan) = (home().cluster, home().plan);
        let report = inspect(&target, &cluster, &plan).await.unwrap();
        let frees: Vec<u64> = report
            .points
            .iter()
            .map(|point| point.frees - point.documents)
            .collect();
        // Image and index of each are as long as their names.
        assert_eq!(frees, [0, 2, 8], "bb is needed by c, c alone is 2, full is 8");
        let volume = &report.volumes[0];
        assert_eq!((volume.hidden, volume.unlinked, volume.garbage), (8, 0, 8));
        assert!(
            report
                .points
                .iter()
                .all(|point| point.state == PointState::Clear && point.backup.is_some())
        );
    }
}
