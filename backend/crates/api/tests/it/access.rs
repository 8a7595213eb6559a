//! Sign-in, session and rights: one test per attack.

use axum::body::Body;
use axum::http::{Method, Request, header};
use holdfast_shared::{CSRF_HEADER, CSRF_HEADER_VALUE};
use serde_json::{Value, json};

use crate::app::{HOUR, TestApp, bind_namespace_user, write};

#[tokio::test]
async fn session_shows_the_person_and_ends_on_sign_out() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let session = admin.get("/api/v1/session").await.expect(200).json();
    assert_eq!(session["user"], "root");
    assert_eq!(session["method"], "kubeconfig");
    assert_eq!(session["installNamespace"], "holdfast-system");
    let groups: Vec<_> = session["groups"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        groups.contains(&"holdfast:administrators") && !groups.contains(&"system:masters"),
        "{groups:?}"
    );

    let out = admin.delete("/api/v1/session").await.expect(204);
    assert!(
        out.headers[header::SET_COOKIE]
            .to_str()
            .unwrap()
            .contains("Max-Age=0")
    );
    assert_eq!(
        admin.get("/api/v1/session").await.expect(401).code(),
        "unauthenticated"
    );
    assert_eq!(
        admin.get("/api/v1/targets").await.expect(401).code(),
        "unauthenticated"
    );
}

#[tokio::test]
async fn cookie_cannot_be_read_or_sent_by_others() {
    let app = TestApp::new().await;
    let token = app
        .plane
        .service_account_token("team-c", "robot", HOUR)
        .await
        .unwrap();
    let answer = app
        .sign_in(json!({"method": "token", "token": token}))
        .await
        .expect(201);
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("__Host-holdfast="), "{cookie}");
    for flag in ["; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/;"] {
        assert!(cookie.contains(flag), "{flag} in {cookie}");
    }
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn without_or_with_a_made_up_session_nothing_is_shown() {
    let app = TestApp::new().await;
    for path in [
        "session",
        "targets",
        "backups/a/b",
        "namespaces",
        "events",
        "volumetransfers",
    ] {
        assert_eq!(
            app.get(&format!("/api/v1/{path}")).await.expect(401).code(),
            "unauthenticated"
        );
    }
    let request =
        Request::get("/api/v1/targets").header(header::COOKIE, "__Host-holdfast=AAAA; holdfast=AAAA");
    app.send(request.body(Body::empty()).unwrap()).await.expect(401);
}

#[tokio::test]
async fn second_sign_in_ends_the_first_session() {
    let app = TestApp::new().await;
    let robot = app.robot("team-c", "robot").await;
    let token = app
        .plane
        .service_account_token("team-c", "robot", HOUR)
        .await
        .unwrap();
    robot
        .post("/api/v1/session", json!({"method": "token", "token": token}))
        .await
        .expect(201);
    robot.get("/api/v1/session").await.expect(401);
}

#[tokio::test]
async fn refused_kubeconfig_names_the_field() {
    let app = TestApp::new().await;
    let certificate = app.plane.client_certificate("anna", None, HOUR).unwrap();
    let mut file: Value = serde_json::from_str(&app.plane.kubeconfig(&certificate)).unwrap();
    file["users"][0]["user"]["exec"] = json!({"command": "id"});
    let answer = app
        .sign_in(json!({"method": "kubeconfig", "kubeconfig": file.to_string()}))
        .await
        .expect(422);
    assert_eq!(answer.code(), "invalid");
    assert_eq!(
        answer.json()["error"]["details"][0]["field"],
        "kubeconfig.users[test].user.exec"
    );
}

#[tokio::test]
async fn wrong_token_is_refused_without_echo() {
    let app = TestApp::new().await;
    let answer = app
        .sign_in(json!({"method": "token", "token": "hush-hush"}))
        .await
        .expect(401);
    assert!(!answer.body.contains("hush"), "{answer:?}");
    let answer = app
        .sign_in(json!({"method": "token", "token": {"hush": 1}}))
        .await
        .expect(422);
    assert!(!answer.body.contains("hush"), "{answer:?}");
    let answer = app
        .sign_in(json!({"method": "token", "token": "a", "as": "hush"}))
        .await
        .expect(422);
    assert!(!answer.body.contains("hush"), "{answer:?}");
}

#[tokio::test]
async fn neither_credential_nor_cookie_is_stored() {
    let app = TestApp::new().await;
    let token = app
        .plane
        .service_account_token("team-c", "robot", HOUR)
        .await
        .unwrap();
    let answer = app
        .sign_in(json!({"method": "token", "token": token}))
        .await
        .expect(201);
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(['=', ';']).nth(1).unwrap();
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(app.folder.path()).unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(
        holds("system:serviceaccount:team-c:robot"),
        "the session is there"
    );
    assert!(!holds(&token) && !holds(cookie));
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let app = TestApp::new().await;
    let mut last = None;
    for _ in 0..31 {
        last = Some(
            app.sign_in(json!({"method": "token", "token": "not a token"}))
                .await,
        );
    }
    let last = last.unwrap().expect(429);
    assert_eq!(last.code(), "tooManyRequests");
    assert!(
        last.headers[header::RETRY_AFTER]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
}

#[tokio::test]
async fn other_sites_cannot_write() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let body =
        json!({"name": "evil", "namespace": "default", "spec": {"backupConfig": {"target": {"name": "t"}}}});
    let attempt = |headers: &[(&str, &str)]| {
        let mut request = Request::post("/api/v1/backupplans")
            .header(header::COOKIE, &admin.cookie)
            .header(header::HOST, "holdfast.example")
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        app.send(request.body(Body::from(body.to_string())).unwrap())
    };
    let ours = (CSRF_HEADER, CSRF_HEADER_VALUE);
    for headers in [
        &[][..],
        &[("sec-fetch-site", "same-origin")],
        &[ours, ("sec-fetch-site", "cross-site")],
        &[ours, ("sec-fetch-site", "same-site")],
        &[ours, ("origin", "https://evil.example")],
        &[ours, ("origin", "null")],
    ] {
        assert_eq!(
            attempt(headers).await.expect(403).code(),
            "crossSite",
            "{headers:?}"
        );
    }
    admin.get("/api/v1/backupplans/default/evil").await.expect(404);
    attempt(&[ours, ("origin", "https://holdfast.example")])
        .await
        .expect(201);
    admin.delete("/api/v1/backupplans/default/evil").await.expect(202);

    let entries = app.database.newest_audit(20).await.unwrap();
    let refused = entries
        .iter()
        .filter(|e| e.entry.outcome.starts_with("crossSite"))
        .count();
    assert_eq!(refused, 6, "attempts are in the audit too");
}

