//! A deletion that was asked for, written down until it is done.

use std::collections::BTreeMap;

use holdfast_crd::ObjectRef;
use holdfast_crd::names::{MANAGED_BY, labels};
use holdfast_k8s::{create_or_get, hashed};
use holdfast_target::layout::Location;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams};
use serde_json::json;

use crate::Context;
use crate::failure::Failure;

/// Keys of the ConfigMap.
const LOCATION: &str = "location";
const TARGET_NAME: &str = "target.name";
const TARGET_NAMESPACE: &str = "target.namespace";
const BACKUP: &str = "backup";
const LOCKED_UNTIL: &str = "lockedUntil";

/// A point that is to be removed from its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    /// The point.
    pub(crate) location: Location,
    /// The Target resource, with its namespace.
    pub(crate) target: ObjectRef,
    /// The Backup that was deleted, `namespace/name`, for people.
    pub(crate) backup: String,
    /// Until when the store deletes nothing of the point, where that was found out.
    pub(crate) locked_until: Option<Timestamp>,
}

impl Tombstone {
    fn name(&self) -> String {
        hashed("hf-tombstone", &[&self.location.to_string()])
    }

    /// Writes it down; twice is once.
    pub(crate) async fn write(&self, ctx: &Context) -> Result<(), Failure> {
        create_or_get(
            &ctx.installed::<ConfigMap>(),
            &self.to_map(&ctx.install_namespace),
        )
        .await?;
        Ok(())
    }

    /// All there are. One that does not read is named in the log and left alone.
    pub(super) async fn all(ctx: &Context) -> Result<Vec<(ConfigMap, Self)>, Failure> {
        let labelled = ListParams::default().labels(labels::TOMBSTONE);
        let maps = ctx.installed::<ConfigMap>().list(&labelled).await?;
        let mut found = Vec::new();
        for map in maps {
            match Self::from_map(&map) {
                Some(tombstone) => found.push((map, tombstone)),
                None => {
                    tracing::warn!(configmap = %map.name_any(), "is no tombstone of ours, though labelled as one")
                }
            }
        }
        Ok(found)
    }

    /// What is said to a person while nobody can delete the point.
    pub(crate) fn waits(&self, until: Timestamp) -> String {
        format!(
            "the point {} is locked until {until}: nobody can delete it before; it is removed from the target then, and can \
             be restored by its location as long as it is there",
            self.location
        )
    }

    /// Notes until when nothing can be done.
    pub(super) async fn postpone(&self, ctx: &Context, until: Timestamp) -> Result<(), Failure> {
        let body = json!({"data": {LOCKED_UNTIL: until.to_string()}});
        ctx.installed::<ConfigMap>()
            .patch(&self.name(), &PatchParams::default(), &Patch::Merge(&body))
            .await?;
        Ok(())
    }

    /// The deletion is done.
    pub(super) async fn remove(&self, ctx: &Context) -> Result<(), Failure> {
        holdfast_k8s::delete(&ctx.installed::<ConfigMap>(), &self.name(), None).await?;
        Ok(())
    }

    fn to_map(&self, namespace: &str) -> ConfigMap {
        let locked = self.locked_until.map(|until| (LOCKED_UNTIL, until.to_string()));
        let data = [
            (LOCATION, self.location.to_string()),
            (TARGET_NAME, self.target.name.clone()),
            (
                TARGET_NAMESPACE,
                self.target.namespace.clone().unwrap_or_default(),
            ),
            (BACKUP, self.backup.clone()),
        ];
        let marks = [(labels::TOMBSTONE, "true"), (labels::MANAGED_BY, MANAGED_BY)];
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(namespace.to_owned()),
                labels: Some(marks.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
                ..Default::default()
            },
            data: Some(
                data.into_iter()
                    .chain(locked)
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect::<BTreeMap<_, _>>(),
            ),
            ..Default::default()
        }
    }

    fn from_map(map: &ConfigMap) -> Option<Self> {
        let data = map.data.as_ref()?;
        let namespace = data.get(TARGET_NAMESPACE).filter(|n| !n.is_empty()).cloned();
        Some(Self {
            location: data.get(LOCATION)?.parse().ok()?,
            target: ObjectRef {
                name: data.get(TARGET_NAME)?.clone(),
                namespace,
            },
            backup: data.get(BACKUP).cloned().unwrap_or_default(),
            // One that does not read is found out again.
            locked_until: data.get(LOCKED_UNTIL).and_then(|until| until.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_reads_back() {
        let tombstone = Tombstone {
            location: "c/p/b".parse().unwrap(),
            target: ObjectRef {
                name: "t".to_owned(),
                namespace: Some("n".to_owned()),
            },
            backup: "app/nightly".to_owned(),
            locked_until: None,
        };
        let locked = Tombstone {
            locked_until: Some(Timestamp::UNIX_EPOCH),
            ..tombstone.clone()
        };
        assert_eq!(Tombstone::from_map(&locked.to_map("holdfast")), Some(locked));
        let map = tombstone.to_map("holdfast");
        assert_eq!(Tombstone::from_map(&map), Some(tombstone));
        assert_eq!(Tombstone::from_map(&ConfigMap::default()), None);
    }
}
