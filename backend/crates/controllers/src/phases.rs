//! The record of a run's phases in its status.

use holdfast_crd::{PhaseRecord, PhaseState};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Notes that a phase has started, unless it is noted already.
pub(crate) fn start<P: PartialEq + Copy>(phases: &mut Vec<PhaseRecord<P>>, phase: P) {
    if record(phases, phase).is_none() {
        phases.push(PhaseRecord {
            phase,
            state: PhaseState::InProgress,
            start_timestamp: Time(Timestamp::now()),
            completion_timestamp: None,
        });
    }
}

/// Notes how a phase ended; a phase that has not started counts as ended at once. What is noted already stays.
pub(crate) fn end<P: PartialEq + Copy>(phases: &mut Vec<PhaseRecord<P>>, phase: P, state: PhaseState) {
    start(phases, phase);
    for found in phases
        .iter_mut()
        .filter(|r| r.phase == phase && r.state == PhaseState::InProgress)
    {
        found.state = state;
        found.completion_timestamp = Some(Time(Timestamp::now()));
    }
}

/// Notes that every phase under way ended so.
pub(crate) fn end_all<P>(phases: &mut [PhaseRecord<P>], state: PhaseState) {
    for found in phases.iter_mut().filter(|r| r.state == PhaseState::InProgress) {
        found.state = state;
        found.completion_timestamp = Some(Time(Timestamp::now()));
    }
}

/// The record of a phase, if it has started.
pub(crate) fn record<P: PartialEq + Copy>(phases: &[PhaseRecord<P>], phase: P) -> Option<&PhaseRecord<P>> {
    phases.iter().find(|r| r.phase == phase)
}
