//! A process that is killed, and a disk that loses its power, at any point: old state or new, nothing between.
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_target::{
    DirectoryTarget, ErrorKind, Key, ObjectMeta, PartNumber, Patience, Prefix, Target, TargetError, list_all,
    testing::{SmallDisk, die_at_step},
};

use crate::mounts::LoopDisk;

/// Bytes of a part of the uploads here.
const PART: usize = 40_000;

fn key(name: &str) -> Key {
    format!("holdfast/{name}").parse().unwrap()
}

/// What an object holds follows from its name.
fn content(key: &Key) -> Bytes {
    let len = match key.file_name() {
        "image" => 3 * PART,
        _ => 5000,
    };
    key.file_name()
        .bytes()
        .cycle()
        .take(len)
        .collect::<Vec<_>>()
        .into()
}

/// Everything a backup does to a folder, each step told when it is begun and when it is done. It can be repeated.
async fn work(path: &Path, tell: impl Fn(&str)) -> Result<(), TargetError> {
    let target = DirectoryTarget::create(path).await?;
    let first = key("points/c/first");
    tell("begin put");
    target.put(&first, content(&first)).await?;
    tell("done put");
    let image = key("volumes/c/p/image");
    match target.head(&image).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            tell("begin upload");
            upload(&target, &image).await?;
        }
        found => drop(found?),
    }
    tell("done upload");
    tell("begin delete");
    target.delete(std::slice::from_ref(&first)).await?;
    tell("done delete");
    Ok(())
}

