use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_target::{
    Connection, Creation, ErrorKind, Key, ListRequest, PartNumber, Patience, Prefix, S3Target, SecretKey,
    Target, TargetError,
    testing::{Gateway, GatewayOptions, LossyProxy, SmallDisk},
};

fn key(name: &str) -> Key {
    format!("holdfast/test/{name}").parse().unwrap()
}

fn connect(connection: &Connection) -> S3Target {
    S3Target::connect(connection).unwrap()
}

/// Every call fails with this kind, within 10 s and with a message that names the place and holds no secret.
async fn all_fail(target: &S3Target, expected: ErrorKind) {
    fn check<T: std::fmt::Debug>(
        what: &str,
        begun: Instant,
        result: Result<T, TargetError>,
        expected: ErrorKind,
    ) {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), expected, "{what}: {error}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what} took {:?}",
            begun.elapsed()
        );
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("bucket ") && !text.contains("secret-of-nobody"),
            "{what}: {text}"
        );
    }
    let now = Instant::now;
    let begun = now();
    check("probe", begun, target.probe().await, expected);
    let begun = now();
    check(
        "put",
        begun,
        target.put(&key("a"), Bytes::from_static(b"x")).await,
        expected,
    );
    let begun = now();
    check("get", begun, target.get(&key("a"), 10).await, expected);
    let begun = now();
    check("head", begun, target.head(&key("a")).await, expected);
    let begun = now();
    check(
        "list",
        begun,
        target.list(&ListRequest::all(Prefix::root())).await,
        expected,
    );
    let begun = now();
    check(
        "begin_upload",
        begun,
        target.begin_upload(&key("a")).await,
        expected,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_told() {
    let gateway = Gateway::start();
    let wrong_secret = Connection {
        secret_key: SecretKey::new("secret-of-nobody"),
        ..gateway.connection()
    };
    all_fail(&connect(&wrong_secret), ErrorKind::WrongCredentials).await;
    let wrong_key = Connection {
        access_key: "nobody".to_owned(),
        ..gateway.connection()
    };
    all_fail(&connect(&wrong_key), ErrorKind::WrongCredentials).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_told() {
    let gateway = Gateway::start();
    let missing = Connection {
        bucket: "nowhere".to_owned(),
        ..gateway.connection()
    };
    all_fail(&connect(&missing), ErrorKind::BucketMissing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_endpoint_is_told_in_ten_seconds() {
    let mut gateway = Gateway::start();
    let target = gateway.target();
    gateway.kill();
    all_fail(&target, ErrorKind::Unreachable).await;
    // An address that never answers (documentation range, RFC 5737), and a name that nobody has.
    for url in ["http://192.0.2.1:9000", "http://s3.invalid"] {
        let connection = Connection {
            url: Some(url.to_owned()),
            ..gateway.connection()
        };
        let begun = Instant::now();
        let error = connect(&connection).probe().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        assert!(
            begun.elapsed() < Duration::from_secs(11),
            "{url} took {:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_never_answers_is_told_in_ten_seconds() {
    // The kernel accepts the connections, nobody reads them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = Connection {
        url: Some(format!("http://{}", silent.local_addr().unwrap())),
        region: "us-east-1".to_owned(),
        bucket: "backups".to_owned(),
        access_key: "a".to_owned(),
        secret_key: SecretKey::new("secret-of-nobody"),
        ca: None,
        skip_cert_verification: false,
    };
    let target = connect(&connection);
    let (begun, key) = (Instant::now(), key("a"));
    let calls = tokio::join!(target.probe(), target.get(&key, 32 << 20), target.head(&key));
    let kinds = [
        calls.0.unwrap_err().kind(),
        calls.1.unwrap_err().kind(),
        calls.2.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Unreachable; 3]);
    assert!(
        begun.elapsed() < Duration::from_secs(11),
        "it took {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_told() {
    let gateway = Gateway::start_with(GatewayOptions {
        tls: true,
        ..GatewayOptions::default()
    });
    let other = Gateway::start_with(GatewayOptions {
        tls: true,
        ..GatewayOptions::default()
    });
    let wrong_ca = Connection {
        ca: other.connection().ca,
        ..gateway.connection()
    };
    all_fail(&connect(&wrong_ca), ErrorKind::UntrustedCertificate).await;
    let system = Connection {
        ca: None,
        ..gateway.connection()
    };
    let error = connect(&system).probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UntrustedCertificate, "{error}");
    let broken = Connection {
        ca: Some("no certificate".to_owned()),
        ..gateway.connection()
    };
    assert!(
        S3Target::connect(&broken)
            .unwrap_err()
            .to_string()
            .contains("holds no certificate")
    );
}

#[test]
fn a_url_with_credentials_or_another_scheme_is_refused_and_not_repeated() {
    for url in [
        "http://user:secret-of-nobody@host",
        "ftp://host",
        "host:9000",
        "http://host/?a=secret-of-nobody",
    ] {
        let connection = Connection {
            url: Some(url.to_owned()),
            region: "us-east-1".to_owned(),
            bucket: "backups".to_owned(),
            access_key: "a".to_owned(),
            secret_key: SecretKey::new("b"),
            ca: None,
            skip_cert_verification: false,
        };
        let error = S3Target::connect(&connection).unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("secret-of-nobody"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_told() {
    let disk = SmallDisk::mount(8);
    let data = disk.path().to_owned();
    let gateway = Gateway::start_with(GatewayOptions {
        data: Some(data),
        ..GatewayOptions::default()
    });
    let target = gateway.target();
    let begun = Instant::now();
    let error = target
        .put(&key("large"), Bytes::from(vec![7; 12 << 20]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let upload = target.begin_upload(&key("large")).await.unwrap();
    let mut number = 1;
    let error = loop {
        match target
            .upload_part(
                &upload,
                PartNumber(number),
                (u64::from(number) - 1) * (5 << 20),
                Bytes::from(vec![7; 5 << 20]),
            )
            .await
        {
            Ok(_) if number < 5 => number += 1,
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "it took {:?}",
        begun.elapsed()
    );
    target.abort_upload(&upload).await.unwrap();
    drop(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_not_a_lost_write() {
    let gateway = Gateway::start();
    let proxy = LossyProxy::start(gateway.address()).await;
    let url = Some(format!("http://{}", proxy.address()));
    let target = connect(&Connection {
        url,
        ..gateway.connection()
    });
    target.probe().await.unwrap();

    proxy.lose(1);
    let created = target
        .put_new(&key("chain"), Bytes::from_static(b"mine"))
        .await
        .unwrap();
    assert_eq!(proxy.left(), 0, "an answer was lost");
    assert!(
        matches!(created, Creation::Created(meta) if meta.size == 4),
        "what we wrote is ours"
    );

    gateway
        .target()
        .put_new(&key("taken"), Bytes::from_static(b"theirs"))
        .await
        .unwrap();
    proxy.lose(1);
    let outcome = target
        .put_new(&key("taken"), Bytes::from_static(b"mine"))
        .await
        .unwrap();
    assert_eq!(outcome, Creation::Exists, "what another wrote is not");

    let upload = target.begin_upload(&key("image")).await.unwrap();
    proxy.lose(1);
    let part = target
        .upload_part(&upload, PartNumber(1), 0, Bytes::from_static(b"part"))
        .await
        .unwrap();
    proxy.lose(1);
    let meta = target.complete_upload(&upload, &[part], true).await.unwrap();
    assert_eq!((meta.size, proxy.left()), (4, 0));
    proxy.lose(1);
    target.delete(&[key("image")]).await.unwrap();
    assert_eq!(
        target.head(&key("image")).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_is_waited_for() {
    let mut gateway = Gateway::start();
    let patience = Patience {
        unreachable: Duration::from_secs(30),
        ..Patience::TRANSFER
    };
    let target = gateway.target().with_patience(patience);
    gateway.kill();
    let waiting = tokio::spawn(async move { target.put(&key("late"), Bytes::from_static(b"x")).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    gateway.restart();
    assert_eq!(waiting.await.unwrap().unwrap().size, 1);
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_leaves_nothing_not_even_a_version() {
    let gateway = Gateway::start();
    gateway.enable_versioning().await;
    let target = gateway.target();
    target
        .put(&key("versioned"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    // Somebody else's newer version moves ours to where the gateway keeps old ones.
    let overwrite = target.client().put_object().bucket("backups");
    let overwrite = overwrite.key(key("versioned").as_str());
    overwrite.send().await.unwrap();
    let before = (
        files_below(&gateway.bucket_folder()),
        files_below(&gateway.versions_folder()),
    );
    assert!(!before.1.is_empty(), "versioning works here");
    target.probe().await.unwrap();
    assert_eq!(
        (
            files_below(&gateway.bucket_folder()),
            files_below(&gateway.versions_folder())
        ),
        before
    );
}
