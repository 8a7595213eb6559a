//! Points on a target that locks: whatever the owner of the store tries, every point lists, verifies and restores.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::chain::FullReason;
use holdfast_mover::VerifyScope;
use holdfast_repository::keys::{self, Holders};
use holdfast_repository::lock::{self, Terms};
use holdfast_repository::{RepositoryError, chain, inspect, point};
use holdfast_seal::{PlanKey, RecoveryKey};
use holdfast_target::layout::{
    Attempt, BackupManifest, FORMAT_VERSION, Generation, ImageKind, Location, Uid,
};
use holdfast_target::testing::{Gateway, Minio, Owner};
use holdfast_target::{Creation, ErrorKind, Prefix, S3Target, Target, list_all};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::operator::{Operator, Run};
use crate::rng::Rng;
use crate::volume::{Volume, folder};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn terms() -> Terms {
    Terms {
        retention: 3 * DAY,
        span: 2 * DAY,
        incrementals: 2,
    }
}

/// What a point held.
struct Kept {
    location: Location,
    objects: Bytes,
    volumes: Vec<Arc<[u8]>>,
}

/// A plan with two volumes on a target that locks.
struct Plan {
    owner: S3Target,
    target: Arc<dyn Target>,
    operator: Operator,
    kept: Vec<Kept>,
    rng: Rng,
    folder: TempDir,
}

impl Plan {
    fn new(owner: S3Target, encrypts: bool, terms: Terms) -> Self {
        let folder = folder();
        let volumes = vec![
            Volume::create(folder.path(), "small", (1 << 20) + 512 * 333, 16 << 10),
            Volume::create(folder.path(), "even", 2 << 20, 64 << 10),
        ];
        let holders = Holders {
            plan: PlanKey::generate(),
            recovery: vec![RecoveryKey::generate().recipient()],
        };
        let owner = owner.with_fresh_settings();
        Self {
            target: Arc::new(owner.clone()),
            owner,
            operator: Operator::new(volumes, holders, encrypts).locking(Some(terms)),
            kept: Vec::new(),
            rng: Rng::new(7),
            folder,
        }
    }

    async fn back_up(&mut self, name: &str) -> BackupManifest {
        for volume in &self.operator.volumes {
            volume.write(&mut self.rng, 300 << 10);
        }
        let run = Run {
            backup: name.parse().unwrap(),
            attempt: Attempt(1),
            incremental: true,
            objects: Bytes::from(format!("objects of {name}")),
        };
        let manifest = Box::pin(self.operator.backup(&self.target, &run)).await.unwrap();
        self.kept.push(Kept {
            location: manifest.location.clone(),
            objects: run.objects,
            volumes: self.operator.volumes.iter().map(|v| v.content(None)).collect(),
        });
        manifest
    }

    /// Every point lists, verifies and restores byte for byte.
    async fn check(&self) {
        let (target, operator) = (&self.target, &self.operator);
        let listed = point::points(&**target, &operator.cluster, &operator.plan)
            .await
            .unwrap();
        let listed: BTreeSet<Location> = listed.into_iter().collect();
        let kept: BTreeSet<Location> = self.kept.iter().map(|kept| kept.location.clone()).collect();
        assert_eq!(listed, kept);
        assert_eq!(point::count(&**target).await.unwrap(), kept.len() as u64);
        for kept in &self.kept {
            let keys = match operator.encrypts {
                true => Some(operator.all_keys(&**target, &operator.identity()).await.unwrap()),
                false => None,
            };
            let opened = operator
                .open(&**target, &kept.location, keys.as_ref())
                .await
                .unwrap();
            let opened = opened.expect("it is a point");
            assert_eq!(opened.objects, kept.objects);
            for (volume, content) in opened.volumes.iter().zip(&kept.volumes) {
                let device = self.folder.path().join("restored");
                let restored = operator.restore(target, volume, &device).await.unwrap();
                assert!(restored == **content, "{} of {}", volume.home, kept.location);
                let (images, ring) = (volume.resolved.chain.clone(), volume.ring.clone());
                let scope = VerifyScope::Full {
                    from: None,
                    budget: None,
                };
                let report = operator.verify(target, &volume.home, images, ring, scope).await;
                assert!(report.unwrap().is_sound());
            }
        }
    }