/// Goes on with an upload, or begins one.
async fn upload(target: &DirectoryTarget, image: &Key) -> Result<(), TargetError> {
    let body = content(image);
    let source = key("points/c/image");
    let pin = target.put(&source, body.clone()).await?.pin();
    let open = target.list_uploads(&Prefix::root()).await?;
    let upload = match open.into_iter().next() {
        Some(open) => open.upload,
        None => target.begin_upload(image).await?,
    };
    let mut parts = target.list_parts(&upload).await?;
    for number in [2u32, 3, 1] {
        if parts.iter().any(|part| part.number.0 == number) {
            continue;
        }
        let start = (number as usize - 1) * PART;
        let (offset, number) = (start as u64, PartNumber(number));
        parts.push(match number.0 {
            3 => {
                let range = offset..offset + PART as u64;
                target
                    .copy_part(&upload, number, offset, &source, range, &pin)
                    .await?
            }
            _ => {
                let bytes = body.slice(start..start + PART);
                target.upload_part(&upload, number, offset, bytes).await?
            }
        });
    }
    target.complete_upload(&upload, &parts, true).await?;
    target.delete(&[source]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that the next test kills"]
async fn victim() {
    let path = std::env::var("HOLDFAST_VICTIM_FOLDER").unwrap();
    die_at_step(std::env::var("HOLDFAST_VICTIM_STEPS").unwrap().parse().unwrap());
    work(path.as_ref(), |what| println!("told: {what}"))
        .await
        .unwrap();
}

/// What the victim told, and whether it came to its end.
fn run_victim(path: &Path, steps: u64) -> (Vec<String>, bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "crash::victim",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("HOLDFAST_VICTIM_FOLDER", path)
        .env("HOLDFAST_VICTIM_STEPS", steps.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let told = lines
        .filter_map(|line| Some(line.split_once("told: ")?.1.to_owned()))
        .collect();
    let status = child.wait().unwrap();
    assert!(
        status.success() || status.code().is_none(),
        "it fails by itself: {status}"
    );
    (told, status.success())
}

/// Every object is whole, and what was done is done.
async fn check(path: &Path, told: &[String], steps: u64) {
    let target = DirectoryTarget::create(path).await.unwrap();
    let there = list_all(&target, &Prefix::root(), 10).await.unwrap();
    for object in &there {
        let body = target.get(&object.key, 1 << 20).await.unwrap().body;
        assert!(body == content(&object.key), "{} after {steps} steps", object.key);
    }
    let is_there = |name: &str| there.iter().any(|object| object.key == key(name));
    let was = |what: &str| told.iter().any(|line| line == what);
    if was("done put") && !was("begin delete") {
        assert!(is_there("points/c/first"), "after {steps} steps: {told:?}");
    }
    if was("done upload") {
        assert!(is_there("volumes/c/p/image"), "after {steps} steps: {told:?}");
    }
    if was("done delete") {
        assert!(!is_there("points/c/first"), "after {steps} steps: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_step_it_leaves_the_old_state_or_the_new() {
    let disk = SmallDisk::mount(64);
    let mut steps = 0;
    loop {
        let folder = disk.path().join(steps.to_string());
        std::fs::create_dir(&folder).unwrap();
        let (told, ended) = run_victim(&folder, steps);
        check(&folder, &told, steps).await;
        // Whoever comes next goes on, and leaves nothing of the dead behind.
        work(&folder, |_| ()).await.unwrap();
        let target = DirectoryTarget::create(&folder).await.unwrap();
        for open in target.list_uploads(&Prefix::root()).await.unwrap() {
            target.abort_upload(&open.upload).await.unwrap();
        }
        target.delete(&[key("points/c/image")]).await.unwrap();
        let image = key("volumes/c/p/image");
        let left = list_all(&target, &Prefix::root(), 10).await.unwrap();
        assert_eq!(
            left.iter().map(|object| &object.key).collect::<Vec<_>>(),
            [&image]
        );
        let body = target.get(&image, 1 << 20).await.unwrap().body;
        assert!(body == content(&image), "after {steps} steps");
        let age = ["-exec", "touch", "-d", "2 days ago", "{}", "+"];
        let work = folder.join("holdfast/.work");
        assert!(
            Command::new("find")
                .arg(&work)
                .args(age)
                .status()
                .unwrap()
                .success()
        );
        target.probe().await.unwrap();
        let files = Command::new("find")
            .arg(&work)
            .args(["-mindepth", "2"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&files.stdout), "", "after {steps} steps");
        std::fs::remove_dir_all(&folder).unwrap();
        if ended {
            break;
        }
        steps += 1;
    }
    println!("killed before each of {steps} changes");
    assert!(steps > 60, "only {steps} changes were seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_nothing_that_was_answered() {
    let disk = LoopDisk::new();
    let answered: Arc<Mutex<Vec<ObjectMeta>>> = Arc::default();
    let next = Arc::new(AtomicU32::new(0));
    for round in 0..6u64 {
        let target = DirectoryTarget::adopt(&disk.mount_point()).await.unwrap();
        let target = target.with_patience(Patience {
            unreachable: Duration::ZERO,
            throttled: Duration::ZERO,
        });
        let writers = (0..4).map(|writer| {
            let (target, answered, next) = (target.clone(), answered.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    let written = match writer {
                        0 => big(&target, &key(&format!("volumes/c/{n}/image"))).await,
                        _ => {
                            let key = key(&format!("points/{}/{n}", n % 7));
                            target.put(&key, content(&key)).await
                        }
                    };
                    match written {
                        Ok(meta) => answered.lock().unwrap().push(meta),
                        Err(_) => return,
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        // However slow the disk is, something is answered before the power goes.
        let (before, begun) = (answered.lock().unwrap().len(), Instant::now());
        while answered.lock().unwrap().len() < before + 15 && begun.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(70 * round)).await;
        disk.cut_power();
        for writer in writers {
            writer.await.unwrap();
        }
        drop(target);
        disk.unmount();
        disk.mount("rw");

        let target = DirectoryTarget::adopt(&disk.mount_point()).await.unwrap();
        let there = list_all(&target, &Prefix::root(), 1 << 20).await.unwrap();
        for object in &there {
            let body = target.get(&object.key, 1 << 20).await.unwrap().body;
            assert!(body == content(&object.key), "round {round}: {}", object.key);
        }
        for meta in answered.lock().unwrap().iter() {
            assert!(
                there.contains(meta),
                "round {round}: {meta:?} is gone or another one"
            );
        }
        for open in target.list_uploads(&Prefix::root()).await.unwrap() {
            resume(&target, &open.upload).await;
        }
    }
    let count = answered.lock().unwrap().len();
    println!("{count} answered objects outlived six power cuts");
    assert!(count >= 90, "only {count} objects were written");
}

/// An object of three parts.
async fn big(target: &DirectoryTarget, key: &Key) -> Result<ObjectMeta, TargetError> {
    let body = content(key);
    let upload = target.begin_upload(key).await?;
    let mut parts = Vec::new();
    for number in [2u32, 3, 1] {
        let start = (number as usize - 1) * PART;
        let bytes = body.slice(start..start + PART);
        parts.push(
            target
                .upload_part(&upload, PartNumber(number), start as u64, bytes)
                .await?,
        );
    }
    target.complete_upload(&upload, &parts, true).await
}

/// Parts that are listed after a power cut have their bytes: only the others are sent again.
async fn resume(target: &DirectoryTarget, upload: &holdfast_target::Upload) {
    let body = content(&upload.key);
    let mut parts = target.list_parts(upload).await.unwrap();
    for number in 1..=3u32 {
        if parts.iter().all(|part| part.number.0 != number) {
            let start = (number as usize - 1) * PART;
            let bytes = body.slice(start..start + PART);
            let sent = target
                .upload_part(upload, PartNumber(number), start as u64, bytes)
                .await;
            match sent {
                Ok(part) => parts.push(part),
                // Its object was made, only the rest of the upload was not removed.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                    return target.abort_upload(upload).await.unwrap();
                }
            }
        }
    }
    target.complete_upload(upload, &parts, true).await.unwrap();
    let read = target.get(&upload.key, 1 << 20).await.unwrap().body;
    assert!(read == body, "{}", upload.key);
}
