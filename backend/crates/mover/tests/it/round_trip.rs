use std::{path::Path, sync::Arc};

use holdfast_mover::{BackupJob, MoverError, Progress, Zeroing, backup};
use holdfast_target::{
    ETag, Target,
    layout::{ImageKind, ImageRecord},
    testing::{Gateway, MemoryTarget},
};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// Restores the newest of a chain over junk and has qemu-img convert it: both must be the volume.
async fn assert_restores(target: &Arc<dyn Target>, chain: &[ImageRecord], volume: &Path, folder: &Path) {
    let size = std::fs::metadata(volume).unwrap().len();
    let restored = Volume::dirty(folder.join("restored.raw"), size);
    let summary = run_restore(target.clone(), chain, &restored.path).await.unwrap();
    assert_eq!(
        (summary.virtual_size, summary.data + summary.zeroed),
        (size, size)
    );
    assert_same(volume, &restored.path);
    std::fs::remove_file(&restored.path).unwrap();

    let files = folder.join("files");
    download(&**target, &home().prefix(), &files).await;
    let files = files.join(home().prefix().as_str());
    for image in chain {
        qemu_check(&files.join(&image.shards[0].image.key));
    }
    let raw = folder.join("converted.raw");
    qemu_convert(&files.join(&chain[0].shards[0].image.key), &raw);
    assert_same(volume, &raw);
    std::fs::remove_file(raw).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_and_three_incrementals_give_back_every_state() {
    let gateway = Gateway::start();
    let target: Arc<dyn Target> = Arc::new(gateway.target());
    let folder = tempfile::tempdir().unwrap();
    // More than one span of 512 MiB, and an end inside a cluster and inside a page.
    let mut volume = Volume::create(folder.path().join("volume.raw"), 600 * MIB + 3 * 512);
    volume.random(0, 30 * MIB);
    volume.text(100 * MIB + 12_345, 20 * MIB);
    volume.zeroes(200 * MIB, 5 * MIB);
    volume.random(511 * MIB, 2 * MIB);
    volume.random(600 * MIB, 3 * 512);
    let mut chain: Vec<ImageRecord> = Vec::new();
    let mut store = async |volume: &Volume, image: &str| {
        let progress = Arc::new(Progress::new());
        let job = backup_job(&volume.path, image, &chain);
        let record = backup(
            target.clone(),
            &job,
            Arc::default(),
            progress.clone(),
            CancellationToken::new(),
        )
        .await
        .unwrap();
        let seen = progress.snapshot();
        assert_eq!(
            seen.bytes_transferred, record.stored,
            "what was sent is what is stored"
        );
        assert!(
            seen.bytes_done >= seen.bytes_total && seen.bytes_total == 600 * MIB + 3 * 512,
            "{seen:?}"
        );
        chain.insert(0, record.clone());
        assert_restores(&target, &chain, &volume.path, folder.path()).await;
        record
    };

    let full = store(&volume, "b1-a1").await;
    assert_eq!((full.kind, full.parent), (ImageKind::Full, None));
    assert!((32 * MIB..45 * MIB).contains(&full.stored), "{}", full.stored);

    volume.random(10 * MIB + 5, 3);
    volume.random(300 * MIB, MIB);
    let second = store(&volume, "b2-a1").await;
    assert_eq!(
        (second.kind, second.parent.unwrap().to_string()),
        (ImageKind::Incremental, "b1-a1".to_owned())
    );
    assert!(second.stored < 2 * MIB, "{}", second.stored);

    volume.zeroes(5 * MIB, MIB);
    volume.punch(110 * MIB, 4 * MIB);
    volume.punch(511 * MIB, 2 * MIB);
    volume.zeroes(600 * MIB, 3 * 512);
    let third = store(&volume, "b3-a2").await;
    assert!(third.stored < MIB, "{}", third.stored);

    volume.random(5 * MIB, MIB / 2);
    volume.text(511 * MIB, MIB);
    store(&volume, "b4-a1").await;
    let nothing = store(&volume, "b5-a1").await;
    assert!(
        nothing.stored < MIB,
        "an incremental without changes stores no content: {}",
        nothing.stored
    );
    assert!(target.list_uploads(&home().prefix()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cluster_size_works() {
    for cluster_size in [16 << 10, 2 << 20] {
        let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
        let folder = tempfile::tempdir().unwrap();
        let mut volume = Volume::create(folder.path().join("volume.raw"), 70 * MIB + 512);
        volume.random(3 * MIB + 512, 40 * MIB);
        let job = BackupJob {
            cluster_size,
            ..backup_job(&volume.path, "b1-a1", &[])
        };
        let full = run_backup(target.clone(), &job).await.unwrap();
        volume.random(20 * MIB, 512);
        volume.zeroes(30 * MIB, 5 * MIB);
        let job = backup_job(&volume.path, "b2-a1", std::slice::from_ref(&full));
        let overlay = run_backup(target.clone(), &job).await.unwrap();
        assert_restores(&target, &[overlay, full], &volume.path, folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_volume_and_a_tiny_one_work() {
    for (size, data) in [(MIB, 0), (512, 512), (4096, 100)] {
        let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
        let folder = tempfile::tempdir().unwrap();
        let mut volume = Volume::create(folder.path().join("volume.raw"), size);
        volume.random(0, data);
        let full = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
            .await
            .unwrap();
        assert_restores(&target, std::slice::from_ref(&full), &volume.path, folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_no_longer_fits_its_chain_asks_for_a_full() {
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(folder.path().join("volume.raw"), 8 * MIB);
    volume.random(0, MIB);
    let full = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
        .await
        .unwrap();
    let grown = Volume::create(folder.path().join("grown.raw"), 9 * MIB);
    let job = backup_job(&grown.path, "b2-a1", std::slice::from_ref(&full));
    let error = run_backup(target.clone(), &job).await.unwrap_err();
    assert!(matches!(error, MoverError::NeedsFull(_)), "{error}");
    let job = BackupJob {
        cluster_size: 32 << 10,
        ..backup_job(&volume.path, "b2-a1", &[full])
    };
    let error = run_backup(target.clone(), &job).await.unwrap_err();
    assert!(matches!(error, MoverError::NeedsFull(_)), "{error}");
    assert_eq!(names(&*target).await, ["b1-a1-s0.index", "b1-a1-s0.qcow2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_too_small_is_not_touched_and_one_that_is_larger_keeps_its_end() {
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(folder.path().join("volume.raw"), 8 * MIB);
    volume.random(MIB, MIB);
    let full = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
        .await
        .unwrap();
    let small = Volume::dirty(folder.path().join("small.raw"), 8 * MIB - 512);
    let error = run_restore(target.clone(), std::slice::from_ref(&full), &small.path)
        .await
        .unwrap_err();
    assert!(matches!(error, MoverError::DeviceTooSmall { .. }), "{error}");
    assert!(
        std::fs::read(&small.path)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0xa5),
        "nothing was written"
    );

    let large = Volume::dirty(folder.path().join("large.raw"), 9 * MIB);
    let summary = run_restore(target, &[full], &large.path).await.unwrap();
    assert_eq!(
        (summary.data, summary.zeroed, summary.zeroing),
        (MIB, 7 * MIB, Zeroing::Punched)
    );
    let bytes = std::fs::read(&large.path).unwrap();
    assert_eq!(bytes[..8 << 20], std::fs::read(&volume.path).unwrap());
    assert!(bytes[8 << 20..].iter().all(|byte| *byte == 0xa5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_store_restores_by_its_hashes() {
    let memory = Arc::new(MemoryTarget::new());
    let target: Arc<dyn Target> = memory.clone();
    let folder = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(folder.path().join("volume.raw"), 8 * MIB);
    volume.random(0, 4 * MIB);
    let full = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
        .await
        .unwrap();
    // As the documents of another store have it.
    let mut recorded = full.clone();
    recorded.shards[0].image.etag = ETag::new("of-another-store");
    recorded.shards[0].index.etag = ETag::new("of-another-store");
    assert_restores(&target, &[recorded.clone()], &volume.path, folder.path()).await;

    let back = Volume::create(folder.path().join("back.raw"), 8 * MIB);
    let key = home().file_key(&full.shards[0].image.key).unwrap();
    memory.damage(&key, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let lost = run_restore(target.clone(), &[recorded.clone()], &back.path).await;
    assert!(
        matches!(
            lost,
            Err(MoverError::Damaged { .. } | MoverError::DamagedCluster { .. })
        ),
        "{lost:?}"
    );
    memory.damage(&key, |bytes| bytes.truncate(bytes.len() - 1));
    let short = run_restore(target, &[recorded], &back.path).await;
    assert!(matches!(short, Err(MoverError::Damaged { .. })), "{short:?}");
}
