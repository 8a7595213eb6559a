//! Points: the commit object, in clear or sealed, and what lies beside it.
//!
//! A sealed commit object keeps a clear shell: where it lies, which key opens it, and which images it needs. All that
//! stands in object names anyway, so the sweeper and lists work without keys. A restore believes only what was sealed.

use std::collections::BTreeSet;

use bytes::Bytes;
use holdfast_seal::{DataKey, KeyId, KeyRing, open_document, seal_document};
use holdfast_target::layout::{
    Attempt, BackupManifest, DocumentError, FORMAT_VERSION, ImageId, Location, MAX_MANIFEST, Uid, VolumeHome,
    parse_document, points_prefix, print_document, volumes_prefix,
};
use holdfast_target::{Creation, ErrorKind, Key, ListRequest, Prefix, Target, each_page, list_all};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::check_size;
use crate::lock::remove;
use crate::shell::Sealed;
use crate::{MAX_OBJECTS, RepositoryError};

/// Most objects beside all points of a target that are counted.
const MAX_COUNTED: usize = 10_000_000;

/// A commit object as it lies on the target.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitObject {
    /// Everybody can read it.
    Clear(Box<BackupManifest>),
    /// Only its shell can be read without a key.
    Sealed(SealedPoint),
}

/// A commit object that a key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedPoint {
    format: u32,
    location: Location,
    attempt: Attempt,
    key: KeyId,
    needs: Vec<Needs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locked_until: Option<Timestamp>,
    sealed: Sealed,
}

/// What a point needs of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Needs {
    /// The volume.
    pub home: VolumeHome,
    /// Images as they were when it was committed, newest first: the first one is the point, the others lie below it.
    pub images: Vec<ImageId>,
}

impl CommitObject {
    /// Reads the commit object that lies at `location`.
    ///
    /// # Errors
    /// [`RepositoryError::Document`].
    pub fn parse(location: &Location, bytes: &[u8]) -> Result<Self, RepositoryError> {
        #[derive(Deserialize)]
        struct Kind {
            sealed: Option<serde::de::IgnoredAny>,
        }
        let document = location.commit_key().to_string();
        let kind: Kind = parse_document(&document, bytes)?;
        if kind.sealed.is_none() {
            return Ok(Self::Clear(Box::new(BackupManifest::parse(location, bytes)?)));
        }
        let point: SealedPoint = parse_document(&document, bytes)?;
        let inconsistent = |problem: String| {
            let document = document.clone();
            Err(DocumentError::Inconsistent { document, problem }.into())
        };
        if point.location != *location {
            return inconsistent(format!("it belongs to {}", point.location));
        }
        if point.key.as_str() != location.backup.as_str() {
            return inconsistent(format!("it is sealed under the key of {}", point.key));
        }
        if point.needs.iter().any(|needs| needs.images.is_empty()) {
            return inconsistent("it names a volume without an image".to_owned());
        }
        Ok(Self::Sealed(point))
    }

    /// The commit object of a point, sealed where a key is given, as it is stored.
    ///
    /// # Errors
    /// [`RepositoryError::TooLarge`], [`RepositoryError::Internal`] for a key of another backup.
    pub fn encode(manifest: &BackupManifest, seal: Option<&DataKey>) -> Result<Vec<u8>, RepositoryError> {
        let clear = manifest.to_bytes();
        let bytes = match seal {
            None => clear,
            Some(key) if key.location().as_str() == manifest.location.to_string() => {
                let context = manifest.location.commit_key();
                let sealed = seal_document(key, context.as_str(), &clear)
                    .map_err(|error| RepositoryError::Internal(error.to_string()))?;
                print_document(&SealedPoint {
                    format: FORMAT_VERSION,
                    location: manifest.location.clone(),
                    attempt: manifest.attempt,
                    key: key.id().clone(),
                    needs: needs_of(manifest),
                    locked_until: manifest.locked_until,
                    sealed: Sealed(sealed),
                })
            }
            Some(key) => {
                let text = format!("{} cannot be sealed for {}", manifest.location, key.location());
                return Err(RepositoryError::Internal(text));
            }
        };
        check_size("the commit object", bytes.len(), MAX_MANIFEST)?;
        Ok(bytes)
    }

