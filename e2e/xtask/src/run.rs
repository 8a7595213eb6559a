//! Child processes that end: run with a deadline, a cancel, and output that is shown when they fail.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt::{self, Interrupted};
use crate::ui::Heartbeat;

const POLL: Duration = Duration::from_millis(20);
const DEFAULT_DEADLINE: Duration = Duration::from_secs(120);
const SHOWN_LINES: usize = 25;

/// A command to be run to its end.
pub(crate) struct Run {
    command: Command,
    shown: String,
    deadline: Duration,
    input: Option<Vec<u8>>,
    heartbeat: Option<String>,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let shown = Path::new(program)
            .file_name()
            .unwrap_or(program)
            .to_string_lossy()
            .into_owned();
        Self {
            command: Command::new(program),
            shown,
            deadline: DEFAULT_DEADLINE,
            input: None,
            heartbeat: None,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<I, S>(self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Longest time the command may take.
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What the command reads from its standard input.
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Says every 15 s that this is still at work.
    pub(crate) fn heartbeat(mut self, what: &str) -> Self {
        self.heartbeat = Some(what.to_owned());
        self
    }

    /// Runs it; an exit code other than zero is an error that shows the end of the output. Returns stdout.
    pub(crate) fn output(self) -> Result<String> {
        let shown = shorten(&self.shown);
        let done = self.finish()?;
        if !done.success {
            bail!("`{shown}` failed:\n{}", last_lines(&done.both()));
        }
        Ok(done.stdout)
    }

    /// Like [`Run::output`], for commands whose output does not matter.
    pub(crate) fn ok(self) -> Result<()> {
        self.output().map(drop)
    }

    /// Runs it; tells whether it ended well. Only failing to run it at all is an error.
    pub(crate) fn status(self) -> Result<bool> {
        Ok(self.finish()?.success)
    }

    /// Runs it with the terminal's own output, for commands whose progress is worth seeing.
    pub(crate) fn streamed(mut self) -> Result<()> {
        let shown = shorten(&self.shown);
        self.command.stdin(Stdio::null());
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        if wait(&mut child, self.deadline, self.heartbeat.as_deref(), &shown)? {
            Ok(())
        } else {
            bail!("`{shown}` failed (its output is above)")
        }
    }

    fn finish(mut self) -> Result<Done> {
        let shown = shorten(&self.shown);
        self.command.stdin(if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let writer = child
            .stdin
            .take()
            .zip(self.input.take())
            .map(|(mut pipe, input)| {
                // A child that does not read its input to the end shows that by its exit code.
                thread::spawn(move || drop(pipe.write_all(&input)))
            });
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        let success = wait(&mut child, self.deadline, self.heartbeat.as_deref(), &shown)?;
        if let Some(writer) = writer {
            drop(writer.join());
        }
        Ok(Done {
            success,
            stdout: collect(stdout),
            stderr: collect(stderr),
        })
    }
}

struct Done {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Done {
    fn both(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        // What was read before an error is still worth showing.
        drop(pipe.read_to_end(&mut all));
        all
    })
}

fn collect(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader.and_then(|r| r.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, deadline: Duration, heartbeat: Option<&str>, shown: &str) -> Result<bool> {
    let start = Instant::now();
    let mut heartbeat = heartbeat.map(Heartbeat::new);
    loop {
        if let Some(status) = child.try_wait()? {
            interrupt::check()?;
            return Ok(status.success());
        }
        let late = start.elapsed() > deadline;
        if late || interrupt::requested() {
            // It may have ended in between; then there is nothing to kill.
            drop(child.kill());
            child.wait()?;
            return if late {
                bail!("`{shown}` did not end within {} s", deadline.as_secs())
            } else {
                Err(Interrupted.into())
            };
        }
        if let Some(heartbeat) = &mut heartbeat {
            heartbeat.beat();
        }
        thread::sleep(POLL);
    }
}

fn shorten(shown: &str) -> String {
    const LONGEST: usize = 160;
    if shown.chars().count() <= LONGEST {
        shown.to_owned()
    } else {
        format!("{}…", shown.chars().take(LONGEST).collect::<String>())
    }
}

/// The end of an output, which is where errors stand.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// Polls until `ready` gives a value; its own errors are kept as the reason shown when time runs out.
pub(crate) fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut heartbeat = Heartbeat::new(&format!("waiting for {what}"));
    loop {
        interrupt::check()?;
        let reason = match ready() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) if interrupt::is_interrupt(&error) => return Err(error),
            Err(error) => Some(error),
        };
        if start.elapsed() > deadline {
            let message = format!("{what}: not ready within {} s", deadline.as_secs());
            return Err(match reason {
                Some(reason) => reason.context(message),
                None => anyhow::anyhow!(message),
            });
        }
        heartbeat.beat();
        thread::sleep(Duration::from_millis(150));
    }
}
