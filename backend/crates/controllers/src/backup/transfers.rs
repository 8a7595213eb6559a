//! SnapshotVolumes, UploadVolumes and UploadMetadata: one transfer per volume, which goes its way by itself, and the
//! objects file beside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use holdfast_core::chain::FullReason;
use holdfast_crd::backup::StoredFile;
use holdfast_crd::names::{MANAGED_BY, labels, reasons};
use holdfast_crd::transfer::{ClaimRef, RunRef};
use holdfast_crd::{
    Backup, BackupKind, BackupPhase, Direction, PhaseState, TransferEncryption, TransferStage,
    VolumeTransfer, VolumeTransferSpec, VolumeTransferStatus,
};
use holdfast_k8s::create_or_get;
use holdfast_mover::ShardClusters;
use holdfast_repository::{chain, choose_base, lock};
use holdfast_target::Target as Store;
use holdfast_target::layout::{Attempt, Digest, ImageRecord, VolumeHome};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;

use super::sealing::Seal;
use super::volumes::{Survey, Volume, survey};
use super::{LOOK, Run, Step, Stop, capture, uid};
use crate::failure::Failure;
use crate::verification::Remedy;
use crate::{locks, phases, verification};

/// Volumes whose chains are read at the same time.
const PARALLEL: usize = 8;

/// Name of the transfer of a claim in a run.
pub(super) fn name(run_uid: &str, claim: &str) -> String {
    holdfast_k8s::hashed("hf", &[run_uid, claim])
}

impl Run {
    /// Phase SnapshotVolumes.
    pub(super) async fn snapshot_volumes(&mut self) -> Result<Step, Stop> {
        let mut transfers = self.transfers().await?;
        if transfers.len() < self.status.volumes.len() || transfers.is_empty() {
            let plan = self.plan().await?;
            let survey = survey(self.ctx(), &self.namespace(), &plan).await?;
            if transfers.is_empty() && !same_claims(&survey, self) {
                // A claim came or went since Validate, and nothing was made yet: the run takes what is there now.
                self.refuse_unreadable_now(&survey)?;
                self.note_volumes(&survey);
                self.save().await?;
            }
            transfers = self.make_transfers(&survey).await?;
        }
        self.follow(&transfers);
        self.check_transfers(&transfers)?;
        if !transfers.iter().all(is_cut) {
            return Ok(Step::Wait(LOOK));
        }
        self.check_cut(&transfers).await?;
        self.status.kind = Some(kind_of(&transfers).to_owned());
        if transfers.is_empty() {
            phases::end(
                &mut self.status.phases,
                BackupPhase::SnapshotVolumes,
                PhaseState::Skipped,
            );
            phases::end(
                &mut self.status.phases,
                BackupPhase::UploadVolumes,
                PhaseState::Skipped,
            );
            return Ok(Step::Next(BackupPhase::UploadMetadata));
        }
        Ok(Step::Next(BackupPhase::UploadVolumes))
    }

    fn refuse_unreadable_now(&self, survey: &Survey) -> Result<(), Failure> {
        match survey.problems.first() {
            Some(problem) => Err(Failure::lasting(
                reasons::CAPTURE_INCOMPLETE,
                problem.message.clone(),
            )),
            None => Ok(()),
        }
    }

    /// Makes the transfers that are not there yet.
    async fn make_transfers(&self, survey: &Survey) -> Result<Vec<VolumeTransfer>, Stop> {
        if self.status.volumes.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.store().await?;
        let seal = self.seal().await?;
        let seal = seal.as_ref();
        let api = self.ctx().installed::<VolumeTransfer>();
        // Boxed, because the compiler cannot prove the borrowing closures Send inside a stream.
        let mut made: Vec<BoxFuture<'_, Result<VolumeTransfer, Failure>>> = Vec::new();
        for progress in &self.status.volumes {
            let (store, api) = (store.clone(), api.clone());
            let one = async move {
                let volume = survey
                    .volumes
                    .iter()
                    .find(|v| v.claim == progress.claim)
                    .ok_or_else(|| {
                        let text = format!(
                            "claim {} went away while its namespace was captured",
                            progress.claim
                        );
                        Failure::lasting(reasons::CAPTURE_INCOMPLETE, text)
                    })?;
                if let Some(found) = api.get_opt(&progress.transfer).await? {
                    return Ok(found);
                }
                let transfer = self.transfer(&*store, volume, seal).await?;
                Ok(create_or_get(&api, &transfer).await?)
            };
            made.push(one.boxed());
        }
        Ok(stream::iter(made).buffered(PARALLEL).try_collect().await?)
    }

