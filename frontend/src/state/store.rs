//! The resources as the event stream tells them. Pure: events go in, maps come out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_shared::{Backup, BackupPlan, Metadata, Resource, ResourceKind, Restore, ServerEvent, Target};

/// Namespace and name.
pub(crate) type Key = (String, String);

/// Something with metadata.
pub(crate) trait Named {
    /// Its metadata.
    fn metadata(&self) -> &Metadata;

    /// Its key.
    fn key(&self) -> Key {
        (self.metadata().namespace.clone(), self.metadata().name.clone())
    }
}

macro_rules! named {
    ($($kind:ty),*) => {$(
        impl Named for $kind {
            fn metadata(&self) -> &Metadata {
                &self.metadata
            }
        }
    )*};
}
named!(Target, BackupPlan, Backup, Restore);

/// Whether a shelf shows what the cluster holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Nothing has come yet.
    #[default]
    Waiting,
    /// Everything has been received once.
    Ready,
    /// The person may not see this kind; the message names the missing right.
    Denied(String),
}

/// The objects of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Shelf<T> {
    items: BTreeMap<Key, Arc<T>>,
    sync: Sync,
    /// Keys received since a reset, by its namespace: what is not among them at the end is gone. Until then the
    /// old objects stay, so that a reconnect does not empty the page.
    resets: BTreeMap<Option<String>, BTreeSet<Key>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            sync: Sync::Waiting,
            resets: BTreeMap::new(),
        }
    }
}

impl<T: Named> Shelf<T> {
    /// Every object, by namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.items.values()
    }

    /// One object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.items.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// How far the shelf is filled.
    pub(crate) fn sync(&self) -> &Sync {
        &self.sync
    }

    fn reset(&mut self, namespace: Option<String>) {
        self.resets.insert(namespace, BTreeSet::new());
    }

    fn upsert(&mut self, item: T) {
        let key = item.key();
        for (namespace, seen) in &mut self.resets {
            if namespace.as_ref().is_none_or(|namespace| *namespace == key.0) {
                seen.insert(key.clone());
            }
        }
        self.items.insert(key, Arc::new(item));
    }

    fn delete(&mut self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        // A successor of the same name may have come first.
        if self
            .items
            .get(&key)
            .is_some_and(|item| uid.is_empty() || item.metadata().uid == uid)
        {
            self.items.remove(&key);
        }
    }

    fn synced(&mut self, namespace: Option<String>) {
        if let Some(seen) = self.resets.remove(&namespace) {
            self.items.retain(|key, _| {
                namespace.as_ref().is_some_and(|namespace| *namespace != key.0) || seen.contains(key)
            });
        }
        self.sync = Sync::Ready;
    }

    fn denied(&mut self, namespace: Option<String>, message: String) {
        self.resets.remove(&namespace);
        match namespace {
            Some(namespace) => self.items.retain(|key, _| key.0 != namespace),
            None => self.items.clear(),
        }
        // With several namespaces in one stream, what another one brings is still shown.
        if self.sync != Sync::Ready || self.items.is_empty() {
            self.sync = Sync::Denied(message);
        }
    }
}

/// All resources the console shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) targets: Shelf<Target>,
    pub(crate) plans: Shelf<BackupPlan>,
    pub(crate) backups: Shelf<Backup>,
    pub(crate) restores: Shelf<Restore>,
}

impl Store {
    /// Takes in one event of the stream.
    pub(crate) fn apply(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Upsert { resource } => match resource {
                Resource::Target(target) => self.targets.upsert(target),
                Resource::BackupPlan(plan) => self.plans.upsert(plan),
                Resource::Backup(backup) => self.backups.upsert(*backup),
                Resource::Restore(restore) => self.restores.upsert(*restore),
                Resource::VolumeTransfer(_) => {}
            },
            ServerEvent::Reset { kind, namespace } => self.on(kind, Change::Reset(namespace)),
            ServerEvent::Synced { kind, namespace } => self.on(kind, Change::Synced(namespace)),
            ServerEvent::Delete {
                kind,
                namespace,
                name,
                uid,
            } => {
                self.on(kind, Change::Delete(namespace, name, uid));
            }
            ServerEvent::Forbidden {
                kind,
                namespace,
                message,
            } => {
                self.on(kind, Change::Denied(namespace, message));
            }
            ServerEvent::SessionEnded | ServerEvent::ServerStopping => {}
        }
    }

    fn on(&mut self, kind: ResourceKind, change: Change) {
        match kind {
            ResourceKind::Target => change.apply(&mut self.targets),
            ResourceKind::BackupPlan => change.apply(&mut self.plans),
            ResourceKind::Backup => change.apply(&mut self.backups),
            ResourceKind::Restore => change.apply(&mut self.restores),
            ResourceKind::VolumeTransfer => {}
        }
    }
}

