//! What happens around every handler.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum_extra::extract::CookieJar;
use holdfast_db::{NewAuditEntry, SessionRecord};
use holdfast_shared::{CSRF_HEADER, CSRF_HEADER_VALUE, ErrorBody, ErrorEnvelope};
use jiff::Timestamp;
use serde_json::json;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::error::{ApiError, chain, plain};
use crate::extract::AuditNotes;
use crate::state::App;

/// How long a handler may take until the head of its answer. Event streams have theirs at once.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest message in the audit, in characters; the client gets all of it.
const MAX_OUTCOME: usize = 1024;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Sent with every answer. The console loads nothing from elsewhere, runs WebAssembly, and is never framed.
const SECURITY_HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; \
         font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

/// The request's id, made here: one that a client sends could forge log lines.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Gives the request an id, counts and logs it, and writes the envelope of errors.
pub(crate) async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = RequestId(Uuid::new_v4().simple().to_string());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |m| m.as_str().to_owned());
    request.extensions_mut().insert(id.clone());
    let span = tracing::info_span!("request", request.id = id.0, http.method = %method, http.route = route);
    let started = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let elapsed = started.elapsed();

    if response.status().is_client_error() || response.status().is_server_error() {
        response = envelope(response, &id, path.starts_with("/api"));
    }
    let status = response.status().as_u16();
    app.metrics()
        .requests
        .with_label_values(&[method.as_str(), &route, &status.to_string()])
        .inc();
    app.metrics()
        .duration
        .with_label_values(&[method.as_str(), &route])
        .observe(elapsed.as_secs_f64());
    span.in_scope(|| {
        tracing::debug!(
            http.status = status,
            duration_ms = elapsed.as_millis() as u64,
            path,
            "answered"
        )
    });
    for (name, value) in SECURITY_HEADERS {
        response
            .headers_mut()
            .insert(*name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if path.starts_with("/api") && !response.headers().contains_key(header::CACHE_CONTROL) {
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn envelope(mut response: Response, id: &RequestId, is_api: bool) -> Response {
    let body = response.extensions_mut().remove::<ErrorBody>();
    let Some(mut error) = body.or_else(|| is_api.then(|| plain(response.status()))) else {
        return response;
    };
    error.request_id = id.0.clone();
    let kept = [header::RETRY_AFTER, header::ALLOW, header::SET_COOKIE];
    let old = std::mem::take(response.headers_mut());
    let mut answer = (response.status(), Json(ErrorEnvelope { error: error.clone() })).into_response();
    for name in kept {
        if let Some(value) = old.get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer.extensions_mut().insert(error);
    answer
}

/// Finds the session of the request's cookie.
pub(crate) async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let jar = CookieJar::from_headers(request.headers());
    if let Some(cookie) = jar.get(cookie_name(app.settings().secure_cookies)) {
        match app.sessions().find(cookie.value(), Timestamp::now()).await {
            Ok(Some(session)) => {
                request.extensions_mut().insert(Arc::new(session));
            }
            Ok(None) => {}
            Err(error) => return ApiError::from(error).into_response(),
        }
    }
    next.run(request).await
}

/// Name of the session cookie. The prefix `__Host-` makes browsers refuse it without Secure, with a domain, or with a
/// path: no sibling host can set it.
pub(crate) fn cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-holdfast" } else { "holdfast" }
}

/// Runs writes to their end even when the client has gone, and notes each of them with its outcome.
pub(crate) async fn audit(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if is_read(request.method()) {
        return next.run(request).await;
    }
    let notes = AuditNotes::default();
    notes.subject(request.uri().path().trim_start_matches("/api/v1/"));
    request.extensions_mut().insert(notes.clone());
    let session = request.extensions().get::<Arc<SessionRecord>>().cloned();
    let mut entry = NewAuditEntry {
        at: Timestamp::now(),
        request_id: request
            .extensions()
            .get::<RequestId>()
            .map(|id| id.0.clone())
            .unwrap_or_default(),
        session: session.as_ref().map(|s| s.id),
        user: session.map(|s| s.user.name.clone()).unwrap_or_default(),
        remote: peer(&request).map(|ip| ip.to_string()).unwrap_or_default(),
        method: request.method().to_string(),
        route: request
            .extensions()
            .get::<MatchedPath>()
            .map(|m| m.as_str().to_owned())
            .unwrap_or_default(),
        subject: String::new(),
        status: 0,
        outcome: String::new(),
    };
    let writes = app.writes().clone();
    let write = async move {
        let response = next.run(request).await;
        let noted = notes.read();
        entry.subject = noted.subject;
        entry.user = noted.user.unwrap_or(entry.user);
        entry.status = response.status().as_u16();
        if let Some(error) = response.extensions().get::<ErrorBody>() {
            let message = error.message.chars().take(MAX_OUTCOME);
            entry.outcome = format!("{}: {}", error.code, message.collect::<String>());
        }
        record(&app, entry).await;
        response
    };
    match writes.spawn(write.in_current_span()).await {
        Ok(response) => response,
        Err(error) => ApiError::internal(&error).into_response(),
    }
}

/// To standard output first, which needs no database. It goes past the log, whose filter could leave it out.
async fn record(app: &App, entry: NewAuditEntry) {
    let line = json!({
        "audit": "write",
        "at": entry.at.to_string(),
        "requestId": entry.request_id,
        "session": entry.session.map(|id| id.to_string()),
        "user": entry.user,
        "remote": entry.remote,
        "method": entry.method,
        "route": entry.route,
        "subject": entry.subject,
        "status": entry.status,
        "outcome": entry.outcome,
    });
    if let Err(error) = app.write_audit(&line.to_string()) {
        app.metrics().audit_failures.inc();
        tracing::error!(%error, entry = %line, "an audit entry did not reach standard output");
    }
    if let Err(error) = app.database().insert_audit(entry).await {
        app.metrics().audit_failures.inc();
        tracing::error!(error = chain(&error), "an audit entry did not reach the database");
    }
}

/// Refuses writes that a page of another site could have caused: they must carry our header, which such a page cannot
/// send without being allowed to first, and what the browser says of their origin must fit.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    if is_read(request.method()) || is_same_site(request.headers()) {
        return next.run(request).await;
    }
    let message = format!(
        "this write could come from another site: send the header {CSRF_HEADER}: {CSRF_HEADER_VALUE} from the console's own address"
    );
    ApiError::new(StatusCode::FORBIDDEN, "crossSite", message).into_response()
}