    /// The transfer of one volume, with the chain it goes on top of.
    async fn transfer(
        &self,
        store: &dyn Store,
        volume: &Volume,
        seal: Option<&Seal>,
    ) -> Result<VolumeTransfer, Failure> {
        let location = self.location()?;
        let home = VolumeHome {
            cluster: location.cluster,
            plan: location.plan,
            claim: uid(&volume.claim_uid)?,
        };
        let incremental = self.backup.spec.kind == BackupKind::Incremental;
        let (chain, reason) = base(store, &home, volume.spec.capacity, incremental, seal).await?;
        let (chain, reason) = match chain {
            Some(chain) => self.lasting(store, &home, chain).await?,
            None => (None, reason),
        };
        let (chain, heal, reason) = match chain {
            Some(chain) => self.heal(&home, chain).await?,
            None => (None, None, reason),
        };
        let chain = chain.map(|c| serde_json::to_value(c).expect("image records serialise"));
        let spec = VolumeTransferSpec {
            direction: Direction::Backup,
            run: RunRef {
                kind: super::KIND.to_owned(),
                namespace: self.namespace(),
                name: self.backup.name_any(),
                uid: self.uid(),
            },
            target: self.status.target.clone().unwrap_or_default(),
            claim: ClaimRef {
                namespace: self.namespace(),
                name: volume.claim.clone(),
                uid: volume.claim_uid.clone(),
            },
            volume: volume.spec.clone(),
            home: home.to_string(),
            image: Some(self.uid()),
            snapshot_class: Some(volume.snapshot_class.clone()),
            chain,
            encryption: seal
                .zip(self.status.encryption_secret.clone())
                .map(|(seal, secret)| TransferEncryption {
                    secret,
                    seal: Some(seal.key().id().to_string()),
                }),
            heal: heal.map(|h| serde_json::to_value(h).expect("numbers serialise")),
            files: None,
            scope: None,
            full_reason: reason.map(|r| r.to_string()),
            claim_manifest: None,
            placement: None,
            cancel: false,
        };
        let mut transfer = VolumeTransfer::new(&name(&self.uid(), &volume.claim), spec);
        transfer.metadata.namespace = Some(self.ctx().install_namespace.clone());
        let marks = transfer.labels_mut();
        marks.insert(labels::MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
        marks.insert(labels::RUN.to_owned(), self.uid());
        Ok(transfer)
    }

    /// The chain, and what of it has to be stored again; or why a full image has to be taken. Damage is known from
    /// verifications.
    async fn heal(&self, home: &VolumeHome, chain: Vec<ImageRecord>) -> Result<Base, Failure> {
        let damage = verification::damage_of(&self.plan().await?, home);
        if damage.is_empty() {
            return Ok((Some(chain), None, None));
        }
        let api = self.ctx().namespaced::<Backup>(&self.namespace());
        let backups = api.list_metadata(&ListParams::default()).await?;
        let newest = chain.first().map(|image| image.id.backup.as_str().to_owned());
        let newest = backups.items.iter().find(|backup| backup.uid() == newest);
        let begun = newest.and_then(|backup| Some(backup.creation_timestamp()?.0));
        let ids: Vec<String> = chain.iter().map(|image| image.id.to_string()).collect();
        Ok(match verification::remedy(&damage, &ids, begun) {
            Remedy::Heal(heal) => (Some(chain), Some(heal).filter(|heal| !heal.is_empty()), None),
            Remedy::Full(why) => (None, None, Some(FullReason::Damaged(why))),
        })
    }

    /// The chain, unless its lock ends too soon for another point; then why a full image has to be taken.
    async fn lasting(
        &self,
        store: &dyn Store,
        home: &VolumeHome,
        chain: Vec<ImageRecord>,
    ) -> Result<(Option<Vec<ImageRecord>>, Option<FullReason>), Failure> {
        let Some(terms) = &self.status.lock_terms else {
            return Ok((Some(chain), None));
        };
        let goes_on = lock::continues(store, home, &chain, &locks::of(terms), Timestamp::now()).await?;
        Ok(match goes_on {
            Ok(()) => (Some(chain), None),
            Err(reason) => (None, Some(reason)),
        })
    }

    /// Copies the progress of the transfers into the status.
    fn follow(&mut self, transfers: &[VolumeTransfer]) {
        for volume in &mut self.status.volumes {
            let Some(transfer) = transfers.iter().find(|t| t.name_any() == volume.transfer) else {
                continue;
            };
            let state = transfer.status.clone().unwrap_or_default();
            volume.stage = format!("{:?}", state.stage);
            volume.backup_type = Some(type_of(transfer).to_owned());
            volume.type_reason = transfer.spec.full_reason.clone();
            if let Some(mover) = state.mover.filter(|m| m.attempt == state.attempt) {
                volume.bytes_done = mover.bytes_done;
                volume.bytes_total = mover.bytes_total.max(volume.bytes_total);
                volume.bytes_transferred = mover.bytes_transferred;
            }
            if state.stage == TransferStage::Succeeded {
                volume.bytes_done = volume.bytes_total;
            }
        }
        let total: u128 = self
            .status
            .volumes
            .iter()
            .map(|v| u128::from(v.bytes_total))
            .sum();
        let done: u128 = self
            .status
            .volumes
            .iter()
            .map(|v| u128::from(v.bytes_done.min(v.bytes_total)))
            .sum();
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        self.status.percentage_completion = Some(u8::try_from(percent).unwrap_or(100));
    }

    /// One volume that fails, fails the run.
    fn check_transfers(&self, transfers: &[VolumeTransfer]) -> Result<(), Failure> {
        let missing = self
            .status
            .volumes
            .iter()
            .find(|v| transfers.iter().all(|t| t.name_any() != v.transfer));
        if let Some(volume) = missing {
            let text = format!(
                "the transfer {} of claim {} was deleted",
                volume.transfer, volume.claim
            );
            return Err(Failure::lasting(reasons::TRANSFER_FAILED, text));
        }
        let lost = |t: &&VolumeTransfer| matches!(stage(t), TransferStage::Failed | TransferStage::Canceled);
        let Some(transfer) = transfers.iter().find(lost) else {
            return Ok(());
        };
        let state = transfer.status.clone().unwrap_or_default();
        let why = state
            .message
            .unwrap_or_else(|| "the transfer was stopped".to_owned());
        let text = format!("claim {}: {why}", transfer.spec.claim.name);
        Err(Failure::lasting(known_reason(state.reason.as_deref()), text))
    }

    /// After the cut: what is in the namespace now must be what was cut.
    async fn check_cut(&self, transfers: &[VolumeTransfer]) -> Result<(), Failure> {
        let plan = self.plan().await?;
        let now = survey(self.ctx(), &self.namespace(), &plan).await?;
        self.refuse_unreadable_now(&now)?;
        let cut: BTreeMap<&str, &VolumeTransfer> = transfers
            .iter()
            .map(|t| (t.spec.claim.name.as_str(), t))
            .collect();
        for volume in &now.volumes {
            let same = cut.get(volume.claim.as_str()).is_some_and(|t| {
                t.spec.claim.uid == volume.claim_uid && t.spec.volume.capacity == volume.spec.capacity
            });
            if !same {
                let text = format!(
                    "claim {} appeared or changed while the snapshots were taken, so its data is not in them; back up \
                     again when the application stands still",
                    volume.claim
                );
                return Err(Failure::lasting(reasons::CAPTURE_INCOMPLETE, text));
            }
        }
        Ok(())
    }

    /// Phases UploadVolumes and UploadMetadata, side by side.
    pub(super) async fn upload(&mut self) -> Result<Step, Stop> {
        if self.status.objects_file.is_none() {
            phases::start(&mut self.status.phases, BackupPhase::UploadMetadata);
            self.upload_objects().await?;
            phases::end(
                &mut self.status.phases,
                BackupPhase::UploadMetadata,
                PhaseState::Completed,
            );
            self.save().await?;
        }
        let transfers = self.transfers().await?;
        self.follow(&transfers);
        self.check_transfers(&transfers)?;
        if transfers.iter().all(|t| stage(t) == TransferStage::Succeeded) {
            return Ok(Step::Next(BackupPhase::Commit));
        }
        Ok(Step::Wait(LOOK))
    }

    /// Writes the captured objects. They are gone from memory when the operator was restarted: then they are captured
    /// again, under a new attempt, because the file of the old one may be there already and is never overwritten.
    async fn upload_objects(&mut self) -> Result<(), Stop> {
        let kept = self.machine.captured().get(&self.uid()).cloned();
        let captured = match kept {
            Some(captured) => captured,
            None => {
                self.status.attempt += 1;
                self.save().await?;
                let plan = self.plan().await?;
                let exclude = plan.spec.exclude_resources.as_ref();
                let again = Arc::new(capture::capture(self.ctx(), &self.namespace(), exclude).await?);
                self.refuse_clear_secrets(&plan, &again.secrets)?;
                // What was captured now must not name claims that the snapshots of before do not hold.
                self.check_cut(&self.transfers().await?).await?;
                self.machine.captured().insert(self.uid(), again.clone());
                again
            }
        };
        let key = self.location()?.objects_key(Attempt(self.status.attempt));
        let store = self.store().await?;
        let file = match self.seal().await? {
            Some(seal) => Bytes::from(sealed(&seal, key.as_str(), &captured.file)?),
            None => captured.file.clone(),
        };
        let (size, blake3) = (file.len() as u64, Digest::of(&file).to_string());
        let stored = store.put(&key, file).await.map_err(Failure::from)?;
        self.status.objects = Some(captured.count);
        self.status.objects_file = Some(StoredFile {
            key: key.to_string(),
            size,
            version: stored.version.map(|version| version.as_str().to_owned()),
            blake3,
        });
        Ok(())
    }
}

/// The objects file as an encrypted point has it.
fn sealed(seal: &Seal, key: &str, file: &[u8]) -> Result<Vec<u8>, Failure> {
    holdfast_seal::seal_document(seal.key(), key, file)
        .map_err(|error| Failure::lasting(reasons::INTERNAL, error.to_string()))
}

fn same_claims(survey: &Survey, run: &Run) -> bool {
    let now = survey.volumes.iter().map(|v| v.claim.as_str());
    survey.problems.is_empty() && now.eq(run.status.volumes.iter().map(|v| v.claim.as_str()))
}

/// The chain an image goes on top of, what of it is stored again, and why there is none if one was asked for.
type Base = (
    Option<Vec<ImageRecord>>,
    Option<Vec<ShardClusters>>,
    Option<FullReason>,
);

/// The chain an image goes on top of, newest first; or none, and why not if one was asked for.
async fn base(
    store: &dyn Store,
    home: &VolumeHome,
    capacity: u64,
    incremental: bool,
    seal: Option<&Seal>,
) -> Result<(Option<Vec<ImageRecord>>, Option<FullReason>), Failure> {
    if !incremental {
        return Ok((None, None));
    }
    let found = chain::newest(store, home).await?;
    let ring = match seal {
        Some(seal) => Some(seal.ring(store, &found).await?),
        None => None,
    };
    Ok(
        match choose_base(store, home, &found, capacity, ring.as_ref()).await? {
            Ok(chain) => (Some(chain), None),
            Err(reason) => (None, Some(reason)),
        },
    )
}

fn stage(transfer: &VolumeTransfer) -> TransferStage {
    transfer.status.as_ref().map(|s| s.stage).unwrap_or_default()
}

/// Whether the snapshot belongs to us.
fn is_cut(transfer: &VolumeTransfer) -> bool {
    let state =
        |s: &VolumeTransferStatus| !matches!(s.stage, TransferStage::Pending | TransferStage::Snapshotting);
    transfer.status.as_ref().is_some_and(state)
}

fn type_of(transfer: &VolumeTransfer) -> &'static str {
    if transfer.spec.chain.is_some() {
        "Incremental"
    } else {
        "Full"
    }
}

