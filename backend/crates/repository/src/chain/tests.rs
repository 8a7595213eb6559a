//! Chains on a target in memory, in clear and sealed.

use std::sync::Arc;

use holdfast_seal::{DataKey, Sealer};
use holdfast_target::layout::{Attempt, Digest, ImageKind, ShardNumber, ShardRecord};
use holdfast_target::testing::{Fault, Faulty, MemoryTarget, Operation};

use super::*;

pub(crate) fn home() -> VolumeHome {
    "cluster/plan/claim".parse().unwrap()
}

pub(crate) fn id(name: &str) -> ImageId {
    ImageId {
        backup: name.parse().unwrap(),
        attempt: Attempt(1),
    }
}

/// Writes the two files of an image under a stem and describes them.
pub(crate) async fn image_as(
    target: &dyn Target,
    stem: &str,
    name: &str,
    parent: Option<&str>,
    key: Option<&DataKey>,
) -> ImageRecord {
    let mut files = Vec::new();
    for suffix in ["s0.qcow2", "s0.index"] {
        let file = format!("{stem}-{suffix}");
        let (mut body, mut seal) = (name.as_bytes().to_vec(), None);
        if let Some(key) = key {
            let mut sealer = Sealer::new(key);
            body.clear();
            sealer.push(name.as_bytes(), &mut body).unwrap();
            seal = Some(sealer.finish(&mut body).unwrap());
        }
        let key = format!("{}{file}", home().prefix()).parse().unwrap();
        let written = target.put(&key, Bytes::from(body)).await.unwrap();
        files.push(ObjectRecord {
            seal,
            key: file,
            size: written.size,
            etag: written.etag,
            version: written.version,
        });
    }
    let index = files.pop().unwrap();
    let digest = Digest::of(name.as_bytes());
    ImageRecord {
        id: id(name),
        parent: parent.map(id),
        kind: if parent.is_some() {
            ImageKind::Incremental
        } else {
            ImageKind::Full
        },
        virtual_size: 1 << 30,
        cluster_size: 65536,
        stored: files[0].size + index.size,
        shards: vec![ShardRecord {
            shard: ShardNumber(0),
            virtual_size: 1 << 30,
            image: files.pop().unwrap(),
            tables: digest,
            index,
            index_digest: digest,
        }],
    }
}

/// A volume of a point whose commit object names these images, newest first.
pub(crate) fn volume(chain: &[ImageRecord]) -> VolumeRecord {
    let mut manifest = crate::point::tests::manifest("cluster/plan/b");
    VolumeRecord {
        home: home(),
        image: chain[0].id.clone(),
        chain: chain.to_vec(),
        ..manifest.volumes.remove(0)
    }
}

pub(crate) async fn image(target: &dyn Target, name: &str, parent: Option<&str>) -> ImageRecord {
    image_as(target, &format!("{name}-a1"), name, parent, None).await
}

pub(crate) async fn put_chain(target: &dyn Target, names: &[(&str, Option<&str>)]) -> Vec<ImageRecord> {
    let mut records = Vec::new();
    for (name, parent) in names {
        let record = image(target, name, *parent).await;
        append(target, &home(), &record, None).await.unwrap();
        records.push(record);
    }
    records
}

pub(crate) async fn names(target: &dyn Target) -> Vec<String> {
    let found = newest(target, &home()).await.unwrap();
    found.images().iter().map(|i| i.id.backup.to_string()).collect()
}

fn ids(records: &[ImageRecord]) -> Vec<String> {
    records
        .iter()
        .map(|record| record.id.backup.to_string())
        .collect()
}

#[tokio::test]
async fn an_image_is_put_on_its_chain_once() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", Some("a"))]).await;
    let again = image(&target, "b", Some("a")).await;
    let (generation, whole) = append(&target, &home(), &again, None).await.unwrap();
    assert_eq!(
        (generation, ids(&whole)),
        (Generation(2), vec!["b".to_owned(), "a".to_owned()])
    );
    assert_eq!(names(&target).await, ["a", "b"]);
}

#[tokio::test]
async fn an_image_whose_parent_is_gone_does_not_get_in() {
    let target = MemoryTarget::new();
    let orphan = image(&target, "b", Some("a")).await;
    let error = append(&target, &home(), &orphan, None).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Broken { .. }), "{error}");
    assert!(generations(&target, &home()).await.unwrap().is_empty());
}

