//! Long-lived processes of the sandbox: started detached, recognised beyond doubt later, stopped in good order.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::cluster::Cluster;
use crate::ui;

const LARGEST_LOG: u64 = 64 << 20;
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The shell enters the cgroup before anything else, so that not even a first child is missed, and becomes the daemon.
const ONCE: &str = r#"echo $$ > "$0" && exec "$@""#;

/// The shell stays and starts the daemon again when it ends, until it is asked to stop.
const SUPERVISED: &str = r#"
echo $$ > "$0" || exit 1
trap 'kill "$child"; wait "$child"; exit 0' TERM
while :; do
    "$@" &
    child=$!
    wait "$child"
    echo "sandbox: $1 ended with $?; starting it again" >&2
    sleep 1
done
"#;

/// A program the sandbox keeps running.
pub(crate) struct Daemon<'a> {
    cluster: &'a Cluster,
    name: &'a str,
    program: PathBuf,
    args: Vec<OsString>,
    /// Never written anywhere: may hold secrets.
    env: Vec<(&'a str, String)>,
    /// Content of files it reads at start: a change of it asks for a restart.
    config: String,
    supervised: bool,
}

/// What a started daemon is recognised by. A pid alone may long belong to somebody else.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: u32,
    /// Start time in clock ticks since boot, as in `/proc/<pid>/stat`.
    start: u64,
    boot: String,
    args: Vec<String>,
    config: String,
}

impl Record {
    fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }
}

/// What [`Daemon::ensure`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ensured {
    Started,
    Running,
}

