//! Data leaves the target only when a person asked for it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_crd::Backup;
use holdfast_target::layout::{Attempt, Location, Uid, VolumeHome};
use holdfast_target::{Target as _, layout::ImageId, layout::ShardNumber, list_all};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::world::World;

async fn keys(world: &World, plan: &Uid) -> Vec<String> {
    let all = list_all(&world.store(), &holdfast_target::Prefix::root(), 10_000)
        .await
        .unwrap();
    all.into_iter()
        .map(|o| o.key.to_string())
        .filter(|k| k.contains(plan.as_str()))
        .collect()
}

async fn delete(world: &World, name: &str) {
    world
        .api::<Backup>()
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.api::<Backup>().get_opt(name).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "{name} does not go");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn only_what_was_asked_for_goes_and_dead_leftovers_with_it() {
    let world = World::new("deletion").await;
    world.backup("kept", json!({})).await;
    let kept: Location = world
        .completed("kept")
        .await
        .status
        .unwrap()
        .location
        .unwrap()
        .parse()
        .unwrap();
    world.backup("gone", json!({"deletionPolicy": "Delete"})).await;
    let gone: Location = world
        .completed("gone")
        .await
        .status
        .unwrap()
        .location
        .unwrap()
        .parse()
        .unwrap();
    world.cleaned_up("gone").await;

    // What an operator that was killed would leave: an objects file without commit, an image without point.
    let store = world.store();
    let dead: Uid = "00000000-dead-run".parse().unwrap();
    let point = Location {
        backup: dead.clone(),
        ..gone.clone()
    };
    let home = VolumeHome {
        cluster: gone.cluster.clone(),
        plan: gone.plan.clone(),
        claim: "claim-1".parse().unwrap(),
    };
    let image = ImageId {
        backup: dead,
        attempt: Attempt(1),
    };
    store
        .put(&point.objects_key(Attempt(1)), Bytes::from_static(b"x"))
        .await
        .unwrap();
    store
        .put(&home.image_key(&image, ShardNumber(0)), Bytes::from_static(b"x"))
        .await
        .unwrap();
    let upload = store
        .begin_upload(&home.image_key(&image, ShardNumber(1)))
        .await
        .unwrap();

    delete(&world, "gone").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left = keys(&world, &gone.plan).await;
        let points = left.iter().all(|k| k.contains(kept.backup.as_str()));
        if points && left.len() == 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{left:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(
        store.list_uploads(&home.prefix()).await.unwrap().is_empty(),
        "{} is still open",
        upload.id
    );

    delete(&world, "kept").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(keys(&world, &gone.plan).await.len(), 2, "Retain is the default");
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(world.client.clone(), crate::world::INSTALLED);
    let graves = maps
        .list(&ListParams::default().labels("holdfast.dev/tombstone"))
        .await
        .unwrap()
        .items;
    let left: Vec<_> = graves
        .iter()
        .filter(|g| g.data.as_ref().unwrap()["backup"].starts_with("deletion/"))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn a_point_outlives_its_namespace_whatever_the_policy_says() {
    let world = World::new("outlived").await;
    world.backup("run", json!({"deletionPolicy": "Delete"})).await;
    let location: Location = world
        .completed("run")
        .await
        .status
        .unwrap()
        .location
        .unwrap()
        .parse()
        .unwrap();
    world.cleaned_up("run").await;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces
        .delete("outlived", &DeleteParams::default())
        .await
        .unwrap();
    delete(&world, "run").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(world.store().head(&location.commit_key()).await.is_ok());
}
