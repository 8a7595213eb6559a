//! What every target does, whoever runs it. Each step says in its panic what was broken.
use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{
    Creation, ETag, ErrorKind, Key, ListRequest, Part, PartNumber, Pin, Prefix, Target, TargetError, Upload,
    layout::ROOT, list_all,
};

/// Runs the whole suite; leaves nothing behind.
pub async fn conformance(target: Arc<dyn Target>) {
    let root: Prefix = format!("{ROOT}conformance/{}/", uuid::Uuid::new_v4())
        .parse()
        .expect("a valid prefix");
    objects(&*target, &root).await;
    ranges(&*target, &root).await;
    lists(&*target, &root).await;
    races(&target, &root).await;
    uploads(&*target, &root).await;
    copies(&*target, &root).await;
    target.probe().await.expect("a probe of a healthy target");
    let left = list_all(&*target, &root, 1000).await.expect("a list");
    let keys: Vec<Key> = left.into_iter().map(|object| object.key).collect();
    target.delete(&keys).await.expect("deletion of many");
    assert!(
        list_all(&*target, &root, 0).await.expect("a list").is_empty(),
        "something was left"
    );
}

fn kind<T: std::fmt::Debug>(result: Result<T, TargetError>) -> ErrorKind {
    result.expect_err("this must fail").kind()
}

async fn objects(target: &dyn Target, root: &Prefix) {
    let key = root.key("object");
    assert_eq!(kind(target.head(&key).await), ErrorKind::NotFound);
    assert_eq!(kind(target.get(&key, 10).await), ErrorKind::NotFound);
    let body = Bytes::from_static(b"first");
    let meta = target.put(&key, body.clone()).await.expect("a put");
    assert_eq!((&meta.key, meta.size), (&key, 5));
    assert_eq!(
        target.head(&key).await.expect("a head").etag,
        meta.etag,
        "the ETag stays"
    );
    let read = target.get(&key, 5).await.expect("a get");
    assert_eq!((read.body, read.meta.etag), (body.clone(), meta.etag.clone()));
    assert_eq!(kind(target.get(&key, 4).await), ErrorKind::TooLarge);

    let again = target
        .put(&key, body.clone())
        .await
        .expect("the same bytes again");
    assert_eq!(again.etag, meta.etag);
    assert_eq!(
        kind(target.put(&key, Bytes::from_static(b"other")).await),
        ErrorKind::Exists
    );
    assert_eq!(
        target
            .put_new(&key, Bytes::from_static(b"other"))
            .await
            .expect("an answer"),
        Creation::Exists
    );
    assert_eq!(
        target.get(&key, 10).await.expect("a get").body,
        body,
        "nothing was overwritten"
    );

    let empty = root.key("empty");
    target.put(&empty, Bytes::new()).await.expect("an empty object");
    assert_eq!(
        target.get(&empty, 0).await.expect("an empty object").body,
        Bytes::new()
    );
    target
        .delete(&[empty.clone(), key.clone(), root.key("never-there")])
        .await
        .expect("deletion");
    assert_eq!(kind(target.head(&key).await), ErrorKind::NotFound);
    target
        .put_new(&key, body)
        .await
        .expect("a name that is free again");
}

/// A pin that no object has.
fn other_pin() -> Pin {
    Pin {
        etag: ETag::new("00000000000000000000000000000000"),
        version: None,
    }
}

async fn ranges(target: &dyn Target, root: &Prefix) {
    let key = root.key("ranges");
    let body: Bytes = (0..=255u8).cycle().take(100_000).collect::<Vec<_>>().into();
    let meta = target.put(&key, body.clone()).await.expect("a put");
    for range in [0..1, 0..100_000, 99_999..100_000, 4096..8192, 7..7] {
        let read = target
            .get_range(&key, range.clone(), Some(&meta.pin()))
            .await
            .expect("a range");
        assert_eq!(read, body[range.start as usize..range.end as usize], "{range:?}");
    }
    for beyond in [99_999..100_001, 100_000..100_001, 200_000..200_001] {
        assert_eq!(
            kind(target.get_range(&key, beyond, None).await),
            ErrorKind::Changed
        );
    }
    let other = other_pin();
    assert_eq!(
        kind(target.get_range(&key, 0..1, Some(&other)).await),
        ErrorKind::Changed
    );
    assert_eq!(
        kind(target.get_range(&root.key("absent"), 0..1, None).await),
        ErrorKind::NotFound
    );
}

