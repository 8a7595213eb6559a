//! Collects what is wrong, bounded, with neighbours joined.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Damage, limits};

/// One of the two objects of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Image,
    Index,
}

/// What has the same damage; ranges of it are told apart by their first cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// Position of the shard among all that are verified.
    pub(super) unit: usize,
    pub(super) object: Object,
    pub(super) damage: Damage,
    pub(super) what: String,
}

/// Everything found so far; shared by all threads.
#[derive(Debug, Default)]
pub(super) struct Findings(Mutex<Found>);

#[derive(Debug, Default)]
pub(super) struct Found {
    /// First cluster and end; a whole object has neither.
    named: BTreeMap<(Kind, Option<u64>), u64>,
    pub(super) damaged: u64,
    pub(super) units: BTreeSet<usize>,
}

impl Findings {
    /// An object as a whole.
    pub(super) fn object(&self, kind: Kind) {
        let mut found = self.found();
        let key = (kind, None);
        if found.named.contains_key(&key) {
            return;
        }
        found.damaged += 1;
        found.units.insert(key.0.unit);
        if found.named.len() < limits::PROBLEMS {
            found.named.insert(key, 0);
        }
    }

    /// Some neighbouring clusters.
    pub(super) fn clusters(&self, kind: Kind, clusters: Range<u64>) {
        let mut found = self.found();
        found.damaged += clusters.end - clusters.start;
        found.units.insert(kind.unit);
        found.name(kind, clusters);
    }

    /// The end of it.
    pub(super) fn take(&self) -> Found {
        std::mem::take(&mut *self.found())
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    fn name(&mut self, kind: Kind, clusters: Range<u64>) {
        // What follows it becomes a part of it, and it a part of what lies before it.
        let follower = (kind, Some(clusters.end));
        let end = self.named.remove(&follower).unwrap_or(clusters.end);
        let kind = follower.0;
        let before = (kind.clone(), Some(0))..(kind.clone(), Some(clusters.start));
        if let Some((_, last)) = self.named.range_mut(before).next_back()
            && *last == clusters.start
        {
            *last = end;
        } else if self.named.len() < limits::PROBLEMS {
            self.named.insert((kind, Some(clusters.start)), end);
        }
    }

    /// What was named, by shard, object and cluster.
    pub(super) fn named(&self) -> Vec<(&Kind, Option<Range<u64>>)> {
        let mut named: Vec<(&Kind, Option<Range<u64>>)> = self
            .named
            .iter()
            .map(|((kind, first), end)| (kind, first.map(|first| first..*end)))
            .collect();
        named.sort_by_key(|(kind, clusters)| {
            (
                kind.unit,
                kind.object,
                clusters.as_ref().map(|clusters| clusters.start),
            )
        });
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(what: &str) -> Kind {
        Kind {
            unit: 0,
            object: Object::Image,
            damage: Damage::Altered,
            what: what.to_owned(),
        }
    }

    #[test]
    fn neighbours_are_joined_in_whatever_order_they_come() {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [0, 3, 2, 1]] {
            let findings = Findings::default();
            for at in order {
                findings.clusters(kind("bad"), at..at + 1);
                findings.clusters(kind("worse"), 2 * at..2 * at + 1);
            }
            findings.clusters(kind("bad"), 10..12);
            findings.object(kind("bad"));
            findings.object(kind("bad"));
            let found = findings.take();
            let of = |what: &str| -> Vec<Option<Range<u64>>> {
                let named = found.named().into_iter();
                named
                    .filter(|(kind, _)| kind.what == what)
                    .map(|(_, clusters)| clusters)
                    .collect()
            };
            assert_eq!(of("bad"), [None, Some(0..4), Some(10..12)], "{order:?}");
            assert_eq!(of("worse").len(), 4);
            assert_eq!((found.damaged, found.units.len()), (4 + 4 + 2 + 1, 1));
        }
    }

    #[test]
    fn what_is_not_named_is_counted() {
        let findings = Findings::default();
        let all = limits::PROBLEMS as u64 + 5;
        for at in 0..all {
            findings.clusters(kind("bad"), 2 * at..2 * at + 1);
        }
        // A range that is there may still grow.
        findings.clusters(kind("bad"), 1..2);
        let found = findings.take();
        assert_eq!(found.damaged, all + 1);
        assert_eq!(found.named().len(), limits::PROBLEMS - 1);
        assert_eq!(found.named()[0].1, Some(0..3));
    }
}
