//! The live resources: the event stream, kept open, feeding the store.

use std::time::Duration;

use holdfast_shared::{
    Backup, BackupPlan, Resource, ResourceKind, Restore, ServerEvent, Target, VolumeProgress,
};
use leptos::ev;
use leptos::prelude::*;
use leptos::task::spawn_local;

use super::clock;
use super::rate::Rates;
use super::scope::Scope;
use super::store::{Named, Shelf, Store, Sync};
use super::stream::{Signal as StreamSignal, Stream};
use crate::api::Api;

/// The stream of everything the person may see.
const URL: &str = "/api/v1/events";
/// Messages are taken in together at most this often: a first load of thousands of objects is one update.
const BATCH: Duration = Duration::from_millis(80);
/// Waiting times before connecting again, in seconds; the last one repeats.
const BACKOFF: [u64; 5] = [1, 2, 4, 8, 15];

/// State of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Being opened for the first time.
    Connecting,
    /// Open.
    Live,
    /// Lost; what is shown is from this time, in milliseconds since the epoch.
    Lost { since_ms: i64 },
}

/// The resources, shared by everything. Lives while somebody is signed in.
#[derive(Clone, Copy)]
pub(crate) struct Live {
    api: Api,
    scope: Scope,
    store: RwSignal<Store>,
    rates: RwSignal<Rates>,
    link: RwSignal<Link>,
    /// Counts batches that changed more than transfers, for what is derived on the server.
    version: RwSignal<u32>,
    pending: StoredValue<Vec<ServerEvent>>,
    /// Not `Send`: belongs to the one thread of the page.
    stream: StoredValue<Option<Stream>, LocalStorage>,
    retry: StoredValue<Option<TimeoutHandle>>,
    failures: StoredValue<usize>,
}

impl Live {
    /// Opens the stream; it is closed when the owner goes, and opened anew when the scope changes.
    pub(crate) fn start(api: Api, scope: Scope) -> Self {
        let live = Self {
            api,
            scope,
            store: RwSignal::new(Store::default()),
            rates: RwSignal::new(Rates::default()),
            link: RwSignal::new(Link::Connecting),
            version: RwSignal::new(0),
            pending: StoredValue::new(Vec::new()),
            stream: StoredValue::new_local(None),
            retry: StoredValue::new(None),
            failures: StoredValue::new(0),
        };
        Effect::new(move |before: Option<Option<String>>| {
            let namespace = scope.get();
            if before.is_some() {
                live.clear_retry();
                live.pending.set_value(Vec::new());
                live.store.set(Store::default());
            }
            live.connect();
            namespace
        });
        // An open connection does not break when the network goes, it only falls silent; the browser knows earlier.
        let offline = window_event_listener(ev::offline, move |_| live.lost());
        let online = window_event_listener(ev::online, move |_| live.retry_now());
        on_cleanup(move || {
            offline.remove();
            online.remove();
            live.stop();
        });
        live
    }

    /// State of the connection, tracked.
    pub(crate) fn link(self) -> Link {
        self.link.get()
    }

    /// Changes whenever more than transfers did. Tracked.
    pub(crate) fn version(self) -> u32 {
        self.version.get()
    }

    /// Takes in a resource that a request has answered with, so that its page need not wait for the stream.
    pub(crate) fn insert(self, resource: Resource) {
        self.enqueue(ServerEvent::Upsert { resource });
        self.flush();
    }

    /// Connects now instead of at the end of the waiting time.
    pub(crate) fn retry_now(self) {
        self.clear_retry();
        self.connect();
    }

    pub(crate) fn targets(self) -> Memo<Vec<std::sync::Arc<Target>>> {
        self.list(|store| &store.targets)
    }

    pub(crate) fn plans(self) -> Memo<Vec<std::sync::Arc<BackupPlan>>> {
        self.list(|store| &store.plans)
    }

    pub(crate) fn backups(self) -> Memo<Vec<std::sync::Arc<Backup>>> {
        self.list(|store| &store.backups)
    }

    pub(crate) fn restores(self) -> Memo<Vec<std::sync::Arc<Restore>>> {
        self.list(|store| &store.restores)
    }

    /// One resource; nothing when there is none of that name (yet).
    pub(crate) fn one<T>(
        self,
        shelf: fn(&Store) -> &Shelf<T>,
        key: Signal<(String, String)>,
    ) -> Memo<Option<std::sync::Arc<T>>>
    where
        T: Named + PartialEq + Send + std::marker::Sync + 'static,
    {
        Memo::new(move |_| {
            self.store
                .with(|store| key.with(|(namespace, name)| shelf(store).get(namespace, name)))
        })
    }

