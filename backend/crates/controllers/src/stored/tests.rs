//! Chains and leftovers on a target in memory.

use std::sync::Arc;

use holdfast_target::ETag;
use holdfast_target::layout::{Attempt, ImageKind, ObjectRecord, ShardNumber, ShardRecord};
use holdfast_target::testing::{Fault, Faulty, MemoryTarget, Operation};

use super::*;

fn home() -> VolumeHome {
    "cluster/plan/claim".parse().unwrap()
}

fn id(name: &str) -> ImageId {
    ImageId {
        backup: name.parse().unwrap(),
        attempt: Attempt(1),
    }
}

/// Writes the two files of an image and describes them.
async fn image(target: &dyn Target, name: &str, parent: Option<&str>) -> ImageRecord {
    let mut files = Vec::new();
    for key in [
        home().image_key(&id(name), ShardNumber(0)),
        home().index_key(&id(name), ShardNumber(0)),
    ] {
        let written = target.put(&key, Bytes::from(name.to_owned())).await.unwrap();
        files.push(ObjectRecord {
            seal: None,
            key: key.file_name().to_owned(),
            size: written.size,
            etag: written.etag,
            version: written.version,
        });
    }
    let index = files.pop().unwrap();
    let digest = holdfast_target::layout::Digest::of(name.as_bytes());
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
        shards: vec![ShardRecord {
            shard: ShardNumber(0),
            virtual_size: 1 << 30,
            image: files.pop().unwrap(),
            tables: digest,
            index,
            index_digest: digest,
        }],
        stored: 2,
    }
}

async fn chain(target: &dyn Target, names: &[(&str, Option<&str>)]) {
    for (name, parent) in names {
        let record = image(target, name, *parent).await;
        append_image(target, &home(), &record).await.unwrap();
    }
}

async fn names(target: &dyn Target) -> Vec<String> {
    let found = newest_chain(target, &home()).await.unwrap();
    found.images().iter().map(|i| i.id.backup.to_string()).collect()
}

fn files(target: &MemoryTarget, name: &str) -> usize {
    target
        .keys()
        .iter()
        .filter(|k| home().image_of(k) == Some(id(name)))
        .count()
}

#[tokio::test]
async fn an_image_is_put_on_its_chain_once() {
    let target = MemoryTarget::new();
    chain(&target, &[("a", None), ("b", Some("a"))]).await;
    let again = image(&target, "b", Some("a")).await;
    let (generation, whole) = append_image(&target, &home(), &again).await.unwrap();
    assert_eq!(generation, Generation(2));
    assert_eq!(
        whole.iter().map(|i| i.id.clone()).collect::<Vec<_>>(),
        [id("b"), id("a")]
    );
    assert_eq!(names(&target).await, ["a", "b"]);
}

#[tokio::test]
async fn an_image_whose_parent_is_gone_is_not_committed() {
    let target = MemoryTarget::new();
    let orphan = image(&target, "b", Some("a")).await;
    let failure = append_image(&target, &home(), &orphan).await.unwrap_err();
    assert_eq!(failure.reason, reasons::CONFLICT);
}

#[tokio::test]
async fn two_writers_at_once_both_get_into_the_chain() {
    let inner = Arc::new(MemoryTarget::new());
    chain(&*inner, &[("a", None)]).await;
    let left = image(&*inner, "left", Some("a")).await;
    let right = image(&*inner, "right", Some("a")).await;
    let (target, home) = (Faulty::new(inner.clone()), home());
    // The first one to write is held up until the other has taken the generation it wanted.
    target.plan(
        Operation::PutNew,
        1,
        Fault::Delay(std::time::Duration::from_millis(50)),
    );
    let (l, r) = tokio::join!(
        append_image(&target, &home, &left),
        append_image(&target, &home, &right)
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
    assert!(append_image(&target, &home(), &record).await.is_err());
    let (generation, _) = append_image(&target, &home(), &record).await.unwrap();
    assert_eq!(generation, Generation::FIRST);
    assert_eq!(names(&target).await, ["a"]);
}

#[tokio::test]
async fn what_a_kept_image_lies_upon_is_kept() {
    let target = MemoryTarget::new();
    chain(
        &target,
        &[
            ("a", None),
            ("b", Some("a")),
            ("c", Some("b")),
            ("full", None),
            ("d", Some("full")),
        ],
    )
    .await;
    image(&target, "dead", None).await;
    erase_images(&target, &home(), |image| *image == id("b"))
        .await
        .unwrap();
    assert_eq!(names(&target).await, ["a", "b"]);
    for (name, expected) in [("a", 2), ("b", 2), ("c", 0), ("full", 0), ("d", 0), ("dead", 0)] {
        assert_eq!(files(&target, name), expected, "{name}");
    }
    let before = target.keys();
    erase_images(&target, &home(), |image| *image == id("b"))
        .await
        .unwrap();
    assert_eq!(target.keys(), before, "a second time changes nothing");
}

#[tokio::test]
async fn a_damaged_chain_file_starts_over_above_it() {
    let target = MemoryTarget::new();
    chain(&target, &[("a", None)]).await;
    target.damage(&home().chain_key(Generation::FIRST), |bytes| bytes.truncate(5));
    assert!(matches!(
        newest_chain(&target, &home()).await.unwrap(),
        Chain::Damaged(Generation::FIRST, _)
    ));
    let next = image(&target, "b", None).await;
    assert_eq!(
        append_image(&target, &home(), &next).await.unwrap().0,
        Generation(2)
    );
}

#[tokio::test]
async fn a_file_that_is_missing_or_changed_is_named() {
    let target = MemoryTarget::new();
    let good = image(&target, "a", None).await;
    let mut bad = image(&target, "b", None).await;
    target
        .delete(&[home().index_key(&id("b"), ShardNumber(0))])
        .await
        .unwrap();
    bad.shards[0].image.etag = ETag::new("another");
    let missing = missing_files(&target, &home(), &[good, bad]).await.unwrap();
    assert!(missing[&id("a")].is_empty());
    assert_eq!(missing[&id("b")], ["b-a1-s0.qcow2", "b-a1-s0.index"]);
}
