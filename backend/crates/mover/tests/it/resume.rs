//! Attempts that go on where an earlier one was killed.
use std::{path::Path, process::Command, sync::Arc, time::Duration};

use holdfast_mover::{
    BackupJob, Job, MoverError, Progress, RestoreJob, VerifyJob, VerifyScope, backup, restore, verify,
};
use holdfast_seal::KeyRing;
use holdfast_target::{
    ErrorKind, Target,
    layout::ImageRecord,
    testing::{Fault, Faulty, Gateway, MemoryTarget, Operation},
};
use tokio_util::sync::CancellationToken;

use crate::{
    counting::{Counting, Request},
    support::*,
};

/// Nineteen parts that do not compress.
const SIZE: u64 = 300 * MIB;

fn volume(folder: &Path) -> Volume {
    let mut volume = Volume::create(folder.join("volume.raw"), SIZE);
    volume.random(0, SIZE);
    volume
}

fn job(volume: &Volume, backup: &str, attempt: u32, parents: &[ImageRecord], sealed: bool) -> BackupJob {
    BackupJob {
        seal: sealed.then(|| backup.parse().unwrap()),
        source: Some("snapshot-1".to_owned()),
        ..backup_job(&volume.path, &format!("{backup}-a{attempt}"), parents)
    }
}

/// Runs a job until so many bytes were sent, and there is a checkpoint if they are more than it takes to make one; and
/// then forgets it as a kill would. Parts beyond those bytes stay on the wire, so that a machine that is slow to kill
/// finds the job no further.
async fn killed(target: Arc<dyn Target>, job: &BackupJob, keys: &Arc<KeyRing>, sent: u64) {
    let progress = Arc::new(Progress::new());
    let faulty = Faulty::new(target.clone());
    let parts = u32::try_from(sent.div_ceil(16 * MIB)).unwrap() + 1;
    faulty.plan(Operation::UploadPart, parts, Fault::Delay(Duration::ZERO));
    faulty.plan(
        Operation::UploadPart,
        u32::MAX,
        Fault::Delay(Duration::from_secs(600)),
    );
    let running = backup(
        Arc::new(faulty),
        job,
        keys.clone(),
        progress.clone(),
        CancellationToken::new(),
    );
    let far_enough = async {
        let watched = async || {
            let names = names(&*target).await;
            sent < 140 * MIB || names.iter().any(|name| name.ends_with(".json"))
        };
        while progress.snapshot().bytes_transferred < sent || !watched().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        done = running => panic!("it was not killed in time: {done:?}"),
        () = far_enough => {}
    }
}

fn sent(counting: &Counting) -> u64 {
    let log = counting.log();
    let bytes = log.iter().map(|request| match request {
        Request::Send(_, bytes) => *bytes,
        _ => 0,
    });
    bytes.sum()
}

/// The chain restores, is sound, and nothing but its files is on the target.
async fn assert_good(target: &Arc<dyn Target>, chain: &[ImageRecord], keys: &Arc<KeyRing>, volume: &Volume) {
    let size = std::fs::metadata(&volume.path).unwrap().len();
    let restored = Volume::create(volume.path.with_extension("restored"), size);
    run_restore_with(target.clone(), chain, &restored.path, keys.clone())
        .await
        .unwrap();
    run(Command::new("qemu-img")
        .args(["compare", "-f", "raw", "-F", "raw"])
        .arg(&volume.path)
        .arg(&restored.path));
    std::fs::remove_file(&restored.path).unwrap();
    let job = VerifyJob {
        home: home(),
        images: chain.to_vec(),
        scope: VerifyScope::Full {
            from: None,
            budget: None,
        },
    };
    let progress = Arc::new(Progress::new());
    let report = verify(
        target.clone(),
        &job,
        keys.clone(),
        progress,
        CancellationToken::new(),
    );
    let report = report.await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    let shards = chain.iter().flat_map(|record| &record.shards);
    let mut files: Vec<&str> = shards
        .flat_map(|shard| [&*shard.image.key, &*shard.index.key])
        .collect();
    files.sort_unstable();
    assert_eq!(names(&**target).await, files);
}