    /// The attempt that was committed.
    pub fn attempt(&self) -> Attempt {
        match self {
            Self::Clear(manifest) => manifest.attempt,
            Self::Sealed(point) => point.attempt,
        }
    }

    /// The data key it is sealed under.
    pub fn key(&self) -> Option<&KeyId> {
        match self {
            Self::Clear(_) => None,
            Self::Sealed(point) => Some(&point.key),
        }
    }

    /// Until when it says that all it needs is locked.
    pub fn locked_until(&self) -> Option<Timestamp> {
        match self {
            Self::Clear(manifest) => manifest.locked_until,
            Self::Sealed(point) => point.locked_until,
        }
    }

    /// What it needs of every volume.
    pub fn needs(&self) -> Vec<Needs> {
        match self {
            Self::Clear(manifest) => needs_of(manifest),
            Self::Sealed(point) => point.needs.clone(),
        }
    }

    /// What was committed. Whoever gives a key wants what was sealed: a point in clear is refused then, since anybody who
    /// can write to the target could have put it there.
    ///
    /// # Errors
    /// [`RepositoryError::NotSealed`], [`RepositoryError::NeedsKey`], [`RepositoryError::Sealed`],
    /// [`RepositoryError::Document`].
    pub fn open(self, keys: Option<&KeyRing>) -> Result<BackupManifest, RepositoryError> {
        match (self, keys) {
            (Self::Clear(manifest), None) => Ok(*manifest),
            (Self::Clear(manifest), Some(_)) => Err(RepositoryError::NotSealed {
                document: manifest.location.commit_key().to_string(),
            }),
            (Self::Sealed(point), None) => Err(RepositoryError::NeedsKey {
                document: point.location.commit_key().to_string(),
            }),
            (Self::Sealed(point), Some(keys)) => point.open(keys),
        }
    }
}

impl SealedPoint {
    fn open(self, keys: &KeyRing) -> Result<BackupManifest, RepositoryError> {
        let document = self.location.commit_key().to_string();
        let clear = open_document(&document, &self.sealed.0, keys, MAX_MANIFEST)
            .map_err(|source| RepositoryError::sealed(&document, source))?;
        let manifest = BackupManifest::parse(&self.location, &clear)?;
        if manifest.attempt != self.attempt
            || manifest.locked_until != self.locked_until
            || needs_of(&manifest) != self.needs
        {
            let problem = "its clear part says something else than what was sealed".to_owned();
            return Err(DocumentError::Inconsistent { document, problem }.into());
        }
        Ok(manifest)
    }
}

fn needs_of(manifest: &BackupManifest) -> Vec<Needs> {
    let needs = manifest.volumes.iter().map(|volume| Needs {
        home: volume.home.clone(),
        images: volume.chain.iter().map(|image| image.id.clone()).collect(),
    });
    needs.collect()
}

