//! Target: is it usable, and what lies on it.
//!
//! A target is probed when its spec, its Secret, its certificates or its depot change, every five minutes, and sooner after a
//! failure. What the probe finds is the condition; a change of the condition is an Event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use holdfast_crd::names::{conditions, labels, reasons};
use holdfast_crd::target::DirectoryStatus;
use holdfast_crd::{Immutability, Target, TargetStatus};
use holdfast_k8s::{condition, set_condition, update_status};
use holdfast_target::{StoreId, Target as Store};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{controller, watcher};
use kube::{Api, ResourceExt};

use crate::Context;
use crate::contain::contained;
use crate::depot::{self, Folder};
use crate::failure::Failure;
use crate::{locks, spec_check};

/// Kind, for logs and metrics.
const KIND: &str = "Target";
/// Time between probes of a target that works.
const INTERVAL: Duration = Duration::from_secs(300);
/// Time to the next probe after the first failure; doubled by every further one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Longest time to the next probe after failures.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Longest time that the points of a target are counted; those of a large one take a minute.
const COUNTING: Duration = Duration::from_secs(120);
/// Targets probed at the same time.
const CONCURRENCY: u16 = 8;

struct Machine {
    ctx: Arc<Context>,
    probed: Mutex<HashMap<String, Probed>>,
}

/// The last probe of a target.
struct Probed {
    generation: Option<i64>,
    /// The store that was probed; another one means that Secret, certificates or spec changed.
    store: Option<Arc<dyn Store>>,
    /// Since when its depot runs: one that was started anew may see another folder.
    since: Option<Timestamp>,
    at: Instant,
    failures: u32,
}

impl Probed {
    fn next(&self) -> Duration {
        match self.failures {
            0 => INTERVAL,
            n => FIRST_RETRY.saturating_mul(1 << (n - 1).min(10)).min(LAST_RETRY),
        }
    }

    /// How long to the next probe; zero when it is due.
    fn due_in(
        &self,
        generation: Option<i64>,
        store: Option<&Arc<dyn Store>>,
        since: Option<Timestamp>,
    ) -> Duration {
        let same_store = match (&self.store, store) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if self.generation == generation && same_store && self.since == since {
            self.next().saturating_sub(self.at.elapsed())
        } else {
            Duration::ZERO
        }
    }
}

/// Runs the controller until the process shuts down.
pub(crate) async fn run(ctx: Arc<Context>) {
    let controller = Controller::new(ctx.cluster_wide::<Target>(), watcher::Config::default());
    let (by_secret, by_map) = (controller.store(), controller.store());
    let (by_depot, by_claim) = (controller.store(), controller.store());
    let depots: Api<PartialObjectMeta<Deployment>> = ctx.installed();
    let claims: Api<PartialObjectMeta<PersistentVolumeClaim>> = ctx.installed();
    let secrets: Api<PartialObjectMeta<Secret>> = ctx.cluster_wide();
    let maps: Api<PartialObjectMeta<ConfigMap>> = ctx.cluster_wide();
    let machine = Arc::new(Machine {
        ctx: ctx.clone(),
        probed: Mutex::default(),
    });
    controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .watches(secrets, watcher::Config::default(), move |secret| {
            using(&by_secret, &secret, |t| {
                Some(&t.spec.object_store_credentials.as_ref()?.credential_secret.name)
            })
        })
        .watches(maps, watcher::Config::default(), move |map| {
            using(&by_map, &map, |t| {
                let bucket = t.spec.object_store_credentials.as_ref()?;
                let config = bucket.ssl_cert_config.as_ref()?;
                Some(&config.cert_config_map.name)
            })
        })
        .watches(
            depots,
            watcher::Config::default().labels(labels::TARGET),
            move |depot| {
                let of = depot.labels().get(labels::TARGET).cloned();
                selected(&by_depot, |t| of.is_some() && t.uid() == of)
            },
        )
        .watches(claims, watcher::Config::default(), move |claim| {
            using(&by_claim, &claim, |t| {
                t.spec.persistent_volume_claim.as_ref().map(|c| &c.claim_name)
            })
        })
        .graceful_shutdown_on(ctx.stopped())
        .run(reconcile, on_error, machine)
        .for_each(|_| async {})
        .await;
}

/// Targets of the object's namespace that refer to it.
fn using<K: ResourceExt>(
    targets: &reflector::Store<Target>,
    object: &K,
    reference: impl Fn(&Target) -> Option<&String>,
) -> Vec<ObjectRef<Target>> {
    let name = object.name_any();
    selected(targets, |t| {
        t.namespace() == object.namespace() && reference(t) == Some(&name)
    })
}

fn selected(targets: &reflector::Store<Target>, which: impl Fn(&Target) -> bool) -> Vec<ObjectRef<Target>> {
    targets
        .state()
        .iter()
        .filter(|t| which(t))
        .map(|t| ObjectRef::from_obj(&**t))
        .collect()
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the signature that Controller::run asks for"
)]
fn on_error(target: Arc<Target>, failure: &Failure, machine: Arc<Machine>) -> Action {
    machine.ctx.metrics.failed(KIND, failure.reason);
    tracing::warn!(target.name = %target.name_any(), reason = failure.reason, error = %failure, "will try again");
    Action::requeue(FIRST_RETRY)
}