async fn lists(target: &dyn Target, root: &Prefix) {
    let folder: Prefix = format!("{root}list/").parse().expect("a valid prefix");
    let mut keys: Vec<Key> = (0..7).map(|n| folder.key(&format!("a-{n}"))).collect();
    keys.extend((0..3).map(|n| folder.key(&format!("sub-{n}/x"))));
    keys.push(folder.key("sub-1/y"));
    keys.sort();
    for key in &keys {
        target
            .put(key, Bytes::from(key.to_string()))
            .await
            .expect("a put");
    }
    let all = list_all(target, &folder, 100).await.expect("a list");
    assert_eq!(
        all.iter().map(|object| object.key.clone()).collect::<Vec<_>>(),
        keys,
        "in key order"
    );
    assert!(
        all.iter()
            .all(|object| object.size == object.key.as_str().len() as u64 && object.modified > 0)
    );
    assert_eq!(
        kind(list_all(target, &folder, keys.len() - 1).await),
        ErrorKind::TooLarge
    );

    let (mut request, mut objects, mut prefixes) = (ListRequest::folders(folder.clone()), 0, Vec::new());
    request.limit = 4;
    for page in 0.. {
        let listing = target.list(&request).await.expect("a page");
        assert!(listing.objects.len() + listing.prefixes.len() <= 4 && page < 10);
        objects += listing.objects.len();
        prefixes.extend(listing.prefixes);
        match listing.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    let folders: Vec<String> = prefixes.iter().map(Prefix::to_string).collect();
    let expected: Vec<String> = (0..3).map(|n| format!("{folder}sub-{n}/")).collect();
    assert_eq!((objects, folders), (7, expected));
    let nothing: Prefix = format!("{root}nothing/").parse().expect("a valid prefix");
    assert!(
        target
            .list(&ListRequest::all(nothing))
            .await
            .expect("an empty list")
            .objects
            .is_empty()
    );
}

async fn races(target: &Arc<dyn Target>, root: &Prefix) {
    for round in 0..3 {
        let key = root.key(&format!("race-{round}"));
        let rivals = (0..20).map(|n| {
            let (target, key) = (target.clone(), key.clone());
            tokio::spawn(async move { (n, target.put_new(&key, Bytes::from(format!("writer {n}"))).await) })
        });
        let mut winners = Vec::new();
        for rival in rivals.collect::<Vec<_>>() {
            let (n, outcome) = rival.await.expect("a task");
            if let Creation::Created(_) = outcome.expect("no rival fails, it only comes too late") {
                winners.push(n);
            }
        }
        assert_eq!(
            winners.len(),
            1,
            "exactly one of twenty wins, these did: {winners:?}"
        );
        let content = target.get(&key, 100).await.expect("a get").body;
        assert_eq!(
            content,
            format!("writer {}", winners[0]),
            "and it is its content that is there"
        );
    }
}

async fn uploads(target: &dyn Target, root: &Prefix) {
    let key = root.key("upload");
    let upload = target.begin_upload(&key).await.expect("an upload");
    assert_eq!(
        kind(target.head(&key).await),
        ErrorKind::NotFound,
        "not there before it is complete"
    );
    let open = target.list_uploads(root).await.expect("open uploads");
    assert!(open.iter().any(|open| open.upload == upload), "{open:?}");

    let part = |byte: u8, len: usize| Bytes::from(vec![byte; len]);
    let bodies = [part(1, 5 << 20), part(2, 6 << 20), part(3, 1000)];
    let mut parts: Vec<Part> = Vec::new();
    // The first part last, as images are uploaded.
    for (number, offset) in [(2, 5 << 20), (3, 11 << 20), (1, 0)] {
        let body = bodies[number as usize - 1].clone();
        let part = target
            .upload_part(&upload, PartNumber(number), offset, body)
            .await;
        parts.push(part.expect("a part"));
    }
    let mut sorted = parts.clone();
    sorted.sort_by_key(|part| part.number);
    assert_eq!(target.list_parts(&upload).await.expect("the parts"), sorted);
    let mut lost = parts.clone();
    lost[0].etag = ETag::new("00000000000000000000000000000000");
    target
        .complete_upload(&upload, &lost, true)
        .await
        .expect_err("a part that is not the one that was answered");
    assert_eq!(kind(target.head(&key).await), ErrorKind::NotFound);
    let meta = target
        .complete_upload(&upload, &parts, true)
        .await
        .expect("the end of the upload");
    assert_eq!(meta.size, (11 << 20) + 1000);
    let seam = (5 << 20) - 1..(5 << 20) + 1;
    let read = target
        .get_range(&key, seam, Some(&meta.pin()))
        .await
        .expect("a range over the seam");
    assert_eq!(&read[..], [1, 2]);
    let tail = target
        .get_range(&key, meta.size - 1..meta.size, None)
        .await
        .expect("the last byte");
    assert_eq!(&tail[..], [3]);

    let dropped = target
        .begin_upload(&root.key("dropped"))
        .await
        .expect("an upload");
    target
        .upload_part(&dropped, PartNumber(1), 0, part(9, 100))
        .await
        .expect("a part");
    target.abort_upload(&dropped).await.expect("an abort");
    target
        .abort_upload(&dropped)
        .await
        .expect("an abort of what is gone");
    let left = target.list_uploads(root).await.expect("open uploads");
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(
        kind(target.upload_part(&dropped, PartNumber(1), 0, part(9, 100)).await),
        ErrorKind::NotFound
    );
    assert_eq!(kind(target.list_parts(&dropped).await), ErrorKind::NotFound);
    assert_eq!(
        kind(target.complete_upload(&dropped, &parts, false).await),
        ErrorKind::NotFound
    );
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|n| (n / 7 % 251) as u8).collect::<Vec<_>>().into()
}