#[tokio::test]
async fn two_writers_at_once_both_get_into_the_chain() {
    let inner = Arc::new(MemoryTarget::new());
    put_chain(&*inner, &[("a", None)]).await;
    let left = image(&*inner, "left", Some("a")).await;
    let right = image(&*inner, "right", Some("a")).await;
    let (target, home) = (Faulty::new(inner.clone()), home());
    // The first one to write is held up until the other has taken the generation it wanted.
    let delay = Fault::Delay(std::time::Duration::from_millis(50));
    target.plan(Operation::PutNew, 1, delay);
    let (l, r) = tokio::join!(
        append(&target, &home, &left, None),
        append(&target, &home, &right, None)
    );
    let mut generations = [l.unwrap().0, r.unwrap().0];
    generations.sort();
    assert_eq!(generations, [Generation(2), Generation(3)]);
    assert_eq!(names(&*inner).await, ["a", "right", "left"]);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_done_twice() {
    let inner = Arc::new(MemoryTarget::new());
    let target = Faulty::new(inner.clone());
    let record = image(&*inner, "a", None).await;
    target.plan(Operation::PutNew, 1, Fault::LoseAnswer);
    assert!(append(&target, &home(), &record, None).await.is_err());
    let (generation, _) = append(&target, &home(), &record, None).await.unwrap();
    assert_eq!(generation, Generation::FIRST);
    assert_eq!(names(&target).await, ["a"]);
}

#[tokio::test]
async fn a_damaged_generation_is_passed_over_and_never_written_again() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", Some("a"))]).await;
    target.damage(&home().chain_key(Generation(2)), |bytes| bytes.truncate(5));
    let chain = newest(&target, &home()).await.unwrap();
    assert_eq!((chain.images().len(), chain.damage.is_some()), (1, true));
    let next = image(&target, "c", None).await;
    assert_eq!(
        append(&target, &home(), &next, None).await.unwrap().0,
        Generation(3)
    );
    assert_eq!(names(&target).await, ["a", "c"]);
}

#[tokio::test]
async fn a_file_that_is_missing_or_changed_is_named() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", None)]).await;
    let gone = home().index_key(&id("b"), ShardNumber(0));
    target.delete(&[gone]).await.unwrap();
    let mut chain = newest(&target, &home()).await.unwrap().file.unwrap();
    chain.images[1].files[0].etag = ETag::new("another");
    let missing = missing_files(&target, &home(), &chain.images).await.unwrap();
    assert!(missing[&id("a")].is_empty());
    assert_eq!(missing[&id("b")], ["b-a1-s0.qcow2", "b-a1-s0.index"]);
}

#[tokio::test]
async fn a_merged_image_stands_for_its_run_and_points_above_stay() {
    let target = MemoryTarget::new();
    let records = put_chain(
        &target,
        &[("a", None), ("b", Some("a")), ("c", Some("b")), ("d", Some("c"))],
    )
    .await;
    let run = [records[2].clone(), records[1].clone()];
    let merged = image_as(&target, "c-a1-m5", "c", Some("a"), None).await;
    let now = Timestamp::UNIX_EPOCH;
    let generation = replace(&target, &home(), &run, &merged, None, now).await.unwrap();
    assert_eq!(generation, Generation(5));
    let again = replace(&target, &home(), &run, &merged, None, now).await.unwrap();
    assert_eq!(again, generation, "twice is once");
    // What the point d had recorded when it was committed:
    let recorded: Vec<ImageRecord> = records.iter().rev().cloned().collect();
    let mut volume = volume(&recorded);
    let now_read = resolve(&target, &volume, None, now).await.unwrap();
    assert_eq!(
        (now_read.generation, ids(&now_read.chain)),
        (Some(generation), ["d", "c", "a"].map(str::to_owned).to_vec())
    );
    assert_eq!(now_read.chain[1], merged);
    // As long as it is locked nothing was merged, whatever a chain file says.
    let later = now + std::time::Duration::from_secs(1);
    volume.locked_until = Some(later);
    let locked = resolve(&target, &volume, None, now).await.unwrap();
    assert_eq!((locked.generation, locked.chain), (None, recorded.clone()));
    assert_eq!(resolve(&target, &volume, None, later).await.unwrap(), now_read);
    let file = newest(&target, &home()).await.unwrap().file.unwrap();
    let waiting: Vec<&str> = file
        .unlinked
        .iter()
        .flat_map(|u| &u.files)
        .map(String::as_str)
        .collect();
    assert_eq!(
        waiting,
        ["c-a1-s0.qcow2", "c-a1-s0.index", "b-a1-s0.qcow2", "b-a1-s0.index"]
    );
    let error = replace(
        &target,
        &home(),
        &recorded[1..3],
        &image_as(&target, "x", "c", Some("a"), None).await,
        None,
        now,
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, RepositoryError::Broken { .. }),
        "the run is not what it was: {error}"
    );
}

#[tokio::test]
async fn a_run_that_another_image_lies_upon_is_not_replaced() {
    let target = MemoryTarget::new();
    let records = put_chain(&target, &[("a", None), ("b", Some("a")), ("side", Some("a"))]).await;
    let run = [records[1].clone(), records[0].clone()];
    let merged = image_as(&target, "b-a1-m4", "b", None, None).await;
    let error = replace(&target, &home(), &run, &merged, None, Timestamp::UNIX_EPOCH)
        .await
        .unwrap_err();
    assert!(matches!(error, RepositoryError::Broken { .. }), "{error}");
}

fn data_key(backup: &str) -> DataKey {
    DataKey::generate(format!("cluster/plan/{backup}").parse().unwrap())
}

