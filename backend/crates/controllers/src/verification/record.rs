//! What is remembered of verifications: pure functions from a report and what was known before.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crd::{ClusterRange, ImageDamage, VolumeVerification};
use holdfast_mover::{Problem, ShardClusters, VerifyReport, VerifyScope};
use holdfast_target::layout::{FileStem, ShardNumber};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Most ranges of clusters that are remembered of an image; more of them, and the next backup is a full one.
const MAX_RANGES: usize = 100;
/// Most damaged images that are remembered of a volume.
const MAX_DAMAGE: usize = 50;

/// A verification that came to its end.
pub(super) struct Seen<'a> {
    pub(super) report: &'a VerifyReport,
    pub(super) scope: &'a VerifyScope,
    /// Files of the images that it looked at.
    pub(super) looked: &'a BTreeSet<FileStem>,
    /// Files of all images that the chain names now.
    pub(super) current: &'a BTreeSet<FileStem>,
    /// Whether it is one of those that go through all images bit by bit.
    pub(super) in_turn: bool,
    pub(super) begun: Timestamp,
    pub(super) now: Timestamp,
}

impl Seen<'_> {
    /// Whether it read all content of what it looked at.
    pub(super) fn is_whole(&self) -> bool {
        matches!(&self.scope, VerifyScope::Full { from: None, .. }) && self.report.next.is_none()
    }

    /// When the reading of all content began that has come to its end with this.
    pub(super) fn pass(&self, old: &VolumeVerification) -> Option<Timestamp> {
        match &self.scope {
            VerifyScope::Full { from: None, .. } if self.report.next.is_none() => Some(self.begun),
            VerifyScope::Full { from: Some(_), .. } if self.in_turn && self.report.next.is_none() => {
                old.pass_begun_at.as_ref().map(|time| time.0)
            }
            _ => None,
        }
    }

    /// What is known after it.
    pub(super) fn record(&self, old: &VolumeVerification) -> VolumeVerification {
        let mut new = old.clone();
        if self.in_turn {
            new.checked_at = Some(Time(self.now));
            if let VerifyScope::Full { from, .. } = &self.scope {
                if from.is_none() {
                    new.pass_begun_at = Some(Time(self.begun));
                }
                new.position = self
                    .report
                    .next
                    .as_ref()
                    .and_then(|next| serde_json::to_value(next).ok());
            }
        }
        new.damage = self.damage(&old.damage);
        new
    }

    fn damage(&self, old: &[ImageDamage]) -> Vec<ImageDamage> {
        let stem = |damage: &ImageDamage| damage.files.parse::<FileStem>().ok();
        let mut known: BTreeMap<FileStem, ImageDamage> = BTreeMap::new();
        for damage in old {
            // What was found once stays until its files are gone, or all of them was found to be good.
            if let Some(files) = stem(damage).filter(|files| self.current.contains(files))
                && !(self.is_whole() && self.looked.contains(&files))
            {
                known.insert(files, damage.clone());
            }
        }
        for files in &self.report.damaged_images {
            let before = known
                .get(files)
                .or_else(|| old.iter().find(|d| stem(d).as_ref() == Some(files)));
            let found = self.found(files, before);
            known.insert(files.clone(), found);
        }
        known.into_values().take(MAX_DAMAGE).collect()
    }

    fn found(&self, files: &FileStem, before: Option<&ImageDamage>) -> ImageDamage {
        let problems: Vec<&Problem> = self
            .report
            .problems
            .iter()
            .filter(|p| p.files == *files)
            .collect();
        let what = match problems.first() {
            Some(problem) => format!("{}: {}", problem.key, problem.what),
            None => "damaged, as are too many others to name them".to_owned(),
        };
        let mut clusters = content(&problems).filter(|_| self.is_named()).unwrap_or_default();
        let earlier = before.map(|before| before.clusters.as_slice());
        match earlier {
            // As a whole before: as a whole now.
            Some([]) => clusters.clear(),
            Some(earlier) if !clusters.is_empty() => {
                clusters.extend(
                    earlier
                        .iter()
                        .filter(|range| !clusters.contains(range))
                        .copied()
                        .collect::<Vec<_>>(),
                );
            }
            _ => {}
        }
        if clusters.len() > MAX_RANGES {
            clusters.clear();
        }
        ImageDamage {
            image: files.image.to_string(),
            files: files.to_string(),
            clusters,
            what: before.map_or(what, |before| before.what.clone()),
            found_at: before.map_or(Time(self.now), |before| before.found_at.clone()),
        }
    }

    /// Whether everything damaged is named in the report.
    fn is_named(&self) -> bool {
        let count = |problem: &Problem| {
            problem
                .clusters
                .as_ref()
                .map_or(1, |range| range.end - range.start)
        };
        self.report.problems.iter().map(count).sum::<u64>() >= self.report.damaged
    }
}

