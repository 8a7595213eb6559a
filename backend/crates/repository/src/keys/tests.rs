//! Wrapped keys on a target in memory.

use holdfast_target::testing::MemoryTarget;

use super::*;

pub(crate) fn holders() -> Holders {
    Holders {
        plan: PlanKey::generate(),
        recovery: vec![RecoveryKey::generate().recipient()],
    }
}

fn again(holders: &Holders) -> PlanKey {
    use secrecy::ExposeSecret as _;
    PlanKey::parse(holders.plan.to_text().expose_secret()).unwrap()
}

fn place() -> (Uid, Uid, Location) {
    let location: Location = "c/p/b".parse().unwrap();
    (location.cluster.clone(), location.plan.clone(), location)
}

fn same(a: &DataKey, b: &DataKey) -> bool {
    use secrecy::ExposeSecret as _;
    a.to_hex().expose_secret() == b.to_hex().expose_secret()
}

#[tokio::test]
async fn a_key_is_made_once_and_read_by_its_holders() {
    let (cluster, plan, location) = place();
    let recovery = RecoveryKey::generate();
    let holders = Holders {
        plan: PlanKey::generate(),
        recovery: vec![recovery.recipient()],
    };
    let target = MemoryTarget::new();
    let made = ensure(&target, &location, &holders).await.unwrap();
    assert!(same(&made, &ensure(&target, &location, &holders).await.unwrap()));
    let id = made.id().clone();
    for identity in [Identity::Plan(again(&holders)), Identity::Recovery(recovery)] {
        let ring = ring(&target, &cluster, &plan, [&id], &identity).await.unwrap();
        assert!(same(&made, ring.get(&id).unwrap()), "{identity:?}");
    }
    let stranger = Identity::Plan(PlanKey::generate());
    let error = ring(&target, &cluster, &plan, [&id], &stranger)
        .await
        .unwrap_err();
    assert!(error.is_key() && !error.is_retryable(), "{error}");
    let gone: KeyId = "other".parse().unwrap();
    let error = ring(
        &target,
        &cluster,
        &plan,
        [&gone],
        &Identity::Plan(again(&holders)),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, RepositoryError::KeyGone { .. }), "{error}");
    let plan_key = Identity::Plan(again(&holders));
    let there = ring_of_present(&target, &cluster, &plan, [&id, &gone], &plan_key)
        .await
        .unwrap();
    assert!(there.get(&id).is_some() && there.get(&gone).is_none());
}

#[tokio::test]
async fn rotation_moves_no_data_and_shuts_the_old_key_out() {
    let (cluster, plan, location) = place();
    let (old, new) = (holders(), holders());
    let target = MemoryTarget::new();
    let made = ensure(&target, &location, &old).await.unwrap();
    let done = rotate(&target, &cluster, &plan, &old.plan, &new).await.unwrap();
    assert_eq!(
        done,
        Rotation {
            rewrapped: 1,
            kept: 0
        }
    );
    assert_eq!(target.keys(), [location.key_key(Generation(2))]);
    let id = made.id().clone();
    let read = ring(&target, &cluster, &plan, [&id], &Identity::Plan(again(&new)))
        .await
        .unwrap();
    assert!(same(&made, read.get(&id).unwrap()));
    let error = ring(&target, &cluster, &plan, [&id], &Identity::Plan(again(&old)))
        .await
        .unwrap_err();
    assert!(error.is_key(), "{error}");
    let done = rotate(&target, &cluster, &plan, &old.plan, &new).await.unwrap();
    assert_eq!(
        done,
        Rotation {
            rewrapped: 0,
            kept: 1
        },
        "a second time finds it done"
    );
    let error = rotate(&target, &cluster, &plan, &old.plan, &holders())
        .await
        .unwrap_err();
    assert!(error.is_key(), "{error}");
}

#[tokio::test]
async fn a_key_that_somebody_planted_hides_none() {
    let (cluster, plan, location) = place();
    let (own, foreign) = (holders(), holders());
    let target = MemoryTarget::new();
    let made = ensure(&target, &location, &own).await.unwrap();
    let elsewhere = MemoryTarget::new();
    ensure(&elsewhere, &location, &foreign).await.unwrap();
    let planted = elsewhere
        .get(&location.key_key(Generation::FIRST), 1 << 20)
        .await
        .unwrap()
        .body;
    target
        .put(&location.key_key(Generation(7)), planted)
        .await
        .unwrap();
    target
        .put(&location.key_key(Generation(8)), Bytes::from_static(b"no key"))
        .await
        .unwrap();
    let id = made.id().clone();
    let read = ring(&target, &cluster, &plan, [&id], &Identity::Plan(again(&own)))
        .await
        .unwrap();
    assert!(same(&made, read.get(&id).unwrap()));
    assert!(same(&made, &ensure(&target, &location, &own).await.unwrap()));
}
