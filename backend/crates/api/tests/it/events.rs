//! The event stream.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, header};
use futures::StreamExt as _;
use holdfast_shared::{Resource, ResourceKind, ServerEvent};
use serde_json::json;
use tower::ServiceExt as _;

use crate::app::{Session, TestApp, bind_namespace_user};

/// An open stream.
struct Events {
    body: BodyDataStream,
    rest: String,
}

impl Events {
    async fn open(app: &TestApp, session: &Session<'_>, path: &str) -> Self {
        let request = Request::get(path)
            .header(header::COOKIE, &session.cookie)
            .body(Body::empty())
            .unwrap();
        let response = app.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
        Self {
            body: response.into_body().into_data_stream(),
            rest: String::new(),
        }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<ServerEvent> {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.rest = rest;
                if let Some(data) = event.strip_prefix("data: ") {
                    return Some(serde_json::from_str(data).unwrap());
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(30), self.body.next())
                .await
                .expect("an event in time");
            self.rest.push_str(std::str::from_utf8(&chunk?.unwrap()).unwrap());
        }
    }

    /// Reads until `wanted` says yes.
    async fn until(&mut self, wanted: impl Fn(&ServerEvent) -> bool) -> ServerEvent {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if wanted(&event) {
                return event;
            }
        }
    }
}

fn is_backup(event: &ServerEvent, wanted: &str) -> bool {
    matches!(event, ServerEvent::Upsert { resource: Resource::Backup(b) } if b.metadata.name == wanted)
}

#[tokio::test]
async fn what_is_there_comes_first_and_then_every_change() {
    let app = TestApp::new().await;
    app.plane.namespace("ev-changes").await.unwrap();
    let admin = app.admin().await;
    let create = async |name: &str| {
        let body = json!({"namespace": "ev-changes", "name": name, "backupPlan": "p"});
        admin.post("/api/v1/backups", body).await.expect(201);
    };
    create("before").await;
    let mut events = Events::open(&app, &admin, "/api/v1/events?namespace=ev-changes").await;
    let of_backups = |event: &ServerEvent| match event {
        ServerEvent::Reset { kind, .. } | ServerEvent::Synced { kind, .. } => *kind == ResourceKind::Backup,
        other => is_backup(other, "before"),
    };
    assert!(matches!(
        events.until(of_backups).await,
        ServerEvent::Reset { .. }
    ));
    assert!(is_backup(&events.until(of_backups).await, "before"));
    assert!(matches!(
        events.until(of_backups).await,
        ServerEvent::Synced { .. }
    ));

    create("after").await;
    events.until(|event| is_backup(event, "after")).await;
    admin
        .post("/api/v1/backups/ev-changes/after/cancel", json!(null))
        .await
        .expect(200);
    let changed = events.until(|event| is_backup(event, "after")).await;
    assert!(matches!(changed, ServerEvent::Upsert { resource: Resource::Backup(b) } if b.spec.cancel));
    admin.delete("/api/v1/backups/ev-changes/after").await.expect(202);
    let gone = events
        .until(|event| matches!(event, ServerEvent::Delete { .. }))
        .await;
    assert!(matches!(gone, ServerEvent::Delete { kind: ResourceKind::Backup, name, .. } if name == "after"));
}

#[tokio::test]
async fn a_namespace_user_watches_the_own_namespace_only() {
    let app = TestApp::new().await;
    bind_namespace_user(app.plane, "ev-own", "robot").await;
    let robot = app.robot("ev-own", "robot").await;
    let mut everywhere = Events::open(&app, &robot, "/api/v1/events").await;
    for _ in 0..5 {
        let event = everywhere
            .until(|event| !matches!(event, ServerEvent::Reset { .. }))
            .await;
        assert!(
            matches!(&event, ServerEvent::Forbidden { message, .. } if message.contains("cannot list")),
            "{event:?}"
        );
    }
    let mut own = Events::open(&app, &robot, "/api/v1/events?namespace=ev-own").await;
    for _ in 0..5 {
        own.until(|event| matches!(event, ServerEvent::Synced { .. }))
            .await;
    }
    let mut other = Events::open(&app, &robot, "/api/v1/events?namespace=default").await;
    let event = other
        .until(|event| !matches!(event, ServerEvent::Reset { .. }))
        .await;
    assert!(matches!(event, ServerEvent::Forbidden { .. }), "{event:?}");
}

#[tokio::test]
async fn streams_end_with_the_session_and_with_the_server() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let mut events = Events::open(&app, &admin, "/api/v1/events").await;
    events
        .until(|event| matches!(event, ServerEvent::Synced { .. }))
        .await;
    admin.delete("/api/v1/session").await.expect(204);
    events
        .until(|event| matches!(event, ServerEvent::SessionEnded))
        .await;
    assert_eq!(events.next().await, None);

    let again = app.admin().await;
    let mut events = Events::open(&app, &again, "/api/v1/events").await;
    events
        .until(|event| matches!(event, ServerEvent::Synced { .. }))
        .await;
    app.stopping.cancel();
    events
        .until(|event| matches!(event, ServerEvent::ServerStopping))
        .await;
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_session_holds_only_so_many_streams() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Events::open(&app, &admin, "/api/v1/events?namespace=default").await);
    }
    assert_eq!(
        admin.get("/api/v1/events").await.expect(429).code(),
        "tooManyRequests"
    );
    open.pop();
    Events::open(&app, &admin, "/api/v1/events?namespace=default").await;
}
