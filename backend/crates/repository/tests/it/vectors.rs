//! The format's test vectors: two small targets that were written once, in clear and encrypted, and have to read the same
//! for good. They lie in `docs/vectors`, with what they hold in `expected.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use holdfast_mover::VerifyScope;
use holdfast_repository::chain::{self, ChainFile};
use holdfast_repository::keys::{Holders, Identity};
use holdfast_repository::{lease, point};
use holdfast_seal::{PlanKey, RecoveryKey};
use holdfast_target::layout::{Attempt, Digest, Generation, Uid};
use holdfast_target::{DirectoryTarget, Target};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::operator::{Operator, Run};
use crate::rng::Rng;
use crate::volume::Volume;

/// Set to write the vectors anew, which a change of the format's version alone allows.
const WRITE: &str = "HOLDFAST_WRITE_VECTORS";
/// Forty clusters and an end inside of one.
const SIZE: u64 = 40 * CLUSTER as u64 + 512;
const CLUSTER: u32 = 16 << 10;
const POINTS: [&str; 4] = ["one", "two", "three", "four"];

/// What a target of the vectors holds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Expected {
    /// By point: digest of the volume, and the objects as they were captured.
    points: BTreeMap<String, (Digest, String)>,
    /// Generations of the chain file.
    generations: u64,
    /// Files that a merge has unlinked and nobody has removed yet.
    unlinked: usize,
    /// Generation that a reader holds.
    read: Generation,
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/vectors")
}

fn key_text(name: &str) -> String {
    fs::read_to_string(home().join(name)).unwrap().trim().to_owned()
}

fn holders() -> (Holders, RecoveryKey) {
    let recovery = RecoveryKey::parse(&key_text("recovery-key.txt")).unwrap();
    let holders = Holders {
        plan: PlanKey::parse(&key_text("plan-key.txt")).unwrap(),
        recovery: vec![recovery.recipient()],
    };
    (holders, recovery)
}

fn operator(folder: &Path, encrypts: bool) -> Operator {
    let volume = Volume::create(folder, "claim", SIZE, CLUSTER);
    Operator::new(vec![volume], holders().0, encrypts)
}

fn objects(point: &str) -> String {
    format!("{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"{point}\"}}}}\n")
}

async fn write(folder: &Path, encrypts: bool) -> Expected {
    fs::create_dir_all(folder).unwrap();
    let place = folder.canonicalize().unwrap();
    let target: Arc<dyn Target> = Arc::new(DirectoryTarget::create(&place).await.unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let operator = operator(scratch.path(), encrypts);
    let volume = &operator.volumes[0];
    let mut rng = Rng::new(if encrypts { 2 } else { 1 });
    let mut points = BTreeMap::new();
    for (number, name) in POINTS.iter().enumerate() {
        for _ in 0..3 {
            volume.write(&mut rng, 3 * u64::from(CLUSTER));
        }
        volume.zero(&mut rng);
        volume.trim(&mut rng);
        let run = Run {
            backup: name.parse().unwrap(),
            attempt: Attempt(1),
            incremental: number > 0,
            objects: Bytes::from(objects(name)),
        };
        operator.backup(&target, &run).await.unwrap();
        points.insert(
            (*name).to_owned(),
            (Digest::of(&volume.content(None)), objects(name)),
        );
    }
    let vhome = operator.home(volume);
    // A reader of the state before the merge keeps what that unlinks.
    let before = chain::newest(&*target, &vhome).await.unwrap().file.unwrap();
    let reader: Uid = "reader".parse().unwrap();
    lease::hold(&*target, &vhome, &reader, Some(before.generation), 0)
        .await
        .unwrap();
    point::erase(&*target, &operator.location(&"two".parse().unwrap()))
        .await
        .unwrap();
    points.remove("two");
    operator.merge(&target, false).await.unwrap();
    let file = chain::newest(&*target, &vhome).await.unwrap().file.unwrap();
    Expected {
        points,
        generations: file.generation.0,
        unlinked: file.unlinked.iter().map(|gone| gone.files.len()).sum(),
        read: before.generation,
    }
}

/// Copies a folder: reading a store must not change the vectors.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &place),
            false => drop(fs::copy(entry.path(), place).unwrap()),
        }
    }
}

