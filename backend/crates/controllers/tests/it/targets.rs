//! Targets and plans tell what is wrong with them, and notice when it is put right.

use holdfast_crd::{BackupPlan, Target};
use serde_json::json;

use crate::world::{World, truth};

async fn verdict(world: &World, name: &str, reason: &str) -> String {
    let is = |t: &Target| {
        let conditions = t.status.clone().unwrap_or_default().conditions;
        conditions
            .into_iter()
            .find(|c| c.type_ == "Accepted" && c.reason == reason)
    };
    let target = world.until::<Target>(name, |t| is(&t).is_some()).await;
    is(&target).unwrap().message
}

#[tokio::test]
async fn every_way_a_target_can_be_wrong_has_its_reason() {
    let world = World::bare("wrong-targets").await;
    world.secret("keys", None).await;
    world.secret("bad-keys", Some("not-the-secret")).await;
    world
        .target(
            "wrong-credentials",
            json!({"credentialSecret": {"name": "bad-keys"}}),
        )
        .await;
    world
        .target("no-secret", json!({"credentialSecret": {"name": "none"}}))
        .await;
    world.target("no-bucket", json!({"bucketName": "missing"})).await;
    world
        .target("nobody-there", json!({"url": "http://127.0.0.1:1"}))
        .await;
    let message = verdict(&world, "wrong-credentials", "WrongCredentials").await;
    assert!(message.contains("accessKey and secretKey"), "{message}");
    assert!(!message.contains("not-the-secret"), "{message}");
    verdict(&world, "no-bucket", "BucketMissing").await;
    let message = verdict(&world, "no-secret", "CredentialsMissing").await;
    assert!(message.contains("there is no Secret none"), "{message}");
    verdict(&world, "nobody-there", "Unreachable").await;

    // The Secret comes later, as with GitOps: nobody has to touch the target.
    world.secret("none", None).await;
    verdict(&world, "no-secret", "Valid").await;
}

#[tokio::test]
async fn a_key_that_no_request_can_carry_is_told_and_harms_nobody() {
    let world = World::bare("odd-keys").await;
    let keys = json!({"accessKey": "AKIA\nEVIL", "secretKey": "s"});
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "odd"}, "stringData": keys});
    world.make(secret).await;
    world
        .target("odd", json!({"credentialSecret": {"name": "odd"}}))
        .await;
    let message = verdict(&world, "odd", "WrongCredentials").await;
    assert!(
        message.contains("printable ASCII") && !message.contains("EVIL"),
        "{message}"
    );
    world.secret("keys", None).await;
    world.target("good", json!({})).await;
    verdict(&world, "good", "Valid").await;
}

#[tokio::test]
async fn a_plan_follows_its_target() {
    let world = World::bare("plans").await;
    world.plan("p", json!({})).await;
    let reason = |p: BackupPlan| {
        let conditions = p.status.unwrap_or_default().conditions;
        conditions
            .into_iter()
            .find(|c| c.type_ == "Accepted")
            .map(|c| c.reason)
    };
    world
        .until::<BackupPlan>("p", |p| reason(p).as_deref() == Some("NotFound"))
        .await;
    world.target("t", json!({})).await;
    world
        .until::<BackupPlan>("p", |p| reason(p).as_deref() == Some("TargetNotReady"))
        .await;
    world.secret("keys", None).await;
    world
        .until::<BackupPlan>("p", |p| {
            truth(p.status.map(|s| s.conditions), "Accepted") == Some(true)
        })
        .await;
}

#[tokio::test]
async fn a_field_that_came_in_past_admission_is_still_refused_by_name() {
    let world = World::new("past-admission").await;
    let object = json!({"spec": {"objectStoreCredentials": {"bucketNam": "x"}}});
    world.merge::<Target>("t", object).await;
    let message = verdict(&world, "t", "InvalidSpec").await;
    assert!(message.contains("did you mean \"bucketName\"?"), "{message}");
}
