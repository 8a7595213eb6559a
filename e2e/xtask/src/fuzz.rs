//! Fuzzing: every target for some time, side by side on the cores, and what `qemu-img` says of the outcome.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::run::Run;
use crate::ui::{self, Heartbeat};
use crate::{interrupt, packages, paths};

/// Stable compilers take these flags when they are told to; so fuzzing needs no other toolchain than the product.
const SANITIZERS: [&str; 7] = [
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg fuzzing",
];
/// Longest input in bytes; targets that want shorter ones refuse others.
const LONGEST: u64 = 96 << 10;

/// Builds the fuzzer and runs targets (all where none is named) for so many seconds each.
pub(crate) fn fuzz(seconds: u64, names: &[String]) -> Result<()> {
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    let chosen = if names.is_empty() { all } else { names.to_vec() };
    packages::ensure(packages::FUZZING)?;
    let program = build()?;
    let folder = paths::target_dir().join("fuzz-corpus");
    let mut waiting: VecDeque<String> = chosen.into();
    let (mut running, mut ended) = (Vec::new(), Vec::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut heartbeat = Heartbeat::new("fuzzing");
    let outcome = loop {
        while running.len() < cores
            && let Some(name) = waiting.pop_front()
        {
            ui::note(format!("{name} for {seconds} s"));
            running.push(Fuzzing::start(&program, &folder, name, seconds)?);
        }
        if running.is_empty() {
            break Ok(());
        }
        if let Err(error) = interrupt::check() {
            break Err(error);
        }
        let mut index = 0;
        while index < running.len() {
            match running[index].child.try_wait()? {
                Some(status) => ended.push(running.swap_remove(index).report(status.success())?),
                None => index += 1,
            }
        }
        heartbeat.beat();
        thread::sleep(Duration::from_millis(200));
    };
    for mut fuzzing in running {
        // It may have ended in between; then there is nothing to kill.
        drop(fuzzing.child.kill());
        fuzzing.child.wait()?;
    }
    outcome?;
    table(&ended);
    let crashed = ended.iter().filter(|report| report.crashed).count();
    let judged = judge(&folder);
    ensure!(crashed == 0, "{crashed} of {} targets crashed", ended.len());
    judged
}

/// Each target has a folder of seeds.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sources().join("seeds"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn sources() -> PathBuf {
    paths::repo().join("e2e/fuzz")
}

/// Builds the fuzzer with the versions of the workspace and returns its path.
fn build() -> Result<PathBuf> {
    let lock = "Cargo.lock";
    fs::copy(paths::repo().join(lock), sources().join(lock)).context(lock)?;
    let target_dir = paths::target_dir().join("fuzz");
    // With a platform named, cargo leaves build scripts and macros alone.
    let platform = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    Run::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--target", &platform])
        .dir(&sources())
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", SANITIZERS.join(" "))
        .within(Duration::from_secs(3600))
        .heartbeat("building the fuzzer")
        .streamed()?;
    Ok(target_dir.join(platform).join("release/fuzz"))
}

/// One target at work.
struct Fuzzing {
    name: String,
    child: Child,
    log: PathBuf,
    crashes: PathBuf,
}

/// What became of a target.
struct Report {
    name: String,
    runs: String,
    coverage: String,
    corpus: String,
    memory: String,
    crashed: bool,
}

impl Fuzzing {
    fn start(program: &Path, folder: &Path, name: String, seconds: u64) -> Result<Self> {
        let (corpus, crashes) = (folder.join(&name), folder.join("crashes").join(&name));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&crashes)?;
        let log = crashes.join("log");
        let output = File::create(&log)?;
        let mut prefix: OsString = "-artifact_prefix=".into();
        prefix.push(&crashes);
        prefix.push("/");
        let mut words: OsString = "-dict=".into();
        words.push(sources().join("words.dict"));
        let child = Command::new(program)
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=20", "-rss_limit_mb=1024", "-malloc_limit_mb=64"])
            .args(["-print_final_stats=1", "-use_value_profile=1"])
            .arg(format!("-max_len={LONGEST}"))
            .args([prefix, words])
            .arg(corpus)
            .arg(sources().join("seeds").join(&name))
            // What is not freed at the end is no crash, and looking for it is not allowed everywhere.
            .env("ASAN_OPTIONS", "detect_leaks=0")
            .env("HOLDFAST_FUZZ", &name)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| program.display().to_string())?;
        Ok(Self {
            name,
            child,
            log,
            crashes,
        })
    }

    fn report(self, success: bool) -> Result<Report> {
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        let last = |word: &str| {
            let line = log.lines().rev().find(|line| line.contains(word))?;
            line.split(word)
                .nth(1)?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        };
        let found = |word| last(word).unwrap_or_else(|| "?".to_owned());
        if !success {
            ui::warn(format!(
                "{} crashed; what it was given lies in {}:\n{}",
                self.name,
                self.crashes.display(),
                crate::run::last_lines(&log)
            ));
        }
        Ok(Report {
            runs: found("stat::number_of_executed_units:"),
            coverage: found(" cov: "),
            corpus: found(" corp: "),
            memory: found("stat::peak_rss_mb:"),
            crashed: !success,
            name: self.name,
        })
    }
}

fn table(reports: &[Report]) {
    ui::say(&format!(
        "\n  {:<15} {:>12} {:>9} {:>14} {:>10}  crashes",
        "target", "runs", "coverage", "corpus", "peak MiB"
    ));
    for report in reports {
        let crashed = if report.crashed { "CRASHED" } else { "none" };
        ui::say(&format!(
            "  {:<15} {:>12} {:>9} {:>14} {:>10}  {crashed}",
            report.name, report.runs, report.coverage, report.corpus, report.memory
        ));
    }
}

/// `qemu-img` is too slow to be asked about every input: it sees a sample of the images that were found.
fn judge(corpus: &Path) -> Result<()> {
    if !["image", "merge"].iter().all(|kind| corpus.join(kind).is_dir()) {
        return Ok(());
    }
    Run::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--quiet", "--package", "holdfast-hostile", "--", "judge"])
        .arg(corpus)
        .dir(&paths::repo())
        .within(Duration::from_secs(3600))
        .heartbeat("asking qemu-img")
        .streamed()
}
