//! Memory does not grow with the volume: the mover runs in a process of its own, which reports its peak.
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use holdfast_mover::{Job, Progress, RestoreJob, backup, peak_memory, restore};
use holdfast_target::{Connection, S3Target, layout::ImageRecord, testing::Gateway};
use tokio_util::sync::CancellationToken;

use crate::support::*;

const JOB: &str = "HOLDFAST_TEST_JOB";

/// What the child reads: `{"connection", "job"}`.
#[derive(serde::Deserialize)]
struct Task {
    connection: Connection,
    job: Job,
}

/// Not a test of its own: the process that [`run_alone`] starts.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(path) = std::env::var(JOB) else { return };
    let file: Task = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let target = Arc::new(S3Target::connect(&file.connection).unwrap());
    let (progress, cancel) = (Arc::new(Progress::new()), CancellationToken::new());
    let begun = std::time::Instant::now();
    let result = match &file.job {
        Job::Backup(job) => serde_json::to_value(
            backup(target, job, Arc::default(), progress, cancel)
                .await
                .unwrap(),
        ),
        Job::Restore(job) => serde_json::to_value(
            restore(target, job, Arc::default(), progress, cancel)
                .await
                .unwrap(),
        ),
        Job::Verify(_) | Job::Merge(_) => panic!("only volumes are moved alone"),
    };
    let seconds = begun.elapsed().as_secs_f64();
    let report = serde_json::json!({ "result": result.unwrap(), "peak": peak_memory(), "seconds": seconds });
    println!("\nREPORT {report}");
}

/// The process that does a job alone.
fn command(gateway: &Gateway, job: &Job, folder: &Path) -> Command {
    let path = folder.join("job.json");
    let task = serde_json::json!({ "connection": gateway.connection().expose_json(), "job": job });
    std::fs::write(&path, task.to_string()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "memory::child", "--nocapture", "--test-threads=1"])
        .env(JOB, &path);
    command
}

/// Starts a job in a process of its own.
pub(crate) fn start(gateway: &Gateway, job: &Job, folder: &Path) -> Child {
    let mut command = command(gateway, job, folder);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Runs a job alone; its result, peak memory in bytes, and seconds.
fn run_alone(gateway: &Gateway, job: &Job, folder: &Path) -> (serde_json::Value, u64, f64) {
    let mut command = command(gateway, job, folder);
    let printed = run(&mut command);
    let report = printed
        .lines()
        .find_map(|line| line.strip_prefix("REPORT "))
        .expect(&printed);
    let mut report: serde_json::Value = serde_json::from_str(report).unwrap();
    let result = report["result"].take();
    (
        result,
        report["peak"].as_u64().unwrap(),
        report["seconds"].as_f64().unwrap(),
    )
}

/// Peaks of a full backup, an incremental one and a restore of a volume of this size that holds 300 MiB.
fn peaks(gateway: &Gateway, gib: u64) -> [u64; 3] {
    let folder = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(folder.path().join("volume.raw"), gib << 30);
    // Spread over the whole volume, so that every span has some of it.
    for n in 0..300 {
        volume.random(n * (gib << 30) / 300 / 4096 * 4096, MIB);
    }
    let (full, first, _) = run_alone(
        gateway,
        &Job::Backup(backup_job(&volume.path, &format!("full{gib}-a1"), &[])),
        folder.path(),
    );
    let full: ImageRecord = serde_json::from_value(full).unwrap();
    for n in 0..150 {
        volume.random(n * (gib << 30) / 150 / 4096 * 4096, MIB);
    }
    let job = backup_job(
        &volume.path,
        &format!("more{gib}-a1"),
        std::slice::from_ref(&full),
    );
    let (overlay, second, _) = run_alone(gateway, &Job::Backup(job), folder.path());
    let overlay: ImageRecord = serde_json::from_value(overlay).unwrap();
    let device = Volume::create(folder.path().join("restored.raw"), gib << 30);
    let job = RestoreJob {
        device: device.path.clone(),
        home: home(),
        chain: vec![overlay, full],
        from: 0,
    };
    let (_, third, _) = run_alone(gateway, &Job::Restore(job), folder.path());
    run(Command::new("qemu-img")
        .args(["compare", "-f", "raw", "-F", "raw"])
        .arg(&volume.path)
        .arg(&device.path));
    [first, second, third]
}

#[test]
fn peak_memory_is_bounded_and_independent_of_the_volume() {
    let gateway = Gateway::start();
    let (small, large) = (peaks(&gateway, 1), peaks(&gateway, 100));
    println!("peak bytes of full, incremental, restore: 1 GiB {small:?}, 100 GiB {large:?}");
    for (small, large) in small.into_iter().zip(large) {
        assert!(small.max(large) <= 200 * MIB, "{small} and {large}");
        assert!(large as f64 <= small as f64 * 1.2, "{small} and {large}");
    }
}
