//! Merges that fail, are killed or cancelled: nothing is lost, and nothing is left that nobody can tell.
use std::{sync::Arc, time::Duration};

use holdfast_mover::{MergeJob, MoverError, Progress, merge};
use holdfast_qcow2::{Image, SpanIndex};
use holdfast_target::{
    ErrorKind, Key, Target,
    layout::FileStem,
    testing::{Fault, Faulty, Gateway, MemoryTarget, Operation},
};
use tokio_util::sync::CancellationToken;

use crate::{
    counting::{Counting, Request},
    history::{History, key},
    support::*,
};

/// Fails the `nth` call of an operation, in every way, for as long as there is such a call.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_the_run_stays_and_nothing_else_does() {
    let history = History::usual(Arc::new(MemoryTarget::new()), true, 64 << 10).await;
    let before = names(&*history.target).await;
    let operations = [
        Operation::Head,
        Operation::GetRange,
        Operation::BeginUpload,
        Operation::CopyPart,
        Operation::UploadPart,
        Operation::CompleteUpload,
        Operation::Put,
    ];
    for operation in operations {
        for fault in [Fault::Fail(ErrorKind::Unreachable), Fault::LoseAnswer] {
            let mut failed = 0;
            for nth in 0.. {
                let faulty = Faulty::new(history.target.clone());
                if nth > 0 {
                    faulty.plan(operation, nth, Fault::Delay(Duration::ZERO));
                }
                faulty.plan(operation, 1, fault);
                let job = history.job(1..4, u64::from(nth) + 1);
                let merged = history.merge_on(Arc::new(faulty), &job).await;
                let all = names(&*history.target).await;
                let uploads = history.target.list_uploads(&home().prefix()).await.unwrap();
                assert!(uploads.is_empty(), "{operation:?} {nth}: {uploads:?}");
                if let Ok(merged) = merged {
                    // There was no such call.
                    let objects = merged
                        .shards
                        .iter()
                        .flat_map(|shard| [&shard.image, &shard.index]);
                    let keys: Vec<Key> = objects.map(key).collect();
                    history.target.delete(&keys).await.unwrap();
                    assert_eq!(names(&*history.target).await, before);
                    // Checkpoints are put, too, and need not succeed.
                    if operation != Operation::Put || nth > 4 {
                        break;
                    }
                    continue;
                }
                assert_eq!(all, before, "{operation:?} {fault:?} {nth}");
                failed += 1;
                // Some of the many reads are enough.
                if nth > 12 {
                    break;
                }
            }
            assert!(failed > 0, "{operation:?} never happened");
        }
    }
    history.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_is_killed_leaves_only_new_names() {
    let gateway = Gateway::start();
    let mut history = History::usual(Arc::new(gateway.target()), false, 64 << 10).await;
    let before = names(&*history.target).await;
    for operation in [
        Operation::CopyPart,
        Operation::UploadPart,
        Operation::CompleteUpload,
    ] {
        let faulty = Faulty::new(history.target.clone());
        faulty.plan(operation, 100, Fault::Delay(Duration::from_secs(600)));
        let job = history.job(1..4, 9);
        let running = history.merge_on(Arc::new(faulty), &job);
        assert!(
            tokio::time::timeout(Duration::from_secs(2), running)
                .await
                .is_err()
        );
    }
    let left: Vec<String> = names(&*history.target)
        .await
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    let uploads = history.target.list_uploads(&home().prefix()).await.unwrap();
    assert!(!uploads.is_empty(), "it was killed in the middle");
    let uploads = uploads.iter().map(|open| open.upload.key.file_name().to_owned());
    assert!(
        left.into_iter()
            .chain(uploads)
            .all(|name| name.starts_with("b2-a1-m9-s0."))
    );
    history.check().await;
    // Another generation goes its own way.
    let merged = history
        .merge_on(history.target.clone(), &history.job(1..4, 10))
        .await
        .unwrap();
    history.replace(1..4, merged);
    history.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_merge_goes_on_where_it_was() {
    for (sealed, copies) in [(false, true), (true, true), (true, false)] {
        let mut history = History::usual(Arc::new(MemoryTarget::new()), sealed, 64 << 10).await;
        let run = 0..4;
        let job = history.job(run.clone(), 7);
        let whole = Arc::new(Counting::new(history.target.clone()));
        let other = history.job(run.clone(), 6);
        let refuse = |faulty: &Faulty| {
            if !copies {
                faulty.plan(Operation::CopyPart, 100, Fault::Fail(ErrorKind::Unsupported));
            }
        };
        let faulty = Faulty::new(whole.clone());
        refuse(&faulty);
        let uninterrupted = history.merge_on(Arc::new(faulty), &other).await.unwrap();
        let objects = [&uninterrupted.shards[0].image, &uninterrupted.shards[0].index].map(key);
        history.target.delete(&objects).await.unwrap();
        let before = names(&*history.target).await;

        // Killed when the store has taken the pieces of a checkpoint.
        let faulty = Faulty::new(history.target.clone());
        refuse(&faulty);
        let free = if copies { 0 } else { 6 };
        if free > 0 {
            faulty.plan(Operation::UploadPart, free, Fault::Delay(Duration::ZERO));
        }
        faulty.plan(Operation::UploadPart, 100, Fault::Delay(Duration::from_secs(600)));
        let running = history.merge_on(Arc::new(faulty), &job);
        let saved = async {
            // The first is there before any piece; a store that refuses to copy makes it begin twice.
            let early: &[&str] = if copies {
                &[".resume-1."]
            } else {
                &[".resume-1.", ".resume-2."]
            };
            let later =
                |name: &String| name.contains(".resume-") && !early.iter().any(|early| name.contains(early));
            while !names(&*history.target).await.iter().any(later) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = running => panic!("it was not killed in time: {done:?}"),
            () = saved => {}
        }
        let counting = Arc::new(Counting::new(history.target.clone()));
        let faulty = Faulty::new(counting.clone());
        refuse(&faulty);
        let merged = history.merge_on(Arc::new(faulty), &job).await.unwrap();
        let stored = |log: Vec<Request>| {
            let is_piece = |request: &&Request| !matches!(request, Request::Read(..));
            log.iter().filter(is_piece).count()
        };
        let (all, again) = (stored(whole.log()), stored(counting.log()));
        println!("merge: {again} of {all} pieces stored after the kill");
        assert!(again + 4 <= all, "{again} of {all}");
        if !sealed {
            assert_eq!(merged.shards[0].tables, uninterrupted.shards[0].tables);
        }
        assert!(
            history
                .target
                .list_uploads(&home().prefix())
                .await
                .unwrap()
                .is_empty()
        );
        let new: Vec<String> = names(&*history.target)
            .await
            .into_iter()
            .filter(|name| !before.contains(name))
            .collect();
        assert_eq!(new, ["b3-a1-m7-s0.index", "b3-a1-m7-s0.qcow2"]);
        history.replace(run, merged);
        history.check().await;
        if !sealed {
            history.check_by_qemu().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_upload_begins_again_once() {
    let mut history = History::usual(Arc::new(MemoryTarget::new()), true, 64 << 10).await;
    for operation in [
        Operation::CopyPart,
        Operation::UploadPart,
        Operation::CompleteUpload,
    ] {
        let faulty = Faulty::new(history.target.clone());
        faulty.plan(operation, 1, Fault::Fail(ErrorKind::NotFound));
        let job = history.job(1..3, operation as u64 + 1);
        history.merge_on(Arc::new(faulty), &job).await.unwrap();
        assert!(
            history
                .target
                .list_uploads(&home().prefix())
                .await
                .unwrap()
                .is_empty()
        );
    }
    let faulty = Faulty::new(history.target.clone());
    faulty.plan(Operation::UploadPart, 9, Fault::Fail(ErrorKind::NotFound));
    let error = history
        .merge_on(Arc::new(faulty), &history.job(1..3, 99))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "CannotMerge", "{error}");
    let merged = history
        .merge_on(history.target.clone(), &history.job(1..3, 100))
        .await
        .unwrap();
    history.replace(1..3, merged);
    history.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_not_carried_on() {
    let memory = Arc::new(MemoryTarget::new());
    let history = History::usual(memory.clone(), false, 64 << 10).await;
    let before = names(&*memory).await;
    let member = &history.chain[2].shards[0];
    let bytes = memory
        .get(&key(&member.image), 1 << 30)
        .await
        .unwrap()
        .body
        .to_vec();
    let image = Image::open(bytes).unwrap();
    let table = image.table_extent(SpanIndex(0)).unwrap().start;
    for (object, at) in [
        // An entry of a cluster that is not held, so that nothing but the digest can tell.
        (&member.image, table + 8 * 5 + 7),
        (&member.image, image.header().l1_offset + 5000),
        (&member.index, member.index.size / 2),
        (&member.index, member.index.size - 1),
    ] {
        let flip = |bytes: &mut Vec<u8>| bytes[usize::try_from(at).unwrap()] ^= 1;
        memory.damage(&key(object), flip);
        let error = history
            .merge_on(memory.clone(), &history.job(1..4, 1))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, MoverError::Damaged { key: found, .. } if *found == key(object).to_string()),
            "{error}"
        );
        assert_eq!(names(&*memory).await, before);
        memory.damage(&key(object), flip);
    }
    // An object that was exchanged while the merge is under way.
    memory.delete(&[key(&member.image)]).await.unwrap();
    let error = history
        .merge_on(memory.clone(), &history.job(1..4, 1))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "Damaged", "{error}");
    assert!(error.to_string().contains(&member.image.key), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_make_no_sense_are_refused_before_anything_is_read() {
    let history = History::usual(Arc::new(MemoryTarget::new()), true, 64 << 10).await;
    let faulty = Faulty::new(history.target.clone());
    faulty.plan(Operation::Head, 1000, Fault::Fail(ErrorKind::Denied));
    faulty.plan(Operation::GetRange, 1000, Fault::Fail(ErrorKind::Denied));
    let target: Arc<dyn Target> = Arc::new(faulty);
    let good = history.job(1..4, 1);
    let stem = |text: &str| text.parse::<FileStem>().unwrap();
    let bad = [
        MergeJob {
            run: Vec::new(),
            ..good.clone()
        },
        MergeJob {
            run: vec![history.chain[0].clone(), history.chain[2].clone()],
            files: stem("b3-a1-m1"),
            ..good.clone()
        },
        MergeJob {
            files: stem("b1-a1-m1"),
            ..good.clone()
        },
        MergeJob {
            files: stem("b2-a1"),
            ..good.clone()
        },
    ];
    for job in bad {
        let error = history.merge_on(target.clone(), &job).await.unwrap_err();
        assert_eq!(error.reason(), "InvalidJob", "{error}");
    }
    let some = keys(&["b1", "b2"]);
    let progress = Arc::new(Progress::new());
    let error = merge(target.clone(), &good, some, progress, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "KeyMissing", "{error}");
    let error = history.merge_on(target, &good).await.unwrap_err();
    assert_eq!(error.reason(), "Denied", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_merge_ends_at_once_and_leaves_nothing() {
    let history = History::usual(Arc::new(MemoryTarget::new()), false, 64 << 10).await;
    let before = names(&*history.target).await;
    for (operation, free) in [
        (Operation::Head, 0),
        (Operation::List, 0),
        (Operation::GetRange, 0),
        (Operation::GetRange, 9),
        (Operation::BeginUpload, 0),
        (Operation::CopyPart, 1),
        (Operation::UploadPart, 0),
        (Operation::CompleteUpload, 0),
        (Operation::Put, 0),
    ] {
        let faulty = Faulty::new(history.target.clone());
        if free > 0 {
            faulty.plan(operation, free, Fault::Delay(Duration::ZERO));
        }
        faulty.plan(operation, 1000, Fault::Delay(Duration::from_secs(600)));
        let cancel = CancellationToken::new();
        let running = tokio::spawn({
            let (cancel, job) = (cancel.clone(), history.job(1..4, 1));
            let (target, progress) = (Arc::new(faulty), Arc::new(Progress::new()));
            async move { merge(target, &job, Arc::default(), progress, cancel).await }
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!running.is_finished(), "{operation:?}");
        cancel.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), running).await;
        let ended = ended.expect("it ends").unwrap();
        assert!(matches!(ended, Err(MoverError::Cancelled)), "{ended:?}");
        assert_eq!(names(&*history.target).await, before, "{operation:?}");
        let uploads = history.target.list_uploads(&home().prefix()).await.unwrap();
        assert!(uploads.is_empty(), "{operation:?}: {uploads:?}");
    }
}