fn is_same_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or("unreadable"))
    };
    if text(CSRF_HEADER) != Some(CSRF_HEADER_VALUE) {
        return false;
    }
    // Browsers set both by themselves and let no page change them; other clients send neither.
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    match (text("origin"), text("host")) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority == host),
        (Some(_), None) => false,
    }
}

/// Ends a handler that takes too long.
pub(crate) async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::timeout().into_response(),
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Address of the other end of the connection; behind a proxy that is the proxy.
pub(crate) fn peer(request: &Request) -> Option<IpAddr> {
    request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|info| info.0.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same_site(headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        is_same_site(&map)
    }

    #[test]
    fn other_sites_cannot_write() {
        let ours = (CSRF_HEADER, CSRF_HEADER_VALUE);
        assert!(same_site(&[ours]), "a program that is no browser");
        assert!(same_site(&[ours, ("sec-fetch-site", "same-origin")]));
        assert!(same_site(&[
            ours,
            ("origin", "https://holdfast.example:8443"),
            ("host", "holdfast.example:8443")
        ]));
        assert!(!same_site(&[]), "a form");
        assert!(!same_site(&[("sec-fetch-site", "same-origin")]));
        for site in ["cross-site", "same-site", "odd"] {
            assert!(!same_site(&[ours, ("sec-fetch-site", site)]), "{site}");
        }
        assert!(!same_site(&[
            ours,
            ("origin", "https://evil.example"),
            ("host", "holdfast.example")
        ]));
        assert!(!same_site(&[
            ours,
            ("origin", "null"),
            ("host", "holdfast.example")
        ]));
        assert!(!same_site(&[ours, ("origin", "https://holdfast.example")]));
    }
}