    /// How far a shelf is filled.
    pub(crate) fn sync<T: Named + 'static>(self, shelf: fn(&Store) -> &Shelf<T>) -> Memo<Sync> {
        Memo::new(move |_| self.store.with(|store| shelf(store).sync().clone()))
    }

    /// Bytes per second of a volume at this time, tracked.
    pub(crate) fn rate(self, run_uid: &str, claim: &str, now_ms: i64) -> Option<u64> {
        self.rates.with(|rates| rates.rate(run_uid, claim, now_ms))
    }

    fn list<T>(self, shelf: fn(&Store) -> &Shelf<T>) -> Memo<Vec<std::sync::Arc<T>>>
    where
        T: Named + PartialEq + Send + std::marker::Sync + 'static,
    {
        Memo::new(move |_| self.store.with(|store| shelf(store).iter().cloned().collect()))
    }

    fn connect(self) {
        // Messages of the connection before must not come after those of the new one.
        self.stream.set_value(None);
        let url = match untrack(|| self.scope.get()) {
            Some(namespace) => {
                format!(
                    "{URL}?namespace={}",
                    String::from(js_sys::encode_uri_component(&namespace))
                )
            }
            None => URL.to_owned(),
        };
        self.stream
            .set_value(Stream::open(&url, move |signal| self.on(signal)));
    }

    fn stop(self) {
        self.clear_retry();
        self.stream.try_set_value(None);
    }

    fn on(self, signal: StreamSignal) {
        match signal {
            StreamSignal::Opened => {
                self.failures.set_value(0);
                self.link.set(Link::Live);
            }
            StreamSignal::Broken => self.lost(),
            StreamSignal::Message(event) => match *event {
                ServerEvent::SessionEnded => self.probe(),
                ServerEvent::ServerStopping => self.lost(),
                event => self.enqueue(event),
            },
        }
    }

    fn lost(self) {
        self.stream.set_value(None);
        if !matches!(self.link.get_untracked(), Link::Lost { .. }) {
            self.link.set(Link::Lost {
                since_ms: clock::now(),
            });
        }
        let failures = self.failures.get_value();
        self.failures.set_value(failures + 1);
        let wait = Duration::from_secs(BACKOFF[failures.min(BACKOFF.len() - 1)]);
        self.clear_retry();
        self.retry
            .set_value(set_timeout_with_handle(move || self.connect(), wait).ok());
        // The browser does not say why: one request shows whether the session is over.
        self.probe();
    }

    fn probe(self) {
        spawn_local(async move {
            // A 401 ends the session in the client; anything else is the connection's trouble.
            let _ = self.api.session().await;
        });
    }

    fn clear_retry(self) {
        if let Some(Some(handle)) = self.retry.try_update_value(Option::take) {
            handle.clear();
        }
    }

    fn enqueue(self, event: ServerEvent) {
        let first = self.pending.try_update_value(|pending| {
            pending.push(event);
            pending.len() == 1
        });
        if first == Some(true) {
            set_timeout(move || self.flush(), BATCH);
        }
    }

    fn flush(self) {
        let Some(events) = self.pending.try_update_value(std::mem::take) else {
            return;
        };
        let now_ms = clock::now();
        let counts = |event: &ServerEvent| !matches!(event, ServerEvent::Upsert { resource } if resource.kind() == ResourceKind::VolumeTransfer);
        let changed = events.iter().any(counts);
        self.rates
            .update(|rates| events.iter().for_each(|event| note(rates, event, now_ms)));
        self.store
            .update(|store| events.into_iter().for_each(|event| store.apply(event)));
        if changed {
            self.version.update(|version| *version = version.wrapping_add(1));
        }
    }
}

/// Feeds the rates with an event.
fn note(rates: &mut Rates, event: &ServerEvent, now_ms: i64) {
    let mut note_all = |uid: &str, volumes: &[VolumeProgress], ended: bool| {
        if ended {
            rates.forget(uid);
        } else {
            volumes
                .iter()
                .for_each(|volume| rates.note(uid, &volume.claim, volume.bytes_done, now_ms));
        }
    };
    match event {
        ServerEvent::Upsert {
            resource: Resource::Backup(backup),
        } => {
            note_all(
                &backup.metadata.uid,
                &backup.status.volumes,
                backup.state().is_final(),
            );
        }
        ServerEvent::Upsert {
            resource: Resource::Restore(restore),
        } => {
            note_all(
                &restore.metadata.uid,
                &restore.status.volumes,
                restore.state().is_final(),
            );
        }
        _ => {}
    }
}