/// A change that means the same for every kind.
enum Change {
    Reset(Option<String>),
    Synced(Option<String>),
    Delete(String, String, String),
    Denied(Option<String>, String),
}

impl Change {
    fn apply<T: Named>(self, shelf: &mut Shelf<T>) {
        match self {
            Self::Reset(namespace) => shelf.reset(namespace),
            Self::Synced(namespace) => shelf.synced(namespace),
            Self::Delete(namespace, name, uid) => shelf.delete(&namespace, &name, &uid),
            Self::Denied(namespace, message) => shelf.denied(namespace, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::BackupPlanSpec;

    use super::*;

    fn plan(namespace: &str, name: &str, uid: &str) -> ServerEvent {
        let metadata = Metadata {
            name: name.into(),
            namespace: namespace.into(),
            uid: uid.into(),
            ..Metadata::default()
        };
        let plan = BackupPlan {
            metadata,
            spec: BackupPlanSpec::default(),
            status: Default::default(),
        };
        ServerEvent::Upsert {
            resource: Resource::BackupPlan(plan),
        }
    }

    fn reset(namespace: Option<&str>) -> ServerEvent {
        ServerEvent::Reset {
            kind: ResourceKind::BackupPlan,
            namespace: namespace.map(Into::into),
        }
    }

    fn synced(namespace: Option<&str>) -> ServerEvent {
        ServerEvent::Synced {
            kind: ResourceKind::BackupPlan,
            namespace: namespace.map(Into::into),
        }
    }

    fn deleted(name: &str, uid: &str) -> ServerEvent {
        ServerEvent::Delete {
            kind: ResourceKind::BackupPlan,
            namespace: "a".into(),
            name: name.into(),
            uid: uid.into(),
        }
    }

    fn names(store: &Store) -> Vec<String> {
        store
            .plans
            .iter()
            .map(|plan| plan.metadata.name.clone())
            .collect()
    }

    fn store(events: Vec<ServerEvent>) -> Store {
        let mut store = Store::default();
        for event in events {
            store.apply(event);
        }
        store
    }

    #[test]
    fn a_reset_keeps_the_old_until_the_new_is_complete() {
        let mut store = store(vec![
            reset(None),
            plan("a", "one", "1"),
            plan("a", "two", "2"),
            synced(None),
        ]);
        assert_eq!(*store.plans.sync(), Sync::Ready);
        store.apply(reset(None));
        store.apply(plan("a", "two", "2"));
        assert_eq!(names(&store), ["one", "two"]);
        store.apply(synced(None));
        assert_eq!(names(&store), ["two"]);
    }

    #[test]
    fn a_reset_of_one_namespace_leaves_the_others() {
        let mut store = store(vec![
            plan("a", "one", "1"),
            plan("b", "two", "2"),
            reset(Some("a")),
        ]);
        store.apply(synced(Some("a")));
        assert_eq!(names(&store), ["two"]);
    }

    #[test]
    fn a_late_deletion_does_not_take_the_successor() {
        let mut store = store(vec![plan("a", "one", "new"), deleted("one", "old")]);
        assert_eq!(names(&store), ["one"]);
        store.apply(deleted("one", "new"));
        assert!(names(&store).is_empty());
    }

    #[test]
    fn what_may_not_be_seen_is_forgotten() {
        let forbidden = ServerEvent::Forbidden {
            kind: ResourceKind::BackupPlan,
            namespace: None,
            message: "cannot list".into(),
        };
        let store = store(vec![plan("a", "one", "1"), forbidden]);
        assert!(names(&store).is_empty());
        assert_eq!(*store.plans.sync(), Sync::Denied("cannot list".into()));
    }
}
