//! What changes, as it changes.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, Stream, StreamExt as _};
use holdfast_db::SessionRecord;
use holdfast_shared::{Resource, ResourceKind, ServerEvent};
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde::Deserialize;

use super::Failures;
use crate::error::{ApiError, Result, chain};
use crate::extract::{Caller, Query, is_name};
use crate::resource::{self, Kind};
use crate::state::App;

/// Proxies close connections that are silent for 30 to 60 seconds.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a stream asks whether its session lives.
const SESSION_CHECK: Duration = Duration::from_secs(5);

/// Query of the event stream.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventQuery {
    /// Only this namespace; every namespace when absent, which needs the right to watch everywhere.
    #[serde(default)]
    namespace: Option<String>,
}

/// Everything the session may see and every change of it, as server-sent events whose data is a ServerEvent. A kind
/// that the session may not watch is named once with the missing right. Comments are heartbeats.
#[utoipa::path(
    get, path = "/api/v1/events", operation_id = "streamEvents", tag = "events",
    params(EventQuery),
    responses(
        (status = 200, description = "A stream of events.", body = ServerEvent, content_type = "text/event-stream"),
        Failures
    )
)]
pub(crate) async fn stream_events(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<EventQuery>,
) -> Result<Response> {
    let namespace = query.namespace.filter(|namespace| !namespace.is_empty());
    if namespace.as_deref().is_some_and(|namespace| !is_name(namespace)) {
        return Err(ApiError::field("namespace", "this is no name of a namespace"));
    }
    let place = app.stream_place(caller.session.id).ok_or_else(|| {
        ApiError::too_many(
            "this session holds too many event streams; close one",
            HEARTBEAT.as_secs(),
        )
    })?;
    let changes = changes(&caller.client, namespace.as_deref());
    let end = end(app, caller.session).shared();
    let events = changes
        .take_until(end.clone())
        .chain(stream::once(end))
        .map(move |event| {
            let _held_while_streaming = &place;
            Ok::<_, Infallible>(to_sse(&event))
        });
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::new().interval(HEARTBEAT))
        .into_response();
    // Proxies of the nginx family hold answers back otherwise.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}

fn to_sse(event: &ServerEvent) -> Event {
    Event::default().json_data(event).unwrap_or_else(|error| {
        tracing::error!(%error, "an event does not serialize");
        Event::default().comment("lost")
    })
}

/// When the stream has to end, and what it says last.
async fn end(app: App, session: SessionRecord) -> ServerEvent {
    tokio::select! {
        () = app.stopping().cancelled() => ServerEvent::ServerStopping,
        () = session_over(&app, &session) => ServerEvent::SessionEnded,
    }
}

async fn session_over(app: &App, session: &SessionRecord) {
    loop {
        let now = Timestamp::now();
        let left = session.expires_at.duration_since(now);
        let Ok(left) = Duration::try_from(left) else {
            return;
        };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SESSION_CHECK)).await;
        match app.sessions().lives(session.id, Timestamp::now()).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(
                error = chain(&error),
                "a session could not be checked; trying again"
            ),
        }
    }
}

fn changes(client: &Client, namespace: Option<&str>) -> impl Stream<Item = ServerEvent> + Send + 'static {
    stream::select_all([
        watch::<resource::Target>(client, namespace, ResourceKind::Target, Resource::Target),
        watch::<resource::BackupPlan>(client, namespace, ResourceKind::BackupPlan, Resource::BackupPlan),
        watch::<resource::Backup>(client, namespace, ResourceKind::Backup, |b| {
            Resource::Backup(Box::new(b))
        }),
        watch::<resource::Restore>(client, namespace, ResourceKind::Restore, |r| {
            Resource::Restore(Box::new(r))
        }),
        watch::<resource::VolumeTransfer>(client, namespace, ResourceKind::VolumeTransfer, |t| {
            Resource::VolumeTransfer(Box::new(t))
        }),
    ])
}

/// Changes of one kind. Ends when the right to see them is missing; other failures are tried again, more and more
/// slowly.
fn watch<K: Kind + 'static>(
    client: &Client,
    namespace: Option<&str>,
    kind: ResourceKind,
    wrap: fn(K::Wire) -> Resource,
) -> BoxStream<'static, ServerEvent> {
    let scope = namespace.map(str::to_owned);
    let api = resource::api::<K>(client, namespace);
    let source = watcher(api, watcher::Config::default()).default_backoff().boxed();
    stream::unfold(Some(source), move |source| {
        let scope = scope.clone();
        async move {
            let mut source = source?;
            loop {
                match source.next().await? {
                    Ok(event) => {
                        if let Some(event) = translate::<K>(event, kind, scope.clone(), wrap) {
                            return Some((event, Some(source)));
                        }
                    }
                    Err(error) => match forbidden(&error) {
                        Some(message) => {
                            return Some((
                                ServerEvent::Forbidden {
                                    kind,
                                    namespace: scope,
                                    message,
                                },
                                None,
                            ));
                        }
                        None => {
                            tracing::debug!(error = chain(&error), ?kind, "watch interrupted; trying again")
                        }
                    },
                }
            }
        }
    })
    .boxed()
}

fn translate<K: Kind>(
    event: watcher::Event<DynamicObject>,
    kind: ResourceKind,
    namespace: Option<String>,
    wrap: fn(K::Wire) -> Resource,
) -> Option<ServerEvent> {
    match event {
        watcher::Event::Init => Some(ServerEvent::Reset { kind, namespace }),
        watcher::Event::InitDone => Some(ServerEvent::Synced { kind, namespace }),
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            // What does not fit is logged by `wire`.
            resource::wire::<K>(&object)
                .ok()
                .map(|object| ServerEvent::Upsert {
                    resource: wrap(object),
                })
        }
        watcher::Event::Delete(object) => Some(ServerEvent::Delete {
            kind,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        }),
    }
}

fn forbidden(error: &watcher::Error) -> Option<String> {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        _ => return None,
    };
    status.is_forbidden().then(|| status.message.clone())
}