/// Whether the point has its commit object.
///
/// # Errors
/// Those of the store.
pub async fn is_committed(target: &dyn Target, location: &Location) -> Result<bool, RepositoryError> {
    match target.head(&location.commit_key()).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The commit object of a point, if there is one.
///
/// # Errors
/// [`RepositoryError::Document`] and those of the store.
pub async fn read(target: &dyn Target, location: &Location) -> Result<Option<CommitObject>, RepositoryError> {
    match target.get(&location.commit_key(), MAX_MANIFEST).await {
        Ok(object) => CommitObject::parse(location, &object.body).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Commits a point, unless it is committed already. Everything it names is stored; nothing comes after it but, where it
/// says that it is locked, the lock of the commit object itself: [`crate::lock::complete`].
///
/// # Errors
/// [`CommitObject::encode`] and those of the store.
pub async fn commit(
    target: &dyn Target,
    manifest: &BackupManifest,
    seal: Option<&DataKey>,
) -> Result<Creation, RepositoryError> {
    let body = Bytes::from(CommitObject::encode(manifest, seal)?);
    Ok(target.put_new(&manifest.location.commit_key(), body).await?)
}

/// Removes a point: the commit object first, so that it is no point from then on, then its files.
///
/// # Errors
/// Those of the store; [`ErrorKind::Locked`] where the point has to stay, which [`crate::lock::held_until`] tells before.
pub async fn erase(target: &dyn Target, location: &Location) -> Result<(), RepositoryError> {
    target.delete(&[location.commit_key()]).await?;
    Ok(target.delete(&files(target, location).await?).await?)
}

/// Removes what a run without commit left under its point: every file, unless there is a commit object. Returns how many.
///
/// # Errors
/// Those of the store.
pub async fn erase_uncommitted(target: &dyn Target, location: &Location) -> Result<usize, RepositoryError> {
    if is_committed(target, location).await? {
        return Ok(0);
    }
    let rest = files(target, location).await?;
    // Committed meanwhile, or something between us and the store answers that it is not.
    if rest.contains(&location.commit_key()) {
        return Ok(0);
    }
    remove(target, &rest).await
}

/// Files of captured objects that attempts before this one left beside a point. Looked up, not thought up: the number
/// is what somebody wrote on the target.
///
/// # Errors
/// Those of the store.
pub async fn abandoned(
    target: &dyn Target,
    location: &Location,
    committed: Attempt,
) -> Result<Vec<Key>, RepositoryError> {
    if committed <= Attempt(1) {
        return Ok(Vec::new());
    }
    let older = |key: &Key| {
        location
            .attempt_of(key)
            .is_some_and(|attempt| attempt < committed)
    };
    Ok(files(target, location).await?.into_iter().filter(older).collect())
}

async fn files(target: &dyn Target, location: &Location) -> Result<Vec<Key>, RepositoryError> {
    let found = list_all(target, &location.prefix(), MAX_OBJECTS).await?;
    Ok(found.into_iter().map(|object| object.key).collect())
}

/// Clusters that have points on the target.
///
/// # Errors
/// Those of the store.
pub async fn clusters(target: &dyn Target) -> Result<BTreeSet<Uid>, RepositoryError> {
    Ok(children(target, points_prefix().as_str())
        .await?
        .into_iter()
        .collect())
}

/// Plans of a cluster that have anything on the target.
///
/// # Errors
/// Those of the store.
pub async fn plans(target: &dyn Target, cluster: &Uid) -> Result<BTreeSet<Uid>, RepositoryError> {
    let mut found = BTreeSet::new();
    for root in [points_prefix(), volumes_prefix()] {
        found.extend(children(target, &format!("{root}{cluster}/")).await?);
    }
    Ok(found)
}

/// Points of a plan, committed or not.
///
/// # Errors
/// Those of the store.
pub async fn points(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
) -> Result<Vec<Location>, RepositoryError> {
    let backups = children(target, &format!("{}{cluster}/{plan}/", points_prefix())).await?;
    let location = |backup| Location {
        cluster: cluster.clone(),
        plan: plan.clone(),
        backup,
    };
    Ok(backups.into_iter().map(location).collect())
}

/// Volumes of a plan.
///
/// # Errors
/// Those of the store.
pub async fn homes(
    target: &dyn Target,
    cluster: &Uid,
    plan: &Uid,
) -> Result<Vec<VolumeHome>, RepositoryError> {
    let claims = children(target, &format!("{}{cluster}/{plan}/", volumes_prefix())).await?;
    let home = |claim| VolumeHome {
        cluster: cluster.clone(),
        plan: plan.clone(),
        claim,
    };
    Ok(claims.into_iter().map(home).collect())
}

/// Names of the folders under a prefix that are UIDs; others are none of ours.
async fn children(target: &dyn Target, prefix: &str) -> Result<Vec<Uid>, RepositoryError> {
    let prefix: Prefix = prefix
        .parse()
        .map_err(|error| RepositoryError::Internal(format!("{error}")))?;
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
///
/// # Errors
/// Those of the store.
pub async fn count(target: &dyn Target) -> Result<u64, RepositoryError> {
    let mut count = 0;
    let all = ListRequest::all(points_prefix());
    each_page(target, all, MAX_COUNTED, |page| {
        let commits = page
            .objects
            .iter()
            .filter_map(|object| Location::of_commit_key(&object.key));
        count += commits.count() as u64;
    })
    .await?;
    Ok(count)
}

#[cfg(test)]
pub(crate) mod tests;
