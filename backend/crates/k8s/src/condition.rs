//! Conditions, as the Kubernetes API conventions want them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::names::limit_text;

/// Longest message the schema of a condition admits.
const MAX_MESSAGE: usize = 32_768;

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known, or not decided yet.
    Unknown,
}

impl Truth {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// Sets one condition. `lastTransitionTime` moves only when the status changes. Returns whether anything changed.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: impl Into<Truth>,
    reason: &str,
    message: &str,
    generation: Option<i64>,
) -> bool {
    let status = status.into().as_str();
    let message = limit_text(message, MAX_MESSAGE);
    let fresh = |last_transition_time| Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.clone(),
        observed_generation: generation,
        last_transition_time,
    };
    let now = || Time(Timestamp::now());
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(existing) => {
            let same_status = existing.status == status;
            let since = if same_status {
                existing.last_transition_time.clone()
            } else {
                now()
            };
            let next = fresh(since);
            let changed = *existing != next;
            *existing = next;
            changed
        }
        None => {
            conditions.push(fresh(now()));
            true
        }
    }
}

/// The condition of this type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether the condition is there and True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    condition(conditions, kind).is_some_and(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let old = Time(Timestamp::UNIX_EPOCH);
        let mut all = Vec::new();
        assert!(set_condition(
            &mut all,
            "Complete",
            Truth::Unknown,
            "InProgress",
            "",
            Some(1)
        ));
        all[0].last_transition_time = old.clone();
        assert!(!set_condition(
            &mut all,
            "Complete",
            Truth::Unknown,
            "InProgress",
            "",
            Some(1)
        ));
        assert!(set_condition(
            &mut all,
            "Complete",
            Truth::Unknown,
            "Queued",
            "waits",
            Some(1)
        ));
        assert_eq!(all[0].last_transition_time, old);
        assert!(set_condition(
            &mut all,
            "Complete",
            true,
            "Succeeded",
            "",
            Some(1)
        ));
        assert_ne!(all[0].last_transition_time, old);
        assert!(is_true(&all, "Complete") && !is_true(&all, "Failed"));
        assert_eq!(all.len(), 1);
    }
}
