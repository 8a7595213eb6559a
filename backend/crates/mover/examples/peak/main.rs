//! Peak memory of the mover: each job alone in a process, on disks as large as they get.
//!
//! `peak bench` makes a dense disk and a sparse one, stores them, stores what changed, restores all of it, and ends with
//! an error when a job took more than it may. `peak job` is the process of one job.
//!
//! A dense disk takes the room of one GiB: the file lies on an XFS of its own and its other GiBs are the same extents
//! again. Its image is folded the same way ([`folding`]). What a restore writes is punched out behind it.

mod folding;
mod volume;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use holdfast_mover::{BackupJob, Job, Progress, RestoreJob, backup, peak_memory, restore};
use holdfast_target::layout::ImageRecord;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    folding::FoldingTarget,
    volume::{Mount, Puncher, Volume},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Most bytes of memory that a job may take.
const LIMIT: u64 = 200 * MIB;

#[derive(Parser)]
#[command(about = "Peak memory of backups and restores")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure everything
    Bench {
        /// GiB of the dense disk
        #[arg(long, default_value_t = 1024)]
        dense: u64,
        /// GiB of the sparse disk
        #[arg(long, default_value_t = 1024)]
        sparse: u64,
        /// Images of the chain of the sparse disk
        #[arg(long, default_value_t = 50)]
        chain: usize,
        /// Folder for everything; a few GiB
        #[arg(long)]
        folder: PathBuf,
    },
    /// Do one job and print its peak
    Job { target: PathBuf, job: PathBuf },
}

fn main() -> Result<()> {
    match Arguments::parse().verb {
        Verb::Job { target, job } => do_job(&target, &job),
        Verb::Bench {
            dense,
            sparse,
            chain,
            folder,
        } => {
            let folder = tempfile::tempdir_in(folder)?;
            let mut bench = Bench {
                folder: folder.path(),
                peaks: Vec::new(),
            };
            bench.dense(dense)?;
            bench.sparse(sparse, chain)?;
            bench.verdict()
        }
    }
}

/// What a job came to.
#[derive(Serialize, Deserialize)]
struct Report {
    result: serde_json::Value,
    peak: u64,
    seconds: f64,
}

