//! Restores and verifications.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_mover::{Progress, RestoreJob, VerifyJob, VerifyReport, VerifyScope};
use holdfast_repository::chain::{self, Resolved};
use holdfast_repository::keys::{self, Identity};
use holdfast_repository::point;
use holdfast_seal::{KeyRing, open_document};
use holdfast_target::Target;
use holdfast_target::layout::{Digest, ImageRecord, Location, VolumeHome};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Failure, Operator};

/// A point as a restore sees it.
pub(crate) struct Opened {
    pub(crate) objects: Bytes,
    pub(crate) volumes: Vec<OpenedVolume>,
}

/// A volume of it, with the images that stand for it now and their keys.
pub(crate) struct OpenedVolume {
    pub(crate) home: VolumeHome,
    pub(crate) resolved: Resolved,
    pub(crate) ring: Arc<KeyRing>,
}

impl Operator {
    /// Every data key of the plan.
    pub(crate) async fn all_keys(
        &self,
        target: &dyn Target,
        identity: &Identity,
    ) -> Result<Arc<KeyRing>, Failure> {
        let ids = keys::all(target, &self.cluster, &self.plan).await?;
        Ok(Arc::new(self.ring(target, &ids, identity).await?))
    }

    /// Opens a point; with keys it has to be sealed.
    pub(crate) async fn open(
        &self,
        target: &dyn Target,
        location: &Location,
        keys: Option<&Arc<KeyRing>>,
    ) -> Result<Option<Opened>, Failure> {
        let Some(found) = point::read(target, location).await? else {
            return Ok(None);
        };
        let ring = keys.map(|ring| &**ring);
        let manifest = found.open(ring)?;
        let key = location.objects_key(manifest.attempt);
        let stored = target.get(&key, manifest.objects.size).await?.body;
        if Digest::of(&stored) != manifest.objects.blake3 {
            return Err(Failure::Damaged(key));
        }
        let objects = match ring {
            Some(ring) => open_document(key.as_str(), &stored, ring, 1 << 20)
                .map_err(|_| Failure::Damaged(key))?
                .into(),
            None => stored,
        };
        let mut volumes = Vec::new();
        for volume in &manifest.volumes {
            volumes.push(OpenedVolume {
                home: volume.home.clone(),
                resolved: chain::resolve(target, volume, ring, Timestamp::now()).await?,
                ring: keys.cloned().unwrap_or_default(),
            });
        }
        Ok(Some(Opened { objects, volumes }))
    }

    /// Writes a volume of a point over a file full of something else.
    pub(crate) async fn restore(
        &self,
        target: &Arc<dyn Target>,
        volume: &OpenedVolume,
        device: &Path,
    ) -> Result<Vec<u8>, Failure> {
        let size = usize::try_from(volume.resolved.chain[0].virtual_size).unwrap();
        fs::write(device, vec![0xa5; size]).unwrap();
        let job = RestoreJob {
            device: device.to_owned(),
            home: volume.home.clone(),
            chain: volume.resolved.chain.clone(),
            from: 0,
        };
        let (progress, stop) = (Arc::new(Progress::new()), CancellationToken::new());
        let keys = volume.ring.clone();
        Box::pin(holdfast_mover::restore(
            target.clone(),
            &job,
            keys,
            progress,
            stop,
        ))
        .await?;
        Ok(fs::read(device).unwrap())
    }

    pub(crate) async fn verify(
        &self,
        target: &Arc<dyn Target>,
        home: &VolumeHome,
        images: Vec<ImageRecord>,
        ring: Arc<KeyRing>,
        scope: VerifyScope,
    ) -> Result<VerifyReport, Failure> {
        let job = VerifyJob {
            home: home.clone(),
            images,
            scope,
        };
        let (progress, stop) = (Arc::new(Progress::new()), CancellationToken::new());
        Ok(Box::pin(holdfast_mover::verify(target.clone(), &job, ring, progress, stop)).await?)
    }
}