#[tokio::test]
async fn namespace_user_sees_the_own_namespace_and_no_other() {
    let app = TestApp::new().await;
    bind_namespace_user(app.plane, "team-own", "robot").await;
    let robot = app.robot("team-own", "robot").await;
    robot.get("/api/v1/backups?namespace=team-own").await.expect(200);
    for path in [
        "/api/v1/backups",
        "/api/v1/backups?namespace=default",
        "/api/v1/backups/default/x",
        "/api/v1/namespaces",
    ] {
        let answer = robot.get(path).await.expect(403);
        assert_eq!(answer.code(), "forbidden");
        let message = answer.json()["error"]["message"].to_string();
        assert!(
            message.contains("system:serviceaccount:team-own:robot"),
            "{message}"
        );
        assert!(
            message.contains("cannot list resource") || message.contains("cannot get resource"),
            "{message}"
        );
    }
    let backup = json!({"namespace": "default", "backupPlan": "p"});
    let answer = robot.post("/api/v1/backups", backup).await.expect(403);
    assert!(answer.body.contains("cannot create resource"), "{answer:?}");
}

#[tokio::test]
async fn headers_and_paths_of_a_client_do_not_reach_the_cluster() {
    let app = TestApp::new().await;
    bind_namespace_user(app.plane, "team-own", "robot").await;
    let robot = app.robot("team-own", "robot").await;
    let request = Request::get("/api/v1/backups")
        .header(header::COOKIE, &robot.cookie)
        .header("impersonate-user", "root")
        .header("impersonate-group", "system:masters")
        .header(header::AUTHORIZATION, "Bearer x");
    app.send(request.body(Body::empty()).unwrap()).await.expect(403);

    for path in [
        "team-own/..%2f..%2fsecrets",
        "..%2f..%2fsecrets/x",
        "team-own/x%3Fwatch=true",
        "team-own/X",
    ] {
        let answer = robot.get(&format!("/api/v1/backups/{path}")).await.expect(404);
        assert!(answer.body.contains("no Kubernetes name"), "{answer:?}");
    }
    robot.get("/api/v1/backups?namespace=..%2f..").await.expect(422);
}

#[tokio::test]
async fn every_write_is_in_the_audit_with_its_outcome() {
    let app = TestApp::new().await;
    bind_namespace_user(app.plane, "team-audit", "robot").await;
    let robot = app.robot("team-audit", "robot").await;
    let backup = json!({"namespace": "team-audit", "name": "one", "backupPlan": "p"});
    robot.post("/api/v1/backups", backup).await.expect(201);
    robot
        .post(
            "/api/v1/backups",
            json!({"namespace": "default", "name": "two", "backupPlan": "p"}),
        )
        .await
        .expect(403);
    robot
        .get("/api/v1/backups?namespace=team-audit")
        .await
        .expect(200);
    app.sign_in(json!({"method": "token", "token": "wrong"}))
        .await
        .expect(401);

    let seen: Vec<_> = app
        .database
        .newest_audit(20)
        .await
        .unwrap()
        .into_iter()
        .rev()
        .map(|e| (e.entry.method, e.entry.subject, e.entry.status, e.entry.user))
        .collect();
    let user = "system:serviceaccount:team-audit:robot";
    let expected = [
        ("POST", "session", 201, user),
        ("POST", "backups/team-audit/one", 201, user),
        ("POST", "backups/default/two", 403, user),
        ("POST", "session", 401, ""),
    ];
    let expected = expected.map(|(m, s, c, u)| (m.to_owned(), s.to_owned(), c, u.to_owned()));
    assert_eq!(seen, expected);
    let lines = app.audit.lines();
    let written: Vec<_> = lines
        .iter()
        .map(|line| (&line["subject"], &line["status"]))
        .collect();
    assert_eq!(written.len(), 4, "the same on standard output");
    assert!(
        written.contains(&(&json!("backups/default/two"), &json!(403))),
        "{written:?}"
    );
}

#[tokio::test]
async fn sign_in_body_is_limited() {
    let app = TestApp::new().await;
    let huge = "x".repeat(900 * 1024);
    let answer = app
        .sign_in(json!({"method": "kubeconfig", "kubeconfig": huge}))
        .await
        .expect(413);
    assert_eq!(answer.code(), "tooLarge");
    let mut request = write(
        Method::POST,
        "/api/v1/backups",
        Some(json!({"x": "y".repeat(1100 * 1024)})),
    );
    request.builder = request.builder.header(header::COOKIE, app.admin().await.cookie);
    assert_eq!(app.send(request.body_of()).await.expect(413).code(), "tooLarge");
}