impl<'a> Daemon<'a> {
    pub(crate) fn new(cluster: &'a Cluster, name: &'a str, program: impl Into<PathBuf>) -> Self {
        Self {
            cluster,
            name,
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            config: String::new(),
            supervised: false,
        }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Names a configuration file whose change asks for a restart.
    pub(crate) fn config(mut self, path: &Path) -> Result<Self> {
        self.config
            .push_str(&fs::read_to_string(path).with_context(|| path.display().to_string())?);
        Ok(self)
    }

    /// Starts it again whenever it ends, as a pod's container would be.
    pub(crate) fn supervised(mut self) -> Self {
        self.supervised = true;
        self
    }

    /// Leaves it running if it runs with just these arguments, else (re)starts it.
    pub(crate) fn ensure(self) -> Result<Ensured> {
        if let Some(record) = running(self.cluster, self.name)? {
            if record.args == self.shown_args() && record.config == self.config_hash() {
                return Ok(Ensured::Running);
            }
            ui::note(format!("{} runs with other arguments: restarting it", self.name));
            stop(self.cluster, &[self.name])?;
        }
        self.start()?;
        Ok(Ensured::Started)
    }

    fn start(self) -> Result<()> {
        let log = open_log(&log_path(self.cluster, self.name)?)?;
        let procs = cgroup::daemons(self.cluster)?.join("cgroup.procs");
        let mut command = Command::new("setsid");
        command
            .args(["sh", "-c", if self.supervised { SUPERVISED } else { ONCE }])
            .arg(procs)
            .arg(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env_remove("KUBECONFIG")
            .current_dir(self.cluster.state())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // `setsid` does not fork as long as it is no group leader; it stays in xtask's own group until then.
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let pid = child.id();
        let start = start_time(pid).with_context(|| format!("{} ended at once: see its log", self.name))?;
        let record = Record {
            pid,
            start,
            boot: boot_id()?,
            args: self.shown_args(),
            config: self.config_hash(),
        };
        fs::write(
            record_path(self.cluster, self.name)?,
            serde_json::to_string(&record)?,
        )?;
        Ok(())
    }

    fn shown_args(&self) -> Vec<String> {
        std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(|a| a.to_string_lossy().into_owned())
            .collect()
    }

    fn config_hash(&self) -> String {
        use sha2::{Digest, Sha256};
        hex::encode(Sha256::digest(&self.config))
    }
}

fn record_path(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    Ok(cluster.dir("run")?.join(format!("{name}.json")))
}

/// The log of a daemon; it is kept over restarts.
pub(crate) fn log_path(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    Ok(cluster.dir("logs")?.join(format!("{name}.log")))
}

fn open_log(path: &Path) -> Result<File> {
    if fs::metadata(path).is_ok_and(|m| m.len() > LARGEST_LOG) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| path.display().to_string())
}

/// The end of a daemon's log, for error messages.
pub(crate) fn log_tail(cluster: &Cluster, name: &str) -> String {
    let text = log_path(cluster, name)
        .and_then(|p| Ok(fs::read(p)?))
        .unwrap_or_default();
    crate::run::last_lines(&String::from_utf8_lossy(&text))
}

/// Names of all daemons ever started for this cluster and not yet stopped.
pub(crate) fn recorded(cluster: &Cluster) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(cluster.dir("run")?)?
        .flatten()
        .filter_map(|e| {
            e.file_name()
                .to_str()
                .and_then(|n| n.strip_suffix(".json"))
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Pid of a daemon if it runs.
pub(crate) fn pid(cluster: &Cluster, name: &str) -> Result<Option<u32>> {
    Ok(running(cluster, name)?.map(|record| record.pid))
}

fn running(cluster: &Cluster, name: &str) -> Result<Option<Record>> {
    let Ok(bytes) = fs::read(record_path(cluster, name)?) else {
        return Ok(None);
    };
    let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
        return Ok(None);
    };
    Ok((record.boot == boot_id()? && record.alive()).then_some(record))
}

/// An error with the end of the log if the daemon has died.
pub(crate) fn check_alive(cluster: &Cluster, name: &str) -> Result<()> {
    if running(cluster, name)?.is_none() {
        bail!(
            "{name} has ended; the end of {}:\n{}",
            log_path(cluster, name)?.display(),
            log_tail(cluster, name)
        );
    }
    Ok(())
}

/// Stops daemons together: asks, waits, then kills. One that does not run is fine.
pub(crate) fn stop(cluster: &Cluster, names: &[&str]) -> Result<()> {
    let mut records = Vec::new();
    for name in names {
        if let Some(record) = running(cluster, name)? {
            signal(record.pid, Signal::TERM);
            records.push(record);
        }
    }
    if !all_gone(&records) {
        for record in records.iter().filter(|r| r.alive()) {
            signal(record.pid, Signal::KILL);
        }
        if !all_gone(&records) {
            let left: Vec<u32> = records.iter().filter(|r| r.alive()).map(|r| r.pid).collect();
            bail!("of {names:?} these processes do not die: {left:?}");
        }
    }
    for name in names {
        let path = record_path(cluster, name)?;
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Waits for the grace period; tells whether all have ended.
fn all_gone(records: &[Record]) -> bool {
    let start = Instant::now();
    while records.iter().any(Record::alive) {
        if start.elapsed() > STOP_GRACE {
            return false;
        }
        thread::sleep(Duration::from_millis(30));
    }
    true
}

/// Kills processes and waits until they are gone.
pub(crate) fn kill(pids: &[u32]) {
    let started: Vec<(u32, u64)> = pids
        .iter()
        .filter_map(|pid| Some((*pid, start_time(*pid)?)))
        .collect();
    for (pid, _) in &started {
        signal(*pid, Signal::KILL);
    }
    let start = Instant::now();
    while started.iter().any(|(pid, time)| start_time(*pid) == Some(*time)) && start.elapsed() < STOP_GRACE {
        thread::sleep(Duration::from_millis(30));
    }
}

/// Sends a signal; a process that is gone already is what was wanted.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// All process ids of the machine.
pub(crate) fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// A process's command line, for people.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

/// Start time of a live process in ticks since boot; none for the dead and for zombies.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in parentheses may hold anything, so fields are counted after its end.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn boot_id() -> Result<String> {
    let id =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// Replaces xtask by another program, which then owns the terminal.
pub(crate) fn become_program(program: &Path, args: &[OsString], env: &[(&str, OsString)]) -> Result<()> {
    let error = Command::new(program)
        .args(args)
        .envs(env.iter().map(|(n, v)| (n, v)))
        .exec();
    Err(error).with_context(|| program.display().to_string())
}
