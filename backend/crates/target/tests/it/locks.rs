//! Versions and object lock: what somebody with all rights of the store can do to us, and what he cannot.
use std::sync::Arc;

use aws_sdk_s3::{
    primitives::{ByteStream, DateTime},
    types::{ObjectLockRetention, ObjectLockRetentionMode},
};
use bytes::Bytes;
use holdfast_target::{
    Creation, ErrorKind, Key, ListRequest, ObjectMeta, PartNumber, Pin, Prefix, RetentionMode, S3Target,
    Target, list_all,
    testing::{Gateway, Minio, conformance},
};
use jiff::{SignedDuration, Timestamp};

fn key(name: &str) -> Key {
    format!("holdfast/test/{name}").parse().unwrap()
}

/// A whole second, so many hours from now.
fn in_hours(hours: i64) -> Timestamp {
    let then = Timestamp::now() + SignedDuration::from_hours(hours);
    Timestamp::from_second(then.as_second()).unwrap()
}

/// What the owner of the store does, past all our promises.
struct Root<'a>(&'a S3Target, &'static str);

impl Root<'_> {
    async fn overwrite(&self, key: &Key, body: &'static [u8]) {
        let request = self.0.client().put_object().bucket(self.1).key(key.as_str());
        request.body(ByteStream::from_static(body)).send().await.unwrap();
    }

    async fn delete(&self, key: &Key) {
        let request = self.0.client().delete_object().bucket(self.1).key(key.as_str());
        assert_eq!(request.send().await.unwrap().delete_marker(), Some(true));
    }

    async fn delete_version(&self, meta: &ObjectMeta, bypass: bool) -> bool {
        let request = self
            .0
            .client()
            .delete_object()
            .bucket(self.1)
            .key(meta.key.as_str());
        let request = request.version_id(meta.version.as_ref().unwrap().as_str());
        let request = request.set_bypass_governance_retention(bypass.then_some(true));
        request.send().await.is_ok()
    }

    async fn retain(&self, meta: &ObjectMeta, mode: ObjectLockRetentionMode, until: Timestamp) -> bool {
        let retention = ObjectLockRetention::builder()
            .mode(mode)
            .retain_until_date(DateTime::from_secs(until.as_second()))
            .build();
        let request = self
            .0
            .client()
            .put_object_retention()
            .bucket(self.1)
            .key(meta.key.as_str());
        let request = request.version_id(meta.version.as_ref().unwrap().as_str());
        request
            .bypass_governance_retention(true)
            .retention(retention)
            .send()
            .await
            .is_ok()
    }

    /// Versions and delete markers of everything.
    async fn count(&self) -> (usize, usize) {
        let sent = self
            .0
            .client()
            .list_object_versions()
            .bucket(self.1)
            .send()
            .await
            .unwrap();
        (sent.versions().len(), sent.delete_markers().len())
    }
}

/// An object of two parts.
async fn image(target: &S3Target, key: &Key) -> ObjectMeta {
    let upload = target.begin_upload(key).await.unwrap();
    let large = Bytes::from(vec![1; 6 << 20]);
    let one = target
        .upload_part(&upload, PartNumber(1), 0, large)
        .await
        .unwrap();
    let rest = Bytes::from(vec![2; 1000]);
    let two = target
        .upload_part(&upload, PartNumber(2), 6 << 20, rest)
        .await
        .unwrap();
    target.complete_upload(&upload, &[two, one], true).await.unwrap()
}