/// Files of a checkout are as old as it is; in a store they have the times that are their ETags.
fn set_times(home: &Path) {
    for file in fs::read_dir(home).unwrap() {
        let path = file.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("chain-") {
            continue;
        }
        let chain: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let images = chain["images"].as_array().unwrap().iter();
        for stored in images.flat_map(|image| image["files"].as_array().unwrap()) {
            let file = home.join(stored["key"].as_str().unwrap());
            let (nanos, _) = stored["etag"].as_str().unwrap().split_once('-').unwrap();
            let changed = UNIX_EPOCH + Duration::from_nanos(u64::from_str_radix(nanos, 16).unwrap());
            fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_modified(changed)
                .unwrap();
        }
    }
}

async fn read(folder: &Path, encrypts: bool, identity: Option<&Identity>) -> Expected {
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().join("store");
    copy(folder, &place);
    set_times(&place.join("holdfast/volumes/cluster/plan/claim"));
    let target: Arc<dyn Target> = Arc::new(DirectoryTarget::create(&place).await.unwrap());
    let operator = operator(scratch.path(), encrypts);
    let vhome = operator.home(&operator.volumes[0]);
    let ring = match identity {
        Some(identity) => Some(operator.all_keys(&*target, identity).await.unwrap()),
        None => None,
    };
    let mut points = BTreeMap::new();
    for location in point::points(&*target, &operator.cluster, &operator.plan)
        .await
        .unwrap()
    {
        let Some(opened) = operator.open(&*target, &location, ring.as_ref()).await.unwrap() else {
            continue;
        };
        let content = operator
            .restore(&target, &opened.volumes[0], &scratch.path().join("back"))
            .await;
        let objects = String::from_utf8(opened.objects.to_vec()).unwrap();
        points.insert(
            location.backup.to_string(),
            (Digest::of(&content.unwrap()), objects),
        );
    }
    let file = chain::newest(&*target, &vhome).await.unwrap().file.unwrap();
    let records: Vec<_> = file
        .images
        .iter()
        .map(|entry| entry.open(&vhome, ring.as_deref()).unwrap())
        .collect();
    let all = VerifyScope::Full {
        from: None,
        budget: None,
    };
    let report = operator
        .verify(&target, &vhome, records, ring.unwrap_or_default(), all)
        .await
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
    for generation in 1..=file.generation.0 {
        let generation = Generation(generation);
        let bytes = target
            .get(&vhome.chain_key(generation), 1 << 20)
            .await
            .unwrap()
            .body;
        ChainFile::parse(&vhome, generation, &bytes).unwrap();
    }
    let sign = target
        .get(&vhome.reader_key(&"reader".parse().unwrap(), 0), 4096)
        .await
        .unwrap()
        .body;
    let sign: serde_json::Value = serde_json::from_slice(&sign).unwrap();
    Expected {
        points,
        generations: file.generation.0,
        unlinked: file.unlinked.iter().map(|gone| gone.files.len()).sum(),
        read: serde_json::from_value(sign["generation"].clone()).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_were_written_before_read_the_same() {
    let file = home().join("expected.json");
    if std::env::var_os(WRITE).is_some() {
        for name in ["clear", "sealed"] {
            drop(fs::remove_dir_all(home().join(name)));
        }
        fs::create_dir_all(home()).unwrap();
        fs::write(
            home().join("plan-key.txt"),
            PlanKey::generate().to_text().expose_secret(),
        )
        .unwrap();
        fs::write(
            home().join("recovery-key.txt"),
            RecoveryKey::generate().to_text().expose_secret(),
        )
        .unwrap();
        let written = [
            write(&home().join("clear"), false).await,
            write(&home().join("sealed"), true).await,
        ];
        fs::write(&file, serde_json::to_string_pretty(&written).unwrap() + "\n").unwrap();
    }
    let expected: [Expected; 2] = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let (holders, recovery) = holders();
    assert_eq!(read(&home().join("clear"), false, None).await, expected[0]);
    for identity in [Identity::Plan(holders.plan), Identity::Recovery(recovery)] {
        assert_eq!(
            read(&home().join("sealed"), true, Some(&identity)).await,
            expected[1]
        );
    }
}
