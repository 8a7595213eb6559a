//! What a run seals with, and what it opens the plan's older images with.

use holdfast_repository::chain::{Chain, Sealing};
use holdfast_repository::keys::{self, Holders, Identity};
use holdfast_seal::{DataKey, KeyId, KeyRing};
use holdfast_target::Target as Store;
use holdfast_target::layout::Location;

use super::{Run, Stop};
use crate::encryption;
use crate::failure::Failure;

/// The keys of a run that encrypts.
pub(super) struct Seal {
    location: Location,
    holders: Holders,
    key: DataKey,
}

impl Run {
    /// The keys of this run; none where the plan does not encrypt. The data key is made by the first who asks.
    pub(super) async fn seal(&self) -> Result<Option<Seal>, Stop> {
        let Some(secret) = &self.status.encryption_secret else {
            return Ok(None);
        };
        let holders = encryption::holders(self.ctx(), secret).await?;
        let (store, location) = (self.store().await?, self.location()?);
        let key = keys::ensure(&*store, &location, &holders)
            .await
            .map_err(Failure::from)?;
        Ok(Some(Seal {
            location,
            holders,
            key,
        }))
    }
}

impl Seal {
    /// The data key of the run.
    pub(super) fn key(&self) -> &DataKey {
        &self.key
    }

    /// What opens the data keys of the plan.
    pub(super) fn identity(&self) -> Identity {
        Identity::Plan(self.holders.plan.clone())
    }

    /// Keys for everything in a chain that has its key, and the run's own.
    pub(super) async fn ring(&self, store: &dyn Store, chain: &Chain) -> Result<KeyRing, Failure> {
        let of_chain = chain.file.as_ref().map(|file| file.keys()).unwrap_or_default();
        let ids: Vec<KeyId> = of_chain.into_iter().chain([self.key.id()]).cloned().collect();
        let (cluster, id) = (&self.location.cluster, &self.location.plan);
        Ok(keys::ring_of_present(store, cluster, id, &ids, &self.identity()).await?)
    }

    /// How to seal with such a ring.
    pub(super) fn sealing<'k>(&'k self, ring: &'k KeyRing) -> Sealing<'k> {
        Sealing {
            ring,
            key: self.key.id(),
        }
    }
}