/// The clusters of an image of which the content is damaged, if that is all.
fn content(problems: &[&Problem]) -> Option<Vec<ClusterRange>> {
    let range = |problem: &&Problem| {
        let clusters = problem
            .clusters
            .as_ref()
            .filter(|_| problem.key.ends_with(".qcow2"))?;
        Some(ClusterRange {
            shard: problem.shard.0,
            first: clusters.start,
            end: clusters.end,
        })
    };
    problems.iter().map(range).collect()
}

/// What a backup on top of these images, newest first, has to do about damage.
#[derive(Debug, PartialEq)]
pub(crate) enum Remedy {
    /// Store these clusters again; none where there is nothing to heal.
    Heal(Vec<ShardClusters>),
    /// Take a full one.
    Full(String),
}

/// `newest` is when the backup of the newest image began, where that is known.
pub(crate) fn remedy(damage: &[ImageDamage], chain: &[String], newest: Option<Timestamp>) -> Remedy {
    let mut heal = Vec::new();
    for damage in damage.iter().filter(|damage| chain.contains(&damage.image)) {
        // A backup that began when the damage was known has stored it again.
        if newest.is_some_and(|newest| newest > damage.found_at.0) {
            continue;
        }
        if damage.clusters.is_empty() {
            return Remedy::Full(damage.what.clone());
        }
        heal.extend(damage.clusters.iter().map(|range| ShardClusters {
            shard: ShardNumber(range.shard),
            clusters: range.first..range.end,
        }));
    }
    Remedy::Heal(heal)
}