async fn reconcile(target: Arc<Target>, machine: Arc<Machine>) -> Result<Action, Failure> {
    let started = Instant::now();
    let result = contained(KIND, &target.name_any(), machine.look(&target)).await;
    machine.ctx.metrics.reconciled(KIND, started.elapsed());
    result
}

impl Machine {
    async fn look(&self, target: &Target) -> Result<Action, Failure> {
        let uid = target.uid().unwrap_or_default();
        if target.metadata.deletion_timestamp.is_some() {
            self.probed().remove(&uid);
            return Ok(Action::await_change());
        }
        let opened = Box::pin(self.open(target)).await;
        let store = opened.as_ref().ok().map(|(store, _)| store.clone());
        let since = opened.as_ref().ok().and_then(|(_, since)| *since);
        let generation = target.metadata.generation;
        let failures = match self.probed().get(&uid) {
            Some(last) => {
                let due_in = last.due_in(generation, store.as_ref(), since);
                if due_in > Duration::ZERO {
                    return Ok(Action::requeue(due_in));
                }
                last.failures
            }
            None => 0,
        };
        let found = match opened {
            Ok((store, _)) => self.probe(target, &*store).await,
            Err(failure) => Err(failure),
        };
        self.report(target, &found).await?;
        let failures = if found.is_ok() {
            0
        } else {
            failures.saturating_add(1)
        };
        let probed = Probed {
            generation,
            store,
            since,
            at: Instant::now(),
            failures,
        };
        let next = probed.next();
        self.probed().insert(uid, probed);
        Ok(Action::requeue(next))
    }

    /// Opens the target; one that is a folder by its depot, once that runs and has said which store is there. Says also
    /// since when the depot runs.
    async fn open(&self, target: &Target) -> Result<(Arc<dyn Store>, Option<Timestamp>), Failure> {
        let Some(folder) = Folder::of(target)? else {
            return Ok((self.ctx.targets.open(target).await?, None));
        };
        spec_check::check_spec(&self.ctx, target).await?;
        let since = depot::ensure(&self.ctx, target, &folder).await?;
        if depot::store_of(target, &folder).is_some() {
            return Ok((self.ctx.targets.open(target).await?, since));
        }
        let store = self.ctx.targets.adopt(&folder).await?;
        let identified = self.identified(target, &folder, &store).await?;
        Ok((self.ctx.targets.open(&identified).await?, since))
    }

    /// Notes which store the folder holds, before anything is written there: from now on it must be this one.
    async fn identified(&self, target: &Target, folder: &Folder, store: &StoreId) -> Result<Target, Failure> {
        let api: Api<Target> = self.ctx.namespaced(&target.namespace().unwrap_or_default());
        let current = api.get(&target.name_any()).await?;
        let old = current.status.clone().unwrap_or_default();
        let new = TargetStatus {
            directory: Some(DirectoryStatus {
                store: store.to_string(),
                place: folder.to_string(),
            }),
            ..old.clone()
        };
        let written = update_status(&api, &current, &old, &new).await?;
        Ok(written.unwrap_or(current))
    }

    /// Probes, looks what the store does against deletion, and counts the points.
    async fn probe(&self, target: &Target, store: &dyn Store) -> Result<Found, Failure> {
        spec_check::check_spec(&self.ctx, target).await?;
        store.probe().await?;
        let immutability = store.immutability().await?;
        locks::check_target(target, &immutability)?;
        Ok(Found {
            points: count(store, COUNTING).await?,
            immutability: locks::status_of(&immutability),
        })
    }

    async fn report(&self, target: &Target, found: &Result<Found, Failure>) -> Result<(), Failure> {
        let api: Api<Target> = self.ctx.namespaced(&target.namespace().unwrap_or_default());
        let Some(current) = api.get_opt(&target.name_any()).await? else {
            return Ok(());
        };
        let old = current.status.clone().unwrap_or_default();
        let new = next_status(&old, target.metadata.generation, found);
        let word =
            |s: &TargetStatus| condition(&s.conditions, conditions::ACCEPTED).map(|c| c.reason.clone());
        let changed = word(&old) != word(&new);
        update_status(&api, &current, &old, &new).await?;
        if changed {
            match found {
                Ok(found) => {
                    let note = format!("{USABLE}; {}", counted(found.points));
                    self.ctx.events.normal(target, reasons::VALID, &note).await;
                }
                Err(failure) => {
                    self.ctx
                        .events
                        .warning(target, failure.reason, &failure.message)
                        .await
                }
            }
        }
        Ok(())
    }

