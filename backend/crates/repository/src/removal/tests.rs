//! What goes and what stays, on a target in memory.

use holdfast_target::layout::Attempt;
use holdfast_target::testing::{Fault, Faulty, MemoryTarget, Operation};
use std::sync::Arc;

use super::*;
use crate::chain::tests::{home, id, image, image_as, names, put_chain, volume};
use crate::chain::{append, replace, resolve};
use crate::lease;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

async fn tidy_now(target: &dyn Target, points: &[&[&str]], grace: u64, now: i64) -> usize {
    let seen = look(target, &home()).await.unwrap();
    tidy_seen(target, points, &seen, grace, now).await
}

async fn tidy_seen(target: &dyn Target, points: &[&[&str]], seen: &Seen, grace: u64, now: i64) -> usize {
    let points: Vec<Vec<Arc<ImageId>>> = points
        .iter()
        .map(|names| names.iter().map(|n| Arc::new(id(n))).collect())
        .collect();
    let rules = Rules {
        points: &points,
        busy: &|_| false,
        seen,
        grace: Duration::from_secs(grace),
        now: at(now),
    };
    tidy(target, &home(), &rules).await.unwrap()
}

fn files(target: &MemoryTarget, name: &str) -> usize {
    let of = |key: &&Key| home().image_of(key) == Some(id(name));
    target.keys().iter().filter(of).count()
}

#[tokio::test]
async fn what_a_kept_image_lies_upon_is_kept() {
    let target = MemoryTarget::new();
    let chain = [
        ("a", None),
        ("b", Some("a")),
        ("c", Some("b")),
        ("full", None),
        ("d", Some("full")),
    ];
    put_chain(&target, &chain).await;
    image(&target, "dead", None).await;
    tidy_now(&target, &[&["b", "a"]], 0, 100).await;
    assert_eq!(names(&target).await, ["a", "b"]);
    for (name, expected) in [("a", 2), ("b", 2), ("c", 0), ("full", 0), ("d", 0), ("dead", 0)] {
        assert_eq!(files(&target, name), expected, "{name}");
    }
    let before = target.keys();
    tidy_now(&target, &[&["b", "a"]], 0, 200).await;
    assert_eq!(target.keys(), before, "a second time changes nothing");
}

#[tokio::test]
async fn what_was_named_once_waits_for_its_time_and_what_never_was_does_not() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", None)]).await;
    image(&target, "dead", None).await;
    tidy_now(&target, &[&["a"]], 3600, 1000).await;
    assert_eq!(
        (names(&target).await, files(&target, "b"), files(&target, "dead")),
        (vec!["a".to_owned()], 2, 0)
    );
    tidy_now(&target, &[&["a"]], 3600, 4599).await;
    assert_eq!(files(&target, "b"), 2, "a second before its time");
    tidy_now(&target, &[&["a"]], 3600, 4600).await;
    assert_eq!(files(&target, "b"), 0);
}

#[tokio::test]
async fn a_reader_keeps_what_its_generation_named() {
    let target = MemoryTarget::new();
    let records = put_chain(&target, &[("a", None), ("b", Some("a"))]).await;
    let reader: Uid = "r".parse().unwrap();
    let recorded = [records[1].clone(), records[0].clone()];
    let open = resolve(&target, &volume(&recorded), None, Timestamp::now())
        .await
        .unwrap();
    lease::hold(&target, &home(), &reader, open.generation, 0)
        .await
        .unwrap();
    let merged = image_as(&target, "b-a1-m3", "b", None, None).await;
    let now = Timestamp::now().as_second();
    replace(&target, &home(), &recorded, &merged, None, at(now))
        .await
        .unwrap();
    tidy_now(&target, &[&["b", "a"]], 0, now + 10).await;
    assert_eq!(
        (files(&target, "a"), files(&target, "b")),
        (2, 4),
        "somebody still reads generation 2"
    );
    lease::hold(&target, &home(), &reader, open.generation, 1)
        .await
        .unwrap();
    tidy_now(&target, &[&["b", "a"]], 0, now + 20).await;
    assert_eq!(
        (files(&target, "a"), files(&target, "b")),
        (2, 4),
        "the sign was renewed"
    );
    // A later reader, of the merged image, holds nothing of the old ones.
    let later = resolve(&target, &volume(&recorded), None, Timestamp::now())
        .await
        .unwrap();
    lease::hold(&target, &home(), &"s".parse().unwrap(), later.generation, 0)
        .await
        .unwrap();
    lease::release(&target, &home(), &reader).await.unwrap();
    tidy_now(&target, &[&["b", "a"]], 0, now + 30).await;
    assert_eq!((files(&target, "a"), files(&target, "b")), (0, 2));
    assert_eq!(later.chain, [merged]);
}