/// What is damaged of a point that consists of these images and whose backup began at `begun`.
pub(super) fn harm<'d>(
    damage: &'d [ImageDamage],
    chain: &[String],
    begun: Option<Timestamp>,
) -> Option<&'d ImageDamage> {
    let healed = |damage: &ImageDamage| {
        !damage.clusters.is_empty() && begun.is_some_and(|begun| begun > damage.found_at.0)
    };
    damage
        .iter()
        .find(|damage| chain.contains(&damage.image) && !healed(damage))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use holdfast_mover::{Damage, VerifyPosition};

    use super::*;

    fn stem(text: &str) -> FileStem {
        text.parse().unwrap()
    }

    fn stems(all: &[&str]) -> BTreeSet<FileStem> {
        all.iter().map(|text| stem(text)).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn report(problems: &[(&str, &str, Option<std::ops::Range<u64>>)], next: Option<u64>) -> VerifyReport {
        let problem = |(files, key, clusters): &(&str, &str, Option<std::ops::Range<u64>>)| Problem {
            files: stem(files),
            shard: ShardNumber(0),
            key: (*key).to_owned(),
            damage: Damage::Altered,
            clusters: clusters.clone(),
            what: "bad".to_owned(),
        };
        let problems: Vec<Problem> = problems.iter().map(problem).collect();
        let count = |p: &Problem| p.clusters.as_ref().map_or(1, |c| c.end - c.start);
        let images: BTreeSet<FileStem> = problems.iter().map(|p| p.files.clone()).collect();
        VerifyReport {
            damaged: problems.iter().map(count).sum(),
            damaged_images: images.into_iter().collect(),
            problems,
            clusters_read: 0,
            bytes_read: 0,
            next: next.map(|cluster| VerifyPosition {
                files: stem("b-a1"),
                shard: ShardNumber(0),
                cluster,
            }),
            took: Duration::ZERO,
        }
    }

    fn full(from: Option<u64>) -> VerifyScope {
        VerifyScope::Full {
            from: report(&[], from).next,
            budget: Some(5),
        }
    }

    fn fold(
        old: &VolumeVerification,
        report: &VerifyReport,
        scope: &VerifyScope,
        second: i64,
    ) -> VolumeVerification {
        let all = stems(&["a-a1", "b-a1"]);
        let seen = Seen {
            report,
            scope,
            looked: &all,
            current: &all,
            in_turn: true,
            begun: at(second - 1),
            now: at(second),
        };
        seen.record(old)
    }

    #[test]
    fn a_pass_takes_several_nights_and_forgets_no_damage_before_it_begins_anew() {
        let first = fold(
            &VolumeVerification::default(),
            &report(&[("a-a1", "a-a1-s0.qcow2", Some(3..5))], Some(7)),
            &full(None),
            10,
        );
        assert!(first.position.is_some() && first.damage.len() == 1);
        let second = fold(&first, &report(&[], None), &full(Some(7)), 20);
        assert_eq!(second.pass_begun_at, Some(Time(at(9))));
        assert_eq!((second.position, second.damage.len()), (None, 1));
        // Quick looks see no content.
        let third = fold(&first, &report(&[], None), &VerifyScope::Quick, 30);
        assert_eq!(third.damage, first.damage);
        // All of it was read and is good.
        let fourth = fold(&first, &report(&[], None), &full(None), 40);
        assert!(fourth.damage.is_empty());
    }

    #[test]
    fn only_damaged_content_can_be_healed_by_clusters() {
        let of = |problems: &[(&str, &str, Option<std::ops::Range<u64>>)]| {
            let old = VolumeVerification::default();
            fold(&old, &report(problems, None), &full(None), 10).damage
        };
        let content = of(&[("a-a1", "a-a1-s0.qcow2", Some(3..5))]);
        let chain = ["b-a1".to_owned(), "a-a1".to_owned()];
        let heal = ShardClusters {
            shard: ShardNumber(0),
            clusters: 3..5,
        };
        assert_eq!(
            remedy(&content, &chain, Some(at(5))),
            Remedy::Heal(vec![heal.clone()])
        );
        assert_eq!(remedy(&content, &chain, None), Remedy::Heal(vec![heal]));
        // The newest image has healed it, and its point is whole.
        assert_eq!(remedy(&content, &chain, Some(at(11))), Remedy::Heal(vec![]));
        assert!(harm(&content, &chain, Some(at(11))).is_none());
        assert!(harm(&content, &chain, Some(at(5))).is_some());
        assert!(harm(&content, &chain[..1], Some(at(5))).is_none());
        let index = of(&[
            ("a-a1", "a-a1-s0.index", Some(3..5)),
            ("a-a1", "a-a1-s0.qcow2", Some(1..2)),
        ]);
        assert!(matches!(remedy(&index, &chain, Some(at(5))), Remedy::Full(_)));
        assert!(harm(&index, &chain, Some(at(11))).is_some());
        let missing = of(&[("a-a1", "a-a1-s0.qcow2", None)]);
        assert!(matches!(remedy(&missing, &chain, None), Remedy::Full(_)));
    }

    #[test]
    fn what_is_not_named_is_damaged_as_a_whole() {
        let mut report = report(&[("a-a1", "a-a1-s0.qcow2", Some(3..5))], None);
        report.damaged += 1;
        let found = fold(&VolumeVerification::default(), &report, &full(None), 10);
        assert!(found.damage[0].clusters.is_empty());
        let many: Vec<(&str, &str, Option<std::ops::Range<u64>>)> = (0..101)
            .map(|n| ("a-a1", "a-a1-s0.qcow2", Some(2 * n..2 * n + 1)))
            .collect();
        let found = fold(
            &VolumeVerification::default(),
            &self::report(&many, None),
            &full(None),
            10,
        );
        assert!(found.damage[0].clusters.is_empty());
    }

    #[test]
    fn files_that_are_gone_are_forgotten() {
        let old = fold(
            &VolumeVerification::default(),
            &report(&[("a-a1", "a-a1-s0.qcow2", None)], None),
            &full(None),
            10,
        );
        let current = stems(&["b-a1"]);
        let (report, scope) = (report(&[], None), VerifyScope::Quick);
        let seen = Seen {
            report: &report,
            scope: &scope,
            looked: &current,
            current: &current,
            in_turn: false,
            begun: at(11),
            now: at(12),
        };
        let new = seen.record(&old);
        assert!(new.damage.is_empty());
        assert_eq!(new.checked_at, old.checked_at);
    }
}