    fn probed(&self) -> std::sync::MutexGuard<'_, HashMap<String, Probed>> {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a probe found out.
struct Found {
    /// How many points there are, where they were counted in time.
    points: Option<u64>,
    immutability: Immutability,
}

/// What a target is that passed its probe.
const USABLE: &str = "the target can be written and read";

/// Counts the points of a target, as long as that leaves time for other targets.
async fn count(store: &dyn Store, limit: Duration) -> Result<Option<u64>, Failure> {
    tokio::time::timeout(limit, holdfast_repository::point::count(store))
        .await
        .map_or(Ok(None), |count| Ok(Some(count?)))
}

fn counted(points: Option<u64>) -> String {
    match points {
        Some(points) => format!("it holds {points} points"),
        None => format!("counting its points takes longer than {} s", COUNTING.as_secs()),
    }
}

fn next_status(old: &TargetStatus, generation: Option<i64>, found: &Result<Found, Failure>) -> TargetStatus {
    let mut new = old.clone();
    new.observed_generation = generation;
    new.last_probe_timestamp = Some(Time(Timestamp::now()));
    if let Ok(found) = found {
        new.immutability = Some(found.immutability.clone());
    }
    let (good, reason, message) = match found.as_ref().map(|found| found.points) {
        Ok(Some(points)) => {
            new.points = Some(points);
            (true, reasons::VALID, USABLE.to_owned())
        }
        // What was counted last stays, and it is said that it is old.
        Ok(None) => (true, reasons::VALID, format!("{USABLE}; {}", counted(None))),
        Err(failure) => (false, failure.reason, failure.message.clone()),
    };
    for (kind, truth) in [
        (conditions::ACCEPTED, good),
        (conditions::COMPLETE, good),
        (conditions::FAILED, !good),
    ] {
        set_condition(&mut new.conditions, kind, truth, reason, &message, generation);
    }
    new
}

#[cfg(test)]
mod tests {
    use holdfast_k8s::is_true;
    use holdfast_target::testing::{Fault, Faulty, MemoryTarget, Operation};

    use super::*;

    #[test]
    fn failures_are_tried_again_ever_later_and_at_least_every_minute() {
        let after = |failures| {
            Probed {
                generation: None,
                store: None,
                since: None,
                at: Instant::now(),
                failures,
            }
            .next()
            .as_secs()
        };
        assert_eq!(
            [after(1), after(2), after(3), after(9), after(u32::MAX)],
            [5, 10, 20, 60, 60]
        );
        assert_eq!(after(0), 300);
    }

    #[test]
    fn a_changed_spec_or_store_or_a_new_depot_is_probed_at_once() {
        let store = || -> Arc<dyn Store> { Arc::new(MemoryTarget::new()) };
        let seen = store();
        let probed = Probed {
            generation: Some(1),
            store: Some(seen.clone()),
            since: None,
            at: Instant::now(),
            failures: 0,
        };
        assert!(probed.due_in(Some(1), Some(&seen), None) > Duration::from_secs(290));
        assert_eq!(probed.due_in(Some(2), Some(&seen), None), Duration::ZERO);
        assert_eq!(probed.due_in(Some(1), Some(&store()), None), Duration::ZERO);
        assert_eq!(probed.due_in(Some(1), None, None), Duration::ZERO);
        let restarted = Some(Timestamp::UNIX_EPOCH);
        assert_eq!(probed.due_in(Some(1), Some(&seen), restarted), Duration::ZERO);
    }

    #[allow(clippy::unnecessary_wraps, reason = "as the probe gives it")]
    fn found(points: Option<u64>) -> Result<Found, Failure> {
        Ok(Found {
            points,
            immutability: Immutability::default(),
        })
    }

    #[test]
    fn the_conditions_say_what_the_probe_found() {
        let good = next_status(&TargetStatus::default(), Some(3), &found(Some(7)));
        assert!(
            is_true(&good.conditions, conditions::ACCEPTED)
                && is_true(&good.conditions, conditions::COMPLETE)
        );
        assert_eq!((good.points, good.observed_generation), (Some(7), Some(3)));
        let bad = next_status(
            &good,
            Some(4),
            &Err(Failure::lasting(reasons::BUCKET_MISSING, "no bucket")),
        );
        assert!(
            is_true(&bad.conditions, conditions::FAILED) && !is_true(&bad.conditions, conditions::ACCEPTED)
        );
        assert_eq!(
            condition(&bad.conditions, conditions::ACCEPTED).unwrap().reason,
            reasons::BUCKET_MISSING
        );
        assert_eq!(bad.points, Some(7), "what was counted last stays known");
        let old = next_status(&good, Some(3), &found(None));
        let accepted = condition(&old.conditions, conditions::ACCEPTED).unwrap();
        assert_eq!((old.points, accepted.status.as_str()), (Some(7), "True"));
        assert!(
            accepted.message.contains("longer than 120 s"),
            "{}",
            accepted.message
        );
    }

    #[tokio::test]
    async fn a_store_that_is_counted_without_end_is_still_looked_after() {
        let slow = Faulty::new(Arc::new(MemoryTarget::new()));
        slow.plan(Operation::List, 1, Fault::Delay(Duration::from_secs(3600)));
        let limit = Duration::from_millis(50);
        assert_eq!(count(&slow, limit).await, Ok(None));
        assert_eq!(count(&slow, limit).await, Ok(Some(0)));
    }
}
