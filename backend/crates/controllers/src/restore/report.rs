//! The report of a restore: one line per object, stored on the target, its essence in the status.

use holdfast_core::restore::ObjectKey;
use holdfast_crd::status::{MAX_PROBLEMS, Problem};
use serde::Serialize;

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Action {
    /// It was written.
    Created,
    /// It was not written, for the reason given.
    Skipped,
    /// The API server refused it.
    Failed,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    api_version: String,
    kind: String,
    name: String,
    pub(super) action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

impl Entry {
    pub(super) fn new(key: &ObjectKey, action: Action) -> Self {
        let group = if key.group.is_empty() {
            String::new()
        } else {
            format!("{}/", key.group)
        };
        Self {
            api_version: format!("{group}{}", key.version),
            kind: key.kind.clone(),
            name: key.name.clone(),
            action,
            reason: None,
            message: None,
        }
    }

    pub(super) fn because(mut self, message: &str) -> Self {
        self.message = Some(message.to_owned());
        self
    }

    pub(super) fn failed(key: &ObjectKey, reason: &str, message: &str) -> Self {
        Self {
            reason: Some(reason.to_owned()),
            ..Self::new(key, Action::Failed).because(message)
        }
    }
}

/// The report as it is stored: JSON lines, zstd.
pub(super) fn encode(entries: &[Entry]) -> std::io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry)?;
        lines.push(b'\n');
    }
    zstd::bulk::compress(&lines, 3)
}

/// Longest message of a problem in a status, in characters; the report on the target has all of it.
const MAX_MESSAGE: usize = 2000;

/// As much of a message as a status has room for: the API server repeats in its words what it was sent.
pub(super) fn brief(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}

/// The failures, as many as a status holds.
pub(super) fn problems(entries: &[Entry]) -> Vec<Problem> {
    let failed = entries
        .iter()
        .filter(|e| e.action == Action::Failed)
        .take(MAX_PROBLEMS);
    failed
        .map(|e| Problem {
            object: format!("{}/{}", e.kind, e.name),
            reason: e.reason.clone().unwrap_or_default(),
            message: brief(e.message.as_deref().unwrap_or_default()),
        })
        .collect()
}
