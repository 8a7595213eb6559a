//! What a store says is not believed further than it can hurt.
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_target::{
    Connection, ETag, ErrorKind, Key, ListRequest, MAX_EMPTY_PAGES, MAX_LIST, PartNumber, Pin, Prefix,
    S3Target, SecretKey, Target, Upload, each_page, list_all,
    testing::{Answer, Gateway, ScriptedStore},
};

fn key(name: &str) -> Key {
    format!("holdfast/test/{name}").parse().unwrap()
}

/// A page of `names`, with what comes after it.
fn page(names: &[String], rest: &str) -> Answer {
    let contents: String = names
        .iter()
        .map(|name| format!("<Contents><Key>{name}</Key><Size>1</Size><ETag>\"e\"</ETag></Contents>"))
        .collect();
    let text = format!("<ListBucketResult>{contents}{rest}</ListBucketResult>");
    Answer::Body(200, text.into_bytes())
}

fn more(token: &str) -> String {
    format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_no_header_holds_end_in_an_error_and_not_in_a_panic() {
    let gateway = Gateway::start();
    let good = gateway.connection();
    let wrong = [
        Connection {
            access_key: "AKIA\nX-Evil: 1".to_owned(),
            ..good.clone()
        },
        Connection {
            access_key: "AKIA\u{0}".to_owned(),
            ..good.clone()
        },
        Connection {
            secret_key: SecretKey::new("secret-of\n-nobody"),
            ..good.clone()
        },
        Connection {
            region: "us-east-1\n".to_owned(),
            ..good.clone()
        },
        Connection {
            bucket: "back\nups".to_owned(),
            ..good.clone()
        },
        Connection {
            url: good.url.as_ref().map(|url| format!("{url}\n")),
            ..good.clone()
        },
        Connection {
            url: Some("http://ho\"st:9000".to_owned()),
            ..good.clone()
        },
    ];
    for connection in wrong {
        let error = S3Target::connect(&connection).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(
            !text.contains('\n') && !text.contains("AKIA") && !text.contains("secret-of"),
            "{text}"
        );
        let expected = if error.why().contains(" key ") {
            ErrorKind::WrongCredentials
        } else {
            ErrorKind::Invalid
        };
        assert_eq!(error.kind(), expected, "{text}");
    }
    // What a document on the target says goes into headers too.
    let target = gateway.target();
    let pin = Pin {
        etag: ETag::new("e\r\nx: y"),
        version: None,
    };
    target.put(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    let error = target.get_range(&key("a"), 0..1, Some(&pin)).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    let error = target
        .get_range(&key("a"), u64::MAX - 1..u64::MAX, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other, "this gateway ignores it: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_not_taken_into_memory() {
    let store = ScriptedStore::start(|request| match request {
        refused if refused.contains("/refused") => Answer::Endless(403, "<Error>"),
        _ => Answer::Endless(200, "<Contents><Key>holdfast/a</Key></Contents>"),
    })
    .await;
    let target = store.target();
    let begun = Instant::now();
    let list = target.list(&ListRequest::all(Prefix::root())).await.unwrap_err();
    let refused = target.get(&key("refused"), 1 << 40).await.unwrap_err();
    let upload = target.begin_upload(&key("a")).await.unwrap_err();
    for error in [list, refused, upload] {
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    }
    let object = target.get(&key("a"), 20 << 20).await.unwrap_err();
    assert_eq!(
        object.kind(),
        ErrorKind::TooLarge,
        "objects are counted by who reads them"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "it took {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_may_be_larger_than_an_answer() {
    let gateway = Gateway::start();
    let target = gateway.target();
    let body = Bytes::from(vec![7u8; 20 << 20]);
    target.put(&key("large"), body.clone()).await.unwrap();
    assert_eq!(target.get(&key("large"), 20 << 20).await.unwrap().body, body);
    assert_eq!(
        target.get_range(&key("large"), 1..20 << 20, None).await.unwrap(),
        body[1..]
    );
    assert_eq!(target.head(&key("large")).await.unwrap().size, 20 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_size_is_not_memory() {
    let store = ScriptedStore::start(|_| {
        let text = "HTTP/1.1";
        Answer::Body(200, text.into())
    })
    .await;
    let object = store
        .target()
        .get_range(&key("a"), 0..u64::MAX, None)
        .await
        .unwrap_err();
    assert_eq!(object.kind(), ErrorKind::Changed, "{object}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_one_is_refused() {
    let names = |count: u32| (0..count).map(|n| format!("holdfast/{n}")).collect::<Vec<_>>();
    let cases = [
        (page(&names(2), "<IsTruncated>true</IsTruncated>"), "not where"),
        (page(&names(2), &more(&"t".repeat(9000))), "too long"),
        (page(&names(MAX_LIST + 1), ""), "more on one page"),
        (page(&["elsewhere/a".to_owned()], ""), "lies elsewhere"),
    ];
    for (answer, expected) in cases {
        let store = ScriptedStore::start(move |_| answer.clone()).await;
        let error = list_all(&store.target(), &Prefix::root(), 100).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert!(error.why().contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_end_ends() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = |asked: &Arc<AtomicU32>| {
        let asked = asked.clone();
        move || asked.fetch_add(1, Ordering::SeqCst)
    };
    let next = count(&asked);
    let same = ScriptedStore::start(move |_| {
        next();
        page(&["holdfast/a".to_owned()], &more("same"))
    })
    .await;
    let error = list_all(&same.target(), &Prefix::root(), 1 << 30)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert_eq!(asked.swap(0, Ordering::SeqCst), 2, "the second answer shows it");

    let next = count(&asked);
    let empty = ScriptedStore::start(move |_| page(&[], &more(&next().to_string()))).await;
    let ended = each_page(
        &empty.target(),
        ListRequest::folders(Prefix::root()),
        1 << 30,
        |_| {},
    )
    .await;
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert_eq!(asked.swap(0, Ordering::SeqCst) as usize, MAX_EMPTY_PAGES);

    let next = count(&asked);
    let full = ScriptedStore::start(move |_| {
        let page_number = next();
        let names: Vec<_> = (0..1000).map(|n| format!("holdfast/{page_number}-{n}")).collect();
        page(&names, &more(&page_number.to_string()))
    })
    .await;
    let error = list_all(&full.target(), &Prefix::root(), 2500).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_copy_parts_is_told_from_one_that_fails() {
    let error = |code: &str| format!("<Error><Code>{code}</Code><Message>m</Message></Error>").into_bytes();
    let cases = [
        (Answer::Body(501, error("NotImplemented")), ErrorKind::Unsupported),
        (
            Answer::Body(405, error("MethodNotAllowed")),
            ErrorKind::Unsupported,
        ),
        // It stored the body, which is empty.
        (Answer::Body(200, Vec::new()), ErrorKind::Unsupported),
        // Copies take long, so stores begin the answer before they know how it ends.
        (Answer::Body(200, error("InternalError")), ErrorKind::Unreachable),
        (Answer::Body(412, error("PreconditionFailed")), ErrorKind::Changed),
    ];
    for (answer, expected) in cases {
        let said = answer.clone();
        let store = ScriptedStore::start(move |_| answer.clone()).await;
        let upload = Upload {
            key: key("merged"),
            id: "1".to_owned(),
        };
        let pin = Pin {
            etag: ETag::new("e"),
            version: None,
        };
        let copied = store
            .target()
            .copy_part(&upload, PartNumber(1), 0, &key("a"), 0..5 << 20, &pin)
            .await;
        assert_eq!(copied.unwrap_err().kind(), expected, "{said:?}");
    }
}
