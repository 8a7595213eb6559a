//! docs/FORMAT.md, "Restore by hand": its script is run as it stands there, with jq, zstd and qemu-img and nothing of
//! ours.
use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc};

use bytes::Bytes;
use holdfast_mover::{MergeJob, Progress, merge};
use holdfast_target::{
    Key, Target,
    layout::{
        Attempt, BackupManifest, BackupType, ClusterRecord, Digest, FORMAT_VERSION, FileRecord, Generation,
        ImageRecord, Location, NamespaceRecord, SourceRecord, VolumeMode, VolumeRecord,
    },
    testing::Gateway,
};

use tokio_util::sync::CancellationToken;

use crate::support::*;

/// The only block of this language in the chapter.
fn block(language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/FORMAT.md");
    let document = std::fs::read_to_string(path).unwrap();
    let chapter = document
        .split("\n## Restore by hand\n")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .expect("the chapter is there");
    let fence = format!("```{language}\n");
    let mut blocks = chapter.split(&fence).skip(1);
    let block = blocks
        .next()
        .expect("it has the block")
        .split("```")
        .next()
        .unwrap();
    assert!(blocks.next().is_none(), "it has one such block");
    block.to_owned()
}

/// Downloads what the chapter's command lists, and nothing else.
async fn download_listed(target: &dyn Target, location: &Location, folder: &Path) {
    let commit = location.commit_key();
    let save = async |key: &Key, path: &Path| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, target.get(key, 1 << 30).await.unwrap().body).unwrap();
    };
    let beside = folder.join("backup.json");
    save(&commit, &beside).await;
    let listed = run(Command::new("bash")
        .args(["-euo", "pipefail", "-c", &block("bash")])
        .current_dir(folder));
    std::fs::remove_file(beside).unwrap();
    save(&commit, &folder.join(commit.as_str())).await;
    for line in listed.lines() {
        let (key, path) = line.split_once(' ').unwrap();
        save(&key.parse().unwrap(), &folder.join(path)).await;
    }
}

/// Commits a point with one volume, as an operator would.
async fn commit(target: &dyn Target, chain: Vec<ImageRecord>) -> Location {
    let location: Location = "0c1d-cluster/0c1d-plan/b9".parse().unwrap();
    let objects = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"settings\"}}\n";
    let mut zstd = Command::new("zstd")
        .args(["-q", "-c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut zstd.stdin.take().unwrap(), objects.as_bytes()).unwrap();
    let packed = zstd.wait_with_output().unwrap().stdout;
    target
        .put(&location.objects_key(Attempt(1)), Bytes::from(packed.clone()))
        .await
        .unwrap();
    let source = |name: &str| SourceRecord {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}").parse().unwrap(),
    };
    let now = "2026-11-22T10:00:00Z".parse().unwrap();
    let manifest = BackupManifest {
        format: FORMAT_VERSION,
        location: location.clone(),
        attempt: Attempt(1),
        created_by: "holdfast test".to_owned(),
        cluster: ClusterRecord {
            uid: location.cluster.clone(),
        },
        plan: source("plan"),
        backup: source("backup"),
        backup_type: BackupType::Incremental,
        requester: None,
        started: now,
        completed: now,
        namespace: NamespaceRecord {
            name: "shop".to_owned(),
            uid: "uid-of-shop".parse().unwrap(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        },
        objects: FileRecord {
            key: Location::objects_name(Attempt(1)),
            size: packed.len() as u64,
            version: None,
            blake3: Digest::of(&packed),
            count: 1,
        },
        volumes: vec![VolumeRecord {
            claim: "data".to_owned(),
            claim_uid: home().claim,
            home: home(),
            generation: Generation(2),
            image: chain[0].id.clone(),
            capacity: chain[0].virtual_size,
            volume_mode: VolumeMode::Block,
            storage_class: Some("fast".to_owned()),
            driver: "csi.example.com".to_owned(),
            fs_type: None,
            access_modes: vec!["ReadWriteOnce".to_owned()],
            snapshot_time: now,
            chain,
            locked_until: None,
        }],
        excluded_claims: Vec::new(),
        locked_until: None,
    };
    let meta = target
        .put(&location.commit_key(), manifest.to_bytes().into())
        .await
        .unwrap();
    let read = target.get(&meta.key, 1 << 20).await.unwrap().body;
    assert_eq!(BackupManifest::parse(&location, &read).unwrap(), manifest);
    location
}

/// Full and incrementals of a volume of this size, two of them merged, then the chapter's script on plain downloads.
async fn restore_by_hand(size: u64) {
    let gateway = Gateway::start();
    let target: Arc<dyn Target> = Arc::new(gateway.target());
    let folder = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(folder.path().join("volume.raw"), size);
    volume.random(MIB, 8 * MIB);
    volume.text(size - 2 * MIB, 2 * MIB);
    let full = run_backup(target.clone(), &backup_job(&volume.path, "b7-a1", &[]))
        .await
        .unwrap();
    volume.random(2 * MIB, MIB);
    volume.punch(5 * MIB, MIB);
    volume.random(size - MIB, MIB);
    let job = backup_job(&volume.path, "b8-a2", std::slice::from_ref(&full));
    let overlay = run_backup(target.clone(), &job).await.unwrap();
    volume.random(3 * MIB, 2 * MIB);
    let chain = [overlay, full];
    let newest = run_backup(target.clone(), &backup_job(&volume.path, "b9-a1", &chain))
        .await
        .unwrap();
    let job = MergeJob {
        home: home(),
        run: chain.to_vec(),
        files: "b8-a2-m3".parse().unwrap(),
        seal: None,
    };
    let progress = Arc::new(Progress::new());
    let merged = merge(
        target.clone(),
        &job,
        Arc::default(),
        progress,
        CancellationToken::new(),
    );
    let merged = merged.await.unwrap();
    // Our own restore agrees, shards included.
    let chain = vec![newest, merged];
    let restored = Volume::create(folder.path().join("restored.raw"), size);
    let summary = run_restore(target.clone(), &chain, &restored.path).await.unwrap();
    assert_eq!(summary.data + summary.zeroed, size);
    let location = commit(&*target, chain).await;
    assert_sparse_same(&volume.path, &restored.path);

    let files = folder.path().join("download");
    download_listed(&*target, &location, &files).await;
    let result = folder.path().join("by-hand.raw");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &block("sh")])
        .current_dir(&files);
    bash.env("LOCATION", location.to_string())
        .env("CLAIM", "data")
        .env("DISK", &result);
    let printed = run(&mut bash);
    assert!(
        printed.contains("ConfigMap") && printed.contains("settings"),
        "{printed}"
    );
    assert_sparse_same(&volume.path, &result);
}

/// `qemu-img compare` knows holes, which matters with 129 GiB.
fn assert_sparse_same(left: &Path, right: &Path) {
    run(Command::new("qemu-img")
        .args(["compare", "-s", "-f", "raw", "-F", "raw"])
        .arg(left)
        .arg(right));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chapter_restores_a_volume_of_one_shard() {
    restore_by_hand(64 * MIB + 512).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chapter_restores_a_volume_of_two_shards() {
    restore_by_hand((128 << 30) + 100 * MIB).await;
}
