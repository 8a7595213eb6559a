//! Whether a namespace could be brought back, from its plans and backups. Pure.

use std::collections::BTreeMap;

use holdfast_shared::{
    Backup, BackupPlan, BackupSummary, NamespaceProtection, ProtectionState, RunState, condition,
};
use jiff::Timestamp;

/// Plans and backups, sorted into their namespaces.
pub(crate) struct Protections {
    plans: BTreeMap<String, Vec<String>>,
    /// Newest first.
    backups: BTreeMap<String, Vec<Backup>>,
}

impl Protections {
    pub(crate) fn new(plans: Vec<BackupPlan>, backups: Vec<Backup>) -> Self {
        let mut sorted = Self {
            plans: BTreeMap::new(),
            backups: BTreeMap::new(),
        };
        for plan in plans {
            sorted
                .plans
                .entry(plan.metadata.namespace)
                .or_default()
                .push(plan.metadata.name);
        }
        for backup in backups {
            sorted
                .backups
                .entry(backup.metadata.namespace.clone())
                .or_default()
                .push(backup);
        }
        for backups in sorted.backups.values_mut() {
            backups.sort_by(|a, b| b.metadata.creation_timestamp.cmp(&a.metadata.creation_timestamp));
        }
        sorted
    }

    /// The protection of one namespace at `now`.
    pub(crate) fn of(&self, namespace: &str, terminating: bool, now: Timestamp) -> NamespaceProtection {
        let plans = self.plans.get(namespace).cloned().unwrap_or_default();
        let backups = self.backups.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let with = |wanted: RunState| backups.iter().position(|backup| backup.state() == wanted);
        let (good, failed) = (with(RunState::Complete), with(RunState::Failed));
        // Newest first: a smaller position is a newer backup.
        let failed_since = failed
            .filter(|failed| good.is_none_or(|good| *failed < good))
            .map(|at| &backups[at]);
        let last_good = good.map(|at| &backups[at]);
        let state = match (last_good, failed_since) {
            (_, Some(_)) => ProtectionState::LastFailed,
            (Some(_), None) if !plans.is_empty() => ProtectionState::Protected,
            _ if plans.is_empty() => ProtectionState::Unprotected,
            _ => ProtectionState::NeverBackedUp,
        };
        NamespaceProtection {
            name: namespace.to_owned(),
            terminating,
            state,
            plans,
            points: backups
                .iter()
                .filter(|backup| backup.state() == RunState::Complete)
                .count() as u64,
            last_good_backup: last_good.map(summary),
            age_seconds: last_good.and_then(|backup| age(backup, now)),
            failed_since: failed_since.map(summary),
            running: backups
                .iter()
                .filter(|backup| !backup.state().is_final())
                .map(summary)
                .collect(),
        }
    }
}

/// Seconds since the backup was started: later changes are not in it.
fn age(backup: &Backup, now: Timestamp) -> Option<u64> {
    let started = backup
        .status
        .start_timestamp
        .as_ref()
        .or(backup.metadata.creation_timestamp.as_ref())?;
    let started: Timestamp = started.parse().ok()?;
    u64::try_from(now.duration_since(started).as_secs()).ok()
}

fn summary(backup: &Backup) -> BackupSummary {
    let failed = condition(&backup.status.conditions, "Failed");
    BackupSummary {
        name: backup.metadata.name.clone(),
        backup_plan: backup.spec.backup_plan.name.clone(),
        creation_timestamp: backup.metadata.creation_timestamp.clone(),
        completion_timestamp: backup.status.completion_timestamp.clone(),
        phase: backup.status.phase,
        percentage_completion: backup.status.percentage_completion,
        size: backup.status.size,
        message: failed.map(|condition| condition.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan() -> BackupPlan {
        serde_json::from_value(json!({
            "metadata": {"name": "daily", "namespace": "a"},
            "spec": {"backupConfig": {"target": {"name": "t"}}},
        }))
        .unwrap()
    }

    fn backup(name: &str, minute: u32, condition: Option<(&str, &str)>) -> Backup {
        let conditions: Vec<_> = condition
            .map(|(kind, reason)| json!({"type": kind, "status": "True", "reason": reason, "message": "why"}))
            .into_iter()
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")},
            "spec": {"type": "Full", "backupPlan": {"name": "daily"}},
            "status": {"conditions": conditions, "phase": "Validate"},
        }))
        .unwrap()
    }

    fn of(plans: Vec<BackupPlan>, backups: Vec<Backup>) -> NamespaceProtection {
        Protections::new(plans, backups).of("a", false, "2026-01-01T01:00:00Z".parse().unwrap())
    }

    const GOOD: Option<(&str, &str)> = Some(("Complete", "Succeeded"));
    const BAD: Option<(&str, &str)> = Some(("Failed", "TargetFull"));

    #[test]
    fn state_follows_the_newest_finished_backup() {
        assert_eq!(of(vec![], vec![]).state, ProtectionState::Unprotected);
        assert_eq!(of(vec![plan()], vec![]).state, ProtectionState::NeverBackedUp);
        assert_eq!(
            of(vec![plan()], vec![backup("r", 1, None)]).state,
            ProtectionState::NeverBackedUp
        );

        let failed_after = of(vec![plan()], vec![backup("g", 1, GOOD), backup("b", 2, BAD)]);
        assert_eq!(failed_after.state, ProtectionState::LastFailed);
        assert_eq!(failed_after.last_good_backup.unwrap().name, "g");
        assert_eq!(failed_after.failed_since.unwrap().message.as_deref(), Some("why"));

        let failed_before = of(vec![plan()], vec![backup("g", 2, GOOD), backup("b", 1, BAD)]);
        assert_eq!(failed_before.state, ProtectionState::Protected);
        assert_eq!(failed_before.failed_since, None);
        assert_eq!(failed_before.age_seconds, Some(58 * 60));
    }

    #[test]
    fn stopped_by_a_person_is_no_failure() {
        let canceled = Some(("Failed", "Canceled"));
        let state = of(vec![plan()], vec![backup("g", 1, GOOD), backup("c", 2, canceled)]);
        assert_eq!((state.state, state.points), (ProtectionState::Protected, 1));
    }

    #[test]
    fn running_backups_are_named_and_change_nothing() {
        let state = of(vec![plan()], vec![backup("g", 1, GOOD), backup("r", 2, None)]);
        assert_eq!(state.state, ProtectionState::Protected);
        assert_eq!(
            state.running.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(),
            ["r"]
        );
    }
}
