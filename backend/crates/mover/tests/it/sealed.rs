//! Sealed volumes: nothing readable on the target, nothing without the keys, nothing that was touched.
use std::{path::Path, sync::Arc};

use holdfast_mover::{BackupJob, MoverError};
use holdfast_seal::KeyRing;
use holdfast_target::{
    Target,
    layout::ImageRecord,
    testing::{Gateway, MemoryTarget},
};

use crate::support::*;

const SIZE: u64 = 20 * MIB;

fn sealed_job(device: &Path, backup: &str, parents: &[ImageRecord]) -> BackupJob {
    BackupJob {
        seal: Some(backup.parse().unwrap()),
        ..backup_job(device, &format!("{backup}-a1"), parents)
    }
}

/// A full and an incremental of the same volume, newest first, each under a key of its own.
async fn chain(target: &Arc<dyn Target>, volume: &mut Volume, ring: &Arc<KeyRing>) -> Vec<ImageRecord> {
    volume.random(MIB, 9 * MIB);
    volume.text(15 * MIB, MIB);
    let job = sealed_job(&volume.path, "b1", &[]);
    let full = run_backup_with(target.clone(), &job, ring.clone()).await.unwrap();
    volume.random(2 * MIB, MIB);
    volume.punch(5 * MIB, MIB);
    let job = sealed_job(&volume.path, "b2", std::slice::from_ref(&full));
    let overlay = run_backup_with(target.clone(), &job, ring.clone()).await.unwrap();
    vec![overlay, full]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_chain_restores_and_shows_nothing_on_the_target() {
    let gateway = Gateway::start();
    let target: Arc<dyn Target> = Arc::new(gateway.target());
    let folder = tempfile::tempdir().unwrap();
    let ring = keys(&["b1", "b2"]);
    let mut volume = Volume::create(folder.path().join("volume.raw"), SIZE);
    let chain = chain(&target, &mut volume, &ring).await;
    let restored = Volume::dirty(folder.path().join("restored.raw"), SIZE);
    run_restore_with(target.clone(), &chain, &restored.path, ring)
        .await
        .unwrap();
    assert_same(&volume.path, &restored.path);

    let overlay = &chain[0].shards[0];
    assert!(
        overlay.image.size < 3 * MIB,
        "only what changed was stored: {overlay:?}"
    );
    for image in &chain {
        for object in image.shards.iter().flat_map(|shard| [&shard.image, &shard.index]) {
            let key = format!("{}{}", home().prefix(), object.key).parse().unwrap();
            let bytes = target.get(&key, 64 * MIB).await.unwrap().body;
            assert_eq!(bytes.len() as u64, object.size);
            // Magic numbers of image, index, page and zstd frame, and the name of the image.
            for word in [
                &b"QFI\xfb"[..],
                b"HFIX",
                b"HFPG",
                b"\x28\xb5\x2f\xfd",
                b"b1-a1-s0",
            ] {
                let found = bytes.windows(word.len()).filter(|window| *window == word).count();
                // Four given bytes turn up by chance once in four GiB.
                assert_eq!(found, 0, "{key} shows {word:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_nothing_is_touched() {
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let ring = keys(&["b1", "b2"]);
    let mut volume = Volume::create(folder.path().join("volume.raw"), SIZE);
    let chain = chain(&target, &mut volume, &ring).await;
    let before = names(&*target).await;
    let device = Volume::dirty(folder.path().join("restored.raw"), SIZE);
    for (given, missing) in [(keys(&["b1"]), "b2"), (keys(&["b2"]), "b1"), (keys(&[]), "b2")] {
        let error = run_restore_with(target.clone(), &chain, &device.path, given)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "KeyMissing", "{error}");
        assert!(
            error.to_string().contains(&format!("no data key {missing}")),
            "{error}"
        );
    }
    // The key that is to be written with, and one that is to be read with.
    for given in [keys(&["b1", "b2"]), keys(&["b1", "b3"])] {
        let job = sealed_job(&volume.path, "b3", &chain);
        let error = run_backup_with(target.clone(), &job, given).await.unwrap_err();
        assert_eq!(error.reason(), "KeyMissing", "{error}");
    }
    // The right name with the wrong key behind it.
    let error = run_restore_with(target.clone(), &chain, &device.path, keys(&["b1", "b2"]))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "Damaged", "{error}");
    let untouched = std::fs::read(&device.path).unwrap();
    assert!(untouched.iter().all(|byte| *byte == 0xa5), "nothing was written");
    assert_eq!(names(&*target).await, before);
}

/// Replaces an object and adapts the record to it, as one could who may write everything on the target but has no key.
async fn replace(target: &Arc<dyn Target>, chain: &mut [ImageRecord], image: usize, bytes: Vec<u8>) {
    let shard = &mut chain[image].shards[0];
    let key = format!("{}{}", home().prefix(), shard.image.key).parse().unwrap();
    target.delete(std::slice::from_ref(&key)).await.unwrap();
    let meta = target.put(&key, bytes.into()).await.unwrap();
    (shard.image.size, shard.image.etag) = (meta.size, meta.etag);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_touched_is_damage() {
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let ring = keys(&["b1", "b2"]);
    let mut volume = Volume::create(folder.path().join("volume.raw"), SIZE);
    let chain = chain(&target, &mut volume, &ring).await;
    let device = Volume::create(folder.path().join("restored.raw"), SIZE);
    let key = |image: usize| {
        let name = &chain[image].shards[0].image.key;
        format!("{}{name}", home().prefix()).parse().unwrap()
    };
    let full = target.get(&key(1), 64 * MIB).await.unwrap().body.to_vec();
    let overlay = target.get(&key(0), 64 * MIB).await.unwrap().body.to_vec();
    let mut flipped = full.clone();
    flipped[6_000_000] ^= 1;
    let mut swapped = full.clone();
    let segment = 65536 + 16;
    let head =
        usize::try_from(chain[1].shards[0].image.seal.as_ref().unwrap().slices()[0].plain).unwrap() + 16 * 4;
    let (first, second) = (head + 10 * segment, head + 11 * segment);
    for at in 0..segment {
        swapped.swap(first + at, second + at);
    }
    let truncated = full[..full.len() - segment].to_vec();
    for (what, image, bytes) in [
        ("a flipped bit", 1, flipped),
        ("swapped segments", 1, swapped),
        ("a truncated object", 1, truncated),
        ("another backup's object", 1, overlay),
        ("an older backup's object", 0, full.clone()),
    ] {
        let mut forged = chain.clone();
        let original = if image == 1 {
            full.clone()
        } else {
            target.get(&key(0), 64 * MIB).await.unwrap().body.to_vec()
        };
        replace(&target, &mut forged, image, bytes).await;
        let error = run_restore_with(target.clone(), &forged, &device.path, ring.clone())
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                MoverError::Damaged { .. } | MoverError::DamagedCluster { .. }
            ),
            "{what}: {error}"
        );
        let mut restored = chain.clone();
        replace(&target, &mut restored, image, original).await;
        run_restore_with(target.clone(), &restored, &device.path, ring.clone())
            .await
            .unwrap();
        assert_same(&volume.path, &device.path);
    }
}
