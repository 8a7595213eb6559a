//! A folder behind a depot, reached by HTTPS on this machine.
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_target::{
    Creation, DirectoryTarget, ErrorKind, Key, ListRequest, Patience, Prefix, StoreId, Target,
    depot::{DepotAccess, DepotCredentials, DepotTarget, serve},
    testing::{LossyProxy, SmallDisk, conformance},
};
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Served {
    access: DepotAccess,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Served {
    fn start(path: &Path) -> Self {
        let credentials = DepotCredentials::make("depot.test.svc", Timestamp::now()).unwrap();
        Self::start_with(path, &credentials, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn start_with(path: &Path, credentials: &DepotCredentials, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let stop = CancellationToken::new();
        let access = DepotAccess {
            address: listener.local_addr().unwrap(),
            name: "depot.test.svc".to_owned(),
            credentials: credentials.clone(),
            place: "claim c".to_owned(),
        };
        let (path, credentials, stopped) = (path.to_owned(), credentials.clone(), stop.clone());
        let server = tokio::spawn(async move {
            serve(&path, &credentials, listener, stopped).await.unwrap();
        });
        Self { access, stop, server }
    }

    async fn end(self) {
        self.stop.cancel();
        self.server.await.unwrap();
    }
}

fn key(name: &str) -> Key {
    format!("holdfast/{name}").parse().unwrap()
}

async fn made(path: &Path) -> StoreId {
    DirectoryTarget::create(path).await.unwrap().id().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let id = made(folder.path()).await;
    let served = Served::start(folder.path());
    assert_eq!(DepotTarget::adopt(&served.access).await.unwrap(), id);
    conformance(Arc::new(DepotTarget::connect(&served.access, id).unwrap())).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_mount_becomes_a_store_and_only_that_store_is_served() {
    let empty = tempfile::tempdir().unwrap();
    let served = Served::start(empty.path());
    let refused = DepotTarget::adopt(&served.access).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotMounted, "{refused}");
    served.end().await;

    let disk = SmallDisk::mount(16);
    let served = Served::start(disk.path());
    let id = DepotTarget::adopt(&served.access).await.unwrap();
    let target = DepotTarget::connect(&served.access, id.clone()).unwrap();
    target.put(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    let other = "0a0b0c0d-0000-4000-8000-000000000001".parse().unwrap();
    let other = DepotTarget::connect(&served.access, other).unwrap();
    let refused = other.put(&key("b"), Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotMounted);
    assert!(refused.to_string().contains(&id.to_string()), "{refused}");
    assert!(!disk.path().join("holdfast/b").exists());

    // The mark is lost while the depot runs: its probe says so, and from then on nothing is written.
    std::fs::remove_file(disk.path().join("holdfast/.store.json")).unwrap();
    let refused = target.probe().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotMounted, "{refused}");
    let refused = target.put(&key("c"), Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotMounted, "{refused}");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let id = made(folder.path()).await;
    let served = Served::start(folder.path());
    // Another certificate under the same name, with another token.
    let forged = DepotAccess {
        credentials: DepotCredentials::make("depot.test.svc", Timestamp::now()).unwrap(),
        ..served.access.clone()
    };
    let impatient = Patience {
        unreachable: Duration::ZERO,
        throttled: Duration::ZERO,
    };
    let stranger = DepotTarget::connect(&forged, id.clone())
        .unwrap()
        .with_patience(impatient);
    let refused = stranger.head(&key("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UntrustedCertificate, "{refused}");
    // The right certificate with another token.
    let mut files = served.access.credentials.expose_files();
    let real = files.insert("token", "guessed".to_owned()).unwrap();
    let file = |name: &str| files.get(name).map(|text| text.clone().into_bytes());
    let guesser = DepotAccess {
        credentials: DepotCredentials::from_files(file).unwrap(),
        ..served.access.clone()
    };
    let guesser = DepotTarget::connect(&guesser, id)
        .unwrap()
        .with_patience(impatient);
    let refused = guesser
        .put(&key("a"), Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
    assert!(!refused.to_string().contains(&real) && !format!("{guesser:?}").contains("guessed"));
    assert!(!folder.path().join("holdfast/a").exists());
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_depot_that_comes_back_is_found_and_one_that_is_gone_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let id = made(folder.path()).await;
    let served = Served::start(folder.path());
    let (access, credentials) = (served.access.clone(), served.access.credentials.clone());
    let target = DepotTarget::connect(&access, id).unwrap();
    target.put(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    served.end().await;
    let path = folder.path().to_owned();
    let back = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Served::start_with(&path, &credentials, access.address)
    });
    assert_eq!(target.get(&key("a"), 10).await.unwrap().body, "x");
    back.await.unwrap().end().await;
    let begun = Instant::now();
    let gone = target.get(&key("a"), 10).await.unwrap_err();
    assert!(
        gone.kind() == ErrorKind::Unreachable && gone.is_retryable(),
        "{gone}"
    );
    assert!(gone.to_string().contains("depot"), "{gone}");
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_make_a_rival_of_oneself() {
    let folder = tempfile::tempdir().unwrap();
    let id = made(folder.path()).await;
    let served = Served::start(folder.path());
    let proxy = LossyProxy::start(served.access.address).await;
    let access = DepotAccess {
        address: proxy.address(),
        ..served.access.clone()
    };
    let target = DepotTarget::connect(&access, id).unwrap();
    target.head(&key("new")).await.unwrap_err();
    proxy.lose(1);
    let created = target
        .put_new(&key("new"), Bytes::from_static(b"mine"))
        .await
        .unwrap();
    assert!(matches!(created, Creation::Created(meta) if meta.size == 4));
    assert_eq!(proxy.left(), 0, "the answer was to be lost");
    let upload = target.begin_upload(&key("image")).await.unwrap();
    let part = target
        .upload_part(
            &upload,
            holdfast_target::PartNumber(1),
            0,
            Bytes::from_static(b"data"),
        )
        .await
        .unwrap();
    proxy.lose(1);
    let meta = target.complete_upload(&upload, &[part], false).await.unwrap();
    assert_eq!((meta.size, proxy.left()), (4, 0));
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_sent_and_much_at_once_waits() {
    let folder = tempfile::tempdir().unwrap();
    let id = made(folder.path()).await;
    let served = Served::start(folder.path());
    let target = DepotTarget::connect(&served.access, id).unwrap();
    let large = Bytes::from(vec![7; (160 << 20) + 1]);
    let refused = target.put(&key("large"), large.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooLarge);
    // More than the depot holds at once.
    let files = (0..6).map(|i| {
        let (target, body) = (target.clone(), large.slice(..96 << 20));
        async move { target.put(&key(&format!("f{i}")), body).await.unwrap() }
    });
    futures::future::join_all(files).await;
    let read = target.get(&key("f5"), 200 << 20).await.unwrap();
    assert_eq!(read.body, large.slice(..96 << 20));
    let all: Prefix = "holdfast/".parse().unwrap();
    assert_eq!(
        target.list(&ListRequest::all(all)).await.unwrap().objects.len(),
        6
    );
    served.end().await;
}
