//! The controller on a real cluster: volumes of the sandbox's CSI driver, movers as pods, a real store.
//!
//! ```text
//! HOLDFAST_SANDBOX=…/sandbox.json cargo test -p holdfast-controllers --lib -- --ignored transfer::live
//! ```
//! `sandbox.json` is what `cargo xtask up` prints as "everything"; the image `holdfast:dev` must be on the node. Each test
//! has namespaces of its own and leaves nothing.

mod world;

use std::time::Duration;

use holdfast_crd::TransferStage;
use holdfast_crd::names::reasons;
use serde_json::json;

use self::world::World;

const LONG: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sandbox cluster"]
async fn a_filesystem_comes_back_from_a_full_and_an_incremental_image() {
    let world = World::new("fs").await;
    let _leader = world.leader();
    world.claim("data", "sandbox-immediate", "Filesystem").await;
    world.fill("data", "Filesystem", 48).await;
    let full = world.backup("one", "data", "Filesystem", None).await;
    world.succeeded(&full, LONG).await;
    let first = world.result(&full).await;
    assert_eq!(first["kind"], "Full");
    world.fill("data", "Filesystem", 8).await;
    let next = world
        .backup("two", "data", "Filesystem", Some(json!([first])))
        .await;
    world.succeeded(&next, LONG).await;
    let second = world.result(&next).await;
    assert_eq!(second["kind"], "Incremental");
    assert!(
        second["stored"].as_u64() < first["stored"].as_u64(),
        "an overlay holds only what changed"
    );
    let sums = world.sums("data", "Filesystem").await;
    for class in ["sandbox-immediate", "sandbox-wffc"] {
        let back = world.restore(class, "Filesystem", &json!([second, first])).await;
        world.succeeded(&back, LONG).await;
        assert_eq!(world.sums(class, "Filesystem").await, sums);
        world.nothing_left(&back).await;
    }
    world.nothing_left(&full).await;
    world.nothing_left(&next).await;
    world.remove().await;
}

/// A leader that is killed every few hundred milliseconds still gets a volume there and back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sandbox cluster"]
async fn leaders_may_die_at_any_moment() {
    let world = World::new("chaos").await;
    let _leaders = world.dying_leaders(Duration::from_millis(350));
    world.claim("data", "sandbox-immediate", "Block").await;
    world.fill("data", "Block", 32).await;
    let there = world.backup("one", "data", "Block", None).await;
    world.succeeded(&there, LONG).await;
    let image = world.result(&there).await;
    let back = world.restore("back", "Block", &json!([image])).await;
    world.succeeded(&back, LONG).await;
    assert_eq!(
        world.sums("back", "Block").await,
        world.sums("data", "Block").await
    );
    world.nothing_left(&there).await;
    world.nothing_left(&back).await;
    world.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sandbox cluster"]
async fn a_killed_mover_is_replaced_and_a_cancelled_one_leaves_nothing() {
    let world = World::new("kill").await;
    let _leader = world.leader();
    world.claim("data", "sandbox-immediate", "Filesystem").await;
    world.fill("data", "Filesystem", 400).await;
    let killed = world.backup("killed", "data", "Filesystem", None).await;
    world
        .reached(&killed, "a running mover", LONG, |status| status.mover.is_some())
        .await;
    world.kill_movers(&killed).await;
    let status = world.succeeded(&killed, LONG).await;
    assert!(status.attempt > 1, "it was another attempt that succeeded");
    let stored = world.objects_of("killed").await;
    assert!(
        stored
            .iter()
            .all(|key| key.contains(&format!("killed-a{}-", status.attempt))),
        "{stored:?}"
    );

    let cancelled = world.backup("cancelled", "data", "Filesystem", None).await;
    world
        .reached(&cancelled, "a running mover", LONG, |status| {
            status.mover.is_some()
        })
        .await;
    let asked = std::time::Instant::now();
    world.cancel(&cancelled).await;
    let ended = world
        .reached(&cancelled, "the end", LONG, |status| status.stage.is_final())
        .await;
    assert_eq!(ended.stage, TransferStage::Canceled);
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "cancelled within {:?}",
        asked.elapsed()
    );
    world.nothing_left(&cancelled).await;
    assert_eq!(world.objects_of("cancelled").await, Vec::<String>::new());
    world.remove().await;
}

