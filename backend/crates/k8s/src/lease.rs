//! Leader election on a `coordination.k8s.io/v1` Lease.
//!
//! Expected flow: [`Election::acquire`] waits until this process holds the Lease, [`Leadership::keep`] renews it until
//! it is told to stop or it has lost the Lease. **A process that lost the Lease must exit**: `keep` returning an error
//! is the last thing the caller hears.
//!
//! Guarantees: expiry is measured by watching `renewTime` change on our own monotonic clock, so that clocks of nodes
//! need not agree. A holder gives up (after two thirds of the duration without a renewal) before anybody else may
//! take over (after the whole duration). Every write carries the `resourceVersion` that was read, so two candidates
//! cannot both win.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::{is_already_exists, is_conflict};

/// How long a Lease lives without renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews it.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// The holder gives up after this long without a renewal.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// How often a candidate looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a Lease is not, or no longer, held.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// The process is shutting down.
    #[error("stopped while waiting for the lease")]
    Stopped,
    /// Another process holds it.
    #[error("the lease was taken over by {0}")]
    TakenOver(String),
    /// The API server did not take a renewal in time.
    #[error("the lease could not be renewed in time: {0}")]
    NotRenewed(String),
}

/// A candidate for one Lease.
#[derive(Clone)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// The Lease, held.
pub struct Leadership {
    election: Election,
    lease: Lease,
    renewed: Instant,
}

/// What a candidate saw last: who renewed when, and since when on our clock.
struct Sighting {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    since: Instant,
}

impl Election {
    /// A candidate called `identity`, unique per process (pod name and a random part).
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// Waits until the Lease is ours. API errors are waited out: a candidate has nothing to lose.
    pub async fn acquire(self, stop: &CancellationToken) -> Result<Leadership, ElectionError> {
        let mut sighting: Option<Sighting> = None;
        loop {
            match self.try_acquire(&mut sighting).await {
                Ok(Some((lease, renewed))) => {
                    return Ok(Leadership {
                        election: self,
                        lease,
                        renewed,
                    });
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(lease.name = %self.name, %error, "lease not read or written"),
            }
            tokio::select! {
                () = stop.cancelled() => return Err(ElectionError::Stopped),
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn try_acquire(
        &self,
        sighting: &mut Option<Sighting>,
    ) -> Result<Option<(Lease, Instant)>, kube::Error> {
        let asked = Instant::now();
        let written = match self.api.get_opt(&self.name).await? {
            None => self.api.create(&PostParams::default(), &self.fresh(None)).await,
            Some(lease) if self.may_take(&lease, sighting) => {
                self.api
                    .replace(&self.name, &PostParams::default(), &self.fresh(Some(&lease)))
                    .await
            }
            Some(_) => return Ok(None),
        };
        match written {
            Ok(lease) => Ok(Some((lease, asked))),
            Err(error) if is_conflict(&error) || is_already_exists(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A Lease may be taken when it was released, or when it has not been renewed for its whole duration since we
    /// first saw it in this state.
    fn may_take(&self, lease: &Lease, sighting: &mut Option<Sighting>) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        if holder.is_none() || holder.as_deref() == Some(&self.identity) {
            return true;
        }
        let unchanged = sighting
            .as_ref()
            .filter(|seen| seen.holder == holder && seen.renewed == spec.renew_time);
        let Some(seen) = unchanged else {
            *sighting = Some(Sighting {
                holder,
                renewed: spec.renew_time,
                since: Instant::now(),
            });
            return false;
        };
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        seen.since.elapsed() >= seconds.map_or(DURATION, Duration::from_secs)
    }

    fn fresh(&self, old: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = old.and_then(|lease| lease.spec.as_ref());
        let mut metadata = ObjectMeta {
            name: Some(self.name.clone()),
            ..Default::default()
        };
        if let Some(old) = old {
            metadata = old.metadata.clone();
        }
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                lease_transitions: Some(before.and_then(|spec| spec.lease_transitions).unwrap_or(0) + 1),
                ..Default::default()
            }),
        }
    }
}

impl Leadership {
    /// Renews the Lease until `stop`, then releases it so that the next leader need not wait.
    ///
    /// # Errors
    /// When the Lease is lost. The process must exit at once: another may be acting already.
    pub async fn keep(mut self, stop: &CancellationToken) -> Result<(), ElectionError> {
        loop {
            tokio::select! {
                () = stop.cancelled() => { self.release().await; return Ok(()); }
                () = sleep(RENEW_EVERY) => self.renew().await?,
            }
        }
    }

    async fn renew(&mut self) -> Result<(), ElectionError> {
        let deadline = self.renewed + GIVE_UP_AFTER;
        let mut last_error = "no answer".to_owned();
        while Instant::now() < deadline {
            let asked = Instant::now();
            let next = self.with_holder(&self.election.identity);
            let params = PostParams::default();
            let call = self.election.api.replace(&self.election.name, &params, &next);
            match timeout_at(deadline, call).await {
                Ok(Ok(lease)) => {
                    self.lease = lease;
                    self.renewed = asked;
                    return Ok(());
                }
                Ok(Err(error)) if is_conflict(&error) => {
                    last_error = error.to_string();
                    self.reread(deadline).await?;
                }
                Ok(Err(error)) => {
                    last_error = error.to_string();
                    sleep(Duration::from_millis(500)).await;
                }
                Err(_) => break,
            }
        }
        Err(ElectionError::NotRenewed(last_error))
    }

    /// After a conflict: somebody wrote. If we are still the holder (a label was set, an earlier write of ours was
    /// stored although its answer got lost), the renewal goes on from there.
    async fn reread(&mut self, deadline: Instant) -> Result<(), ElectionError> {
        let Ok(Ok(lease)) = timeout_at(deadline, self.election.api.get(&self.election.name)).await else {
            return Ok(());
        };
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default();
        if holder != self.election.identity {
            return Err(ElectionError::TakenOver(holder));
        }
        self.lease = lease;
        Ok(())
    }

    fn with_holder(&self, holder: &str) -> Lease {
        let mut lease = self.lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(holder.to_owned());
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease
    }

    async fn release(self) {
        let free = self.with_holder("");
        let params = PostParams::default();
        let call = self.election.api.replace(&self.election.name, &params, &free);
        if !matches!(timeout_at(Instant::now() + LOOK_EVERY, call).await, Ok(Ok(_))) {
            tracing::warn!(lease.name = %self.election.name, "lease not released, it will expire");
        }
    }
}
