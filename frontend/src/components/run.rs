//! What backups and restores have in common: phases, volumes, problems, conditions.

use holdfast_shared::{Condition, PhaseState, Problem, RunState, VolumeProgress, condition};
use leptos::prelude::*;

use super::feedback::Notice;
use super::icon::{Glyph, Icon};
use super::text::{Ago, Badge, Took};
use crate::format;
use crate::state::clock::Clock;
use crate::state::live::Live;
use crate::words::{self, Tone};

/// One phase as the stepper shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) label: &'static str,
    pub(crate) text: &'static str,
    pub(crate) state: Option<PhaseState>,
    pub(crate) started: Option<String>,
    pub(crate) ended: Option<String>,
}

/// The phases of a run, with the time each took.
#[component]
pub(crate) fn Stepper(#[prop(into)] steps: Signal<Vec<Step>>) -> impl IntoView {
    view! {
        <ol class="stepper" aria-label="Phases">
            {move || steps.get().into_iter().map(|step| view! { <StepItem step=step /> }).collect_view()}
        </ol>
    }
}

#[component]
fn StepItem(step: Step) -> impl IntoView {
    let (class, icon, word) = match step.state {
        None => ("step waiting", Icon::Dash, "not started"),
        Some(state @ PhaseState::InProgress) => ("step busy", Icon::Spinner, words::phase_state(state)),
        Some(state @ PhaseState::Completed) => ("step good", Icon::Check, words::phase_state(state)),
        Some(state @ PhaseState::Failed) => ("step bad", Icon::Cross, words::phase_state(state)),
        Some(state @ PhaseState::Skipped) => ("step skipped", Icon::Dash, words::phase_state(state)),
    };
    let current = (step.state == Some(PhaseState::InProgress)).then_some("step");
    let took = step.started.clone().map(|started| {
        let ended = step.ended.clone();
        // A phase that failed with the run may have no end of its own.
        match (&ended, step.state) {
            (None, Some(PhaseState::InProgress)) | (Some(_), _) => {
                view! { <Took from=Some(started) to=ended /> }.into_any()
            }
            _ => ().into_any(),
        }
    });
    view! {
        <li class=class aria-current=current title=step.text>
            <span class="step-mark"><Glyph icon=icon /></span>
            <span class="step-label">{step.label}</span>
            <span class="step-time">
                {took}
                <span class="visually-hidden">{word}</span>
            </span>
        </li>
    }
}

/// The volumes of a run with their progress.
#[component]
fn Volumes(
    #[prop(into)] volumes: Signal<Vec<VolumeProgress>>,
    /// UID of the run, for the rates.
    #[prop(into)]
    uid: Signal<String>,
) -> impl IntoView {
    view! {
        <table class="table volumes">
            <caption class="visually-hidden">"Volumes"</caption>
            <thead>
                <tr>
                    <th scope="col">"Claim"</th>
                    <th scope="col">"Stage"</th>
                    <th scope="col" class="wide">"Progress"</th>
                    <th scope="col" class="num">"Moved"</th>
                    <th scope="col" class="num">"Rate"</th>
                </tr>
            </thead>
            <tbody>
                {move || {
                    volumes.get().into_iter().map(|volume| view! { <VolumeRow volume=volume uid=uid /> }).collect_view()
                }}
            </tbody>
        </table>
    }
}

#[component]
fn VolumeRow(volume: VolumeProgress, uid: Signal<String>) -> impl IntoView {
    let live = expect_context::<Live>();
    let clock = expect_context::<Clock>();
    let (stage, tone) = words::stage(&volume.stage);
    let stage = stage.to_owned();
    let moving = volume.stage == "Running";
    let claim = volume.claim.clone();
    let rate = Memo::new(move |_| {
        moving
            .then(|| live.rate(&uid.get(), &claim, clock.get()))?
            .map(|rate| format!("{}/s", format::bytes(rate)))
    });
    let done = format!(
        "{} of {}",
        format::bytes(volume.bytes_done),
        format::bytes(volume.bytes_total)
    );
    view! {
        <tr>
            <th scope="row">
                <span class="strong">{volume.claim.clone()}</span>
                {volume
                    .backup_type
                    .clone()
                    .map(|kind| {
                        view! { <span class="sub" title=volume.type_reason.clone()>{kind}</span> }
                    })}
                {volume.type_reason.clone().map(|reason| view! { <span class="sub faint">{reason}</span> })}
            </th>
            <td><Badge label=stage tone=tone /></td>
            <td class="wide">
                <progress
                    max=volume.bytes_total.max(1).to_string()
                    value=volume.bytes_done.to_string()
                    class=tone.class()
                    aria-label=format!("Progress of {}", volume.claim)
                ></progress>
                <span class="sub num">{done}</span>
            </td>
            <td class="num" title=format!("{} bytes to or from the target", volume.bytes_transferred)>
                {format::bytes(volume.bytes_transferred)}
            </td>
            <td class="num">{move || rate.get().unwrap_or_else(|| "–".to_owned())}</td>
        </tr>
    }
}

