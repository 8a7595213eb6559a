//! Why a pod waits for its volumes: the kubelet and the attacher say so in Events only.

use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;

use crate::Context;

/// Reasons of Events about a volume that does not come to its pod.
const REASONS: [&str; 2] = ["FailedMount", "FailedAttachVolume"];

/// What was said last about the volumes of a pod of ours. It may have passed since: ask only about pods that do not start.
pub(crate) async fn problem(ctx: &Context, pod: &str) -> Result<Option<String>, kube::Error> {
    let about = ListParams::default().fields(&format!("involvedObject.kind=Pod,involvedObject.name={pod}"));
    let events = ctx.installed::<Event>().list(&about).await?.items;
    Ok(last(events).map(|why| format!("pod {pod}: {why}")))
}

fn last(events: Vec<Event>) -> Option<String> {
    let said = events.into_iter().filter(|event| {
        event
            .reason
            .as_deref()
            .is_some_and(|reason| REASONS.contains(&reason))
    });
    let time = |event: &Event| {
        let series = event
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref());
        let seen = series.or(event.event_time.as_ref()).map(|time| time.0);
        event.last_timestamp.as_ref().map(|time| time.0).max(seen)
    };
    let last = said.max_by_key(time)?;
    let (reason, message) = (last.reason.unwrap_or_default(), last.message.unwrap_or_default());
    Some(format!(
        "{reason}: {}",
        message.split_whitespace().collect::<Vec<_>>().join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_word_on_volumes_counts() {
        let event = |reason: &str, message: &str, time: &str| -> Event {
            serde_json::from_value(
                json!({"metadata": {}, "involvedObject": {}, "reason": reason, "message": message,
                "lastTimestamp": time}),
            )
            .unwrap()
        };
        let events = vec![
            event("FailedMount", "first", "2026-01-01T00:00:00Z"),
            event(
                "FailedMount",
                "mount failed:\nno such  host",
                "2026-01-01T00:00:05Z",
            ),
            event("Scheduled", "later", "2026-01-01T00:00:09Z"),
        ];
        assert_eq!(last(events).unwrap(), "FailedMount: mount failed: no such host");
        assert_eq!(last(Vec::new()), None);
    }
}