#[tokio::test]
async fn a_reader_that_died_holds_for_its_life_only() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", None)]).await;
    lease::hold(&target, &home(), &"r".parse().unwrap(), None, 0)
        .await
        .unwrap();
    let now = Timestamp::now().as_second();
    tidy_now(&target, &[&["a"]], 0, now).await;
    assert_eq!(files(&target, "b"), 2);
    tidy_now(&target, &[&["a"]], 0, now + 3700).await;
    assert_eq!(files(&target, "b"), 0);
    let signs = target
        .keys()
        .iter()
        .filter(|key| key.file_name().starts_with("reader-"))
        .count();
    assert_eq!(signs, 0);
}

#[tokio::test]
async fn what_came_after_the_look_stays() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None)]).await;
    let seen = look(&target, &home()).await.unwrap();
    put_chain(&target, &[("new", None)]).await;
    image(&target, "written", None).await;
    // A merge that has just begun on an image that is kept.
    image_as(&target, "a-a1-m9", "a", None, None).await;
    tidy_seen(&target, &[&["a"]], &seen, 0, 100).await;
    assert_eq!(
        (names(&target).await, files(&target, "written")),
        (vec!["a".to_owned(), "new".to_owned()], 2)
    );
    assert_eq!(files(&target, "a"), 4);
}

#[tokio::test]
async fn a_point_whose_chain_file_is_lost_keeps_what_it_named() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", Some("a"))]).await;
    for generation in [1, 2] {
        target.damage(&home().chain_key(Generation(generation)), |bytes| {
            bytes.truncate(5)
        });
    }
    image(&target, "dead", None).await;
    tidy_now(&target, &[&["b", "a"]], 0, 100).await;
    assert_eq!(
        (files(&target, "a"), files(&target, "b"), files(&target, "dead")),
        (2, 2, 0)
    );
    let next = image(&target, "c", None).await;
    append(&target, &home(), &next, None).await.unwrap();
    tidy_now(&target, &[&["b", "a"], &["c"]], 0, 200).await;
    assert_eq!(
        (files(&target, "a"), files(&target, "b"), files(&target, "c")),
        (2, 2, 2)
    );
}

#[tokio::test]
async fn what_a_point_lies_upon_stays_in_the_chain_that_lost_the_point() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", Some("a"))]).await;
    target.damage(&home().chain_key(Generation(2)), |bytes| bytes.truncate(5));
    let next = image(&target, "c", None).await;
    append(&target, &home(), &next, None).await.unwrap();
    tidy_now(&target, &[&["b", "a"], &["c"]], 0, 100).await;
    assert_eq!(
        names(&target).await,
        ["a", "c"],
        "a sealed one's keys are named there"
    );
    assert_eq!((files(&target, "a"), files(&target, "b")), (2, 2));
}

#[tokio::test]
async fn merged_files_that_were_never_put_in_the_chain_go() {
    let target = MemoryTarget::new();
    put_chain(&target, &[("a", None), ("b", Some("a"))]).await;
    image_as(&target, "b-a1-m3", "b", None, None).await;
    tidy_now(&target, &[&["b", "a"]], 3600, 100).await;
    assert_eq!((files(&target, "a"), files(&target, "b")), (2, 2));
}

#[tokio::test]
async fn a_full_store_is_emptied_at_once() {
    let inner = Arc::new(MemoryTarget::new());
    put_chain(&*inner, &[("a", None), ("b", None)]).await;
    let target = Faulty::new(inner.clone());
    target.plan(
        Operation::PutNew,
        1,
        Fault::Fail(holdfast_target::ErrorKind::Full),
    );
    tidy_now(&target, &[&["a"]], 86_400, 100).await;
    assert_eq!(files(&inner, "b"), 0);
}

#[tokio::test]
async fn keys_go_when_nothing_is_sealed_with_them() {
    let target = MemoryTarget::new();
    let (cluster, plan): (Uid, Uid) = ("cluster".parse().unwrap(), "plan".parse().unwrap());
    let holders = keys::tests::holders();
    for backup in ["a", "b", "c"] {
        let location = format!("cluster/plan/{backup}").parse().unwrap();
        let key = keys::ensure(&target, &location, &holders).await.unwrap();
        if backup == "a" {
            let record = image_as(&target, "a-a1", "a", None, Some(&key)).await;
            let ring = holdfast_seal::KeyRing::of([key]).unwrap();
            let id: KeyId = "a".parse().unwrap();
            let seal = crate::chain::Sealing {
                ring: &ring,
                key: &id,
            };
            append(&target, &home(), &record, Some(seal)).await.unwrap();
        }
    }
    let gone = erase_keys(&target, &cluster, &plan, |id| id.as_str() == "b")
        .await
        .unwrap();
    assert_eq!(gone, 1);
    let left: Vec<String> = keys::all(&target, &cluster, &plan)
        .await
        .unwrap()
        .into_iter()
        .map(String::from)
        .collect();
    assert_eq!(left, ["a", "b"], "an image needs one, a point the other");
    assert_eq!(Attempt(1), id("a").attempt);
}