async fn no_uploads(target: &dyn Target) {
    let uploads = target.list_uploads(&home().prefix()).await.unwrap();
    assert!(uploads.is_empty(), "{uploads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_goes_on_where_it_was() {
    for sealed in [false, true] {
        let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
        let ring = keys(&["b1", "b2"]);
        let folder = tempfile::tempdir().unwrap();
        let mut volume = volume(folder.path());
        killed(
            target.clone(),
            &job(&volume, "b1", 1, &[], sealed),
            &ring,
            190 * MIB,
        )
        .await;
        let counting = Arc::new(Counting::new(target.clone()));
        let second = job(&volume, "b1", 2, &[], sealed);
        let full = run_backup_with(counting.clone(), &second, ring.clone())
            .await
            .unwrap();
        assert_eq!(
            full.id.to_string(),
            "b1-a1",
            "it is the image that the first attempt began"
        );
        assert!(
            sent(&counting) < 200 * MIB,
            "{} bytes were sent again",
            sent(&counting)
        );
        assert_good(&target, std::slice::from_ref(&full), &ring, &volume).await;
        if !sealed {
            // The same image as without an interruption.
            let alone: Arc<dyn Target> = Arc::new(MemoryTarget::new());
            let whole = run_backup(alone, &backup_job(&volume.path, "b1-a1", &[]))
                .await
                .unwrap();
            assert_eq!(
                (whole.shards[0].tables, whole.shards[0].index_digest),
                (full.shards[0].tables, full.shards[0].index_digest)
            );
        }
        no_uploads(&*target).await;

        // An incremental, killed again and again.
        volume.random(20 * MIB, 270 * MIB);
        volume.punch(200 * MIB, 10 * MIB);
        let parents = [full];
        for (attempt, far) in [(1, 150), (2, 10), (3, 30), (4, 40)] {
            let job = job(&volume, "b2", attempt, &parents, sealed);
            killed(target.clone(), &job, &ring, far * MIB).await;
        }
        let last = job(&volume, "b2", 5, &parents, sealed);
        let overlay = run_backup_with(target.clone(), &last, ring.clone())
            .await
            .unwrap();
        assert_eq!(overlay.id.to_string(), "b2-a1");
        let [full] = parents;
        assert_good(&target, &[overlay, full], &ring, &volume).await;
        no_uploads(&*target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_gone_on_with_begins_again() {
    let ring = keys(&["b1"]);
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(folder.path());
    for sealed in [false, true] {
        for case in ["upload", "checkpoint", "first part", "source", "chain"] {
            let memory = Arc::new(MemoryTarget::new());
            let target: Arc<dyn Target> = memory.clone();
            killed(
                target.clone(),
                &job(&volume, "b1", 1, &[], sealed),
                &ring,
                180 * MIB,
            )
            .await;
            let left = memory.keys();
            let ending = |end: &str| left.iter().find(|key| key.as_str().ends_with(end)).unwrap();
            let mut second = job(&volume, "b1", 2, &[], sealed);
            match case {
                "upload" => {
                    for open in target.list_uploads(&home().prefix()).await.unwrap() {
                        target.abort_upload(&open.upload).await.unwrap();
                    }
                }
                "checkpoint" => memory.damage(ending(".json"), |bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                }),
                "first part" => memory.damage(ending(".part"), |bytes| bytes[1000] ^= 1),
                "source" => second.source = Some("snapshot-2".to_owned()),
                _ => second.cluster_size = 128 << 10,
            }
            let counting = Arc::new(Counting::new(target.clone()));
            let full = run_backup_with(counting.clone(), &second, ring.clone())
                .await
                .unwrap();
            assert_eq!(full.id.to_string(), "b1-a2", "{case}");
            assert!(sent(&counting) > 290 * MIB, "{case}");
            let restored = Volume::create(folder.path().join("restored.raw"), SIZE);
            run_restore_with(target, &[full], &restored.path, ring.clone())
                .await
                .unwrap();
            assert_same(&volume.path, &restored.path);
            std::fs::remove_file(&restored.path).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_may_pass_leave_what_was_stored_and_others_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(folder.path());
    for (kind, stays) in [(ErrorKind::Unreachable, true), (ErrorKind::Denied, false)] {
        let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
        let faulty = Faulty::new(target.clone());
        faulty.plan(Operation::UploadPart, 14, Fault::Delay(Duration::ZERO));
        faulty.plan(Operation::UploadPart, 1, Fault::Fail(kind));
        let failed = run_backup(Arc::new(faulty), &job(&volume, "b1", 1, &[], false)).await;
        assert!(matches!(failed, Err(MoverError::Target(_))), "{failed:?}");
        let full = if stays {
            let counting = Arc::new(Counting::new(target.clone()));
            let full = run_backup(counting.clone(), &job(&volume, "b1", 2, &[], false))
                .await
                .unwrap();
            assert!(sent(&counting) < 200 * MIB, "{}", sent(&counting));
            assert_eq!(full.id.to_string(), "b1-a1");
            full
        } else {
            assert_empty(&*target).await;
            run_backup(target.clone(), &job(&volume, "b1", 2, &[], false))
                .await
                .unwrap()
        };
        assert_good(&target, &[full], &Arc::default(), &volume).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_checkpoints_gets_the_image_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(folder.path());
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let faulty = Faulty::new(target.clone());
    // The first bytes, then two checkpoints; the index of such a volume is put as a whole, too.
    faulty.plan(Operation::Put, 2, Fault::Fail(ErrorKind::Full));
    let full = run_backup(Arc::new(faulty), &job(&volume, "b1", 1, &[], false))
        .await
        .unwrap();
    assert_good(&target, &[full], &Arc::default(), &volume).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_attempt_takes_checkpoints_back_too() {
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(folder.path());
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    killed(
        target.clone(),
        &job(&volume, "b1", 1, &[], false),
        &Arc::default(),
        180 * MIB,
    )
    .await;
    let faulty = Faulty::new(target.clone());
    faulty.plan(Operation::UploadPart, 100, Fault::Delay(Duration::from_secs(600)));
    let (cancel, job) = (CancellationToken::new(), job(&volume, "b1", 2, &[], false));
    let running = tokio::spawn({
        let (cancel, progress) = (cancel.clone(), Arc::new(Progress::new()));
        async move { backup(Arc::new(faulty), &job, Arc::default(), progress, cancel).await }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), running)
        .await
        .expect("it ends");
    assert!(matches!(ended.unwrap(), Err(MoverError::Cancelled)));
    assert_empty(&*target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_stored_is_not_stored_again() {
    let folder = tempfile::tempdir().unwrap();
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let mut volume = Volume::create(folder.path().join("volume.raw"), (128 << 30) + 200 * MIB);
    volume.random(5 * MIB, 60 * MIB);
    volume.random(128 << 30, 100 * MIB);
    killed(
        target.clone(),
        &job(&volume, "b1", 1, &[], false),
        &Arc::default(),
        110 * MIB,
    )
    .await;
    let counting = Arc::new(Counting::new(target.clone()));
    let full = run_backup(counting.clone(), &job(&volume, "b1", 2, &[], false))
        .await
        .unwrap();
    assert!(sent(&counting) < 105 * MIB, "{}", sent(&counting));
    assert_eq!((full.id.to_string(), full.shards.len()), ("b1-a1".to_owned(), 2));
    assert_good(&target, &[full], &Arc::default(), &volume).await;
    no_uploads(&*target).await;
}

/// A process of its own, ended by SIGKILL, against a real store.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_loses_little() {
    let gateway = Gateway::start();
    let target: Arc<dyn Target> = Arc::new(gateway.target());
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(folder.path());
    let first = Job::Backup(job(&volume, "b1", 1, &[], false));
    let mut child = crate::memory::start(&gateway, &first, folder.path());
    let begun = std::time::Instant::now();
    while !names(&*target).await.iter().any(|name| name.ends_with(".json")) {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "there is no checkpoint"
        );
        assert!(
            child.try_wait().unwrap().is_none(),
            "it was too fast to be killed"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let counting = Arc::new(Counting::new(target.clone()));
    let full = run_backup(counting.clone(), &job(&volume, "b1", 2, &[], false))
        .await
        .unwrap();
    println!(
        "resumed: {} of {} bytes sent by the second attempt",
        sent(&counting),
        full.stored
    );
    assert!(sent(&counting) < 200 * MIB, "{}", sent(&counting));
    assert_eq!(full.id.to_string(), "b1-a1");
    assert_good(&target, &[full], &Arc::default(), &volume).await;
    no_uploads(&*target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_on_behind_what_was_flushed() {
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    // Content, a hole in which the first flush falls or not, and content again.
    let size = 1500 * MIB + 512;
    let mut volume = Volume::create(folder.path().join("volume.raw"), size);
    volume.text(0, 500 * MIB);
    volume.random(700 * MIB, 40 * MIB);
    volume.text(800 * MIB, 700 * MIB);
    let full = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
        .await
        .unwrap();
    let device = Volume::dirty(folder.path().join("restored.raw"), size);
    let slow = Faulty::new(target.clone());
    slow.plan(
        Operation::GetRange,
        1_000_000,
        Fault::Delay(Duration::from_millis(20)),
    );
    let job = RestoreJob {
        device: device.path.clone(),
        home: home(),
        chain: vec![full],
        from: 0,
    };
    let progress = Arc::new(Progress::new());
    let running = restore(
        Arc::new(slow),
        &job,
        Arc::default(),
        progress.clone(),
        CancellationToken::new(),
    );
    let flushed = async {
        while progress.snapshot().bytes_durable == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = running => panic!("it was not killed in time: {done:?}"),
        () = flushed => {}
    }
    let from = progress.snapshot().bytes_durable;
    assert!((512 * MIB..size).contains(&from), "{from}");
    // What was told to be durable is what it should be; what lies behind is done again.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let job = RestoreJob { from, ..job };
    let progress = Arc::new(Progress::new());
    let summary = restore(
        target,
        &job,
        Arc::default(),
        progress.clone(),
        CancellationToken::new(),
    );
    let summary = summary.await.unwrap();
    assert_eq!(summary.data + summary.zeroed, size - from);
    let seen = progress.snapshot();
    assert_eq!((seen.bytes_done, seen.bytes_durable), (size, size));
    assert_same(&volume.path, &device.path);
}