#[tokio::test]
async fn records_are_sealed_one_by_one_and_open_only_in_their_place() {
    let target = MemoryTarget::new();
    let ring = KeyRing::of([data_key("a"), data_key("b")]).unwrap();
    for (name, parent) in [("a", None), ("b", Some("a"))] {
        let key: KeyId = name.parse().unwrap();
        let record = image_as(&target, &format!("{name}-a1"), name, parent, ring.get(&key)).await;
        let seal = Sealing {
            ring: &ring,
            key: &key,
        };
        append(&target, &home(), &record, Some(seal)).await.unwrap();
    }
    let chain = newest(&target, &home()).await.unwrap();
    let file = chain.file.unwrap();
    assert!(file.images.iter().all(Entry::is_sealed));
    assert_eq!(
        file.keys().into_iter().map(KeyId::as_str).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(ids(&file.records_of(&id("b"), Some(&ring)).unwrap()), ["b", "a"]);
    assert!(file.records_of(&id("b"), None).unwrap_err().is_key());
    let other = KeyRing::of([data_key("a"), data_key("b")]).unwrap();
    assert!(file.records_of(&id("b"), Some(&other)).unwrap_err().is_damage());
    // Put in another's place, a record does not open; nor is one in clear taken for it.
    let mut swapped = file.clone();
    swapped.images[0].sealed = swapped.images[1].sealed.clone();
    assert!(swapped.records_of(&id("b"), Some(&ring)).unwrap_err().is_damage());
    let mut planted = file.clone();
    let clear = file.images[0].open(&home(), Some(&ring)).unwrap();
    planted.images[0].sealed = None;
    planted.images[0].record = Some(clear);
    let error = planted.records_of(&id("b"), Some(&ring)).unwrap_err();
    assert!(matches!(error, RepositoryError::NotSealed { .. }), "{error}");
    // A clear file list that says something else is refused too.
    let mut renamed = file;
    renamed.images[1].files[0].key = "a-a1-s0.qcow2".to_owned();
    assert!(renamed.records_of(&id("b"), Some(&ring)).unwrap_err().is_damage());
}

#[tokio::test]
async fn the_record_of_a_sealed_image_never_lies_in_clear() {
    let target = MemoryTarget::new();
    let key = data_key("a");
    let record = image_as(&target, "a-a1", "a", None, Some(&key)).await;
    assert!(append(&target, &home(), &record, None).await.is_err());
    assert!(generations(&target, &home()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_chain_file_is_tied_to_its_place_and_a_circle_is_no_chain() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", Some("a"))]).await;
    let body = target
        .get(&home().chain_key(Generation(2)), MAX_CHAIN)
        .await
        .unwrap()
        .body;
    let mut file = ChainFile::parse(&home(), Generation(2), &body).unwrap();
    let misplaced = ChainFile::parse(&home(), Generation(3), &body).unwrap_err();
    assert!(misplaced.is_damage(), "{misplaced}");
    let elsewhere = "cluster/plan/other".parse().unwrap();
    assert!(
        ChainFile::parse(&elsewhere, Generation(2), &body)
            .unwrap_err()
            .is_damage()
    );
    let text = String::from_utf8(body.to_vec()).unwrap();
    let newer = text.replacen("\"format\": 1", "\"format\": 9", 1);
    let error = ChainFile::parse(&home(), Generation(2), newer.as_bytes()).unwrap_err();
    assert!(
        matches!(
            error,
            RepositoryError::Document(DocumentError::Newer { found: 9, .. })
        ),
        "{error}"
    );
    let huge = text.replacen(
        "\"virtualSize\": 1073741824",
        "\"virtualSize\": 18446744073709551615",
        1,
    );
    let huge = ChainFile::parse(&home(), Generation(2), huge.as_bytes()).unwrap();
    assert!(huge.records_of(&id("b"), None).unwrap_err().is_damage());
    file.images[0].parent = Some(id("b"));
    assert!(file.chain_of(&id("b")).is_none());
    let error = file.records_of(&id("b"), None).unwrap_err();
    assert!(matches!(error, RepositoryError::Broken { .. }), "{error}");
}

#[test]
fn a_chain_is_found_among_many_images() {
    // As many as fit into the largest chain file; a look through all of them for each would take minutes.
    let images = 200_000_usize;
    let entry = |n: usize| Entry {
        id: id(&format!("b{n}")),
        parent: n.checked_sub(1).map(|below| id(&format!("b{below}"))),
        files: Vec::new(),
        keys: BTreeSet::new(),
        record: None,
        sealed: None,
    };
    let file = ChainFile {
        format: FORMAT_VERSION,
        home: home(),
        generation: Generation(1),
        previous: None,
        images: (0..images).map(entry).collect(),
        unlinked: Vec::new(),
    };
    let begun = std::time::Instant::now();
    let chain = file.chain_of(&id(&format!("b{}", images - 1))).unwrap();
    assert_eq!(chain.len(), images);
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
}
