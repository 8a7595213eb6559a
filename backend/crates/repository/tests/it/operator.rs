//! What the operator and its movers do with a target, step by step and in the same order, without Kubernetes.

mod reading;
mod removal;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use holdfast_core::chain::FullReason;
use holdfast_mover::{BackupJob, MoverError, Progress};
use holdfast_repository::chain::{self, Chain, ChainFile, Sealing};
use holdfast_repository::keys::{self, Holders, Identity, Rotation};
use holdfast_repository::lock::{self, Terms};
use holdfast_repository::{RepositoryError, choose_base, point};
use holdfast_seal::{DataKey, KeyId, KeyRing, PlanKey, seal_document};
use holdfast_target::layout::{
    Attempt, BackupManifest, BackupType, ClusterRecord, Digest, FORMAT_VERSION, FileRecord, ImageId,
    ImageKind, ImageRecord, Location, NamespaceRecord, SourceRecord, Uid, VolumeHome, VolumeMode,
    VolumeRecord,
};
use holdfast_target::{Creation, Key, Target, TargetError};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

pub(crate) use self::reading::{Opened, OpenedVolume};
pub(crate) use self::removal::Merged;
use crate::volume::Volume;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Mover(#[from] MoverError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("{0} is damaged")]
    Damaged(Key),
}

impl Failure {
    /// What a backup was to lie upon is gone.
    pub(crate) fn has_lost_its_base(&self) -> bool {
        matches!(
            self,
            Self::Repository(RepositoryError::Broken { .. }) | Self::Mover(MoverError::Damaged { .. })
        )
    }

    pub(crate) fn target(&self) -> Option<&TargetError> {
        match self {
            Self::Repository(RepositoryError::Target(error))
            | Self::Mover(MoverError::Target(error))
            | Self::Target(error) => Some(error),
            _ => None,
        }
    }
}

/// A backup that somebody asked for.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) backup: Uid,
    pub(crate) attempt: Attempt,
    pub(crate) incremental: bool,
    /// What stands for the captured objects.
    pub(crate) objects: Bytes,
}

/// One plan of one cluster.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) cluster: Uid,
    pub(crate) plan: Uid,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) holders: Holders,
    /// Whether backups are encrypted.
    pub(crate) encrypts: bool,
    /// For how long what is stored is locked, where it is.
    pub(crate) terms: Option<Terms>,
    merging: Mutex<BTreeSet<(VolumeHome, ImageId)>>,
}

impl Operator {
    pub(crate) fn new(volumes: Vec<Volume>, holders: Holders, encrypts: bool) -> Self {
        Self {
            cluster: "cluster".parse().unwrap(),
            plan: "plan".parse().unwrap(),
            volumes,
            holders,
            encrypts,
            terms: None,
            merging: Mutex::default(),
        }
    }

    /// The same on a target that locks.
    pub(crate) fn locking(self, terms: Option<Terms>) -> Self {
        Self { terms, ..self }
    }

    fn merging(&self) -> MutexGuard<'_, BTreeSet<(VolumeHome, ImageId)>> {
        self.merging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn location(&self, backup: &Uid) -> Location {
        Location {
            cluster: self.cluster.clone(),
            plan: self.plan.clone(),
            backup: backup.clone(),
        }
    }

    pub(crate) fn home(&self, volume: &Volume) -> VolumeHome {
        VolumeHome {
            cluster: self.cluster.clone(),
            plan: self.plan.clone(),
            claim: volume.claim.clone(),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::Plan(self.holders.plan.clone())
    }

    pub(crate) async fn ring<'a>(
        &self,
        target: &dyn Target,
        ids: impl IntoIterator<Item = &'a KeyId>,
        identity: &Identity,
    ) -> Result<KeyRing, Failure> {
        Ok(keys::ring(target, &self.cluster, &self.plan, ids, identity).await?)
    }

