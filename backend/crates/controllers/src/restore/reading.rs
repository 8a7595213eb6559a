//! Signs on the target that a restore reads its images: another cluster's operator, which knows nothing of this run, keeps
//! what they name.

use holdfast_crd::names::reasons;
use holdfast_crd::{ObjectRef, RestoreStatus, VolumeTransfer};
use holdfast_repository::lease;
use holdfast_target::layout::{Uid, VolumeHome};
use jiff::Timestamp;
use kube::ResourceExt;

use super::Run;
use crate::failure::Failure;

impl Run<'_> {
    /// Says that these volumes are read, where that has not been said for a while.
    ///
    /// A target that takes no sign is read without one: what is removed there waits for a grace period all the same.
    pub(super) async fn say_reading(&self, status: &mut RestoreStatus, homes: &[VolumeHome]) {
        let began = status.start_timestamp.as_ref();
        let began = began.map_or_else(Timestamp::now, |time| time.0);
        let since = Timestamp::now().duration_since(began).unsigned_abs();
        let due = u32::try_from(since.as_secs() / lease::RENEW.as_secs()).unwrap_or(u32::MAX);
        if status.lease_renewals.is_some_and(|said| said >= due) {
            return;
        }
        let target = status.target.clone().unwrap_or_default();
        match self.hold_images(&target, homes, due).await {
            Ok(()) => status.lease_renewals = Some(due),
            Err(failure) => self.warn(&failure, "the target takes no sign that its images are read"),
        }
    }

    /// Takes the signs away. One that stays counts for an hour.
    pub(super) async fn say_done(&self, transfers: &[VolumeTransfer]) {
        let Some(target) = transfers.first().map(|transfer| &transfer.spec.target) else {
            return;
        };
        if let Err(failure) = self.release_images(target, &homes_of(transfers)).await {
            self.warn(
                &failure,
                "signs that images are read stay on the target for an hour",
            );
        }
    }

    async fn hold_images(&self, target: &ObjectRef, homes: &[VolumeHome], due: u32) -> Result<(), Failure> {
        let store = self.store(target).await?;
        for home in homes {
            lease::hold(&*store, home, &self.reader()?, None, due).await?;
        }
        Ok(())
    }

    async fn release_images(&self, target: &ObjectRef, homes: &[VolumeHome]) -> Result<(), Failure> {
        let store = self.store(target).await?;
        for home in homes {
            lease::release(&*store, home, &self.reader()?).await?;
        }
        Ok(())
    }

    fn reader(&self) -> Result<Uid, Failure> {
        let uid = self.uid().parse();
        uid.map_err(|error| Failure::lasting(reasons::INTERNAL, format!("{error}")))
    }

    fn warn(&self, failure: &Failure, text: &str) {
        let (namespace, name) = (self.restore.namespace(), self.restore.name_any());
        tracing::warn!(restore.namespace = namespace, restore.name = %name, error = %failure, "{text}");
    }
}

/// The volumes that transfers read.
pub(super) fn homes_of(transfers: &[VolumeTransfer]) -> Vec<VolumeHome> {
    transfers
        .iter()
        .filter_map(|transfer| transfer.spec.home.parse().ok())
        .collect()
}
