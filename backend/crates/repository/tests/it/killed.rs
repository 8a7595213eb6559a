//! A process that takes backups, merges and sweeps, and is killed at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use holdfast_mover::VerifyScope;
use holdfast_repository::keys::Holders;
use holdfast_repository::point;
use holdfast_seal::{PlanKey, RecoveryKey};
use holdfast_target::layout::{Attempt, Uid};
use holdfast_target::{DirectoryTarget, Prefix, Target, list_all};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use crate::operator::{Operator, Run};
use crate::rng::Rng;
use crate::volume::{Volume, folder};

/// Times that it is killed.
const KILLS: u64 = 22;
/// Points that it keeps.
const KEPT: usize = 4;
/// Rounds after which it begins or ceases to encrypt.
const SWITCH: u64 = 5;
const VOLUMES: [(&str, u64, u32); 2] = [
    ("small", (1 << 20) + 512 * 77, 16 << 10),
    ("even", 1 << 20, 64 << 10),
];

fn operator(folder: &Path, round: u64) -> Operator {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let holders = Holders {
        plan: PlanKey::parse(&read("plan.key")).unwrap(),
        recovery: vec![read("recovery").parse().unwrap()],
    };
    let volumes = VOLUMES.map(|(claim, _, cluster)| Volume::open(folder, claim, cluster));
    Operator::new(volumes.into(), holders, (round / SWITCH).is_multiple_of(2))
}

async fn store(folder: &Path) -> Arc<dyn Target> {
    Arc::new(DirectoryTarget::create(&folder.join("store")).await.unwrap())
}

async fn committed(target: &dyn Target, operator: &Operator) -> Vec<Uid> {
    let mut found = Vec::new();
    for location in point::points(target, &operator.cluster, &operator.plan)
        .await
        .unwrap()
    {
        if point::is_committed(target, &location).await.unwrap() {
            found.push(location.backup);
        }
    }
    found
}

/// Backs up, merges and sweeps for ever; what a backup has to hold is laid aside before it begins.
async fn work(folder: &Path, round: u64) {
    let (target, operator) = (store(folder).await, operator(folder, round));
    let mut rng = Rng::new(round);
    for number in 1.. {
        for _ in 0..3 {
            let volume = &operator.volumes[rng.index(&operator.volumes)];
            rng.weighted(&[(3, true), (1, false)])
                .then(|| volume.write(&mut rng, 300 << 10));
            rng.percent(20).then(|| volume.zero(&mut rng));
            rng.percent(20).then(|| volume.trim(&mut rng));
        }
        let backup = format!("b-{round}-{number}");
        let copies = folder.join("copies").join(&backup);
        fs::create_dir_all(&copies).unwrap();
        for volume in &operator.volumes {
            fs::copy(&volume.path, copies.join(volume.claim.as_str())).unwrap();
        }
        let run = Run {
            backup: backup.parse().unwrap(),
            attempt: Attempt(1),
            incremental: rng.percent(80),
            objects: backup.clone().into(),
        };
        println!("told: backup {backup}");
        Box::pin(operator.backup(&target, &run)).await.unwrap();
        println!("told: committed {backup}");
        let mut points = committed(&*target, &operator).await;
        while points.len() > KEPT {
            let gone = points.swap_remove(rng.index(&points));
            println!("told: deleting {gone}");
            point::erase(&*target, &operator.location(&gone)).await.unwrap();
            println!("told: deleted {gone}");
        }
        println!("told: merging {backup}");
        if let Err(failure) = Box::pin(operator.merge(&target, false)).await {
            // Files of a merge that was killed are swept next.
            assert!(failure.target().is_some(), "{failure}");
        }
        println!("told: sweeping {backup}");
        sweep(&target, &operator, true).await;
    }
}

