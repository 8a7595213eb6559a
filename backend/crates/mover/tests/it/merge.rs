//! Merges: every point restores as before, data move inside the store, and nothing is lost whatever happens.
use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};

use holdfast_mover::{BackupJob, MergeJob, MoverError, Progress, VerifyJob, VerifyScope, merge, verify};
use holdfast_qcow2::{Image, SpanIndex};
use holdfast_seal::KeyRing;
use holdfast_target::{
    ErrorKind, Key, Target,
    layout::{FileStem, Generation, ImageKind, ImageRecord, ObjectRecord},
    testing::{Fault, Faulty, Gateway, MemoryTarget, Operation},
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    counting::{Counting, Request},
    histories::{Change, change},
    support::*,
};

const SIZE: u64 = 160 * MIB + 512;

/// A volume with a history: its images, and what it held at each of them.
pub(crate) struct History {
    pub(crate) target: Arc<dyn Target>,
    /// Newest first.
    pub(crate) chain: Vec<ImageRecord>,
    states: Vec<(ImageRecord, PathBuf)>,
    volume: Volume,
    folder: TempDir,
    ring: Arc<KeyRing>,
    sealed: bool,
    cluster_size: u32,
}

impl History {
    pub(crate) fn new(target: Arc<dyn Target>, size: u64, sealed: bool, cluster_size: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            target,
            chain: Vec::new(),
            states: Vec::new(),
            volume: Volume::create(folder.path().join("volume.raw"), size),
            folder,
            ring: keys(&["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"]),
            sealed,
            cluster_size,
        }
    }

    /// Four images with much and little in them, on the same places and on others.
    async fn usual(target: Arc<dyn Target>, sealed: bool, cluster_size: u32) -> Self {
        let mut history = Self::new(target, SIZE, sealed, cluster_size);
        let volume = &mut history.volume;
        volume.random(MIB, 60 * MIB);
        volume.text(100 * MIB, 4 * MIB);
        history.backup().await;
        let volume = &mut history.volume;
        volume.random(10 * MIB, 12 * MIB);
        volume.punch(40 * MIB, 2 * MIB);
        volume.random(90 * MIB, 20 * MIB);
        history.backup().await;
        let volume = &mut history.volume;
        volume.random(15 * MIB + 4096, 100);
        volume.zeroes(95 * MIB, MIB);
        volume.random(SIZE - 512, 512);
        history.backup().await;
        let volume = &mut history.volume;
        volume.random(120 * MIB, 8 * MIB);
        volume.text(95 * MIB, MIB / 2);
        volume.punch(0, 3 * MIB);
        history.backup().await;
        history
    }

    pub(crate) async fn backup(&mut self) {
        let number = self.states.len();
        let job = BackupJob {
            cluster_size: self.cluster_size,
            seal: self.sealed.then(|| format!("b{number}").parse().unwrap()),
            ..backup_job(&self.volume.path, &format!("b{number}-a1"), &self.chain)
        };
        let record = run_backup_with(self.target.clone(), &job, self.ring.clone())
            .await
            .unwrap();
        self.chain.insert(0, record.clone());
        let state = self.folder.path().join(format!("state{number}.raw"));
        run(std::process::Command::new("cp")
            .arg("--sparse=always")
            .arg(&self.volume.path)
            .arg(&state));
        self.states.push((record, state));
    }

    /// The job that merges these positions of the chain.
    fn job(&self, run: Range<usize>, generation: u64) -> MergeJob {
        let newest = &self.chain[run.start];
        MergeJob {
            home: home(),
            run: self.chain[run].to_vec(),
            files: FileStem {
                image: newest.id.clone(),
                merged: Some(Generation(generation)),
            },
            seal: self.sealed.then(|| newest.id.backup.as_str().parse().unwrap()),
        }
    }

    async fn merge_on(&self, target: Arc<dyn Target>, job: &MergeJob) -> Result<ImageRecord, MoverError> {
        let progress = Arc::new(Progress::new());
        let merged = merge(
            target,
            job,
            self.ring.clone(),
            progress.clone(),
            CancellationToken::new(),
        )
        .await?;
        let seen = progress.snapshot();
        assert!(
            seen.bytes_done <= seen.bytes_total && seen.bytes_total > 0,
            "{seen:?}"
        );
        Ok(merged)
    }

    /// Puts the merged image in the place of its run.
    fn replace(&mut self, run: Range<usize>, merged: ImageRecord) {
        let parent = self.chain.get(run.end).map(|below| below.id.clone());
        assert_eq!((&merged.id, &merged.parent), (&self.chain[run.start].id, &parent));
        assert_eq!(merged.kind == ImageKind::Full, parent.is_none());
        self.chain.splice(run, [merged]);
    }

    /// Every point whose image is in the chain restores to what the volume held then, and all images are sound.
    async fn check(&self) {
        for position in 0..self.chain.len() {
            let chain = &self.chain[position..];
            let of = |(record, _): &&(ImageRecord, PathBuf)| record.id == chain[0].id;
            let (_, state) = self.states.iter().find(of).unwrap();
            let size = std::fs::metadata(state).unwrap().len();
            let restored = Volume::dirty(self.folder.path().join("restored.raw"), size);
            run_restore_with(self.target.clone(), chain, &restored.path, self.ring.clone())
                .await
                .unwrap();
            assert_same(state, &restored.path);
            std::fs::remove_file(&restored.path).unwrap();
        }
        let job = VerifyJob {
            home: home(),
            images: self.chain.clone(),
            scope: VerifyScope::Full {
                from: None,
                budget: None,
            },
        };
        let progress = Arc::new(Progress::new());
        let report = verify(
            self.target.clone(),
            &job,
            self.ring.clone(),
            progress,
            CancellationToken::new(),
        );
        let report = report.await.unwrap();
        assert!(report.is_sound(), "{report:?}");
    }

    /// `qemu-img` finds nothing wrong with the files of the chain, under the names of their ids, and reads the volume.
    async fn check_by_qemu(&self) {
        let files = self.folder.path().join("files");
        std::fs::create_dir_all(&files).unwrap();
        for record in &self.chain {
            for shard in &record.shards {
                let bytes = self.target.get(&key(&shard.image), 1 << 30).await.unwrap().body;
                let file = files.join(record.id.file_name(shard.shard));
                std::fs::write(&file, bytes).unwrap();
            }
        }
        for record in &self.chain {
            qemu_check(&files.join(record.id.file_name(record.shards[0].shard)));
        }
        let newest = &self.chain[0];
        let state = self.states.iter().find(|(record, _)| record.id == newest.id);
        run(std::process::Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "qcow2"])
            .arg(&state.unwrap().1)
            .arg(files.join(newest.id.file_name(newest.shards[0].shard))));
        std::fs::remove_dir_all(files).unwrap();
    }
}

fn key(object: &ObjectRecord) -> Key {
    home().file_key(&object.key).unwrap()
}

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
                    break;
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