async fn copies(target: &dyn Target, root: &Prefix) {
    let source = root.key("source");
    let body = pattern(12 << 20);
    let pin = target.put(&source, body.clone()).await.expect("a put").pin();
    let key = root.key("copied");
    let upload = target.begin_upload(&key).await.expect("an upload");
    let copy = |number: u32, offset: u64, range: Range<u64>| {
        let (upload, source, pin) = (&upload, &source, &pin);
        async move {
            let number = PartNumber(number);
            let part = target
                .copy_part(upload, number, offset, source, range.clone(), pin)
                .await;
            let part = part.expect("a copied part");
            assert_eq!((part.number, part.size), (number, range.end - range.start));
            part
        }
    };
    let own = pattern(5 << 20);
    let size = body.len() as u64;
    // In another order than that of the object; one of them twice, and the second time counts.
    let mut parts = vec![copy(3, 11 << 20, 7..(5 << 20) + 7).await];
    let sent = target.upload_part(&upload, PartNumber(1), 0, own.clone()).await;
    parts.push(sent.expect("a part"));
    parts.push(copy(4, 16 << 20, size - 1000..size).await);
    copy(2, 5 << 20, 0..6 << 20).await;
    parts.push(copy(2, 5 << 20, 1 << 20..7 << 20).await);
    refused_copies(target, root, &upload, (&source, &pin)).await;
    let meta = target.complete_upload(&upload, &parts, true).await;
    let meta = meta.expect("the end of the upload");
    let whole = target.get_range(&key, 0..meta.size, Some(&meta.pin())).await;
    let expected = [
        &own[..],
        &body[1 << 20..7 << 20],
        &body[7..(5 << 20) + 7],
        &body[body.len() - 1000..],
    ];
    assert!(
        whole.expect("the whole object") == expected.concat(),
        "every part has the bytes it was made of"
    );
    let read = target.get(&source, size).await.expect("the source");
    assert!(read.body == body && read.meta.pin() == pin, "the source stays");
    let copied = target
        .copy_part(&upload, PartNumber(1), 0, &source, 0..6 << 20, &pin)
        .await;
    assert_eq!(kind(copied), ErrorKind::NotFound, "the upload has ended");
}

/// Copies that must fail, into a part that is not asked for later.
async fn refused_copies(target: &dyn Target, root: &Prefix, upload: &Upload, (source, pin): (&Key, &Pin)) {
    let size = target.head(source).await.expect("the source").size;
    let changed = other_pin();
    let absent = root.key("absent");
    let cases = [
        (source, 0..6 << 20, &changed, ErrorKind::Changed),
        (&absent, 0..6 << 20, pin, ErrorKind::NotFound),
        (source, size - (6 << 20)..size + 1, pin, ErrorKind::Changed),
        (source, size..size + (6 << 20), pin, ErrorKind::Changed),
    ];
    for (from, range, pin, expected) in cases {
        let copied = target
            .copy_part(upload, PartNumber(9), 0, from, range.clone(), pin)
            .await;
        assert_eq!(kind(copied), expected, "{from} {range:?}");
    }
}
