use std::{os::unix::fs::FileExt, path::Path, sync::Arc, time::Duration};

use holdfast_mover::{BackupJob, MoverError, Progress, RestoreJob, backup, restore};
use holdfast_target::{
    ErrorKind, Key, Patience, Target,
    layout::ImageRecord,
    testing::{Fault, Faulty, Gateway, MemoryTarget, Operation},
};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// A volume of 100 MiB that does not compress.
fn large(folder: &Path) -> Volume {
    let mut volume = Volume::create(folder.join("volume.raw"), 100 * MIB);
    volume.random(0, 100 * MIB);
    volume
}

/// Ten MiB and their full backup.
async fn small(target: &Arc<dyn Target>, folder: &Path) -> (Volume, ImageRecord) {
    let mut volume = Volume::create(folder.join("volume.raw"), 20 * MIB);
    volume.random(5 * MIB, 10 * MIB);
    let record = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
        .await
        .unwrap();
    (volume, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_leaves_nothing_on_the_target() {
    let gateway = Gateway::start();
    let folder = tempfile::tempdir().unwrap();
    let volume = large(folder.path());
    let faulty = Faulty::new(Arc::new(gateway.target()));
    // The third part hangs: two are there when the cancel comes.
    faulty.plan(Operation::UploadPart, 2, Fault::Delay(Duration::ZERO));
    faulty.plan(Operation::UploadPart, 100, Fault::Delay(Duration::from_secs(600)));
    let target: Arc<dyn Target> = Arc::new(faulty);
    let (progress, cancel) = (Arc::new(Progress::new()), CancellationToken::new());
    let job = backup_job(&volume.path, "b1-a1", &[]);
    let running = tokio::spawn({
        let (target, progress, cancel) = (target.clone(), progress.clone(), cancel.clone());
        async move { backup(target, &job, Arc::default(), progress, cancel).await }
    });
    while progress.snapshot().bytes_transferred < 32 * MIB {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        target.list_uploads(&home().prefix()).await.unwrap().len(),
        1,
        "it is under way"
    );
    cancel.cancel();
    let begun = std::time::Instant::now();
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, MoverError::Cancelled), "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begun.elapsed()
    );
    assert_empty(&*target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_at_any_step_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let volume = large(folder.path());
    let cases = [
        (Operation::BeginUpload, Fault::Fail(ErrorKind::Denied), "Denied"),
        (Operation::UploadPart, Fault::Fail(ErrorKind::Full), "Full"),
        (
            Operation::CompleteUpload,
            Fault::Fail(ErrorKind::Unreachable),
            "Unreachable",
        ),
        (Operation::CompleteUpload, Fault::LoseAnswer, "Unreachable"),
        (Operation::BeginUpload, Fault::LoseAnswer, "Unreachable"),
        (Operation::Put, Fault::LoseAnswer, "Unreachable"),
    ];
    for (operation, fault, reason) in cases {
        let faulty = Faulty::new(Arc::new(MemoryTarget::new()));
        faulty.plan(operation, 1, fault);
        let target: Arc<dyn Target> = Arc::new(faulty);
        let error = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), reason, "{operation:?} {fault:?}: {error}");
        assert_empty(&*target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_dies_is_told_and_shows_no_image_afterwards() {
    let mut gateway = Gateway::start();
    let folder = tempfile::tempdir().unwrap();
    let volume = large(folder.path());
    let patience = Patience {
        unreachable: Duration::from_secs(1),
        throttled: Duration::from_secs(1),
    };
    let target: Arc<dyn Target> = Arc::new(gateway.target().with_patience(patience));
    let progress = Arc::new(Progress::new());
    let job = backup_job(&volume.path, "b1-a1", &[]);
    let running = tokio::spawn({
        let (target, progress) = (target.clone(), progress.clone());
        async move { backup(target, &job, Arc::default(), progress, CancellationToken::new()).await }
    });
    while progress.snapshot().bytes_transferred == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    gateway.kill();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "Unreachable", "{error}");
    assert!(error.is_retryable());
    gateway.restart();
    assert_eq!(names(&*target).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_there_is_neither_overwritten_nor_removed() {
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let (mut volume, full) = small(&target, folder.path()).await;
    let before = names(&*target).await;
    volume.random(0, 10 * MIB);
    let error = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "Exists", "{error}");
    assert_eq!(names(&*target).await, before);
    let restored = Volume::create(folder.path().join("restored.raw"), 20 * MIB);
    run_restore(target, &[full], &restored.path).await.unwrap();
}

/// Inverts one byte of a stored file behind the store's back.
fn flip(gateway: &Gateway, key: &Key, offset: u64) {
    let file = gateway.bucket_folder().join(key.as_str());
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_byte_is_found_and_named() {
    let gateway = Gateway::start();
    let target: Arc<dyn Target> = Arc::new(gateway.target());
    let folder = tempfile::tempdir().unwrap();
    let (volume, full) = small(&target, folder.path()).await;
    let shard = &full.shards[0];
    let image = home().image_key(&full.id, shard.shard);
    let index = home().index_key(&full.id, shard.shard);
    let device = Volume::create(folder.path().join("restored.raw"), 20 * MIB);
    let restored = || run_restore(target.clone(), std::slice::from_ref(&full), &device.path);

    // In the middle of the payload: one cluster of the ten MiB.
    let middle = shard.image.size / 2;
    flip(&gateway, &image, middle);
    match restored().await.unwrap_err() {
        MoverError::DamagedCluster {
            key, cluster, offset, ..
        } => {
            assert_eq!((key, offset), (image.to_string(), cluster.0 * 65536));
            assert!((5 * MIB..15 * MIB).contains(&offset), "{offset}");
        }
        other => panic!("{other}"),
    }
    flip(&gateway, &image, middle);
    restored().await.unwrap();

    // Every 4093rd byte of the index: nothing of it is believed.
    for at in (0..shard.index.size).step_by(4093) {
        flip(&gateway, &index, at);
        let error = restored().await.unwrap_err();
        assert!(
            matches!(&error, MoverError::Damaged { key, .. } if *key == index.to_string()),
            "byte {at}: {error}"
        );
        let job = backup_job(&volume.path, "b2-a1", std::slice::from_ref(&full));
        let error = run_backup(target.clone(), &job).await.unwrap_err();
        assert_eq!(error.reason(), "Damaged", "byte {at}: {error}");
        flip(&gateway, &index, at);
    }
    // In the header of the image.
    flip(&gateway, &image, 0);
    let error = restored().await.unwrap_err();
    assert!(
        matches!(&error, MoverError::Damaged { key, .. } if *key == image.to_string()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_or_missing_object_is_damage() {
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let (volume, full) = small(&target, folder.path()).await;
    let key = home().index_key(&full.id, full.shards[0].shard);
    let bytes = target.get(&key, 1 << 20).await.unwrap().body;
    let mut other = bytes.to_vec();
    *other.last_mut().unwrap() ^= 1;
    let device = Volume::dirty(folder.path().join("restored.raw"), 20 * MIB);
    target.delete(std::slice::from_ref(&key)).await.unwrap();
    for replaced in [false, true] {
        if replaced {
            target.put(&key, other.clone().into()).await.unwrap();
        }
        let error = run_restore(target.clone(), std::slice::from_ref(&full), &device.path)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, MoverError::Damaged { key: found, .. } if *found == key.to_string()),
            "{error}"
        );
        let job = backup_job(&volume.path, "b2-a1", std::slice::from_ref(&full));
        let error = run_backup(target.clone(), &job).await.unwrap_err();
        assert!(
            matches!(&error, MoverError::Damaged { key: found, .. } if *found == key.to_string()),
            "{error}"
        );
    }
    assert!(
        std::fs::read(&device.path)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0xa5),
        "nothing was written"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_on_the_way_are_not_written() {
    let memory: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let (_, full) = small(&memory, folder.path()).await;
    let device = Volume::create(folder.path().join("restored.raw"), 20 * MIB);
    let faulty = Faulty::new(memory);
    // Index and head of the image arrive whole.
    faulty.plan(Operation::GetRange, 3, Fault::Delay(Duration::ZERO));
    faulty.plan(Operation::GetRange, 1, Fault::Flip(0x10));
    let error = run_restore(Arc::new(faulty), &[full], &device.path)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "Damaged", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_restore_ends_at_once() {
    let memory: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let (_, full) = small(&memory, folder.path()).await;
    let device = Volume::create(folder.path().join("restored.raw"), 20 * MIB);
    let faulty = Faulty::new(memory);
    faulty.plan(Operation::GetRange, 100, Fault::Delay(Duration::from_secs(600)));
    let job = RestoreJob {
        device: device.path.clone(),
        home: home(),
        chain: vec![full],
        from: 0,
    };
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move {
            restore(
                Arc::new(faulty),
                &job,
                Arc::default(),
                Arc::new(Progress::new()),
                cancel,
            )
            .await
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), running)
        .await
        .expect("it ends")
        .unwrap();
    assert!(matches!(ended, Err(MoverError::Cancelled)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_do_not_make_a_chain_are_refused() {
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let (volume, full) = small(&target, folder.path()).await;
    let job = backup_job(&volume.path, "b2-a1", std::slice::from_ref(&full));
    let overlay = run_backup(target.clone(), &job).await.unwrap();
    let device = Volume::create(folder.path().join("restored.raw"), 20 * MIB);
    let mut elsewhere = full.clone();
    elsewhere.shards[0].image.key = "../../../etc/passwd".to_owned();
    for chain in [
        vec![],
        vec![overlay.clone()],
        vec![full.clone(), overlay.clone()],
        vec![overlay.clone(), elsewhere],
    ] {
        let error = run_restore(target.clone(), &chain, &device.path)
            .await
            .unwrap_err();
        assert!(matches!(error, MoverError::Job(_)), "{error}");
    }
    run_restore(target, &[overlay, full], &device.path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_cancelled_in_every_phase() {
    let folder = tempfile::tempdir().unwrap();
    let memory: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let mut volume = large(folder.path());
    let full = run_backup(memory.clone(), &backup_job(&volume.path, "b1-a1", &[]))
        .await
        .unwrap();
    let before = names(&*memory).await;
    volume.random(0, 90 * MIB);
    for (operation, free) in [
        (Operation::Head, 0),
        (Operation::List, 0),
        (Operation::GetRange, 0),
        (Operation::BeginUpload, 0),
        (Operation::UploadPart, 0),
        (Operation::UploadPart, 4),
        (Operation::CompleteUpload, 0),
        (Operation::Put, 0),
    ] {
        let faulty = Faulty::new(memory.clone());
        if free > 0 {
            faulty.plan(operation, free, Fault::Delay(Duration::ZERO));
        }
        faulty.plan(operation, 1, Fault::Delay(Duration::from_secs(600)));
        let job = BackupJob {
            source: Some("snapshot".to_owned()),
            ..backup_job(&volume.path, "b2-a1", std::slice::from_ref(&full))
        };
        let cancel = CancellationToken::new();
        let running = tokio::spawn({
            let (cancel, progress) = (cancel.clone(), Arc::new(Progress::new()));
            async move { backup(Arc::new(faulty), &job, Arc::default(), progress, cancel).await }
        });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(!running.is_finished(), "{operation:?}");
        cancel.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), running).await;
        assert!(
            matches!(ended, Ok(Ok(Err(MoverError::Cancelled)))),
            "{operation:?} {free}: {ended:?}"
        );
        assert_eq!(names(&*memory).await, before, "{operation:?}");
        let uploads = memory.list_uploads(&home().prefix()).await.unwrap();
        assert!(uploads.is_empty(), "{operation:?}: {uploads:?}");
    }
}
