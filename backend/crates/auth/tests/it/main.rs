//! Sign-in and impersonation against a real API server.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_auth::{Cluster, Credential, IDLE, MAX_AGE, Sessions, SignInError, kubeconfig};
use holdfast_db::{Database, UserInfo};
use holdfast_testkit::{ClientCertificate, ControlPlane, shared};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

const HOUR: Duration = Duration::from_secs(3600);

/// The cluster as the server sees it: its own account may impersonate and nothing else.
async fn cluster(plane: &ControlPlane) -> Cluster {
    let role: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "server"},
        "rules": [
            {"apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["impersonate"]},
        ],
    }))
    .unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "server"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "server"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "holdfast", "name": "server"}],
    }))
    .unwrap();
    let admin = plane.client().unwrap();
    // Tests share the API server; the second one finds both.
    let _ = Api::all(admin.clone())
        .create(&PostParams::default(), &role)
        .await;
    let _ = Api::all(admin).create(&PostParams::default(), &binding).await;
    let mut config = plane.anonymous_config();
    let token = plane
        .service_account_token("holdfast", "server", HOUR)
        .await
        .unwrap();
    config.auth_info.token = Some(token.into());
    Cluster::new("test", config).unwrap()
}

fn of_certificate(plane: &ControlPlane, certificate: &ClientCertificate) -> Credential {
    kubeconfig::credential(&plane.kubeconfig(certificate), None).unwrap()
}

#[tokio::test]
async fn token_holder_is_known_and_the_session_ends_with_the_token() {
    let plane = shared().await;
    let cluster = cluster(plane).await;
    let token = plane
        .service_account_token("team-a", "robot", HOUR)
        .await
        .unwrap();
    let (user, ends) = cluster
        .identify(&Credential::token(&token, "token").unwrap(), Timestamp::now())
        .await
        .unwrap();
    assert_eq!(user.name, "system:serviceaccount:team-a:robot");
    assert!(
        user.groups.contains(&"system:serviceaccounts:team-a".to_owned()),
        "{user:?}"
    );
    assert!(user.uid.is_some());
    let left = ends.unwrap().duration_since(Timestamp::now());
    assert!(
        left > SignedDuration::from_mins(55) && left < SignedDuration::from_mins(61),
        "{left}"
    );
}

#[tokio::test]
async fn certificate_of_masters_becomes_our_group() {
    let plane = shared().await;
    let certificate = plane
        .client_certificate("root", Some("system:masters"), HOUR)
        .unwrap();
    let credential = of_certificate(plane, &certificate);
    let cluster = cluster(plane).await;
    let (user, ends) = cluster.identify(&credential, Timestamp::now()).await.unwrap();
    assert_eq!(user.name, "root");
    assert!(
        user.groups.contains(&"holdfast:administrators".to_owned()),
        "{user:?}"
    );
    assert!(!user.groups.contains(&"system:masters".to_owned()), "{user:?}");
    assert!(ends.unwrap() <= Timestamp::now() + SignedDuration::from_hours(1));

    // Nobody has bound that group here, so the former master may do nothing.
    let namespaces: Api<Namespace> = Api::all(cluster.client_for(&user).unwrap());
    let refused = namespaces
        .list(&Default::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("\"root\" cannot list resource \"namespaces\""),
        "{refused}"
    );
}

