//! Merges: every point restores as before, and data move inside the store.
mod faults;

use std::{ops::Range, sync::Arc};

use holdfast_qcow2::{Image, SpanIndex};
use holdfast_target::{
    DirectoryTarget, ErrorKind, Key, Target,
    testing::{Fault, Faulty, Gateway, MemoryTarget, Operation},
};
use proptest::prelude::*;

use crate::{
    counting::{Counting, Request},
    histories::{Change, change},
    history::{History, SIZE, key},
    support::*,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_run_of_a_chain_merges_to_the_same_points() {
    for (sealed, cluster_size) in [
        (false, 64 << 10),
        (true, 64 << 10),
        (true, 16 << 10),
        (false, 2 << 20),
    ] {
        let history = History::usual(Arc::new(MemoryTarget::new()), sealed, cluster_size).await;
        let chain = history.chain.clone();
        let mut history = history;
        for (generation, run) in [0..2, 1..3, 1..4, 0..4, 3..4].into_iter().enumerate() {
            history.chain = chain.clone();
            let job = history.job(run.clone(), generation as u64 + 1);
            let counting = Arc::new(Counting::new(history.target.clone()));
            let merged = history.merge_on(counting.clone(), &job).await.unwrap();
            let copied = |request: &Request| matches!(request, Request::Copy(..));
            assert!(
                counting.log().iter().any(copied) || run == (1..2),
                "{run:?} {sealed} {cluster_size}"
            );
            assert_eq!(merged.stem(), Some(job.files.clone()));
            assert_eq!(merged.shards[0].image.seal.is_some(), sealed);
            history.replace(run, merged);
            history.check().await;
            if !sealed {
                history.check_by_qemu().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_of_merged_images_go_on_and_on() {
    for sealed in [false, true] {
        let mut history = History::usual(Arc::new(MemoryTarget::new()), sealed, 64 << 10).await;
        for night in 0..3u64 {
            let last = history.chain.len() - 2;
            let merged = history.job(last..last + 2, night + 1);
            let merged = history.merge_on(history.target.clone(), &merged).await.unwrap();
            history.replace(last..last + 2, merged);
            let volume = &mut history.volume;
            volume.random((20 + 7 * night) * MIB, 9 * MIB);
            volume.punch((30 + 5 * night) * MIB, MIB);
            history.backup().await;
            history.check().await;
        }
        let last = history.chain.last().unwrap();
        if let Some(layout) = &last.shards[0].image.seal {
            assert!(
                layout.key_ids().len() > 1,
                "it consists of regions of several backups"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_reads_tables_indexes_and_short_regions_only() {
    let gateway = Gateway::start();
    for sealed in [false, true] {
        let target: Arc<dyn Target> = Arc::new(gateway.target());
        let mut history = History::new(target.clone(), 200 * MIB, sealed, 64 << 10);
        history.volume.random(0, 120 * MIB);
        history.backup().await;
        history.volume.random(20 * MIB, 30 * MIB);
        // Too short to be copied.
        history.volume.random(150 * MIB, 2 * MIB);
        history.backup().await;
        let counting = Arc::new(Counting::new(target.clone()));
        let merged = history
            .merge_on(counting.clone(), &history.job(0..2, 1))
            .await
            .unwrap();
        let (mut read, mut copied, mut sent) = (0, 0, 0);
        for request in counting.log() {
            match request {
                Request::Read(name, range) if name.ends_with(".qcow2") => {
                    assert!(range.end - range.start < 5 * MIB, "{name} {range:?}");
                    read += range.end - range.start;
                }
                Request::Read(..) => {}
                Request::Copy(_, range) => {
                    assert!(range.end - range.start >= 5 * MIB, "{range:?}");
                    copied += range.end - range.start;
                }
                Request::Send(_, bytes) => sent += bytes,
            }
        }
        // 90 MiB of the old, 32 of the new.
        println!("merge: {copied} bytes copied inside, {read} read of images, {sent} sent");
        assert!((115 * MIB..130 * MIB).contains(&copied), "{copied}");
        assert!(read < 6 * MIB && sent < 12 * MIB, "{read} {sent}");
        // No table is read that is none: every read is of a head, a table, or of what was packed.
        if !sealed {
            assert_only_tables(&history, &counting.log()).await;
        }
        history.replace(0..2, merged);
        history.check().await;
        if !sealed {
            history.check_by_qemu().await;
        }
        let objects = holdfast_target::list_all(&*target, &home().prefix(), 1000)
            .await
            .unwrap();
        let keys: Vec<Key> = objects.into_iter().map(|object| object.key).collect();
        target.delete(&keys).await.unwrap();
    }
}

/// Reads outside of heads and tables have nothing in common with what was copied, but for windows at either end.
async fn assert_only_tables(history: &History, log: &[Request]) {
    for record in &history.chain {
        let object = &record.shards[0].image;
        let bytes = history
            .target
            .get(&key(object), 1 << 30)
            .await
            .unwrap()
            .body
            .to_vec();
        let image = Image::open(bytes).unwrap();
        let spans = (0..image.geometry().spans()).map(SpanIndex);
        let mut tables: Vec<Range<u64>> = spans.filter_map(|span| image.table_extent(span)).collect();
        // The head, and the refcount blocks at the end with what a window takes along.
        tables.push(0..256 << 10);
        tables.push(object.size - (256 << 10)..object.size);
        let within = |range: &Range<u64>| {
            tables
                .iter()
                .any(|table| table.start <= range.start && range.end <= table.end)
        };
        let reads = log.iter().filter_map(|request| match request {
            Request::Read(name, range) if *name == object.key => Some(range),
            _ => None,
        });
        for read in reads.filter(|read| !within(read)) {
            for request in log {
                if let Request::Copy(name, copy) = request {
                    let common = read.end.min(copy.end).saturating_sub(read.start.max(copy.start));
                    assert!(
                        *name != object.key || common <= 128 << 10,
                        "{name}: {read:?} {copy:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_copy_gets_the_bytes() {
    for sealed in [false, true] {
        let mut history = History::usual(Arc::new(MemoryTarget::new()), sealed, 64 << 10).await;
        let faulty = Faulty::new(history.target.clone());
        faulty.plan(Operation::CopyPart, 100, Fault::Fail(ErrorKind::Unsupported));
        let counting = Arc::new(Counting::new(Arc::new(faulty)));
        let merged = history
            .merge_on(counting.clone(), &history.job(1..4, 1))
            .await
            .unwrap();
        for request in counting.log() {
            if let Request::Read(_, range) | Request::Copy(_, range) = &request {
                let most = 17 * MIB;
                assert!(
                    matches!(request, Request::Copy(..)) || range.end - range.start <= most,
                    "{range:?}"
                );
            }
        }
        history.replace(1..4, merged);
        history.check().await;
        assert!(
            history
                .target
                .list_uploads(&home().prefix())
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_images_below_sealed_ones_are_sealed_on_the_way() {
    let mut history = History::new(Arc::new(MemoryTarget::new()), SIZE, false, 64 << 10);
    history.volume.random(0, 50 * MIB);
    history.backup().await;
    history.sealed = true;
    history.volume.random(10 * MIB, 10 * MIB);
    history.backup().await;
    // Without a key it would have to be opened, which nobody asked for.
    let mut job = history.job(0..2, 1);
    job.seal = None;
    let error = history.merge_on(history.target.clone(), &job).await.unwrap_err();
    assert_eq!(error.reason(), "InvalidJob", "{error}");
    let merged = history
        .merge_on(history.target.clone(), &history.job(0..2, 1))
        .await
        .unwrap();
    let bytes = history
        .target
        .get(&key(&merged.shards[0].image), 1 << 30)
        .await
        .unwrap()
        .body;
    assert!(
        !bytes.windows(4).any(|word| word == b"\x28\xb5\x2f\xfd"),
        "no frame lies in clear"
    );
    history.replace(0..2, merged);
    history.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_merges_too() {
    let folder = tempfile::tempdir().unwrap();
    for sealed in [false, true] {
        let place = folder.path().join(if sealed { "sealed" } else { "clear" });
        std::fs::create_dir(&place).unwrap();
        let target = Arc::new(DirectoryTarget::create(&place).await.unwrap());
        let mut history = History::usual(target.clone(), sealed, 64 << 10).await;
        let counting = Arc::new(Counting::new(target));
        let merged = history
            .merge_on(counting.clone(), &history.job(1..4, 1))
            .await
            .unwrap();
        let copied = |request: &Request| matches!(request, Request::Copy(..));
        assert!(counting.log().iter().any(copied));
        history.replace(1..4, merged);
        history.check().await;
    }
}

/// Any history, and any runs of it merged one after the other.
async fn replay(history: Vec<Vec<Change>>, runs: Vec<(usize, usize)>, sealed: bool) {
    let mut world = History::new(
        Arc::new(MemoryTarget::new()),
        crate::histories::SIZE,
        sealed,
        16 << 10,
    );
    // Enough that some of it is copied.
    world.volume.random(0, 30 * MIB);
    for changes in history {
        for change in changes {
            change.apply(&mut world.volume);
        }
        world.backup().await;
    }
    for (generation, (start, len)) in runs.into_iter().enumerate() {
        let start = start % world.chain.len();
        let end = (start + 1 + len).min(world.chain.len());
        let job = world.job(start..end, generation as u64 + 1);
        let merged = world.merge_on(world.target.clone(), &job).await.unwrap();
        world.replace(start..end, merged);
        world.check().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn any_runs_of_any_history_merge(
        history in prop::collection::vec(prop::collection::vec(change(), 0..6), 2..6),
        runs in prop::collection::vec((0..5usize, 0..4usize), 1..4),
        sealed: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(replay(history, runs, sealed));
    }
}
