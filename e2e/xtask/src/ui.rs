//! Progress on the terminal: named steps with their seconds, and a table of them at the end.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::interrupt;

/// One finished step.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    #[serde(skip)]
    pub(crate) passed: bool,
}

/// Runs steps in order, prints each with its duration, and remembers them.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

impl Steps {
    /// Runs one step; its error carries the step's name.
    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        interrupt::check()?;
        say(&format!("▸ {name}"));
        let start = Instant::now();
        let result = work();
        let seconds = start.elapsed().as_secs_f64();
        let mark = if result.is_ok() { "✔" } else { "✘" };
        say(&format!("{mark} {name}  {seconds:.1} s"));
        self.done.push(Step {
            name: name.to_owned(),
            seconds,
            passed: result.is_ok(),
        });
        result.with_context(|| format!("step \"{name}\" failed"))
    }

    /// Runs one step and goes on if it fails: the error is printed here and counted.
    pub(crate) fn attempt(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<bool> {
        match self.run(name, work) {
            Ok(()) => Ok(true),
            Err(error) if interrupt::is_interrupt(&error) => Err(error),
            Err(error) => {
                eprintln!("{}", explain(&error));
                Ok(false)
            }
        }
    }

    /// The finished steps, in order.
    pub(crate) fn done(&self) -> &[Step] {
        &self.done
    }

    /// Prints the table of steps and seconds.
    pub(crate) fn table(&self) {
        let width = self
            .done
            .iter()
            .map(|s| s.name.chars().count())
            .max()
            .unwrap_or(0);
        say("");
        for step in &self.done {
            let failed = if step.passed { "" } else { "  FAILED" };
            say(&format!(
                "  {:<width$}  {:>7.1} s{failed}",
                step.name, step.seconds
            ));
        }
        let total: f64 = self.done.iter().map(|s| s.seconds).sum();
        say(&format!("  {:<width$}  {total:>7.1} s", "total"));
    }
}

/// An error and its causes, one a line; backtraces of a task runner help nobody.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n  because: ")
}

/// Prints a line. That nobody reads on (`| head`) is no reason to stop half-way.
pub(crate) fn say(line: &str) {
    // There is nowhere else to report it to.
    drop(writeln!(io::stdout().lock(), "{line}"));
}

/// A line below the current step.
pub(crate) fn note(text: impl AsRef<str>) {
    say(&format!("    {}", text.as_ref()));
}

/// Something the person should know although the work goes on.
pub(crate) fn warn(text: impl AsRef<str>) {
    eprintln!("    ! {}", text.as_ref());
}

/// Says now and then that something slow is still at work, so that a silent minute is not taken for a hang.
pub(crate) struct Heartbeat {
    what: String,
    start: Instant,
    next: Duration,
}

impl Heartbeat {
    const EVERY: Duration = Duration::from_secs(15);

    pub(crate) fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            start: Instant::now(),
            next: Self::EVERY,
        }
    }

    pub(crate) fn beat(&mut self) {
        if self.start.elapsed() >= self.next {
            note(format!("… {} ({} s)", self.what, self.start.elapsed().as_secs()));
            self.next += Self::EVERY;
        }
    }
}
