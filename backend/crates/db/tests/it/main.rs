//! The same expectations on both engines.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use holdfast_db::{Database, Error, NewAuditEntry, NewSession, TokenHash, UserInfo};
use jiff::{SignedDuration, Timestamp};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn session(hash: &str, ends: i64) -> NewSession {
    NewSession {
        token_hash: TokenHash(hash.into()),
        user: UserInfo {
            name: "anna".into(),
            uid: Some("u-1".into()),
            groups: vec!["platform".into(), "quo\"te".into()],
            extra: [("scopes".to_owned(), vec!["one".to_owned()])].into(),
        },
        method: "token".into(),
        created_at: at(0),
        expires_at: at(ends),
    }
}

/// Every rule of the crate; `url` must be an empty database.
async fn conforms(url: &str) {
    let db = Database::open(url).await.unwrap();
    db.ping().await.unwrap();

    // A session lives until its end, and no longer than the idle time after its last use.
    let stored = db.insert_session(session("a", 10_000)).await.unwrap();
    let hash = TokenHash("a".into());
    assert_eq!(
        db.find_session(&hash, at(10), HOUR).await.unwrap().as_ref(),
        Some(&stored)
    );
    assert_eq!(stored.user, session("a", 10_000).user);
    assert_eq!(
        db.find_session(&TokenHash("b".into()), at(10), HOUR)
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        db.find_session(&hash, at(3600), HOUR).await.unwrap(),
        None,
        "idle for an hour"
    );
    db.touch_session(stored.id, at(3000)).await.unwrap();
    assert!(db.find_session(&hash, at(3600), HOUR).await.unwrap().is_some());
    db.touch_session(stored.id, at(9_999)).await.unwrap();
    assert_eq!(
        db.find_session(&hash, at(10_000), HOUR).await.unwrap(),
        None,
        "past its end"
    );

    // Two sessions never share a cookie.
    assert!(matches!(
        db.insert_session(session("a", 10_000)).await,
        Err(Error::Engine(_))
    ));

    // Sweeping takes what is over and nothing else.
    db.insert_session(session("idle", 90_000)).await.unwrap();
    let kept = db.insert_session(session("kept", 90_000)).await.unwrap();
    db.touch_session(kept.id, at(9_999)).await.unwrap();
    assert_eq!(db.sweep_sessions(at(10_000), HOUR).await.unwrap(), 2);
    assert_eq!(db.count_sessions().await.unwrap(), 1);
    db.delete_session(kept.id).await.unwrap();
    db.delete_session(kept.id).await.unwrap();
    assert_eq!(db.count_sessions().await.unwrap(), 0);

    audit_conforms(&db).await;

    // Many at once, and a second opening of the same database, as replicas do.
    let (first, second) = tokio::join!(Database::open(url), Database::open(url));
    let (first, second) = (first.unwrap(), second.unwrap());
    let writers = (0..40).map(|n| {
        let db = if n % 2 == 0 { first.clone() } else { second.clone() };
        tokio::spawn(async move {
            db.insert_session(session(&format!("many-{n}"), 90_000))
                .await
                .map(|_| ())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(db.count_sessions().await.unwrap(), 40);
}

async fn audit_conforms(db: &Database) {
    let entry = |seconds: i64, status| NewAuditEntry {
        at: at(seconds),
        request_id: format!("request-{seconds}"),
        session: None,
        user: "anna".into(),
        remote: "192.0.2.1".into(),
        method: "POST".into(),
        route: "/api/v1/backups".into(),
        subject: "backups/team-a/one".into(),
        status,
        outcome: String::new(),
    };
    db.insert_audit(entry(1, 201)).await.unwrap();
    db.insert_audit(entry(2, 403)).await.unwrap();
    let newest = db.newest_audit(10).await.unwrap();
    assert_eq!(
        newest.iter().map(|e| e.entry.clone()).collect::<Vec<_>>(),
        [entry(2, 403), entry(1, 201)]
    );
    assert_eq!(db.sweep_audit(at(2)).await.unwrap(), 1);
    assert_eq!(db.newest_audit(10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&format!(
        "sqlite://{}/made/on/demand/holdfast.db",
        folder.path().display()
    ))
    .await;
    let wal = folder.path().join("made/on/demand/holdfast.db-wal");
    assert!(wal.exists(), "write-ahead logging is on");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_conforms() {
    let server = holdfast_testkit::Postgres::start().await.unwrap();
    conforms(server.url()).await;
}

#[tokio::test]
async fn other_engines_are_refused() {
    assert!(matches!(
        Database::open("mysql://localhost/x").await,
        Err(Error::UnknownEngine)
    ));
}
