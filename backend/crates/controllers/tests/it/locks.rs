//! Plans, backups and deletions where the target locks what is stored.

use std::time::{Duration, Instant};

use holdfast_crd::{Backup, BackupPlan, Target};
use holdfast_repository::{lock, point};
use holdfast_target::Target as _;
use holdfast_target::layout::Location;
use holdfast_target::testing::Owner;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::world::{INSTALLED, World, truth};

async fn refused(world: &World, plan: &str) -> (String, String) {
    let plan = world
        .until::<BackupPlan>(plan, |p| {
            truth(p.status.map(|s| s.conditions), "Accepted") == Some(false)
        })
        .await;
    accepted(&plan.status.unwrap().conditions)
}

/// Reason and message of the condition.
fn accepted(conditions: &[Condition]) -> (String, String) {
    let found = conditions.iter().find(|c| c.type_ == "Accepted").unwrap();
    (found.reason.clone(), found.message.clone())
}

#[tokio::test]
async fn a_locked_point_says_until_when_and_stays_so_long() {
    let world = World::bare("locks").await;
    let bucket = world.shared.gateway.bucket("controllers-locked");
    bucket.create_locking_bucket(Some(2)).await;
    let bucket = bucket.with_fresh_settings();
    world.secret("keys", None).await;
    let locked = json!({"bucketName": "controllers-locked", "objectLockingEnabled": true});
    world.target("t", locked).await;
    let target = world
        .until::<Target>("t", |t| {
            truth(t.status.map(|s| s.conditions), "Accepted") == Some(true)
        })
        .await;
    let found = target.status.unwrap().immutability.unwrap();
    assert!(found.versioned && found.object_lock, "{found:?}");
    assert_eq!(
        (found.default_mode.as_deref(), found.default_retention_period),
        (Some("Compliance"), Some(2))
    );

    // A bucket that cannot lock is no target that locks.
    world.target("plain", json!({"objectLockingEnabled": true})).await;
    let plain = world
        .until::<Target>("plain", |t| {
            truth(t.status.map(|s| s.conditions), "Accepted") == Some(false)
        })
        .await;
    let (reason, message) = accepted(&plain.status.unwrap().conditions);
    assert_eq!(reason, "ObjectLockMissing", "{message}");

    // Plans that contradict the target are refused.
    let to = |lock: serde_json::Value| json!({"backupConfig": {"target": {"name": "t"}, "objectLock": lock}});
    world.plan("silent", json!({})).await;
    let (reason, message) = refused(&world, "silent").await;
    assert_eq!(reason, "LockMismatch");
    assert!(message.contains("retentionDays"), "{message}");
    world.plan("short", to(json!({"retentionDays": 1}))).await;
    let (reason, message) = refused(&world, "short").await;
    assert_eq!(reason, "LockMismatch");
    assert!(message.contains("at least 2"), "{message}");

    world
        .plan("p", to(json!({"retentionDays": 3, "chainDays": 2})))
        .await;
    world
        .until::<BackupPlan>("p", |p| {
            truth(p.status.map(|s| s.conditions), "Accepted") == Some(true)
        })
        .await;
    world.backup("run", json!({"deletionPolicy": "Delete"})).await;
    let status = world.completed("run").await.status.unwrap();
    let location: Location = status.location.unwrap().parse().unwrap();
    let until = status.locked_until.unwrap().0;
    let days = |days: u64| Timestamp::now() + Duration::from_secs(days * 24 * 3600 + 1);
    assert!(
        until > days(3) - Duration::from_secs(120) && until <= days(3),
        "{until}"
    );
    let found = point::read(&bucket, &location).await.unwrap().unwrap();
    assert_eq!(found.locked_until(), Some(until));
    world.cleaned_up("run").await;
    stays(&world, &bucket, &location, until).await;
}

/// The Backup goes; its point stays until its date, and that is said, not tried again and again.
async fn stays(world: &World, bucket: &holdfast_target::S3Target, location: &Location, until: Timestamp) {
    world
        .api::<Backup>()
        .delete("run", &DeleteParams::default())
        .await
        .unwrap();
    let graves: Api<ConfigMap> = Api::namespaced(world.client.clone(), INSTALLED);
    let deadline = Instant::now() + Duration::from_secs(30);
    let told = loop {
        let found = graves
            .list(&ListParams::default().labels("holdfast.dev/tombstone"))
            .await
            .unwrap();
        let data = found.items.into_iter().filter_map(|grave| grave.data);
        let mut own = data.filter(|data| data["location"] == location.to_string());
        if let Some(told) = own.find_map(|data| data.get("lockedUntil").cloned()) {
            break told;
        }
        assert!(Instant::now() < deadline, "the tombstone does not say until when");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(told.parse::<Timestamp>().unwrap(), until);
    let events = world.api::<Event>().list(&ListParams::default()).await.unwrap();
    let notes = events
        .items
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some("Locked"));
    let said = notes.filter_map(|event| event.message).next().unwrap();
    assert!(said.contains(&until.to_string()), "{said}");
    let target = bucket;
    assert!(target.head(&location.commit_key()).await.is_ok());
    let held = lock::held_until(target, location, Timestamp::now())
        .await
        .unwrap();
    assert_eq!(held, Some(until));
    for object in holdfast_target::list_all(target, &location.prefix(), 10)
        .await
        .unwrap()
    {
        assert!(
            !Owner(target).delete_version(&object).await,
            "{} was deleted",
            object.key
        );
    }
}