/// Deleted at any moment, a transfer takes everything with it, also the storage of a volume that nobody got.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sandbox cluster"]
async fn transfers_may_be_deleted_at_any_moment() {
    let world = World::new("delete").await;
    let _leader = world.leader();
    world.claim("data", "sandbox-immediate", "Block").await;
    world.fill("data", "Block", 8).await;
    let good = world.backup("good", "data", "Block", None).await;
    world.succeeded(&good, LONG).await;
    let chain = json!([world.result(&good).await]);
    let mut claims = vec!["data".to_owned()];
    let mut deleted = Vec::new();
    for turn in 0..10 {
        let claim = format!("back-{turn}");
        let backup = world.backup(&format!("b{turn}"), "data", "Block", None).await;
        let restore = world.restore(&claim, "Block", &chain).await;
        claims.push(claim);
        tokio::time::sleep(Duration::from_millis(turn * 450)).await;
        for transfer in [backup, restore] {
            deleted.push((world.delete(&transfer).await, transfer));
        }
    }
    for (selector, transfer) in &deleted {
        world.nothing_of(selector, transfer).await;
    }
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    world.only_volumes_of(&claims).await;
    world.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sandbox cluster"]
async fn an_xfs_comes_back_beside_its_living_original() {
    let world = World::new("xfs").await;
    let _leader = world.leader();
    world.claim("data", "sandbox-xfs", "Filesystem").await;
    world.fill("data", "Filesystem", 4).await;
    let there = world
        .backup_with("one", "data", |spec| {
            spec["volume"]["storageClass"] = json!("sandbox-xfs");
            spec["volume"]["fsType"] = json!("xfs");
        })
        .await;
    world.succeeded(&there, LONG).await;
    let chain = json!([world.result(&there).await]);
    let back = world.restore_with("sandbox-xfs", "Filesystem", &chain, |spec| {
        spec["volume"]["fsType"] = json!("xfs");
    });
    let back = back.await;
    world.succeeded(&back, LONG).await;
    // The original stays mounted by a pod of its own while the copy is read.
    world.hold("data").await;
    assert_eq!(
        world.sums("sandbox-xfs", "Filesystem").await,
        world.sums("data", "Filesystem").await
    );
    world.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sandbox cluster"]
async fn bad_input_fails_with_its_reason_and_leaves_nothing() {
    let world = World::new("bad").await;
    let _leader = world.leader_with(|mover| mover.progress_deadline_seconds = 8);
    world.claim("data", "sandbox-immediate", "Filesystem").await;
    world.fill("data", "Filesystem", 1).await;
    let no_class = world.backup_with("noclass", "data", |spec| spec["snapshotClass"] = json!("none"));
    let no_class = no_class.await;
    let no_target = world.backup_with("notarget", "data", |spec| spec["target"]["name"] = json!("none"));
    let no_target = no_target.await;
    let good = world.backup("good", "data", "Filesystem", None).await;
    world.succeeded(&good, LONG).await;
    let chain = json!([world.result(&good).await]);
    let no_storage = world.restore_with("nostorage", "Filesystem", &chain, |spec| {
        spec["volume"]["storageClass"] = json!("none");
    });
    let no_storage = no_storage.await;
    world.claim("taken", "sandbox-immediate", "Filesystem").await;
    let taken = world.restore("taken", "Filesystem", &chain).await;
    world.fails(&taken, reasons::CONFLICT, "exists already").await;
    world
        .fails(&no_storage, reasons::PROVISION_FAILED, "\"none\" not found")
        .await;
    world
        .fails(&no_target, reasons::NOT_FOUND, "no Target none")
        .await;
    world
        .fails(&no_class, reasons::SNAPSHOT_FAILED, "the snapshot of claim")
        .await;
    // Even the storage behind the volume that could not be handed over is freed.
    world.only_volumes_of(&["data", "taken"]).await;
    world.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sandbox cluster"]
async fn a_mover_that_cannot_start_says_why() {
    let world = World::new("image").await;
    let _leader = world.leader_with(|mover| {
        mover.progress_deadline_seconds = 8;
        "docker.io/library/holdfast:none".clone_into(&mut mover.image);
    });
    world.claim("data", "sandbox-immediate", "Filesystem").await;
    world.fill("data", "Filesystem", 1).await;
    let stuck = world.backup("stuck", "data", "Filesystem", None).await;
    world
        .fails(&stuck, reasons::PROVISION_FAILED, "ErrImageNeverPull")
        .await;
    world.remove().await;
}