#[tokio::test]
async fn foreign_credentials_are_not_accepted() {
    let plane = shared().await;
    let cluster = cluster(plane).await;
    let other = ControlPlane::start().await.unwrap();
    let certificate = other
        .client_certificate("root", Some("system:masters"), HOUR)
        .unwrap();
    let token = other
        .service_account_token("holdfast", "server", HOUR)
        .await
        .unwrap();
    for credential in [
        of_certificate(&other, &certificate),
        Credential::token(&token, "token").unwrap(),
        Credential::token("garbage", "token").unwrap(),
    ] {
        let answer = cluster.identify(&credential, Timestamp::now()).await;
        assert!(matches!(answer, Err(SignInError::NotAccepted(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn the_endpoint_of_the_kubeconfig_is_never_contacted() {
    let plane = shared().await;
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let certificate = plane.client_certificate("anna", None, HOUR).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&plane.kubeconfig(&certificate)).unwrap();
    let elsewhere = &mut file["clusters"][0]["cluster"];
    elsewhere["server"] = format!("https://{}", trap.local_addr().unwrap()).into();
    elsewhere["certificate-authority-data"] = STANDARD.encode("not the real one").into();
    let credential = kubeconfig::credential(&file.to_string(), None).unwrap();
    let (user, _) = cluster(plane)
        .await
        .identify(&credential, Timestamp::now())
        .await
        .unwrap();
    assert_eq!(user.name, "anna");
    let contact = tokio::time::timeout(Duration::from_millis(200), trap.accept()).await;
    assert!(contact.is_err(), "the server in the kubeconfig was contacted");
}

#[tokio::test]
async fn expired_certificate_is_refused_before_it_is_sent() {
    let plane = shared().await;
    let certificate = plane
        .client_certificate("anna", None, Duration::from_secs(60))
        .unwrap();
    let later = Timestamp::now() + SignedDuration::from_mins(2);
    let answer = cluster(plane)
        .await
        .identify(&of_certificate(plane, &certificate), later)
        .await;
    assert!(matches!(answer, Err(SignInError::Expired(_))), "{answer:?}");
}

#[tokio::test]
async fn requests_act_as_the_person_in_every_respect() {
    let plane = shared().await;
    let user = UserInfo {
        name: "anna".into(),
        uid: Some("u-1".into()),
        groups: vec!["platform".into(), "system:authenticated".into()],
        extra: [(
            "example.org/scopes".to_owned(),
            vec!["one".to_owned(), "two".to_owned()],
        )]
        .into(),
    };
    let reviews: Api<SelfSubjectReview> = Api::all(cluster(plane).await.client_for(&user).unwrap());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .unwrap();
    let seen = review.status.unwrap().user_info.unwrap();
    assert_eq!(seen.username.as_deref(), Some("anna"));
    assert_eq!(seen.uid.as_deref(), Some("u-1"));
    assert_eq!(seen.groups.unwrap(), user.groups);
    assert_eq!(seen.extra.unwrap(), user.extra);
}

#[tokio::test]
async fn names_that_would_break_out_of_a_header_are_refused() {
    let user = UserInfo {
        name: "anna\r\nImpersonate-Group: system:masters".into(),
        ..UserInfo::default()
    };
    let answer = cluster(shared().await).await.client_for(&user);
    assert!(matches!(answer.err(), Some(SignInError::UnusableName)));
}

async fn sessions() -> (tempfile::TempDir, Sessions) {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&format!("sqlite://{}/s.db", folder.path().display()))
        .await
        .unwrap();
    (folder, Sessions::new(database))
}

fn anna() -> UserInfo {
    UserInfo {
        name: "anna".into(),
        ..UserInfo::default()
    }
}

#[tokio::test]
async fn session_ends_with_its_credential_and_after_half_a_day_at_the_latest() {
    let (_folder, sessions) = sessions().await;
    let now = Timestamp::now();
    let soon = now + SignedDuration::from_mins(10);
    let (cookie, session) = sessions.start(anna(), "token", Some(soon), now).await.unwrap();
    assert_eq!(session.expires_at.as_millisecond(), soon.as_millisecond());
    assert!(
        sessions
            .find(cookie.expose(), soon - SignedDuration::from_secs(1))
            .await
            .unwrap()
            .is_some()
    );
    assert!(sessions.find(cookie.expose(), soon).await.unwrap().is_none());

    for ends in [None, Some(now + SignedDuration::from_hours(1000))] {
        let (_, session) = sessions.start(anna(), "token", ends, now).await.unwrap();
        assert_eq!(
            session.expires_at.as_millisecond(),
            (now + MAX_AGE).as_millisecond()
        );
    }
}

#[tokio::test]
async fn idle_session_ends_and_use_keeps_it() {
    let (_folder, sessions) = sessions().await;
    let now = Timestamp::now();
    let (cookie, session) = sessions.start(anna(), "token", None, now).await.unwrap();
    let used = now + IDLE - SignedDuration::from_secs(1);
    assert!(sessions.find(cookie.expose(), used).await.unwrap().is_some());
    assert!(
        sessions
            .find(cookie.expose(), now + IDLE)
            .await
            .unwrap()
            .is_some(),
        "it was used meanwhile"
    );
    assert!(
        sessions
            .find(cookie.expose(), used + IDLE + IDLE)
            .await
            .unwrap()
            .is_none()
    );
    sessions.end(&session).await.unwrap();
    assert!(sessions.find(cookie.expose(), now).await.unwrap().is_none());
}

#[tokio::test]
async fn the_database_holds_no_cookie() {
    let (folder, sessions) = sessions().await;
    let (cookie, _) = sessions
        .start(anna(), "token", None, Timestamp::now())
        .await
        .unwrap();
    assert_eq!(cookie.expose().len(), 43, "256 bits in base64");
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("anna"), "the session is in these files");
    assert!(!holds(cookie.expose()));
}
