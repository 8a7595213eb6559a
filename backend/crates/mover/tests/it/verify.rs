//! Verification: every kind of damage is found and named, and nothing else is.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use holdfast_mover::{
    BackupJob, Damage, MoverError, Problem, Progress, VerifyJob, VerifyPosition, VerifyReport, VerifyScope,
    verify,
};
use holdfast_qcow2::{Image, Index, Mapping, SpanIndex, SpanMap};
use holdfast_seal::KeyRing;
use holdfast_target::{
    ErrorKind, Key, Target,
    layout::{FileStem, ImageRecord, ObjectRecord},
    testing::{Fault, Faulty, Gateway, MemoryTarget, Operation},
};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// More than two spans at 16 KiB clusters, and an end inside a cluster.
const SIZE: u64 = 70 * MIB + 512;
const FULL: VerifyScope = VerifyScope::Full {
    from: None,
    budget: None,
};

async fn run_verify(
    target: Arc<dyn Target>,
    images: &[ImageRecord],
    scope: VerifyScope,
    keys: Arc<KeyRing>,
) -> Result<VerifyReport, MoverError> {
    let job = VerifyJob {
        home: home(),
        images: images.to_vec(),
        scope,
    };
    let progress = Arc::new(Progress::new());
    let report = verify(target, &job, keys, progress.clone(), CancellationToken::new()).await?;
    let seen = progress.snapshot();
    assert!(seen.bytes_done <= seen.bytes_total);
    Ok(report)
}

/// Three images of a volume, newest first, in memory.
struct World {
    memory: Arc<MemoryTarget>,
    chain: Vec<ImageRecord>,
    ring: Arc<KeyRing>,
    _folder: tempfile::TempDir,
    volume: Volume,
}

impl World {
    async fn new(sealed: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let memory = Arc::new(MemoryTarget::new());
        let ring = keys(&["b1", "b2", "b3"]);
        let mut volume = Volume::create(folder.path().join("volume.raw"), SIZE);
        let mut chain = Vec::new();
        for number in 1..=3u64 {
            volume.random((number - 1) * 20 * MIB + 4096, 3 * MIB);
            volume.text(31 * MIB + number * 65_536, 2 * MIB);
            volume.random(SIZE - 512, 512);
            if number > 1 {
                volume.punch((number - 2) * 20 * MIB, MIB);
                volume.zeroes((number - 2) * 20 * MIB + MIB, MIB / 2);
            }
            let job = BackupJob {
                cluster_size: 16 << 10,
                seal: sealed.then(|| format!("b{number}").parse().unwrap()),
                ..backup_job(&volume.path, &format!("b{number}-a1"), &chain)
            };
            let record = run_backup_with(memory.clone(), &job, ring.clone()).await.unwrap();
            chain.insert(0, record);
        }
        Self {
            memory,
            chain,
            ring,
            _folder: folder,
            volume,
        }
    }

    async fn verify(&self, scope: VerifyScope) -> VerifyReport {
        run_verify(self.memory.clone(), &self.chain, scope, self.ring.clone())
            .await
            .unwrap()
    }

    /// The image in the middle.
    fn image(&self) -> &ObjectRecord {
        &self.chain[1].shards[0].image
    }

    fn index(&self) -> &ObjectRecord {
        &self.chain[1].shards[0].index
    }

    async fn bytes(&self, object: &ObjectRecord) -> Vec<u8> {
        self.memory
            .get(&key(object), 1 << 30)
            .await
            .unwrap()
            .body
            .to_vec()
    }

    fn damage(&self, object: &ObjectRecord, change: impl FnOnce(&mut Vec<u8>)) {
        self.memory.damage(&key(object), change);
    }

    /// What a scope finds when one bit of a byte is flipped; the bit is put back.
    async fn flipped(&self, object: &ObjectRecord, at: u64, scope: VerifyScope) -> VerifyReport {
        let at = usize::try_from(at).unwrap();
        let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 0x10;
        self.damage(object, flip);
        let report = self.verify(scope).await;
        self.damage(object, flip);
        report
    }
}

fn key(object: &ObjectRecord) -> Key {
    home().file_key(&object.key).unwrap()
}