/// Root's attempts on locked objects, and everything we still do with them.
async fn root_takes_nothing(target: &S3Target, bucket: &'static str) {
    let found = target.immutability().await.unwrap();
    assert!(
        found.versioned && found.lockable && found.default.is_none(),
        "{found:?}"
    );
    let root = Root(target, bucket);
    let document = target
        .put(&key("backup.json"), Bytes::from_static(b"ours"))
        .await
        .unwrap();
    let image = image(target, &key("image")).await;
    let until = in_hours(24);
    for meta in [&document, &image] {
        let version = meta.version.as_ref().unwrap();
        assert_eq!(target.locked_until(&meta.key, version).await.unwrap(), None);
        target.lock(&meta.key, version, in_hours(12)).await.unwrap();
        target.lock(&meta.key, version, until).await.unwrap();
        target.lock(&meta.key, version, in_hours(1)).await.unwrap();
        assert_eq!(
            target.locked_until(&meta.key, version).await.unwrap(),
            Some(until)
        );
        // What the protocol allows.
        root.overwrite(&meta.key, b"theirs").await;
        root.delete(&meta.key).await;
        // What it does not.
        assert!(!root.delete_version(meta, false).await && !root.delete_version(meta, true).await);
        assert!(
            !root
                .retain(meta, ObjectLockRetentionMode::Compliance, in_hours(1))
                .await
        );
        assert!(
            !root
                .retain(meta, ObjectLockRetentionMode::Governance, in_hours(48))
                .await
        );
        assert_eq!(
            target.locked_until(&meta.key, version).await.unwrap(),
            Some(until)
        );
    }
    still_there(target, &document, &image).await;

    // Writing the same again is no harm, and a name that looks free is not.
    let again = target
        .put(&document.key, Bytes::from_static(b"ours"))
        .await
        .unwrap();
    assert_eq!(again.pin(), document.pin());
    let before = root.count().await;
    let rival = target
        .put_new(&document.key, Bytes::from_static(b"rival"))
        .await
        .unwrap();
    assert_eq!(rival, Creation::Exists);
    let upload = target.begin_upload(&document.key).await.unwrap();
    let part = target
        .upload_part(&upload, PartNumber(1), 0, Bytes::from_static(b"rival"))
        .await;
    let made = target
        .complete_upload(&upload, &[part.unwrap()], true)
        .await
        .unwrap_err();
    assert_eq!(made.kind(), ErrorKind::Exists, "{made}");
    assert_eq!(root.count().await, before, "what came later is removed again");

    let free = target
        .put(&key("free"), Bytes::from_static(b"free"))
        .await
        .unwrap();
    let keys = [
        document.key.clone(),
        free.key.clone(),
        image.key.clone(),
        key("absent"),
    ];
    let error = target.delete(&keys).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert!(error.why().contains(&until.to_string()), "{error}");
    assert_eq!(
        target.head(&free.key).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(root.count().await, (2, 0), "only what is locked is left");
    still_there(target, &document, &image).await;
}

/// Both list and read as on the first day.
async fn still_there(target: &S3Target, document: &ObjectMeta, image: &ObjectMeta) {
    let listed = list_all(target, &"holdfast/test/".parse().unwrap(), 10)
        .await
        .unwrap();
    let pins = |metas: &[ObjectMeta]| metas.iter().map(ObjectMeta::pin).collect::<Vec<_>>();
    assert_eq!(pins(&listed), pins(&[document.clone(), image.clone()]));
    assert_eq!(listed[1].size, image.size);
    let read = target.get(&document.key, 100).await.unwrap();
    assert_eq!(
        (read.body, read.meta.pin()),
        (Bytes::from_static(b"ours"), document.pin())
    );
    assert_eq!(target.head(&image.key).await.unwrap().pin(), image.pin());
    let seam = (6 << 20) - 1..(6 << 20) + 1;
    let etag_only = Pin {
        version: None,
        ..image.pin()
    };
    for pin in [Some(&image.pin()), Some(&etag_only), None] {
        let read = target.get_range(&image.key, seam.clone(), pin).await.unwrap();
        assert_eq!(&read[..], [1, 2], "{pin:?}");
    }
    let upload = target.begin_upload(&key("merged")).await.unwrap();
    for (number, pin) in [(1, &image.pin()), (2, &etag_only)] {
        let copied = target.copy_part(&upload, PartNumber(number), 0, &image.key, 0..6 << 20, pin);
        assert_eq!(copied.await.unwrap().size, 6 << 20);
    }
    target.abort_upload(&upload).await.unwrap();
}

/// The promises of a store, and that nothing stays behind, not even an old version.
async fn conforms_and_leaves_nothing(target: &S3Target, bucket: &'static str) {
    conformance(Arc::new(target.clone())).await;
    target.probe().await.unwrap();
    assert_eq!(Root(target, bucket).count().await, (0, 0));
}

/// A name counts by its oldest version, on whatever page its versions lie.
async fn lists_name_the_oldest(target: &S3Target, bucket: &'static str) {
    let root = Root(target, bucket);
    let mut written = Vec::new();
    for n in 0..7u32 {
        let key = key(&format!("pages/{n}"));
        written.push(
            target
                .put(&key, Bytes::from(format!("first {n}")))
                .await
                .unwrap()
                .pin(),
        );
        for _ in 0..n % 4 {
            root.overwrite(&key, b"later").await;
        }
        if n % 3 == 1 {
            root.delete(&key).await;
        }
    }
    let gone = key("pages/8");
    root.overwrite(&gone, b"gone").await;
    target.delete(&[gone]).await.unwrap();
    for limit in [2, 3, 5, 1000] {
        let mut request = ListRequest::all("holdfast/test/pages/".parse().unwrap());
        request.limit = limit;
        let mut listed = Vec::new();
        loop {
            let page = target.list(&request).await.unwrap();
            assert!(page.objects.len() <= limit as usize, "{limit}");
            listed.extend(page.objects.iter().map(ObjectMeta::pin));
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        assert_eq!(listed, written, "with pages of {limit}");
    }
    let mut request = ListRequest::folders("holdfast/".parse().unwrap());
    request.limit = 5;
    assert_eq!(target.list(&request).await.unwrap().prefixes.len(), 1);
    let keys: Vec<Key> = list_all(target, &Prefix::root(), 10)
        .await
        .unwrap()
        .into_iter()
        .map(|object| object.key)
        .collect();
    target.delete(&keys).await.unwrap();
    assert_eq!(root.count().await, (0, 0));
}

/// A bucket that locks everything at once: probes do not pile up.
async fn probes_do_not_litter(target: &S3Target, bucket: &'static str) {
    let default = target.immutability().await.unwrap().default.unwrap();
    assert_eq!((default.mode, default.days), (RetentionMode::Compliance, 3));
    for _ in 0..3 {
        target.probe().await.unwrap();
        assert_eq!(Root(target, bucket).count().await, (1, 0));
    }
    let image = image(target, &key("image")).await;
    let version = image.version.as_ref().unwrap();
    target.lock(&image.key, version, in_hours(240)).await.unwrap();
    assert_eq!(
        target.locked_until(&image.key, version).await.unwrap(),
        Some(in_hours(240))
    );
    let error = target.delete(&[image.key]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
}

/// Points that were written before the bucket had versions.
async fn older_than_versions(target: &S3Target, bucket: &'static str) {
    let root = Root(target, bucket);
    let image = image(target, &key("image")).await;
    assert_eq!(image.version, None);
    target.enable_versioning().await;
    root.overwrite(&image.key, b"theirs").await;
    // Another client: this one still believes what it was told a moment ago.
    let fresh = target.clone().with_fresh_settings();
    let read = fresh
        .get_range(&image.key, 0..1, Some(&image.pin()))
        .await
        .unwrap();
    assert_eq!(&read[..], [1]);
    assert_eq!(fresh.head(&image.key).await.unwrap().etag, image.etag);
    fresh.delete(&[image.key]).await.unwrap();
    assert_eq!(root.count().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_takes_nothing_from_a_gateway() {
    let gateway = Gateway::start();
    let target = gateway.bucket("locked");
    target.create_locking_bucket(None).await;
    root_takes_nothing(&target, "locked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_versions_conforms() {
    let gateway = Gateway::start();
    gateway.enable_versioning().await;
    let target = gateway.target();
    conforms_and_leaves_nothing(&target, "backups").await;
    lists_name_the_oldest(&target, "backups").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_do_not_litter_a_gateway() {
    let gateway = Gateway::start();
    let target = gateway.bucket("forced");
    target.create_locking_bucket(Some(3)).await;
    probes_do_not_litter(&target, "forced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_older_than_the_versions_of_a_gateway_are_read() {
    let gateway = Gateway::start();
    older_than_versions(&gateway.target(), "backups").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_object_lock_nothing_is_locked() {
    let gateway = Gateway::start();
    let target = gateway.target();
    let version = holdfast_target::Version::new("v");
    let error = target.lock(&key("a"), &version, in_hours(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(target.locked_until(&key("a"), &version).await.unwrap(), None);
    assert!(!target.immutability().await.unwrap().versioned);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minio program: HOLDFAST_MINIO"]
async fn minio_does_all_that_too() {
    let minio = Minio::start();
    let target = minio.target("locked");
    target.create_locking_bucket(None).await;
    root_takes_nothing(&target, "locked").await;
    let target = minio.target("versioned");
    target.create_locking_bucket(None).await;
    lists_name_the_oldest(&target, "versioned").await;
    let target = minio.target("forced");
    target.create_locking_bucket(Some(3)).await;
    probes_do_not_litter(&target, "forced").await;
    let target = minio.target("older");
    target
        .client()
        .create_bucket()
        .bucket("older")
        .send()
        .await
        .unwrap();
    older_than_versions(&target, "older").await;
}