    /// The owner does what the store lets him, to every object there is.
    async fn attack(&self) {
        let owner = Owner(&self.owner);
        for object in list_all(&self.owner, &Prefix::root(), 1000).await.unwrap() {
            let until = self
                .owner
                .locked_until(&object.key, object.version.as_ref().unwrap())
                .await;
            let locked = until.unwrap().is_some();
            let superseded = object.key.as_str().contains("/chain-");
            assert!(locked || superseded, "{} is not locked", object.key);
            owner.overwrite(&object.key, b"theirs").await;
            owner.delete(&object.key).await;
            if locked {
                assert!(!owner.delete_version(&object).await, "{} was deleted", object.key);
                assert!(!owner.shorten(&object).await, "{} was shortened", object.key);
            } else {
                owner.delete_version(&object).await;
            }
        }
    }
}

/// A chain with two incrementals, and by rule another one; all of it survives the owner.
async fn the_owner_takes_nothing(bucket: S3Target, encrypts: bool) {
    let mut plan = Plan::new(bucket, encrypts, terms());
    let mut kinds = Vec::new();
    let (mut dates, before) = (Vec::new(), Timestamp::now());
    for name in ["a", "b", "c", "d", "e"] {
        let manifest = plan.back_up(name).await;
        kinds.push(manifest.volumes[0].chain[0].kind);
        let until = manifest.locked_until.unwrap();
        assert!(until >= before + 3 * DAY && until <= Timestamp::now() + 5 * DAY + Duration::from_secs(1));
        for volume in &manifest.volumes {
            let locked = lock::any_locked(&*plan.target, &volume.home, &volume.chain, before).await;
            assert!(locked.unwrap(), "what is locked is not merged");
        }
        let of_volumes = manifest.volumes.iter().map(|volume| volume.locked_until.unwrap());
        dates.push(of_volumes.collect::<Vec<Timestamp>>());
        let held = lock::held_until(&*plan.target, &manifest.location, before)
            .await
            .unwrap();
        assert!(held.unwrap() >= until);
    }
    assert_eq!(
        kinds,
        [
            ImageKind::Full,
            ImageKind::Incremental,
            ImageKind::Incremental,
            ImageKind::Full,
            ImageKind::Incremental
        ]
    );
    let one_for_each_chain = dates[..3].iter().all(|of| *of == dates[0]) && dates[3] == dates[4];
    assert!(one_for_each_chain && dates[3] >= dates[0], "{dates:?}");
    plan.check().await;
    plan.attack().await;
    plan.check().await;
    nothing_goes(&plan).await;
    plan.check().await;
    forged_documents(&plan).await;
    plan.check().await;
    if encrypts {
        rotate(&mut plan).await;
        plan.check().await;
    }
}

/// Deleting says until when that is not possible; nor does a sweep take anything.
async fn nothing_goes(plan: &Plan) {
    let first = plan.kept[0].location.clone();
    let error = point::erase(&*plan.target, &first).await.unwrap_err();
    assert!(error.to_string().contains("locked until"), "{error}");
    let look = plan.operator.look(&*plan.target).await.unwrap();
    let now = Timestamp::now();
    let swept = plan
        .operator
        .sweep(&*plan.target, &look, false, Duration::ZERO, now)
        .await;
    swept.unwrap();
    let report = inspect::inspect(&*plan.target, &plan.operator.cluster, &plan.operator.plan).await;
    for point in report.unwrap().points {
        assert!(
            point.locked_until.unwrap() > now + 2 * DAY && point.problem.is_none(),
            "{point:?}"
        );
    }
}

/// Newer generations of chain files and wrapped keys, under names that are free.
async fn forged_documents(plan: &Plan) {
    let target = &*plan.target;
    for volume in &plan.operator.volumes {
        let home = plan.operator.home(volume);
        let newest = chain::newest(target, &home).await.unwrap().next_generation();
        // It says that nothing is left of the volume.
        let text = format!(
            r#"{{"format": {FORMAT_VERSION}, "home": "{home}", "generation": {}, "images": []}}"#,
            newest.0
        );
        target.put(&home.chain_key(newest), text.into()).await.unwrap();
        let believed = chain::newest(target, &home).await.unwrap();
        assert!(believed.images().is_empty() && believed.damage.is_none());
    }
    for kept in plan.kept.iter().filter(|_| plan.operator.encrypts) {
        for generation in 2..20 {
            let key = kept.location.key_key(Generation(generation));
            target.put(&key, Bytes::from_static(b"forged")).await.unwrap();
        }
    }
}

