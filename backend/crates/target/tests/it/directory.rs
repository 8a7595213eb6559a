//! A folder as a target: the same promises as a store, and what can go wrong with folders only.
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_target::{
    Creation, DirectoryTarget, ErrorKind, Key, ListRequest, Part, PartNumber, Patience, Prefix, Target,
    TargetError, Upload, list_all,
    testing::{MemoryTarget, SmallDisk, conformance},
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::mounts::LoopDisk;

fn key(name: &str) -> Key {
    format!("holdfast/test/{name}").parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

async fn fresh() -> (TempDir, DirectoryTarget) {
    let folder = tempfile::tempdir().unwrap();
    let target = DirectoryTarget::create(folder.path()).await.unwrap();
    (folder, target)
}

/// Without second tries.
fn hasty(target: DirectoryTarget) -> DirectoryTarget {
    target.with_patience(Patience {
        unreachable: Duration::ZERO,
        throttled: Duration::ZERO,
    })
}

fn kind<T: std::fmt::Debug>(result: Result<T, TargetError>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Every file below, hidden ones included, relative to the folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let output = Command::new("find")
        .args([folder.to_str().unwrap(), "-type", "f", "-printf", "%P\n"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms_and_is_left_empty() {
    let (folder, target) = fresh().await;
    conformance(Arc::new(target)).await;
    assert_eq!(
        files(folder.path()),
        BTreeSet::from(["holdfast/.store.json".to_owned()])
    );
    let folders = fs::read_dir(folder.path().join("holdfast")).unwrap().count();
    assert_eq!(
        folders, 2,
        "the store's file and .work; empty folders of keys are removed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_memory_conforms() {
    let disk = SmallDisk::mount(200);
    conformance(Arc::new(DirectoryTarget::adopt(disk.path()).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_on_xfs_conforms() {
    let disk = LoopDisk::new();
    conformance(Arc::new(
        DirectoryTarget::adopt(&disk.mount_point()).await.unwrap(),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_mount_point_is_not_taken_for_the_store() {
    let disk = LoopDisk::new();
    let path = disk.mount_point();
    let target = DirectoryTarget::adopt(&path).await.unwrap();
    let id = target.id().unwrap();
    target.put(&key("a"), Bytes::from_static(b"a")).await.unwrap();
    drop(target);
    disk.unmount();

    assert_eq!(
        kind(DirectoryTarget::open(&path, &id).await),
        ErrorKind::NotMounted
    );
    assert_eq!(kind(DirectoryTarget::adopt(&path).await), ErrorKind::NotMounted);
    assert_eq!(
        files(&path),
        BTreeSet::new(),
        "nothing was written beside the volume"
    );
    let nowhere = path.join("nowhere");
    assert_eq!(
        kind(DirectoryTarget::create(&nowhere).await),
        ErrorKind::NotMounted
    );

    disk.mount("rw");
    let target = DirectoryTarget::open(&path, &id).await.unwrap();
    assert_eq!(target.get(&key("a"), 9).await.unwrap().body, "a");
    let (_folder, other) = fresh().await;
    let error = DirectoryTarget::open(&path, &other.id().unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotMounted, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_goes_while_it_is_in_use_does_not_lead_writes_elsewhere() {
    let disk = LoopDisk::new();
    let target = DirectoryTarget::adopt(&disk.mount_point()).await.unwrap();
    let lazy = Command::new("umount")
        .args(["-l", disk.mount_point().to_str().unwrap()])
        .status();
    assert!(lazy.unwrap().success());
    target
        .put(&key("late"), Bytes::from_static(b"late"))
        .await
        .unwrap();
    assert_eq!(files(&disk.mount_point()), BTreeSet::new());
    drop(target);
    disk.mount("rw");
    let target = DirectoryTarget::adopt(&disk.mount_point()).await.unwrap();
    assert_eq!(
        target.get(&key("late"), 9).await.unwrap().body,
        "late",
        "it went onto the volume"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_its_file_is_read_but_not_taken_for_the_expected_one() {
    let (folder, target) = fresh().await;
    let id = target.id().unwrap();
    target.put(&key("a"), Bytes::from_static(b"a")).await.unwrap();
    fs::remove_file(folder.path().join("holdfast/.store.json")).unwrap();
    assert_eq!(kind(target.probe().await), ErrorKind::NotMounted);
    assert_eq!(
        kind(DirectoryTarget::open(folder.path(), &id).await),
        ErrorKind::NotMounted
    );
    let again = DirectoryTarget::adopt(folder.path()).await.unwrap();
    assert_ne!(again.id().unwrap(), id);
    assert_eq!(again.get(&key("a"), 9).await.unwrap().body, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_volume_is_read() {
    let disk = LoopDisk::new();
    let target = DirectoryTarget::adopt(&disk.mount_point()).await.unwrap();
    let id = target.id().unwrap();
    target.put(&key("a"), Bytes::from_static(b"a")).await.unwrap();
    disk.remount("ro");
    let target = DirectoryTarget::open(&disk.mount_point(), &id).await.unwrap();
    assert_eq!(target.get(&key("a"), 9).await.unwrap().body, "a");
    assert_eq!(list_all(&target, &Prefix::root(), 9).await.unwrap().len(), 1);
    assert!(target.list_uploads(&Prefix::root()).await.unwrap().is_empty());
    assert_eq!(kind(target.put(&key("b"), Bytes::new()).await), ErrorKind::Denied);
    assert_eq!(kind(target.delete(&[key("a")]).await), ErrorKind::Denied);
    assert_eq!(kind(target.begin_upload(&key("b")).await), ErrorKind::Denied);
    assert_eq!(kind(target.probe().await), ErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_pipes_are_not_followed_and_nothing_leaves_the_folder() {
    let (folder, target) = fresh().await;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let root = folder.path().join("holdfast");
    symlink(outside.path(), root.join("test")).unwrap();
    fs::create_dir(root.join("there")).unwrap();
    symlink(outside.path().join("secret"), root.join("there/link")).unwrap();
    let pipe = Command::new("mkfifo")
        .arg(root.join("there/pipe"))
        .status()
        .unwrap();
    assert!(pipe.success());
    for name in [
        "holdfast/test/secret",
        "holdfast/there/link",
        "holdfast/there/pipe",
    ] {
        let key: Key = name.parse().unwrap();
        let begun = Instant::now();
        target.get(&key, 100).await.unwrap_err();
        target.get_range(&key, 0..1, None).await.unwrap_err();
        target.head(&key).await.unwrap_err();
        target
            .put(&key, Bytes::from_static(b"overwritten"))
            .await
            .unwrap_err();
        let upload = target.begin_upload(&key).await.unwrap();
        let part = target
            .upload_part(&upload, PartNumber(1), 0, Bytes::from_static(b"x"))
            .await;
        target
            .complete_upload(&upload, &[part.unwrap()], true)
            .await
            .unwrap_err();
        target.abort_upload(&upload).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{name}");
    }
    target
        .delete(&["holdfast/test/secret".parse().unwrap()])
        .await
        .unwrap_err();
    assert_eq!(files(outside.path()), BTreeSet::from(["secret".to_owned()]));
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    for hostile in [
        "holdfast/../",
        "holdfast/./",
        "holdfast/test/",
        "holdfast/.work/",
        "holdfast//",
        "holdfast/",
    ] {
        for request in [
            ListRequest::all(prefix(hostile)),
            ListRequest::folders(prefix(hostile)),
        ] {
            let page = target.list(&request).await.unwrap();
            assert!(
                page.objects.is_empty() && page.prefixes.is_empty(),
                "{hostile}: {page:?}"
            );
        }
    }
    for id in [
        "../../there",
        "",
        ".",
        "new",
        "00000000-0000-0000-0000-000000000000",
    ] {
        let upload = Upload {
            key: key("a"),
            id: id.to_owned(),
        };
        let part = target
            .upload_part(&upload, PartNumber(1), 0, Bytes::from_static(b"x"))
            .await;
        assert_eq!(kind(part), ErrorKind::NotFound, "{id}");
        target.abort_upload(&upload).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_keeps_times_is_the_same_store() {
    let (folder, target) = fresh().await;
    let pin = target
        .put(&key("a"), Bytes::from_static(b"content"))
        .await
        .unwrap()
        .pin();
    let copy = tempfile::tempdir().unwrap();
    let from = format!("{}/.", folder.path().display());
    let status = Command::new("cp").args(["-a", &from]).arg(copy.path()).status();
    assert!(status.unwrap().success());
    let copied = DirectoryTarget::open(copy.path(), &target.id().unwrap())
        .await
        .unwrap();
    assert_eq!(
        copied.get_range(&key("a"), 0..7, Some(&pin)).await.unwrap(),
        "content"
    );
    fs::write(copy.path().join("holdfast/test/a"), "CONTENT").unwrap();
    let read = copied.get_range(&key("a"), 0..7, Some(&pin)).await;
    assert_eq!(kind(read), ErrorKind::Changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_is_told_and_comes_free_again() {
    let disk = SmallDisk::mount(8);
    let target = DirectoryTarget::adopt(disk.path()).await.unwrap();
    let large = Bytes::from(vec![7; 12 << 20]);
    assert_eq!(
        kind(target.put(&key("large"), large.clone()).await),
        ErrorKind::Full
    );
    let upload = target.begin_upload(&key("large")).await.unwrap();
    let part = target.upload_part(&upload, PartNumber(1), 0, large).await;
    assert_eq!(kind(part), ErrorKind::Full);
    assert!(target.list_parts(&upload).await.unwrap().is_empty());
    assert_eq!(
        kind(target.put(&key("small"), Bytes::from(vec![7; 1 << 20])).await),
        ErrorKind::Full
    );
    target.abort_upload(&upload).await.unwrap();
    target
        .put(&key("small"), Bytes::from(vec![7; 1 << 20]))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_hangs_does_not_hang_us() {
    let disk = LoopDisk::new();
    let target = hasty(DirectoryTarget::adopt(&disk.mount_point()).await.unwrap());
    target.put(&key("a"), Bytes::from_static(b"a")).await.unwrap();
    disk.freeze();
    let begun = Instant::now();
    let error = target.probe().await.unwrap_err();
    let read = target.get(&key("a"), 9).await;
    disk.thaw();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "it took {:?}",
        begun.elapsed()
    );
    assert_eq!(read.unwrap().body, "a", "who only reads goes on");
    target.probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_creates_and_who_empties_a_folder_do_not_disturb_each_other() {
    let (_folder, target) = fresh().await;
    let rivals = (0..8).map(|n| {
        let target = target.clone();
        tokio::spawn(async move {
            for round in 0..60 {
                let key: Key = format!("holdfast/volumes/c/p/v/{n}-{round}").parse().unwrap();
                target.put(&key, Bytes::from(key.to_string())).await.unwrap();
                assert_eq!(target.get(&key, 99).await.unwrap().body, key.to_string());
                target.delete(&[key]).await.unwrap();
            }
        })
    });
    for rival in rivals.collect::<Vec<_>>() {
        rival.await.unwrap();
    }
    assert!(list_all(&target, &Prefix::root(), 9).await.unwrap().is_empty());
}

async fn part(target: &DirectoryTarget, upload: &Upload, number: u32, offset: u64, body: Vec<u8>) -> Part {
    let sent = target.upload_part(upload, PartNumber(number), offset, body.into());
    sent.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_goes_on_with_an_upload() {
    let (folder, first) = fresh().await;
    let upload = first.begin_upload(&key("image")).await.unwrap();
    let two = part(&first, &upload, 2, 1000, vec![2; 500]).await;
    part(&first, &upload, 3, 1500, vec![9; 500]).await;
    drop(first);
    let second = DirectoryTarget::adopt(folder.path()).await.unwrap();
    let open = second.list_uploads(&prefix("holdfast/test/")).await.unwrap();
    assert_eq!(open[0].upload, upload);
    assert!(
        second
            .list_uploads(&prefix("holdfast/other/"))
            .await
            .unwrap()
            .is_empty()
    );
    let there = second.list_parts(&upload).await.unwrap();
    assert_eq!((there.len(), &there[0]), (2, &two));
    // What was sent behind the watermark is sent again, and other parts than before.
    let three = part(&second, &upload, 3, 1500, vec![3; 100]).await;
    let one = part(&second, &upload, 1, 0, vec![1; 1000]).await;
    let wrong = [one.clone(), three.clone()];
    second.complete_upload(&upload, &wrong, true).await.unwrap_err();
    let stale = [one.clone(), there[0].clone(), there[1].clone()];
    second.complete_upload(&upload, &stale, true).await.unwrap_err();
    let meta = second
        .complete_upload(&upload, &[one, two, three], true)
        .await
        .unwrap();
    let body = second.get(&key("image"), 9999).await.unwrap();
    assert_eq!((meta.size, &meta.etag), (1600, &body.meta.etag));
    assert_eq!(body.body, [vec![1; 1000], vec![2; 500], vec![3; 100]].concat());
    assert!(
        files(folder.path()).iter().all(|file| !file.contains(".work")),
        "nothing is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_lie_over_each_other_make_no_object() {
    let (_folder, target) = fresh().await;
    let upload = target.begin_upload(&key("image")).await.unwrap();
    let one = part(&target, &upload, 1, 0, vec![1; 1000]).await;
    part(&target, &upload, 7, 500, vec![7; 10]).await;
    let error = target
        .complete_upload(&upload, std::slice::from_ref(&one), true)
        .await
        .unwrap_err();
    assert!(error.why().contains("written over"), "{error}");
    let gap = part(&target, &upload, 2, 1001, vec![2; 10]).await;
    let error = target
        .complete_upload(&upload, &[one, gap], true)
        .await
        .unwrap_err();
    assert!(error.why().contains("ends at 1000"), "{error}");
    assert_eq!(
        kind(target.complete_upload(&upload, &[], true).await),
        ErrorKind::Other
    );
    assert_eq!(kind(target.head(&key("image")).await), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_writer_does_not_touch_a_finished_object() {
    let (folder, target) = fresh().await;
    let upload = target.begin_upload(&key("image")).await.unwrap();
    let one = part(&target, &upload, 1, 0, vec![1; 1000]).await;
    let data = folder
        .path()
        .join("holdfast/.work/uploads")
        .join(&upload.id)
        .join("data");
    // A writer of another process, in the middle of a part.
    let writer = fs::OpenOptions::new().read(true).write(true).open(&data).unwrap();
    writer.lock_shared().unwrap();
    let (ending, own, parts) = (target.clone(), upload.clone(), [one]);
    let end = tokio::spawn(async move { ending.complete_upload(&own, &parts, true).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        kind(target.head(&key("image")).await),
        ErrorKind::NotFound,
        "its end waits"
    );
    writer.unlock().unwrap();
    end.await.unwrap().unwrap();
    let late = target
        .upload_part(&upload, PartNumber(1), 0, Bytes::from_static(b"late"))
        .await;
    assert_eq!(kind(late), ErrorKind::NotFound);
    assert_eq!(target.get(&key("image"), 9999).await.unwrap().body, vec![1; 1000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_nobody_waits_for_is_none_and_holds_no_memory() {
    let (_folder, target) = fresh().await;
    let upload = target.begin_upload(&key("image")).await.unwrap();
    let body = Bytes::from(vec![1; 64 << 20]);
    let number = PartNumber(1);
    let dropped = tokio::time::timeout(
        Duration::from_millis(2),
        target.upload_part(&upload, number, 0, body.clone()),
    );
    dropped.await.unwrap_err();
    body.try_into_mut().expect("nobody else has the memory");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(target.list_parts(&upload).await.unwrap().is_empty());
    let one = part(&target, &upload, 1, 0, vec![5; 100]).await;
    assert_eq!(
        target.complete_upload(&upload, &[one], true).await.unwrap().size,
        100
    );
    assert_eq!(target.get(&key("image"), 100).await.unwrap().body, vec![5; 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_object_is_never_replaced() {
    let (_folder, target) = fresh().await;
    let upload = target.begin_upload(&key("image")).await.unwrap();
    let one = part(&target, &upload, 1, 0, vec![1; 10]).await;
    let made = target
        .put_new(&key("image"), Bytes::from_static(b"first"))
        .await
        .unwrap();
    assert!(matches!(made, Creation::Created(_)));
    for if_absent in [true, false] {
        let parts = std::slice::from_ref(&one);
        let done = target.complete_upload(&upload, parts, if_absent).await;
        assert_eq!(kind(done), ErrorKind::Exists);
    }
    assert_eq!(target.get(&key("image"), 9).await.unwrap().body, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_shares_what_one_of_it_wrote() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, target) = fresh().await;
    target.put(&key("a"), Bytes::new()).await.unwrap();
    let mode = |path: &str| {
        fs::metadata(folder.path().join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("holdfast"), mode("holdfast/test")), (0o770, 0o770));
    assert_eq!(
        (mode("holdfast/test/a"), mode("holdfast/.store.json")),
        (0o660, 0o660)
    );
}

fn names() -> impl Strategy<Value = Vec<String>> {
    let part = prop::sample::select(vec!["a", "a-b", "a.b", "a0", "b"]);
    let name = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    prop::collection::vec(name, 0..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn lists_are_those_of_a_store(names in names(), deep in 0usize..20, folders: bool, limit in 1u32..6) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_folder, target) = fresh().await;
            let memory = MemoryTarget::new();
            let mut taken: Vec<&String> = Vec::new();
            for name in &names {
                // A store may have a file and a folder of one name, a folder not.
                let inside = |one: &str, other: &str| one.starts_with(&format!("{other}/"));
                if taken.iter().any(|other| inside(name, other) || inside(other, name) || *other == name) {
                    continue;
                }
                taken.push(name);
                target.put(&key(name), Bytes::from(name.clone())).await.unwrap();
                memory.put(&key(name), Bytes::from(name.clone())).await.unwrap();
            }
            let whole = taken.first().map_or("a".to_owned(), |name| (*name).clone());
            let text = format!("holdfast/test/{}", &whole[..deep.min(whole.len())]);
            let mut request = ListRequest { prefix: prefix(&text), folders, after: None, limit };
            loop {
                let (page, expected) = (target.list(&request).await.unwrap(), memory.list(&request).await.unwrap());
                let keys = |objects: &[holdfast_target::ObjectMeta]| {
                    objects.iter().map(|object| (object.key.clone(), object.size)).collect::<Vec<_>>()
                };
                assert_eq!(keys(&page.objects), keys(&expected.objects));
                assert_eq!(page.prefixes, expected.prefixes);
                assert_eq!(page.next, expected.next);
                request.after = page.next;
                if request.after.is_none() {
                    break;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "judges the file system of the empty folder that HOLDFAST_FOLDER names, such as a mount of NFS"]
async fn a_folder_on_any_file_system_conforms() {
    let folder = std::env::var("HOLDFAST_FOLDER").unwrap();
    conformance(Arc::new(DirectoryTarget::create(folder.as_ref()).await.unwrap())).await;
}
