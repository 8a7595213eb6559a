//! Status writes: only what changed, and only onto the version that was read.

use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The JSON merge patch (RFC 7396) that turns `old` into `new`; `None` when they are equal. Fields that went away
/// become `null`.
pub(crate) fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let gone = before
        .keys()
        .filter(|key| !after.contains_key(*key))
        .map(|key| (key.clone(), Value::Null));
    let changed = after.iter().filter_map(|(key, value)| {
        let patch = match before.get(key) {
            Some(previous) => merge_patch(previous, value)?,
            None => value.clone(),
        };
        Some((key.clone(), patch))
    });
    Some(Value::Object(gone.chain(changed).collect::<Map<_, _>>()))
}

/// Writes `new` where `old` was read from `object`'s status. Nothing is sent when nothing changed. The write is
/// refused with a conflict (see [`crate::is_conflict`]) when the object has changed since `object` was read.
pub async fn update_status<K, S>(api: &Api<K>, object: &K, old: &S, new: &S) -> Result<Option<K>, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let value = |status: &S| serde_json::to_value(status).map_err(kube::Error::SerdeError);
    let Some(patch) = merge_patch(&value(old)?, &value(new)?) else {
        return Ok(None);
    };
    let body = json!({"metadata": {"resourceVersion": object.resource_version()}, "status": patch});
    let params = PatchParams {
        field_manager: Some(holdfast_crd::names::FIELD_MANAGER.into()),
        ..Default::default()
    };
    api.patch_status(&object.name_any(), &params, &Patch::Merge(&body))
        .await
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_sent_and_what_went_away_is_null() {
        let old =
            json!({"stage": "Queued", "node": "n1", "mover": {"attempt": 1, "bytes": 5}, "list": [1, 2]});
        let new = json!({"stage": "Running", "mover": {"attempt": 1, "bytes": 6}, "list": [1]});
        let patch = merge_patch(&old, &new).unwrap();
        assert_eq!(
            patch,
            json!({"node": null, "stage": "Running", "mover": {"bytes": 6}, "list": [1]})
        );
        assert_eq!(merge_patch(&new, &new), None);
    }
}