    /// Keys of what a chain names, as far as they are there.
    pub(crate) async fn present<'a>(
        &self,
        target: &dyn Target,
        ids: impl IntoIterator<Item = &'a KeyId>,
    ) -> Result<KeyRing, Failure> {
        Ok(keys::ring_of_present(target, &self.cluster, &self.plan, ids, &self.identity()).await?)
    }

    async fn ring_of_run(
        &self,
        target: &dyn Target,
        chain: &Chain,
        own: Option<&DataKey>,
    ) -> Result<Option<KeyRing>, Failure> {
        let Some(own) = own else { return Ok(None) };
        let of_chain = chain.file.as_ref().map(ChainFile::keys).unwrap_or_default();
        let ids = of_chain.into_iter().chain([own.id()]);
        self.present(target, ids).await.map(Some)
    }

    /// Takes a backup: everything that is stored, then the commit object. A run that finds its own point is over.
    pub(crate) async fn backup(
        &self,
        target: &Arc<dyn Target>,
        run: &Run,
    ) -> Result<BackupManifest, Failure> {
        let location = self.location(&run.backup);
        let seal = match self.encrypts {
            true => Some(keys::ensure(&**target, &location, &self.holders).await?),
            false => None,
        };
        if let Some(there) = self.committed(&**target, &location, seal.as_ref()).await? {
            return Ok(there);
        }
        let objects = self
            .store_objects(&**target, &location, run, seal.as_ref())
            .await?;
        let mut images = Vec::new();
        for volume in &self.volumes {
            images.push(Box::pin(self.transfer(target, run, volume, seal.as_ref())).await?);
        }
        let mut volumes = Vec::new();
        for (volume, image) in self.volumes.iter().zip(images) {
            volumes.push(self.put_on_chain(&**target, volume, image, seal.as_ref()).await?);
        }
        let manifest = self.manifest(&location, run, objects, volumes);
        let manifest = self.secured(&**target, manifest).await?;
        let manifest = match point::commit(&**target, &manifest, seal.as_ref()).await? {
            Creation::Created(_) => manifest,
            Creation::Exists => {
                let there = self.committed(&**target, &location, seal.as_ref()).await?;
                there.expect("nobody removes it meanwhile")
            }
        };
        if let Some(until) = manifest.locked_until {
            lock::complete(&**target, &location, manifest.attempt, until).await?;
        }
        Ok(manifest)
    }

    /// With everything locked that the document names, where the target locks.
    pub(crate) async fn secured(
        &self,
        target: &dyn Target,
        mut manifest: BackupManifest,
    ) -> Result<BackupManifest, Failure> {
        if let Some(terms) = &self.terms {
            let identity = self.encrypts.then(|| self.identity());
            lock::secure(target, &mut manifest, identity.as_ref(), terms, Timestamp::now()).await?;
        }
        Ok(manifest)
    }

    async fn committed(
        &self,
        target: &dyn Target,
        location: &Location,
        seal: Option<&DataKey>,
    ) -> Result<Option<BackupManifest>, Failure> {
        let Some(found) = point::read(target, location).await? else {
            return Ok(None);
        };
        let ring = self.ring_of_run(target, &Chain::default(), seal).await?;
        Ok(Some(found.open(ring.as_ref())?))
    }

    async fn store_objects(
        &self,
        target: &dyn Target,
        location: &Location,
        run: &Run,
        seal: Option<&DataKey>,
    ) -> Result<FileRecord, Failure> {
        let key = location.objects_key(run.attempt);
        let stored = match seal {
            Some(seal) => seal_document(seal, key.as_str(), &run.objects).unwrap().into(),
            None => run.objects.clone(),
        };
        let (size, blake3) = (stored.len() as u64, Digest::of(&stored));
        Ok(FileRecord {
            key: Location::objects_name(run.attempt),
            size,
            version: target.put(&key, stored).await?.version,
            blake3,
            count: 1,
        })
    }

    /// What the next image of a volume would go on top of, for a run that has not begun.
    pub(crate) async fn base_for(
        &self,
        target: &dyn Target,
        volume: &Volume,
    ) -> Result<Result<Vec<ImageRecord>, FullReason>, Failure> {
        let home = self.home(volume);
        let found = chain::newest(target, &home).await?;
        let ring = match self.encrypts {
            true => Some(self.all_keys(target, &self.identity()).await?),
            false => None,
        };
        let chosen = choose_base(target, &home, &found, volume.size(), ring.as_deref()).await?;
        self.lasting(target, &home, chosen).await
    }

    /// What was chosen, unless its lock ends too soon.
    async fn lasting(
        &self,
        target: &dyn Target,
        home: &VolumeHome,
        chosen: Result<Vec<ImageRecord>, FullReason>,
    ) -> Result<Result<Vec<ImageRecord>, FullReason>, Failure> {
        let (Ok(chain), Some(terms)) = (&chosen, &self.terms) else {
            return Ok(chosen);
        };
        let goes_on = lock::continues(target, home, chain, terms, Timestamp::now()).await?;
        Ok(goes_on.and(chosen))
    }

    async fn base(
        &self,
        target: &dyn Target,
        volume: &Volume,
        seal: Option<&DataKey>,
    ) -> Result<Result<Vec<ImageRecord>, FullReason>, Failure> {
        let home = self.home(volume);
        let found = chain::newest(target, &home).await?;
        let ring = self.ring_of_run(target, &found, seal).await?;
        let chosen = choose_base(target, &home, &found, volume.size(), ring.as_ref()).await?;
        self.lasting(target, &home, chosen).await
    }

    async fn transfer(
        &self,
        target: &Arc<dyn Target>,
        run: &Run,
        volume: &Volume,
        seal: Option<&DataKey>,
    ) -> Result<ImageRecord, Failure> {
        let parents = match run.incremental {
            true => self.base(&**target, volume, seal).await?.unwrap_or_default(),
            false => Vec::new(),
        };
        let ids: BTreeSet<KeyId> = keys_of(&parents)
            .chain(seal.map(|key| key.id().clone()))
            .collect();
        let ring = self.ring(&**target, &ids, &self.identity()).await?;
        let job = BackupJob {
            device: volume.path.clone(),
            source: None,
            home: self.home(volume),
            image: ImageId {
                backup: run.backup.clone(),
                attempt: run.attempt,
            },
            cluster_size: parents
                .first()
                .map_or(volume.cluster_size, |newest| newest.cluster_size),
            parents,
            seal: seal.map(|key| key.id().clone()),
            heal: Vec::new(),
        };
        let (progress, stop) = (Arc::new(Progress::new()), CancellationToken::new());
        Ok(holdfast_mover::backup(target.clone(), &job, Arc::new(ring), progress, stop).await?)
    }

    async fn put_on_chain(
        &self,
        target: &dyn Target,
        volume: &Volume,
        image: ImageRecord,
        seal: Option<&DataKey>,
    ) -> Result<VolumeRecord, Failure> {
        let home = self.home(volume);
        let found = chain::newest(target, &home).await?;
        let ring = self.ring_of_run(target, &found, seal).await?;
        let sealing = seal
            .zip(ring.as_ref())
            .map(|(seal, ring)| Sealing { ring, key: seal.id() });
        let (generation, chain) = chain::append(target, &home, &image, sealing).await?;
        Ok(VolumeRecord {
            claim: volume.claim.to_string(),
            claim_uid: volume.claim.clone(),
            generation,
            capacity: image.virtual_size,
            image: image.id,
            volume_mode: VolumeMode::Block,
            storage_class: None,
            driver: "driver".to_owned(),
            fs_type: None,
            access_modes: vec!["ReadWriteOnce".to_owned()],
            snapshot_time: Timestamp::UNIX_EPOCH,
            chain,
            locked_until: None,
            home,
        })
    }

    fn manifest(
        &self,
        location: &Location,
        run: &Run,
        objects: FileRecord,
        volumes: Vec<VolumeRecord>,
    ) -> BackupManifest {
        let source = |uid: &Uid| SourceRecord {
            namespace: "shop".to_owned(),
            name: uid.to_string(),
            uid: uid.clone(),
        };
        let full = volumes
            .iter()
            .filter(|v| v.chain[0].kind == ImageKind::Full)
            .count();
        BackupManifest {
            format: FORMAT_VERSION,
            location: location.clone(),
            attempt: run.attempt,
            created_by: "holdfast test".to_owned(),
            cluster: ClusterRecord {
                uid: location.cluster.clone(),
            },
            plan: source(&location.plan),
            backup: source(&location.backup),
            backup_type: match full {
                0 => BackupType::Incremental,
                full if full == volumes.len() => BackupType::Full,
                _ => BackupType::Mixed,
            },
            requester: None,
            started: Timestamp::UNIX_EPOCH,
            completed: Timestamp::UNIX_EPOCH,
            namespace: NamespaceRecord {
                name: "shop".to_owned(),
                uid: "shop".parse().unwrap(),
                labels: [].into(),
                annotations: [].into(),
            },
            objects,
            volumes,
            excluded_claims: Vec::new(),
            locked_until: None,
        }
    }

    /// Wraps all keys for the holders of this operator, which `old` has opened until now.
    pub(crate) async fn rotate(&self, target: &dyn Target, old: &PlanKey) -> Result<Rotation, Failure> {
        Ok(keys::rotate(target, &self.cluster, &self.plan, old, &self.holders).await?)
    }
}

/// Data keys of everything in these images.
fn keys_of(images: &[ImageRecord]) -> impl Iterator<Item = KeyId> {
    let shards = images.iter().flat_map(|image| &image.shards);
    let objects = shards.flat_map(|shard| [&shard.image, &shard.index]);
    let layouts = objects.filter_map(|object| object.seal.as_ref());
    layouts.flat_map(|layout| layout.key_ids()).cloned()
}