/// The report names this object, with this damage, and blames no other image.
fn assert_named<'r>(report: &'r VerifyReport, object: &ObjectRecord, damage: Damage) -> Vec<&'r Problem> {
    let (files, _) = FileStem::of_file(&object.key).unwrap();
    assert_eq!(report.damaged_images, std::slice::from_ref(&files), "{report:?}");
    let key = key(object).to_string();
    let named: Vec<_> = report
        .problems
        .iter()
        .filter(|problem| problem.key == key)
        .collect();
    assert!(
        named.iter().any(|problem| problem.damage == damage),
        "{key} {damage:?}: {report:?}"
    );
    assert!(report.problems.iter().all(|problem| problem.files == files));
    assert!(report.damaged > 0 && !report.is_sound());
    named
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_images_are_sound_and_all_their_content_was_read() {
    for sealed in [false, true] {
        let world = World::new(sealed).await;
        let quick = world.verify(VerifyScope::Quick).await;
        assert!(quick.is_sound() && quick.problems.is_empty(), "{quick:?}");
        assert_eq!(
            (quick.clusters_read, quick.bytes_read, &quick.next),
            (0, 0, &None)
        );
        let full = world.verify(FULL).await;
        assert!(full.is_sound() && full.next.is_none(), "{full:?}");
        let mut clusters = 0;
        if !sealed {
            for record in &world.chain {
                let index = Index::open(world.bytes(&record.shards[0].index).await).unwrap();
                clusters += index.summary().data_clusters;
            }
            assert_eq!(full.clusters_read, clusters);
        }
        assert!(full.clusters_read > 600, "{full:?}");
        // The same image twice is looked at once.
        let twice = [&world.chain[..], &world.chain[..]].concat();
        let again = run_verify(world.memory.clone(), &twice, FULL, world.ring.clone())
            .await
            .unwrap();
        assert_eq!(again.clusters_read, full.clusters_read);
        // One alone needs no other.
        let one = run_verify(world.memory.clone(), &world.chain[..1], FULL, world.ring.clone())
            .await
            .unwrap();
        assert!(one.is_sound() && one.clusters_read > 0, "{one:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_missing_short_long_or_others_are_told_apart() {
    for sealed in [false, true] {
        let world = World::new(sealed).await;
        for object in [world.image(), world.index()] {
            for scope in [VerifyScope::Quick, FULL] {
                let bytes = Bytes::from(world.bytes(object).await);
                world.memory.delete(&[key(object)]).await.unwrap();
                let missing = world.verify(scope.clone()).await;
                let named = assert_named(&missing, object, Damage::Missing);
                assert_eq!((named.len(), &named[0].clusters), (1, &None));

                let mut other = bytes.to_vec();
                *other.last_mut().unwrap() ^= 1;
                world.memory.put(&key(object), other.into()).await.unwrap();
                assert_named(&world.verify(scope.clone()).await, object, Damage::Altered);

                world.memory.delete(&[key(object)]).await.unwrap();
                world.memory.put(&key(object), bytes.clone()).await.unwrap();
                world.damage(object, |bytes| bytes.truncate(bytes.len() / 2));
                assert_named(&world.verify(scope.clone()).await, object, Damage::Truncated);
                world.damage(object, |there| *there = [&bytes[..], b"x"].concat());
                assert_named(&world.verify(scope.clone()).await, object, Damage::Altered);
                world.damage(object, |there| *there = bytes.to_vec());
                assert!(world.verify(scope).await.is_sound());
            }
        }
    }
}

/// Where things lie in the files of the image in the middle.
struct Places {
    image: BTreeMap<&'static str, u64>,
    index: BTreeMap<&'static str, u64>,
    /// First cluster with content, and where its payload is.
    cluster: u64,
    payload: u64,
    /// The clusters of the span whose page and table are damaged.
    span: Range<u64>,
}

async fn places(world: &World) -> Places {
    let image = Image::open(world.bytes(world.image()).await).unwrap();
    let index = Index::open(world.bytes(world.index()).await).unwrap();
    let geometry = *image.geometry();
    let holds = |span: &SpanIndex| image.table_extent(*span).is_some();
    let span = (0..geometry.spans()).map(SpanIndex).find(holds).unwrap();
    let mut map = SpanMap::new();
    image.read_span(span, &mut map).unwrap();
    let data = map.iter().find_map(|(cluster, mapping)| match mapping {
        Mapping::Data(extent) => Some((cluster.0, extent)),
        _ => None,
    });
    let (cluster, extent) = data.unwrap();
    let header = image.header();
    let table = image.table_extent(span).unwrap().start;
    let first = geometry.clusters_of(span).start;
    let bytes = image.source();
    let at = usize::try_from(header.refcount_table_offset).unwrap();
    let block = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let page = index.page_extent(span).unwrap();
    let last_page = (0..geometry.spans())
        .filter_map(|span| index.page_extent(SpanIndex(span)))
        .next_back()
        .unwrap();
    Places {
        image: BTreeMap::from([
            ("magic", 0),
            ("virtual size", 31),
            ("backing name", 136),
            ("header padding", 4000),
            ("L1 entry", header.l1_offset + 5),
            ("L1 padding", header.l1_offset + 16_000),
            ("refcount table", header.refcount_table_offset + 5),
            ("L2 entry", table + (cluster - first) * 8 + 6),
            ("L2 entry of a cluster it does not hold", table + 1000 * 8 + 7),
            ("refcount block", block + 1),
        ]),
        index: BTreeMap::from([
            ("magic", 0),
            ("image name", 33),
            ("page states", page.start + 30),
            ("page hash", page.end - 40),
            ("page checksum", page.end - 1),
            ("directory", last_page.end + 20),
            ("footer", world.index().size - 60),
            ("digest", world.index().size - 1),
        ]),
        cluster,
        payload: extent.offset + 100,
        span: geometry.clusters_of(span),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_anywhere_is_found_and_named() {
    let world = World::new(false).await;
    let places = places(&world).await;
    for (what, at) in &places.image {
        for scope in [VerifyScope::Quick, FULL] {
            let report = world.flipped(world.image(), *at, scope).await;
            let named = assert_named(&report, world.image(), Damage::Altered);
            // The tables are bound as a whole; where an entry is wrong, the clusters are named too.
            assert!(
                named.iter().any(|problem| problem.clusters.is_none()),
                "{what}: {report:?}"
            );
            assert_eq!(report.problems.len(), named.len(), "{what}: {report:?}");
        }
    }
    for (what, at) in &places.index {
        let report = world.flipped(world.index(), *at, VerifyScope::Quick).await;
        let named = assert_named(&report, world.index(), Damage::Altered);
        assert_eq!(named.len(), 1, "{what}: {report:?}");
        let expected = what.starts_with("page").then(|| places.span.clone());
        assert_eq!(named[0].clusters, expected, "{what}: {report:?}");
    }
    // Content: quick does not read it, full names the one cluster.
    let quick = world
        .flipped(world.image(), places.payload, VerifyScope::Quick)
        .await;
    assert!(quick.is_sound(), "{quick:?}");
    let full = world.flipped(world.image(), places.payload, FULL).await;
    let named = assert_named(&full, world.image(), Damage::Altered);
    let cluster = places.cluster..places.cluster + 1;
    assert_eq!(
        (named.len(), &named[0].clusters, full.damaged),
        (1, &Some(cluster), 1)
    );
    assert!(world.verify(FULL).await.is_sound(), "all was put back");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_altered_seal_is_found() {
    let world = World::new(true).await;
    for object in [world.image(), world.index()] {
        let layout = object.seal.as_ref().unwrap();
        let segments: Vec<_> = layout.segments(&(0..layout.plain_len())).unwrap().collect();
        let some = segments.iter().step_by(7).chain(segments.last());
        for segment in some {
            // Ciphertext and tag.
            for at in [segment.sealed.start + 3, segment.sealed.end - 1] {
                let report = world.flipped(object, at, FULL).await;
                assert_named(&report, object, Damage::Altered);
                // Only what lies in the segment: payload of at most a segment and what crosses its ends.
                let most = report
                    .problems
                    .iter()
                    .filter(|problem| problem.what.contains("sealed"));
                for problem in most {
                    assert!(problem.clusters.is_some(), "{report:?}");
                }
            }
        }
    }
    assert!(world.verify(FULL).await.is_sound(), "all was put back");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_without_end_is_counted_and_named_within_bounds() {
    let world = World::new(false).await;
    let image = Image::open(world.bytes(world.image()).await).unwrap();
    let mut map = SpanMap::new();
    let mut payload = Vec::new();
    for span in (0..image.geometry().spans()).map(SpanIndex) {
        image.read_span(span, &mut map).unwrap();
        payload.extend(map.iter().filter_map(|(cluster, mapping)| match mapping {
            Mapping::Data(extent) => Some((cluster.0, usize::try_from(extent.offset).unwrap() + 20)),
            _ => None,
        }));
    }
    // Everything is bad: neighbours with the same damage are one problem.
    world.damage(world.image(), |bytes| {
        payload.iter().for_each(|(_, at)| bytes[*at] ^= 1)
    });
    let report = world.verify(FULL).await;
    assert_eq!(report.damaged, payload.len() as u64);
    let named = assert_named(&report, world.image(), Damage::Altered);
    let covered: BTreeSet<u64> = named
        .iter()
        .flat_map(|problem| problem.clusters.clone().unwrap())
        .collect();
    assert_eq!(covered, payload.iter().map(|(cluster, _)| *cluster).collect());
    assert!(named.len() < payload.len() / 4, "{} problems", named.len());
    // The whole volume can still be restored from what lies above and below, if nothing of this is needed.
    let report = run_verify(
        world.memory.clone(),
        &[world.chain[0].clone(), world.chain[2].clone()],
        FULL,
        Arc::default(),
    )
    .await
    .unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nights_with_a_budget_walk_through_all_content() {
    let world = World::new(false).await;
    let places = places(&world).await;
    let all = world.verify(FULL).await;
    let at = usize::try_from(places.payload).unwrap();
    world.damage(world.image(), |bytes| bytes[at] ^= 1);
    let budget = all.bytes_read / 5;
    let (mut from, mut nights, mut clusters, mut found) = (None::<VerifyPosition>, 0, 0, Vec::new());
    loop {
        let scope = VerifyScope::Full {
            from: from.take(),
            budget: Some(budget),
        };
        let night = world.verify(scope).await;
        assert!(night.bytes_read < budget + (32 << 10), "{night:?}");
        clusters += night.clusters_read;
        found.extend(night.problems);
        nights += 1;
        let Some(next) = night.next else { break };
        from = Some(serde_json::from_value(serde_json::to_value(next).unwrap()).unwrap());
    }
    assert_eq!((clusters, nights), (all.clusters_read, 5));
    let cluster = places.cluster..places.cluster + 1;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].clusters, Some(cluster));
    // A position whose image is gone goes on with the next one.
    let scope = VerifyScope::Full {
        from: Some(VerifyPosition {
            files: "b2-a1-m7".parse().unwrap(),
            shard: holdfast_target::layout::ShardNumber(0),
            cluster: 9,
        }),
        budget: None,
    };
    let rest = world.verify(scope).await;
    let newest = run_verify(world.memory.clone(), &world.chain[..1], FULL, Arc::default());
    assert_eq!(rest.clusters_read, newest.await.unwrap().clusters_read);
}

#[tokio::test(flavor = "multi_thread")]
async fn image_and_index_that_were_never_of_one_backup_are_told() {
    // Two backups of the same name on two targets; the record of one, with the index of the other.
    let (one, other) = (World::new(false).await, MemoryTarget::new());
    let other: Arc<dyn Target> = Arc::new(other);
    let folder = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(folder.path().join("volume.raw"), SIZE);
    volume.random(60 * MIB, MIB);
    let job = BackupJob {
        cluster_size: 16 << 10,
        ..backup_job(&volume.path, "b1-a1", &[])
    };
    let strange = run_backup(other.clone(), &job).await.unwrap();
    let mut record = one.chain[2].clone();
    let index = &strange.shards[0].index;
    let bytes = other.get(&key(index), MIB).await.unwrap().body;
    one.memory.delete(&[key(index)]).await.unwrap();
    one.memory.put(&key(index), bytes).await.unwrap();
    record.shards[0].index = index.clone();
    record.shards[0].index_digest = strange.shards[0].index_digest;
    let report = run_verify(
        one.memory.clone(),
        &[record.clone()],
        VerifyScope::Quick,
        Arc::default(),
    )
    .await
    .unwrap();
    let image = record.shards[0].image.clone();
    let named = assert_named(&report, &image, Damage::Unfitting);
    let clusters: BTreeSet<u64> = named
        .iter()
        .flat_map(|problem| problem.clusters.clone().unwrap())
        .collect();
    assert!(
        clusters.contains(&((60 * MIB) >> 14)) && clusters.len() as u64 == report.damaged,
        "{report:?}"
    );
    // An overlay on something else than its record says.
    let mut elsewhere = one.chain[0].clone();
    elsewhere.parent = Some("b9-a1".parse().unwrap());
    let report = run_verify(
        one.memory.clone(),
        &[elsewhere.clone()],
        VerifyScope::Quick,
        Arc::default(),
    )
    .await
    .unwrap();
    assert_named(&report, &elsewhere.shards[0].image, Damage::Unfitting);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_nothing_is_read_and_a_store_that_fails_is_no_damage() {
    let world = World::new(true).await;
    let faulty = Faulty::new(world.memory.clone());
    for operation in [Operation::Head, Operation::GetRange, Operation::Get] {
        faulty.plan(operation, 1000, Fault::Fail(ErrorKind::Denied));
    }
    let target: Arc<dyn Target> = Arc::new(faulty);
    let error = run_verify(target.clone(), &world.chain, FULL, keys(&["b1", "b3"]))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "KeyMissing", "{error}");
    assert!(error.to_string().contains("b2-a1-s0"), "{error}");
    let error = run_verify(target, &world.chain, FULL, world.ring.clone())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "Denied", "{error}");
    // The key is there, and it is another one: everything is altered, nothing is believed.
    let report = run_verify(
        world.memory.clone(),
        &world.chain,
        FULL,
        keys(&["b1", "b2", "b3"]),
    )
    .await
    .unwrap();
    assert_eq!(report.damaged_images.len(), 3, "{report:?}");
    for operation in [Operation::Head, Operation::GetRange] {
        let faulty = Faulty::new(world.memory.clone());
        faulty.plan(operation, 5, Fault::Delay(Duration::ZERO));
        faulty.plan(operation, 1, Fault::Fail(ErrorKind::Unreachable));
        let error = run_verify(Arc::new(faulty), &world.chain, FULL, world.ring.clone())
            .await
            .unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_verification_ends_at_once() {
    let world = World::new(false).await;
    for (operation, before) in [
        (Operation::Head, 0),
        (Operation::GetRange, 0),
        (Operation::GetRange, 12),
        (Operation::GetRange, 24),
    ] {
        let faulty = Faulty::new(world.memory.clone());
        faulty.plan(operation, before, Fault::Delay(Duration::ZERO));
        faulty.plan(operation, 1000, Fault::Delay(Duration::from_secs(600)));
        let cancel = CancellationToken::new();
        let job = VerifyJob {
            home: home(),
            images: world.chain.clone(),
            scope: FULL,
        };
        let running = tokio::spawn({
            let cancel = cancel.clone();
            let progress = Arc::new(Progress::new());
            async move { verify(Arc::new(faulty), &job, Arc::default(), progress, cancel).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!running.is_finished(), "{operation:?} {before}");
        cancel.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), running).await;
        let ended = ended.expect("it ends").unwrap();
        assert!(matches!(ended, Err(MoverError::Cancelled)), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_store_is_verified_over_its_network() {
    let gateway = Gateway::start();
    let target: Arc<dyn Target> = Arc::new(gateway.target());
    let folder = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(folder.path().join("volume.raw"), 100 * MIB);
    volume.random(0, 60 * MIB);
    let full = run_backup(target.clone(), &backup_job(&volume.path, "b1-a1", &[]))
        .await
        .unwrap();
    let verified = || run_verify(target.clone(), std::slice::from_ref(&full), FULL, Arc::default());
    let sound = verified().await.unwrap();
    assert!(sound.is_sound() && sound.bytes_read >= 60 * MIB, "{sound:?}");
    let image = full.shards[0].image.clone();
    flip_stored(&gateway.bucket_folder(), &key(&image), image.size / 2);
    let report = verified().await.unwrap();
    assert_eq!(report.damaged, 1, "{report:?}");
    assert_named(&report, &image, Damage::Altered);
    target.delete(&[key(&image)]).await.unwrap();
    let report = verified().await.unwrap();
    assert_named(&report, &image, Damage::Missing);
}

fn flip_stored(bucket: &Path, key: &Key, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(bucket.join(key.as_str()))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// A flip at any place: either it is found in that image and no other, or it was in bytes that nobody reads.
async fn any_flip(world: &World, image: usize, index: bool, place: f64) {
    let shard = &world.chain[image].shards[0];
    let object = if index { &shard.index } else { &shard.image };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "any place will do"
    )]
    let at = (place * object.size as f64) as u64;
    let bit = |bytes: &mut Vec<u8>| bytes[usize::try_from(at).unwrap()] ^= 1;
    world.damage(object, bit);
    let report = world.verify(FULL).await;
    if report.is_sound() {
        let restored = Volume::dirty(world.volume.path.with_extension("restored"), SIZE);
        let restore = run_restore_with(
            world.memory.clone(),
            &world.chain,
            &restored.path,
            world.ring.clone(),
        );
        restore.await.unwrap();
        assert_same(&world.volume.path, &restored.path);
        std::fs::remove_file(&restored.path).unwrap();
    } else {
        assert_named(&report, object, Damage::Altered);
    }
    world.damage(object, bit);
}

#[test]
fn nothing_that_is_read_can_change_unnoticed() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for sealed in [false, true] {
        let world = runtime.block_on(World::new(sealed));
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(40));
        let place = (0..3usize, any::<bool>(), 0.0..1.0f64);
        runner
            .run(&place, |(image, index, place)| {
                runtime.block_on(any_flip(&world, image, index, place));
                Ok(())
            })
            .unwrap();
    }
}