/// What takes the place of a locked wrapped key is locked as long.
async fn rotate(plan: &mut Plan) {
    let old = plan.operator.holders.plan.clone();
    let recovery = plan.operator.holders.recovery.clone();
    plan.operator.holders = Holders {
        plan: PlanKey::generate(),
        recovery,
    };
    let done = plan.operator.rotate(&*plan.target, &old).await.unwrap();
    assert_eq!(done.rewrapped, 5);
    for kept in &plan.kept {
        let objects = list_all(&*plan.target, &kept.location.key_prefix(), 100)
            .await
            .unwrap();
        let newest = objects.last().unwrap();
        let until = plan
            .owner
            .locked_until(&newest.key, newest.version.as_ref().unwrap())
            .await;
        assert!(
            until.unwrap().unwrap() > Timestamp::now() + 2 * DAY,
            "{}",
            newest.key
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_store_takes_no_point_in_clear() {
    let gateway = Gateway::start();
    let bucket = gateway.bucket("locked");
    bucket.create_locking_bucket(None).await;
    the_owner_takes_nothing(bucket, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_store_takes_no_encrypted_point() {
    let gateway = Gateway::start();
    let bucket = gateway.bucket("locked");
    bucket.create_locking_bucket(None).await;
    the_owner_takes_nothing(bucket, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minio program: HOLDFAST_MINIO"]
async fn the_owner_of_a_minio_takes_no_point() {
    let minio = Minio::start();
    for (bucket, encrypts) in [("clear", false), ("sealed", true)] {
        let bucket = minio.target(bucket);
        bucket.create_locking_bucket(None).await;
        the_owner_takes_nothing(bucket, encrypts).await;
    }
}

/// Where everything is locked from its first moment, backups go on, and what is left over does no harm.
async fn locked_from_birth(bucket: S3Target) {
    bucket.create_locking_bucket(Some(1)).await;
    let mut plan = Plan::new(bucket, true, terms());
    for name in ["a", "b"] {
        plan.back_up(name).await;
    }
    let before = Owner(&plan.owner).count().await;
    for _ in 0..2 {
        plan.target.probe().await.unwrap();
    }
    let after = Owner(&plan.owner).count().await;
    assert!(
        after.0 <= before.0 + 1 && after.1 == before.1,
        "probes litter: {before:?}, {after:?}"
    );
    let look = plan.operator.look(&*plan.target).await.unwrap();
    let now = Timestamp::now();
    let swept = plan
        .operator
        .sweep(&*plan.target, &look, true, Duration::ZERO, now)
        .await;
    assert_eq!(swept.unwrap(), 0);
    plan.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_locks_everything_is_no_trouble() {
    let gateway = Gateway::start();
    locked_from_birth(gateway.bucket("always")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minio program: HOLDFAST_MINIO"]
async fn a_minio_bucket_that_locks_everything_is_no_trouble() {
    let minio = Minio::start();
    locked_from_birth(minio.target("always")).await;
}

/// A chain whose lock would end before the next point's may is not continued; what is no longer locked goes with every
/// version and marker of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_locked_goes_when_its_time_has_come() {
    let gateway = Gateway::start();
    let bucket = gateway.bucket("locked");
    bucket.create_locking_bucket(None).await;
    let short = Terms {
        retention: Duration::from_secs(12),
        span: Duration::from_secs(1),
        incrementals: 9,
    };
    let mut plan = Plan::new(bucket, true, short);
    let first = plan.back_up("a").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let volume = plan.operator.volumes[0].clone();
    let base = plan.operator.base_for(&*plan.target, &volume).await.unwrap();
    assert!(matches!(base, Err(FullReason::LockEnds(_))), "{base:?}");
    plan.attack().await;
    plan.check().await;
    let location = plan.kept.remove(0).location;
    let until = lock::held_until(&*plan.target, &location, Timestamp::now())
        .await
        .unwrap();
    let wait = until.unwrap().duration_since(Timestamp::now()).unsigned_abs();
    let wait = wait + Duration::from_secs(3);
    assert!(wait < Duration::from_secs(20), "{wait:?}");
    tokio::time::sleep(wait).await;

    let base = plan.operator.base_for(&*plan.target, &volume).await.unwrap();
    assert!(base.is_err(), "{base:?}");
    for volume in &first.volumes {
        let now = Timestamp::now();
        let locked = lock::any_locked(&*plan.target, &volume.home, &volume.chain, now).await;
        assert!(!locked.unwrap());
    }
    assert_eq!(
        lock::held_until(&*plan.target, &location, Timestamp::now())
            .await
            .unwrap(),
        None
    );
    point::erase(&*plan.target, &location).await.unwrap();
    for _ in 0..2 {
        let look = plan.operator.look(&*plan.target).await.unwrap();
        let now = Timestamp::now();
        let swept = plan
            .operator
            .sweep(&*plan.target, &look, false, Duration::ZERO, now)
            .await;
        swept.unwrap();
    }
    assert_eq!(Owner(&plan.owner).count().await, (0, 0));
}

/// Who dies between the commit object and its lock leaves a point that the next look locks. One that somebody else put
/// there is not locked.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_cut_off_is_locked_by_the_next_look() {
    let gateway = Gateway::start();
    let bucket = gateway.bucket("locked");
    bucket.create_locking_bucket(None).await;
    let mut plan = Plan::new(bucket, false, terms());
    let first = plan.back_up("a").await;
    let target = &*plan.target;
    let mut second = first.clone();
    second.location.backup = "b".parse().unwrap();
    second.backup.uid = second.location.backup.clone();
    target
        .put(
            &second.location.objects_key(Attempt(1)),
            Bytes::from_static(b"objects of b"),
        )
        .await
        .unwrap();
    second.objects.version = None;
    let second = plan.operator.secured(target, second).await.unwrap();
    let created = point::commit(target, &second, None).await.unwrap();
    let Creation::Created(meta) = created else {
        panic!("nobody was there before")
    };
    let version = meta.version.unwrap();
    assert_eq!(target.locked_until(&meta.key, &version).await.unwrap(), None);

    let mut forged = second.clone();
    forged.location.backup = "forged".parse().unwrap();
    forged.locked_until = Some(Timestamp::now() + 40_000 * DAY);
    point::commit(target, &forged, None).await.unwrap();

    let (cluster, id): (&Uid, &Uid) = (&plan.operator.cluster, &plan.operator.plan);
    let done = lock::complete_all(target, cluster, id, Timestamp::now())
        .await
        .unwrap();
    assert_eq!(done.locked, std::slice::from_ref(&second.location));
    assert_eq!(done.doubtful, std::slice::from_ref(&forged.location));
    let until = target.locked_until(&meta.key, &version).await.unwrap();
    assert_eq!(until, second.locked_until);
    let again = lock::complete_all(target, cluster, id, Timestamp::now())
        .await
        .unwrap();
    assert!(again.locked.is_empty());
    let alone = lock::complete(target, &forged.location, Attempt(1), forged.locked_until.unwrap()).await;
    assert!(
        matches!(alone, Err(RepositoryError::NotLocked { .. })),
        "{alone:?}"
    );
}

/// A run that failed before its commit leaves nothing that is locked.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_committed_can_be_removed() {
    let gateway = Gateway::start();
    let bucket = gateway.bucket("locked");
    bucket.create_locking_bucket(None).await;
    let mut plan = Plan::new(bucket, true, terms());
    plan.back_up("a").await;
    let before = Owner(&plan.owner).count().await;
    let location = plan.operator.location(&"dead".parse().unwrap());
    keys::ensure(&*plan.target, &location, &plan.operator.holders)
        .await
        .unwrap();
    let objects = location.objects_key(Attempt(1));
    plan.target
        .put(&objects, Bytes::from_static(b"dead"))
        .await
        .unwrap();
    let look = plan.operator.look(&*plan.target).await.unwrap();
    let now = Timestamp::now();
    let swept = plan
        .operator
        .sweep(&*plan.target, &look, true, Duration::ZERO, now)
        .await;
    assert_eq!(swept.unwrap(), 2);
    assert_eq!(Owner(&plan.owner).count().await, before);
    assert_eq!(
        plan.target.head(&objects).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    plan.check().await;
}