#[tokio::main]
async fn do_job(target: &Path, job: &Path) -> Result<()> {
    let job: Job = serde_json::from_slice(&fs::read(job)?)?;
    let target = Arc::new(FoldingTarget::open(target)?);
    let (progress, cancel) = (Arc::new(Progress::new()), CancellationToken::new());
    let begun = Instant::now();
    let result = match &job {
        Job::Backup(job) => {
            serde_json::to_value(backup(target, job, Arc::default(), progress, cancel).await?)?
        }
        Job::Restore(job) => {
            serde_json::to_value(restore(target, job, Arc::default(), progress, cancel).await?)?
        }
        Job::Verify(_) | Job::Merge(_) => anyhow::bail!("only volumes are moved here"),
    };
    let report = Report {
        result,
        peak: peak_memory(),
        seconds: begun.elapsed().as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

struct Bench<'a> {
    folder: &'a Path,
    peaks: Vec<(String, u64)>,
}

impl Bench<'_> {
    fn run(&mut self, what: &str, job: &Job) -> Result<serde_json::Value> {
        let path = self.folder.join("job.json");
        fs::write(&path, serde_json::to_vec(job)?)?;
        let output = Command::new(std::env::current_exe()?)
            .arg("job")
            .args([self.folder.join("target"), path])
            .output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let why = || format!("{what}: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), why());
        let report: Report = serde_json::from_str(&printed).with_context(why)?;
        let mebibytes = report.peak as f64 / MIB as f64;
        println!("{what:<44} {mebibytes:>7.1} MiB {:>8.1} s", report.seconds);
        self.peaks.push((what.to_owned(), report.peak));
        Ok(report.result)
    }

    fn backup(&mut self, what: &str, disk: &Volume, image: &str, chain: &mut Vec<ImageRecord>) -> Result<()> {
        let job = BackupJob {
            device: disk.path().to_owned(),
            home: "peak-cluster/peak-plan/peak-claim".parse()?,
            image: image.parse()?,
            parents: chain.clone(),
            cluster_size: 64 << 10,
            seal: None,
            heal: Vec::new(),
            source: None,
        };
        let record = serde_json::from_value(self.run(what, &Job::Backup(job))?)?;
        chain.insert(0, record);
        Ok(())
    }

    fn restore(&mut self, what: &str, device: &Path, chain: &[ImageRecord]) -> Result<()> {
        let job = RestoreJob {
            device: device.to_owned(),
            home: "peak-cluster/peak-plan/peak-claim".parse()?,
            chain: chain.to_vec(),
            from: 0,
        };
        self.run(what, &Job::Restore(job)).map(drop)
    }

    fn dense(&mut self, gib: u64) -> Result<()> {
        let pool = Mount::xfs(&self.folder.join("pool"), 16 * GIB)?;
        let mut disk = Volume::create(&pool.path().join("dense.raw"), gib * GIB)?;
        disk.fill_dense()?;
        let mut chain = Vec::new();
        let name = |what: &str| format!("dense {gib} GiB: {what}");
        self.backup(&name("backup"), &disk, &format!("dense{gib}-a1"), &mut chain)?;
        // A stretch that is all new, and in every span something that is new and something that is gone.
        for at in (0..GIB / 2).step_by(MIB as usize) {
            disk.noise(at, MIB as usize)?;
        }
        for at in (0..gib * GIB).step_by(GIB as usize / 2) {
            disk.noise(at + 4 * MIB, 128 << 10)?;
            disk.punch(at + 8 * MIB, MIB)?;
        }
        self.backup(&name("incremental"), &disk, &format!("dense{gib}-a2"), &mut chain)?;
        let memory = Mount::tmpfs(&self.folder.join("memory"), 4 * GIB)?;
        let device = Volume::create(&memory.path().join("restored.raw"), gib * GIB)?;
        let puncher = Puncher::behind(device.path())?;
        self.restore(&name("restore"), device.path(), &chain)?;
        puncher.stop()
    }

    fn sparse(&mut self, gib: u64, images: usize) -> Result<()> {
        let mut disk = Volume::create(&self.folder.join("sparse.raw"), gib * GIB)?;
        for at in (0..gib * GIB).step_by(GIB as usize / 2) {
            disk.noise(at, 64 << 10)?;
        }
        let mut chain = Vec::new();
        let name = |what: &str| format!("sparse {gib} GiB: {what}");
        self.backup(&name("backup"), &disk, &format!("sparse{gib}-a1"), &mut chain)?;
        for number in 2..=images as u64 {
            for at in (0..gib * GIB).step_by(4 * GIB as usize) {
                disk.noise(at + number * MIB, 64 << 10)?;
            }
            let what = name(&format!("incremental, {number} images"));
            self.backup(&what, &disk, &format!("sparse{gib}-a{number}"), &mut chain)?;
        }
        let device = Volume::create(&self.folder.join("restored.raw"), gib * GIB)?;
        let what = name(&format!("restore of {images} images"));
        self.restore(&what, device.path(), &chain)?;
        let compared = Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "raw"])
            .args([disk.path(), device.path()])
            .output()
            .context("qemu-img is needed")?;
        ensure!(compared.status.success(), "the restored disk is another one");
        Ok(())
    }

    fn verdict(&self) -> Result<()> {
        let largest = self.peaks.iter().max_by_key(|(_, peak)| *peak);
        let (what, peak) = largest.context("nothing was measured")?;
        println!(
            "largest: {what} with {:.1} MiB of {} MiB",
            *peak as f64 / MIB as f64,
            LIMIT / MIB
        );
        if *peak > LIMIT {
            bail!("{what} took more memory than it may");
        }
        Ok(())
    }
}
