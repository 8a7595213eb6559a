//! Commit: the chains get their new images, then, last, the commit object makes the point.

use holdfast_crd::names::{conditions, reasons};
use holdfast_crd::{BackupPhase, PhaseState, VolumeTransfer};
use holdfast_k8s::set_condition;
use holdfast_repository::{chain, lock, point};
use holdfast_target::layout::{
    Attempt, BackupManifest, BackupType, ClusterRecord, FORMAT_VERSION, FileRecord, ImageKind, ImageRecord,
    Location, NamespaceRecord, SourceRecord, VolumeMode, VolumeRecord,
};
use holdfast_target::{Creation, Target as Store, Version};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::sealing::Seal;
use super::{Run, Step, Stop, uid};
use crate::failure::Failure;
use crate::{locks, phases};

impl Run {
    /// Phase Commit.
    pub(super) async fn commit(&mut self) -> Result<Step, Stop> {
        let store = self.store().await?;
        let location = self.location()?;
        // An operator that died right after the commit finds its own point.
        let manifest = match self.committed(&*store, &location).await? {
            Some(manifest) => manifest,
            None => self.write_manifest(&*store, &location).await?,
        };
        // A point that is there and not locked yet is not complete: whoever goes on with the run comes here again.
        if let Some(until) = manifest.locked_until {
            lock::complete(&*store, &location, manifest.attempt, until)
                .await
                .map_err(Failure::from)?;
        }
        self.succeed(&location, &manifest).await?;
        Ok(Step::Over)
    }

    /// The point, if it is there already.
    async fn committed(
        &self,
        store: &dyn Store,
        location: &Location,
    ) -> Result<Option<BackupManifest>, Stop> {
        let Some(found) = point::read(store, location).await.map_err(Failure::from)? else {
            return Ok(None);
        };
        let ring = match self.seal().await? {
            Some(seal) => Some(seal.ring(store, &chain::Chain::default()).await?),
            None => None,
        };
        Ok(Some(found.open(ring.as_ref()).map_err(Failure::from)?))
    }

    async fn write_manifest(
        &mut self,
        store: &dyn Store,
        location: &Location,
    ) -> Result<BackupManifest, Stop> {
        let transfers = self.transfers().await?;
        let seal = self.seal().await?;
        let mut volumes = Vec::new();
        for progress in &self.status.volumes {
            let transfer = transfers.iter().find(|t| t.name_any() == progress.transfer);
            let transfer = transfer.ok_or_else(|| {
                let text = format!(
                    "the transfer of claim {} is gone before its image was committed",
                    progress.claim
                );
                Failure::lasting(reasons::TRANSFER_FAILED, text)
            })?;
            volumes.push(volume_record(store, transfer, seal.as_ref()).await?);
        }
        let mut manifest = self.manifest(location, volumes).await?;
        if let Some(terms) = &self.status.lock_terms {
            let (terms, identity) = (locks::of(terms), seal.as_ref().map(Seal::identity));
            lock::secure(store, &mut manifest, identity.as_ref(), &terms, Timestamp::now())
                .await
                .map_err(Failure::from)?;
        }
        // The fence: only who can still write this version of the resource may commit. Cancel, deletion and another
        // operator's writes all change it.
        self.still_ours().await?;
        let created = point::commit(store, &manifest, seal.as_ref().map(Seal::key)).await;
        if created.map_err(Failure::from)? == Creation::Exists {
            let found = self.committed(store, location).await?;
            return found.ok_or_else(|| {
                Failure::passing(
                    reasons::CONFLICT,
                    format!("{location} was committed and removed again"),
                )
                .into()
            });
        }
        Ok(manifest)
    }

    /// Writes something into the status, which fails when the resource has changed.
    async fn still_ours(&mut self) -> Result<(), Stop> {
        self.progress(reasons::IN_PROGRESS, "the commit object is being written");
        let before = self.backup.resource_version();
        self.save().await?;
        if before != self.backup.resource_version() {
            return Ok(());
        }
        let current = self.api().get(&self.backup.name_any()).await?;
        if current.resource_version() == before {
            Ok(())
        } else {
            Err(Stop::Changed)
        }
    }