/// The named problems of a run.
#[component]
fn Problems(#[prop(into)] problems: Signal<Vec<Problem>>) -> impl IntoView {
    view! {
        <ul class="problems">
            {move || {
                problems
                    .get()
                    .into_iter()
                    .map(|problem| {
                        let advice = words::reason(&problem.reason).map(|(_, advice)| advice);
                        view! {
                            <li>
                                <p>
                                    <code>{problem.object}</code>
                                    " "
                                    <span class="reason">{problem.reason}</span>
                                </p>
                                <p>{problem.message}</p>
                                {advice.map(|advice| view! { <p class="advice">{advice}</p> })}
                            </li>
                        }
                    })
                    .collect_view()
            }}
        </ul>
    }
}

/// The problems of a run as a section, if there are any.
#[component]
pub(crate) fn ProblemSection(problems: Memo<Vec<Problem>>) -> impl IntoView {
    view! {
        <Show when=move || !problems.with(Vec::is_empty)>
            <section class="section">
                <h2>{move || format::count(problems.with(Vec::len) as u64, "problem")}</h2>
                <Problems problems=problems />
            </section>
        </Show>
    }
}

/// The volumes of a run as a section.
#[component]
pub(crate) fn VolumeSection(
    volumes: Memo<Vec<VolumeProgress>>,
    #[prop(into)] uid: Signal<String>,
    /// What is said while there is no volume.
    #[prop(into)]
    nothing: Signal<&'static str>,
) -> impl IntoView {
    view! {
        <section class="section">
            <h2>"Volumes"</h2>
            <Show
                when=move || !volumes.with(Vec::is_empty)
                fallback=move || view! { <p class="nothing">{nothing}</p> }
            >
                <div class="table-frame">
                    <Volumes volumes=volumes uid=uid />
                </div>
            </Show>
        </section>
    }
}

/// Every condition of a resource.
#[component]
pub(crate) fn Conditions(#[prop(into)] conditions: Signal<Vec<Condition>>) -> impl IntoView {
    view! {
        <table class="table">
            <caption class="visually-hidden">"Conditions"</caption>
            <thead>
                <tr>
                    <th scope="col">"Condition"</th>
                    <th scope="col">"Status"</th>
                    <th scope="col">"Reason"</th>
                    <th scope="col" class="wide">"Message"</th>
                    <th scope="col">"Changed"</th>
                </tr>
            </thead>
            <tbody>
                {move || {
                    conditions
                        .get()
                        .into_iter()
                        .map(|condition| {
                            view! {
                                <tr>
                                    <th scope="row">{condition.kind}</th>
                                    <td>{condition.status}</td>
                                    <td><span class="reason">{condition.reason}</span></td>
                                    <td class="wide">{condition.message}</td>
                                    <td><Ago time=Some(condition.last_transition_time) /></td>
                                </tr>
                            }
                        })
                        .collect_view()
                }}
            </tbody>
        </table>
    }
}

/// Why a run failed or was stopped, if it did: the server's words and what to do.
#[component]
pub(crate) fn Outcome(
    #[prop(into)] conditions: Signal<Vec<Condition>>,
    #[prop(into)] state: Signal<RunState>,
) -> impl IntoView {
    let failed = Memo::new(move |_| condition(&conditions.get(), "Failed").cloned());
    move || {
        failed.get().map(|failed| {
            let tone = if state.get() == RunState::Canceled {
                Tone::Quiet
            } else {
                Tone::Bad
            };
            let (title, advice) =
                words::reason(&failed.reason).unwrap_or((words::run_state(state.get()).0, ""));
            view! { <Notice tone=tone title=title text=failed.message advice=advice /> }
        })
    }
}

/// State of a resource that is either accepted or not: label, tone, and the server's reason and message.
pub(crate) fn accepted(conditions: &[Condition]) -> (&'static str, Tone, String, String) {
    match conditions.iter().find(|condition| condition.kind == "Accepted") {
        Some(c) if c.status == "True" => ("Accepted", Tone::Good, c.reason.clone(), c.message.clone()),
        Some(c) if c.status == "False" => ("Not accepted", Tone::Bad, c.reason.clone(), c.message.clone()),
        Some(c) => ("Being checked", Tone::Busy, c.reason.clone(), c.message.clone()),
        None => ("Being checked", Tone::Busy, String::new(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_without_an_answer_is_being_checked() {
        assert_eq!(accepted(&[]).1, Tone::Busy);
        let refused = Condition {
            kind: "Accepted".into(),
            status: "False".into(),
            reason: "Unreachable".into(),
            ..Condition::default()
        };
        assert_eq!(accepted(&[refused]).0, "Not accepted");
    }
}