/// What the run becomes, volume by volume.
fn kind_of(transfers: &[VolumeTransfer]) -> &'static str {
    let incremental = transfers.iter().filter(|t| type_of(t) == "Incremental").count();
    match incremental {
        0 => "Full",
        n if n == transfers.len() => "Incremental",
        _ => "Mixed",
    }
}

/// A transfer's reason as one of ours.
fn known_reason(reason: Option<&str>) -> &'static str {
    const KNOWN: [&str; 12] = [
        reasons::SNAPSHOT_FAILED,
        reasons::SNAPSHOT_CLASS_MISSING,
        reasons::DAMAGED,
        reasons::UNREACHABLE,
        reasons::WRONG_CREDENTIALS,
        reasons::UNTRUSTED_CERTIFICATE,
        reasons::BUCKET_MISSING,
        reasons::TARGET_FULL,
        reasons::TARGET_ERROR,
        reasons::PROVISION_FAILED,
        reasons::NO_PROGRESS,
        reasons::CONFLICT,
    ];
    KNOWN
        .into_iter()
        .find(|known| Some(*known) == reason)
        .unwrap_or(reasons::TRANSFER_FAILED)
}

/// How long a failed run waits between looks at transfers that end.
pub(super) const ENDING: Duration = Duration::from_secs(1);
