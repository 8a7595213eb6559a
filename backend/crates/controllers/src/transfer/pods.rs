//! What a mover pod's status tells a person: why it does not start, how it ended.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, PodStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

/// Reasons of a waiting container that will not pass by waiting a moment.
const STUCK: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// A pod that was told to stop and is still there this long after its grace period is on a node that does not answer.
const LOST_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// Whether the pod is of this Job.
pub(super) fn is_of(pod: &Pod, job: &str) -> bool {
    pod.labels()
        .get("batch.kubernetes.io/job-name")
        .is_some_and(|name| name == job)
}

/// Whether the pod should have ended long ago: nobody can tell any more whether it still runs.
pub(super) fn is_lost(pod: &Pod, now: Timestamp) -> bool {
    // The deletion timestamp of a pod is the end of its grace period.
    let end = pod.metadata.deletion_timestamp.as_ref();
    end.is_some_and(|end| now.duration_since(end.0) > LOST_AFTER)
}

/// Why the pod does not start, if there is a reason beyond not having had the time.
pub(crate) fn problem(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    waiting(status)
        .or_else(|| unschedulable(status))
        .map(|why| format!("pod {}: {why}", pod.name_any()))
}

fn waiting(status: &PodStatus) -> Option<String> {
    let containers = status.container_statuses.iter().flatten();
    let mut states = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    let stuck = states.find(|waiting| {
        waiting
            .reason
            .as_deref()
            .is_some_and(|reason| STUCK.contains(&reason))
    })?;
    let reason = stuck.reason.as_deref().unwrap_or_default();
    Some(format!(
        "{reason}: {}",
        stuck.message.as_deref().unwrap_or("the kubelet says no more")
    ))
}

fn unschedulable(status: &PodStatus) -> Option<String> {
    let mut conditions = status.conditions.iter().flatten();
    let scheduled = conditions.find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    let message = scheduled
        .message
        .as_deref()
        .unwrap_or("the scheduler says no more");
    Some(format!("not scheduled: {message}"))
}

/// How a pod ended that did not say so itself.
pub(super) fn ending(pod: Option<&Pod>) -> String {
    let Some(pod) = pod else {
        return "the mover pod is gone without a result".to_owned();
    };
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let terminated = containers
        .iter()
        .find_map(|container| container.state.as_ref()?.terminated.as_ref());
    let why = match (terminated, status.reason) {
        (Some(end), _) => container_ending(end),
        (None, Some(reason)) => {
            format!("{reason}: {}", status.message.unwrap_or_default())
        }
        (None, None) => "no container status".to_owned(),
    };
    format!("the mover pod {} ended without a result: {why}", pod.name_any())
}

fn container_ending(end: &ContainerStateTerminated) -> String {
    let reason = end.reason.as_deref().unwrap_or("Error");
    let mut text = format!("{reason}, exit code {}", end.exit_code);
    if reason == "OOMKilled" {
        text += "; raise the memory limit of the movers";
    }
    if let Some(message) = end
        .message
        .as_deref()
        .filter(|message| !message.trim().is_empty())
    {
        text += &format!("; {}", message.trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "literals at every call")]
    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "m"}, "status": status})).unwrap()
    }

    #[test]
    fn a_pod_that_cannot_start_says_why() {
        let pulling = pod(
            json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}),
        );
        assert_eq!(
            problem(&pulling).unwrap(),
            "pod m: ImagePullBackOff: no such image"
        );
        let nowhere = pod(json!({"conditions": [{"type": "PodScheduled", "status": "False",
            "message": "0/1 nodes are available"}]}));
        assert_eq!(
            problem(&nowhere).unwrap(),
            "pod m: not scheduled: 0/1 nodes are available"
        );
        let creating = pod(
            json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]}),
        );
        assert_eq!(problem(&creating), None);
    }

    #[test]
    fn a_pod_is_lost_only_long_after_it_was_told_to_stop() {
        let told = "2026-01-01T00:00:00Z";
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "m", "deletionTimestamp": told}})).unwrap();
        let end: Timestamp = told.parse().unwrap();
        assert!(!is_lost(&pod, end + SignedDuration::from_secs(59)));
        assert!(is_lost(&pod, end + SignedDuration::from_secs(61)));
        assert!(!is_lost(&Pod::default(), end));
    }

    #[test]
    fn a_pod_that_was_killed_says_how() {
        let killed = pod(
            json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
        );
        assert!(ending(Some(&killed)).contains("OOMKilled, exit code 137; raise the memory limit"));
        let evicted = pod(json!({"reason": "Evicted", "message": "low on memory"}));
        assert!(ending(Some(&evicted)).ends_with("Evicted: low on memory"));
        assert!(ending(None).contains("gone"));
    }
}