async fn sweep(target: &Arc<dyn Target>, operator: &Operator, plan_lives: bool) {
    let look = operator.look(&**target).await.unwrap();
    let swept = operator.sweep(&**target, &look, plan_lives, Duration::ZERO, Timestamp::now());
    swept.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that the next test kills"]
async fn victim() {
    let folder = std::env::var("HOLDFAST_VICTIM_FOLDER").unwrap();
    let round = std::env::var("HOLDFAST_VICTIM_ROUND").unwrap().parse().unwrap();
    work(folder.as_ref(), round).await;
}

fn spawn(folder: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "killed::victim",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("HOLDFAST_VICTIM_FOLDER", folder)
        .env("HOLDFAST_VICTIM_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Runs it, and kills it a while after it has begun. Returns what it told: a verb and a name each.
fn run_and_kill(folder: &Path, round: u64, rng: &mut Rng) -> Vec<(String, Uid)> {
    let mut child = spawn(folder, round);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tell, told) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some((verb, name)) = line
                .split_once("told: ")
                .and_then(|(_, told)| told.split_once(' '))
            {
                tell.send((verb.to_owned(), name.parse().unwrap())).unwrap();
            }
        }
    });
    let first = told.recv_timeout(Duration::from_secs(60)).expect("it begins");
    std::thread::sleep(Duration::from_millis(rng.below(1200)));
    let ended = child.try_wait().unwrap();
    assert!(ended.is_none(), "round {round}: it fails by itself: {ended:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    [first].into_iter().chain(told.try_iter()).collect()
}

/// Every point that is listed restores to what was laid aside. Returns how many there are.
async fn check(folder: &Path, must: &BTreeSet<Uid>, deleted: &BTreeSet<Uid>) -> usize {
    let (target, operator) = (store(folder).await, operator(folder, 0));
    let there: BTreeSet<Uid> = committed(&*target, &operator).await.into_iter().collect();
    assert!(must.is_subset(&there), "committed: {must:?}, there: {there:?}");
    assert!(
        there.is_disjoint(deleted),
        "deleted: {deleted:?}, there: {there:?}"
    );
    let keys = operator.all_keys(&*target, &operator.identity()).await.unwrap();
    for name in &there {
        let location = operator.location(name);
        let found = point::read(&*target, &location).await.unwrap().unwrap();
        let keys = found.key().is_some().then_some(&keys);
        let opened = operator.open(&*target, &location, keys).await.unwrap().unwrap();
        assert_eq!(opened.objects, name.as_str());
        for volume in &opened.volumes {
            let images = volume.resolved.chain.clone();
            let ring = volume.ring.clone();
            let verified = operator
                .verify(&target, &volume.home, images, ring, VerifyScope::Quick)
                .await;
            assert!(verified.unwrap().is_sound(), "{name}");
            let restored = operator
                .restore(&target, volume, &folder.join("restored"))
                .await
                .unwrap();
            let copy = folder
                .join("copies")
                .join(name.as_str())
                .join(volume.home.claim.as_str());
            assert!(restored == fs::read(copy).unwrap(), "{} of {name}", volume.home);
        }
    }
    there.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_leaves_points_that_restore() {
    let place = folder();
    let folder = place.path();
    fs::create_dir(folder.join("store")).unwrap();
    fs::write(
        folder.join("plan.key"),
        PlanKey::generate().to_text().expose_secret(),
    )
    .unwrap();
    fs::write(
        folder.join("recovery"),
        RecoveryKey::generate().recipient().to_string(),
    )
    .unwrap();
    let mut rng = Rng::new(5);
    for (claim, size, cluster) in VOLUMES {
        Volume::create(folder, claim, size, cluster).fill(&mut rng);
    }
    let (mut must, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    let (mut committed, mut restored) = (0, 0);
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for round in 1..=KILLS {
        let told = run_and_kill(folder, round, &mut rng);
        *last.entry(told.last().unwrap().0.clone()).or_default() += 1;
        for (verb, name) in told {
            match verb.as_str() {
                "committed" => {
                    committed += 1;
                    must.insert(name);
                }
                "deleting" => drop(must.remove(&name)),
                "deleted" => drop(deleted.insert(name)),
                _ => {}
            }
        }
        restored += Box::pin(check(folder, &must, &deleted)).await;
    }
    let (target, operator) = (store(folder).await, operator(folder, 0));
    for name in self::committed(&*target, &operator).await {
        point::erase(&*target, &operator.location(&name)).await.unwrap();
    }
    sweep(&target, &operator, false).await;
    sweep(&target, &operator, false).await;
    let rest = list_all(&*target, &Prefix::root(), 1000).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    assert!(target.list_uploads(&Prefix::root()).await.unwrap().is_empty());
    println!(
        "{KILLS} kills, {committed} points committed, {restored} restored and compared, killed in {last:?}"
    );
    assert!(committed > KILLS / 2, "only {committed} points were committed");
}
