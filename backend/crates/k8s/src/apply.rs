//! Small writes that may be repeated: what a level-triggered controller is made of.

use std::fmt::Debug;

use holdfast_crd::names::FIELD_MANAGER;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{is_already_exists, is_not_found};

/// Creates `object`, or reads what is there under its name. The caller checks that it is its own, by label or UID.
pub async fn create_or_get<K>(api: &Api<K>, object: &K) -> Result<K, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug,
{
    let params = PostParams {
        dry_run: false,
        field_manager: Some(FIELD_MANAGER.into()),
    };
    match api.create(&params, object).await {
        Err(error) if is_already_exists(&error) => api.get(&object.name_any()).await,
        other => other,
    }
}

/// Deletes by name, and only the object with this UID if one is given. `true` when nothing is left under the name
/// already; `false` when the deletion has begun.
pub async fn delete<K>(api: &Api<K>, name: &str, uid: Option<&str>) -> Result<bool, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = DeleteParams::background();
    if let Some(uid) = uid {
        params = params.preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
    }
    match api.delete(name, &params).await {
        Ok(_) => Ok(false),
        Err(error) if is_not_found(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// A JSON object as the client takes it.
pub fn dynamic(object: &Value) -> Result<DynamicObject, kube::Error> {
    serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)
}