    async fn manifest(
        &self,
        location: &Location,
        volumes: Vec<VolumeRecord>,
    ) -> Result<BackupManifest, Failure> {
        let namespace = self
            .ctx()
            .cluster_wide::<Namespace>()
            .get(&self.namespace())
            .await?;
        if namespace.metadata.deletion_timestamp.is_some() {
            let text = "the namespace is being deleted, so its objects vanished while they were captured";
            return Err(Failure::lasting(reasons::CAPTURE_INCOMPLETE, text));
        }
        let file = self.status.objects_file.clone().unwrap_or_default();
        let source = |name: String, uid| SourceRecord {
            namespace: self.namespace(),
            name,
            uid,
        };
        let now = Timestamp::now();
        Ok(BackupManifest {
            format: FORMAT_VERSION,
            location: location.clone(),
            attempt: Attempt(self.status.attempt),
            created_by: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
            cluster: ClusterRecord {
                uid: location.cluster.clone(),
            },
            plan: source(self.backup.spec.backup_plan.name.clone(), location.plan.clone()),
            backup: source(self.backup.name_any(), location.backup.clone()),
            backup_type: type_of(&volumes),
            requester: self.backup.spec.requester.as_ref().map(|r| r.user.clone()),
            started: self.status.start_timestamp.as_ref().map_or(now, |t| t.0),
            completed: now,
            namespace: NamespaceRecord {
                name: self.namespace(),
                uid: uid(&namespace.uid().unwrap_or_default())?,
                labels: namespace.labels().clone(),
                annotations: namespace.annotations().clone(),
            },
            objects: FileRecord {
                key: Location::objects_name(Attempt(self.status.attempt)),
                size: file.size,
                version: file.version.as_deref().map(Version::new),
                blake3: file
                    .blake3
                    .parse()
                    .map_err(|e| Failure::lasting(reasons::INTERNAL, format!("{e}")))?,
                count: self.status.objects.unwrap_or_default(),
            },
            volumes,
            excluded_claims: self.status.excluded_claims.clone(),
            locked_until: None,
        })
    }

    /// The point is there: says so.
    async fn succeed(&mut self, location: &Location, manifest: &BackupManifest) -> Result<(), Stop> {
        let generation = self.backup.metadata.generation;
        self.status.location = Some(location.to_string());
        self.status.kind = Some(format!("{:?}", manifest.backup_type));
        self.status.size = Some(manifest.stored() + manifest.to_bytes().len() as u64);
        self.status.locked_until = manifest.locked_until.map(Time);
        self.status.percentage_completion = Some(100);
        self.status.completion_timestamp = Some(Time(Timestamp::now()));
        self.status.problems.clear();
        phases::end(
            &mut self.status.phases,
            BackupPhase::Commit,
            PhaseState::Completed,
        );
        self.status.phase = Some(BackupPhase::CleanUp);
        phases::start(&mut self.status.phases, BackupPhase::CleanUp);
        let text = format!("the point {location} is stored");
        let all = &mut self.status.conditions;
        set_condition(
            all,
            conditions::COMPLETE,
            true,
            reasons::SUCCEEDED,
            &text,
            generation,
        );
        set_condition(all, conditions::FAILED, false, reasons::SUCCEEDED, "", generation);
        self.save().await?;
        self.machine.captured().remove(&self.uid());
        self.ctx()
            .events
            .normal(&self.backup, reasons::SUCCEEDED, &text)
            .await;
        self.count("succeeded");
        Ok(())
    }
}

/// What the volumes became; a mover may have found that it had to take a full one.
fn type_of(volumes: &[VolumeRecord]) -> BackupType {
    let full = |v: &&VolumeRecord| v.chain.first().is_none_or(|image| image.kind == ImageKind::Full);
    match volumes.iter().filter(full).count() {
        n if n == volumes.len() => BackupType::Full,
        0 => BackupType::Incremental,
        _ => BackupType::Mixed,
    }
}

/// Puts the transfer's image on its chain and describes the volume for the commit object.
async fn volume_record(
    store: &dyn Store,
    transfer: &VolumeTransfer,
    seal: Option<&Seal>,
) -> Result<VolumeRecord, Failure> {
    let spec = &transfer.spec;
    let internal =
        |what: String| Failure::lasting(reasons::INTERNAL, format!("claim {}: {what}", spec.claim.name));
    let state = transfer.status.clone().unwrap_or_default();
    let result = state
        .result
        .ok_or_else(|| internal("its transfer has no result".to_owned()))?;
    let image: ImageRecord =
        serde_json::from_value(result).map_err(|e| internal(format!("its result: {e}")))?;
    let home = spec
        .home
        .parse()
        .map_err(|e| internal(format!("its home: {e}")))?;
    let cut = state.snapshot.map(|s| s.creation_time).unwrap_or_default();
    let snapshot_time = Timestamp::from_nanosecond(i128::from(cut)).map_err(|e| internal(e.to_string()))?;
    let ring = match seal {
        Some(seal) => Some(seal.ring(store, &chain::newest(store, &home).await?).await?),
        None => None,
    };
    let sealing = seal.zip(ring.as_ref()).map(|(seal, ring)| seal.sealing(ring));
    let (generation, chain) = chain::append(store, &home, &image, sealing).await?;
    Ok(VolumeRecord {
        claim: spec.claim.name.clone(),
        claim_uid: home.claim.clone(),
        generation,
        capacity: spec.volume.capacity.max(image.virtual_size),
        image: image.id,
        volume_mode: if spec.volume.volume_mode == "Block" {
            VolumeMode::Block
        } else {
            VolumeMode::Filesystem
        },
        storage_class: Some(spec.volume.storage_class.clone()),
        driver: spec.volume.driver.clone(),
        fs_type: spec.volume.fs_type.clone(),
        access_modes: spec.volume.access_modes.clone(),
        snapshot_time,
        chain,
        locked_until: None,
        home,
    })
}
