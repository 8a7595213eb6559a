//! What every request can reach.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_auth::{Cluster, Sessions, SignInLimiter};
use holdfast_db::Database;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::metrics::Metrics;

/// Event streams that one session may hold: each costs the API server a watch per kind.
const MAX_STREAMS: usize = 8;

/// What differs between installations.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace that Holdfast is installed in.
    pub install_namespace: String,
    /// Whether the session cookie is only sent over TLS.
    pub secure_cookies: bool,
}

/// The server's state. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    settings: Settings,
    cluster: Cluster,
    database: Database,
    sessions: Sessions,
    limiter: SignInLimiter,
    metrics: Metrics,
    streams: Mutex<HashMap<Uuid, usize>>,
    audit: Mutex<Box<dyn Write + Send>>,
    stopping: CancellationToken,
    writes: TaskTracker,
}

impl App {
    /// State for a cluster and a database. When `stopping` is cancelled, event streams end.
    pub fn new(
        settings: Settings,
        cluster: Cluster,
        database: Database,
        stopping: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            settings,
            cluster,
            sessions: Sessions::new(database.clone()),
            database,
            limiter: SignInLimiter::default(),
            metrics: Metrics::new(),
            streams: Mutex::default(),
            audit: Mutex::new(Box::new(std::io::stdout())),
            stopping,
            writes: TaskTracker::new(),
        }))
    }

    /// Writes the audit there instead of to standard output.
    pub fn audit_to(&self, sink: impl Write + Send + 'static) {
        *self.0.audit.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(sink);
    }

    /// Writes one line of the audit.
    pub(crate) fn write_audit(&self, line: &str) -> std::io::Result<()> {
        let mut sink = self.0.audit.lock().unwrap_or_else(PoisonError::into_inner);
        sink.write_all(line.as_bytes())?;
        sink.write_all(b"\n")?;
        sink.flush()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    pub(crate) fn limiter(&self) -> &SignInLimiter {
        &self.0.limiter
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// Tasks of writes: they run to their end even when the browser has gone.
    pub(crate) fn writes(&self) -> &TaskTracker {
        &self.0.writes
    }

    /// A place for one more event stream of that session, given back when dropped; `None` when it has too many.
    pub(crate) fn stream_place(&self, session: Uuid) -> Option<StreamPlace> {
        let mut streams = self.0.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let held = streams.entry(session).or_default();
        if *held >= MAX_STREAMS {
            return None;
        }
        *held += 1;
        self.0.metrics.event_streams.inc();
        Some(StreamPlace {
            app: self.clone(),
            session,
        })
    }
}

/// The place of one event stream.
pub(crate) struct StreamPlace {
    app: App,
    session: Uuid,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let inner = &self.app.0;
        let mut streams = inner.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = streams.get_mut(&self.session) {
            *held -= 1;
            if *held == 0 {
                streams.remove(&self.session);
            }
        }
        inner.metrics.event_streams.dec();
    }
}
