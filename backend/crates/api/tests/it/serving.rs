//! What surrounds the API: health, metrics, unknown addresses, the console's files, TLS, stopping.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, header};
use futures::StreamExt as _;
use holdfast_api::{Listener, Tls, serve};
use serde_json::json;

use crate::app::{HOUR, TestApp, write};

#[tokio::test]
async fn health_version_and_metrics_need_no_session() {
    let app = TestApp::new().await;
    assert_eq!(app.get("/healthz").await.expect(200).body, "ok");
    assert_eq!(app.get("/readyz").await.expect(200).body, "ok");
    assert_eq!(
        app.get("/api/v1/version").await.expect(200).json()["cluster"],
        "test"
    );
    app.robot("team-m", "robot").await;
    app.get("/api/v1/targets").await.expect(401);
    let metrics = app.get("/metrics").await.expect(200).body;
    for line in [
        "holdfast_http_requests_total{method=\"GET\",route=\"/api/v1/targets\",status=\"401\"} 1",
        "holdfast_sign_ins_total{outcome=\"ok\"} 1",
        "holdfast_sessions 1",
        "holdfast_event_streams 0",
        "holdfast_audit_failures_total 0",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    app.stopping.cancel();
    assert_eq!(app.get("/readyz").await.expect(503).body, "stopping");
}

#[tokio::test]
async fn unknown_addresses_under_api_answer_with_the_envelope() {
    let app = TestApp::new().await;
    for path in ["/api", "/api/", "/api/v1", "/api/v1/nothing", "/api/v2/backups"] {
        assert_eq!(app.get(path).await.expect(404).code(), "notFound", "{path}");
    }
    let answer = app
        .send(write(Method::PUT, "/api/v1/targets", None).body_of())
        .await
        .expect(405);
    assert_eq!(answer.code(), "methodNotAllowed");
    assert!(answer.headers.contains_key(header::ALLOW));
}

#[tokio::test]
async fn every_other_address_is_the_console_and_answers_are_hardened() {
    let app = TestApp::new().await;
    for path in ["/", "/backups/team-a/x", "/signin"] {
        let answer = app.get(path).await;
        // Without a built console a plain text says how to build it.
        assert!(
            answer.status == 200 || answer.body.contains("bundler"),
            "{answer:?}"
        );
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains("frame-ancestors 'none'") && policy.contains("'wasm-unsafe-eval'"),
            "{policy}"
        );
        assert!(
            !policy.contains("unsafe-inline") && !policy.contains("'unsafe-eval'"),
            "{policy}"
        );
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
    app.get("/missing-0123456789abcdef.js").await.expect(404);
    app.get("/../Cargo.toml").await.expect(404);
    let post = Request::post("/backups")
        .header("x-holdfast-request", "1")
        .body(Body::empty())
        .unwrap();
    app.send(post).await.expect(405);

    let page = app.get("/").await;
    if page.status == 200 {
        assert_eq!(page.headers[header::CACHE_CONTROL], "no-cache");
        let tag = page.headers[header::ETAG].clone();
        let again = Request::get("/")
            .header(header::IF_NONE_MATCH, tag)
            .body(Body::empty())
            .unwrap();
        app.send(again).await.expect(304);
        for _ in 0..2 {
            let gzip = Request::get("/")
                .header(header::ACCEPT_ENCODING, "br, gzip")
                .body(Body::empty())
                .unwrap();
            let gzip = app.send(gzip).await.expect(200);
            assert_eq!(gzip.headers[header::CONTENT_ENCODING], "gzip");
            assert_ne!(gzip.headers[header::ETAG], page.headers[header::ETAG]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_serves_and_stops_with_streams_open() {
    let app = TestApp::new().await;
    let files = tempfile::tempdir().unwrap();
    let own =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let tls = Tls {
        certificate: files.path().join("tls.crt"),
        key: files.path().join("tls.key"),
    };
    std::fs::write(&tls.certificate, own.cert.pem()).unwrap();
    std::fs::write(&tls.key, own.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let listener = Listener {
        address: ([127, 0, 0, 1], port).into(),
        tls: Some(tls),
    };
    let server = tokio::spawn(serve(listener, app.app.clone(), app.stopping.clone()));

    let authority = reqwest::Certificate::from_pem(own.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([authority])
        .build()
        .unwrap();
    let base = format!("https://127.0.0.1:{port}");
    let started = Instant::now();
    while client.get(format!("{base}/healthz")).send().await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "it does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let token = app
        .plane
        .service_account_token("team-m", "robot", HOUR)
        .await
        .unwrap();
    let answer = client
        .post(format!("{base}/api/v1/session"))
        .header("x-holdfast-request", "1")
        .header("content-type", "application/json")
        .body(json!({"method": "token", "token": token}).to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let cookie = answer.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let stream = client
        .get(format!("{base}/api/v1/events"))
        .header("cookie", cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(stream.status(), 200);
    let mut stream = stream.bytes_stream();
    assert!(stream.next().await.unwrap().is_ok());
    let entry = app.database.newest_audit(1).await.unwrap().remove(0).entry;
    assert_eq!(entry.remote, "127.0.0.1");

    let asked = Instant::now();
    app.stopping.cancel();
    while stream.next().await.is_some() {}
    server.await.unwrap().unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(9),
        "open streams must not hold the server: {:?}",
        asked.elapsed()
    );
}
