//! What a run did, in one line; and what it did last, if it fails.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::disturb::Ending;

/// Actions that are told when a run fails.
const LAST: usize = 20;

#[derive(Debug, Default)]
struct Endings {
    done: u64,
    cut: u64,
    refused: u64,
}

/// The counts of a run. Tells what went before a failure.
#[derive(Debug)]
pub(crate) struct Report {
    configuration: &'static str,
    seed: u64,
    actions: u64,
    last: VecDeque<String>,
    kinds: BTreeMap<String, Endings>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Report {
    pub(crate) fn new(configuration: &'static str, seed: u64) -> Self {
        Self {
            configuration,
            seed,
            actions: 0,
            last: VecDeque::new(),
            kinds: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// An action begins.
    pub(crate) fn begin(&mut self, what: impl fmt::Debug) {
        self.actions += 1;
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(format!("{:>5} {what:?}", self.actions));
    }

    /// Says more about the action.
    pub(crate) fn note(&mut self, more: impl fmt::Display) {
        if let Some(last) = self.last.back_mut() {
            last.push_str(&format!("; {more}"));
        }
    }

    /// How a part of it ended.
    pub(crate) fn end<T>(&mut self, kind: &str, ending: &Ending<T>) {
        let endings = self.kinds.entry(kind.to_owned()).or_default();
        match ending {
            Ending::Done(_) => endings.done += 1,
            Ending::Cut => endings.cut += 1,
            Ending::Refused(_) => endings.refused += 1,
        }
        match ending {
            Ending::Done(_) => self.note(format_args!("{kind} done")),
            Ending::Cut => self.note(format_args!("{kind} cut off")),
            Ending::Refused(failure) => self.note(format_args!("{kind} refused: {failure}")),
        }
    }

    pub(crate) fn count(&mut self, what: &'static str, more: u64) {
        *self.counts.entry(what).or_default() += more;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, seed {}: {} actions",
            self.configuration, self.seed, self.actions
        )?;
        for (kind, Endings { done, cut, refused }) in &self.kinds {
            write!(f, ", {kind} {done}/{cut}/{refused}")?;
        }
        f.write_str(" (done/cut off/refused)")?;
        self.counts
            .iter()
            .try_for_each(|(what, count)| write!(f, ", {what} {count}"))
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, number) = (self.seed, self.actions);
            eprintln!(
                "{} failed with HOLDFAST_RANDOM_SEED={seed} at action {number}; the last ones:",
                self.configuration
            );
            self.last.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}
