//! [`Target`] for [`DirectoryTarget`]: what is retried, how long it may take, and what an outcome means.
use std::{ops::Range, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use tokio::{sync::mpsc, time::timeout};
use uuid::Uuid;

use super::{
    CHANGE, DirectoryTarget, LONG, LOOK, bound,
    folder::{Folder, try_lock},
    list,
    objects::{self, Written},
    store,
    trouble::{Outcome, Trouble},
    upload,
    workers::Waiter,
};
use crate::{
    Creation, ErrorKind, Immutability, Key, ListRequest, Listing, Object, ObjectMeta, OpenUpload, Part,
    PartNumber, Pin, Prefix, ProbeReport, Target, TargetError, Upload, Version, layout::probe_key,
};

/// Removals under way at once in one [`Target::delete`].
const DELETES: usize = 4;
/// Bytes of a part that are handed over at a time.
const PIECE: usize = 1 << 20;
/// Bound of a whole probe.
const PROBE: std::time::Duration = std::time::Duration::from_secs(10);
/// Age at which work in progress that belongs to no upload is left over, in seconds.
const LEFT_OVER: i64 = 24 * 3600;

#[async_trait]
impl Target for DirectoryTarget {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError> {
        let (own, len) = (key.clone(), body.len() as u64);
        self.run(
            "write",
            key.as_str(),
            bound(CHANGE, len),
            move |root, waiter| match objects::create(root, waiter, &own, &body)? {
                Written::Created(meta) => Ok(meta),
                Written::Taken => objects::holds(root, waiter, &own, &body)?
                    .ok_or_else(|| Trouble::new(ErrorKind::Exists, "it is there already with other content")),
            },
        )
        .await
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError> {
        self.create_new(key, body, false).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError> {
        let own = key.clone();
        self.run(
            "read",
            key.as_str(),
            bound(LOOK, max.min(64 << 20)),
            move |root, waiter| objects::read(root, waiter, &own, max),
        )
        .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>, pin: Option<&Pin>) -> Result<Bytes, TargetError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (own, pin) = (key.clone(), pin.cloned());
        let bound = bound(LOOK, range.end - range.start);
        self.run("read", key.as_str(), bound, move |root, waiter| {
            objects::read_range(root, waiter, &own, range.clone(), pin.as_ref())
        })
        .await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError> {
        let own = key.clone();
        self.run("look up", key.as_str(), LOOK, move |root, _| {
            objects::head(root, &own)
        })
        .await
    }

    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError> {
        let own = request.clone();
        // A folder with many names takes its time.
        self.run("list", request.prefix.as_str(), CHANGE, move |root, _| {
            list::list(root, &own)
        })
        .await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError> {
        let removals = stream::iter(keys.to_vec()).map(|key| async move {
            let own = key.clone();
            self.run("delete", key.as_str(), CHANGE, move |root, _| {
                objects::remove(root, &own)
            })
            .await
        });
        let outcomes: Vec<_> = removals.buffer_unordered(DELETES).collect().await;
        outcomes.into_iter().collect()
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError> {
        let own = key.clone();
        self.run("begin an upload of", key.as_str(), CHANGE, move |root, _| {
            upload::begin(root, &own)
        })
        .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        body: Bytes,
    ) -> Result<Part, TargetError> {
        let size = body.len() as u64;
        let body = &body;
        self.retry(
            "upload a part of",
            upload.key.as_str(),
            bound(CHANGE, size),
            |_| async move {
                // The thread gets copies of pieces: it may outlive this call, and then must not hold the caller's memory.
                let (give, mut pieces) = mpsc::channel(1);
                let feed = async move {
                    for piece in body.chunks(PIECE) {
                        if give.send(Bytes::copy_from_slice(piece)).await.is_err() {
                            return;
                        }
                    }
                };
                let upload = upload.clone();
                let store = self.once(move |root, waiter| {
                    let next = || pieces.blocking_recv();
                    upload::store_part(root, waiter, &upload, (number, offset), size, next)
                });
                let ((), stored) = tokio::join!(feed, store);
                stored
            },
        )
        .await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        source: &Key,
        range: Range<u64>,
        pin: &Pin,
    ) -> Result<Part, TargetError> {
        let (upload, from, pin) = (upload.clone(), source.clone(), pin.clone());
        self.run("copy a part of", source.as_str(), LONG, move |root, waiter| {
            upload::copy_part(root, waiter, &upload, (number, offset), (&from, &range, &pin))
        })
        .await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>, TargetError> {
        let own = upload.clone();
        self.run("list the parts of", upload.key.as_str(), LOOK, move |root, _| {
            upload::parts(root, &own)
        })
        .await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        // A folder never overwrites.
        _if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
        self.finish(upload, parts, false).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError> {
        let own = upload.clone();
        self.run(
            "drop the upload of",
            upload.key.as_str(),
            CHANGE,
            move |root, _| upload::abort(root, &own),
        )
        .await
    }

    async fn list_uploads(&self, prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError> {
        let own = prefix.clone();
        self.run("list the uploads of", prefix.as_str(), CHANGE, move |root, _| {
            upload::list(root, &own)
        })
        .await
    }

    async fn immutability(&self) -> Result<Immutability, TargetError> {
        Ok(Immutability::default())
    }

    async fn lock(&self, key: &Key, _: &Version, _: Timestamp) -> Result<(), TargetError> {
        let trouble = Trouble::new(ErrorKind::Unsupported, "a folder has no object lock");
        Err(trouble.explain("lock", key.as_str(), &self.place))
    }

    async fn locked_until(&self, _: &Key, _: &Version) -> Result<Option<Timestamp>, TargetError> {
        Ok(None)
    }

    async fn probe(&self) -> Result<ProbeReport, TargetError> {
        let begun = Instant::now();
        let late = |_| {
            let trouble = Trouble::new(ErrorKind::Unreachable, "no answer in 10 s");
            Err(trouble.explain("probe", "", &self.place))
        };
        let id = self.id();
        let probe = self.run("probe", "", PROBE, move |root, waiter| {
            store::check(root, id.as_ref())?;
            let now = objects::sweep(root, LEFT_OVER)?;
            upload::sweep(root, now, LEFT_OVER)?;
            try_out(root, waiter)
        });
        timeout(PROBE, probe).await.unwrap_or_else(late)?;
        Ok(ProbeReport {
            took: begun.elapsed(),
        })
    }
}

impl DirectoryTarget {
    /// [`Target::put_new`]; `again` when the answer to the same call may have been lost before.
    pub(crate) async fn create_new(
        &self,
        key: &Key,
        body: Bytes,
        again: bool,
    ) -> Result<Creation, TargetError> {
        let bound = bound(CHANGE, body.len() as u64);
        self.retry("create", key.as_str(), bound, |tries| {
            let (key, body) = (key.clone(), body.clone());
            self.once(
                move |root, waiter| match objects::create(root, waiter, &key, &body)? {
                    Written::Created(meta) => Ok(Creation::Created(meta)),
                    // A try that took too long may have come to its end.
                    Written::Taken if again || tries > 0 => Ok(objects::holds(root, waiter, &key, &body)?
                        .map_or(Creation::Exists, Creation::Created)),
                    Written::Taken => Ok(Creation::Exists),
                },
            )
        })
        .await
    }

    /// [`Target::complete_upload`]; `again` when the answer to the same call may have been lost before.
    pub(crate) async fn finish(
        &self,
        upload: &Upload,
        parts: &[Part],
        again: bool,
    ) -> Result<ObjectMeta, TargetError> {
        self.retry("finish the upload of", upload.key.as_str(), LONG, |tries| {
            let (upload, parts) = (upload.clone(), parts.to_vec());
            self.once(
                move |root, waiter| match upload::complete(root, waiter, &upload, &parts) {
                    // A try that took too long may have come to its end.
                    Err(trouble) if (again || tries > 0) && trouble.kind() == ErrorKind::NotFound => {
                        upload::completed(root, &upload, &parts)?.ok_or(trouble)
                    }
                    settled => settled,
                },
            )
        })
        .await
    }
}

/// Everything a backup will do, once, on an object of its own.
fn try_out(root: &Folder, waiter: &Waiter<'_>) -> Outcome<()> {
    let key = probe_key();
    let body = key.to_string();
    let wrong = |why: &str| Err(Trouble::new(ErrorKind::Other, why));
    if let Written::Taken = objects::create(root, waiter, &key, body.as_bytes())? {
        return wrong("a name made up at random is taken");
    }
    let tried = || {
        if let Written::Created(_) = objects::create(root, waiter, &key, b"this must not be written")? {
            return wrong("the file system overwrites where it must not");
        }
        if objects::read(root, waiter, &key, 4096)?.body != body {
            return wrong("the file system gave back other bytes than were written");
        }
        let prefix: Prefix = body.parse().expect("a key is a prefix of itself");
        if list::list(root, &ListRequest::all(prefix))?.objects.is_empty() {
            return wrong("the folder does not list what was just written");
        }
        locks(root)
    };
    let tried = tried();
    let removed = objects::remove(root, &key);
    tried.and(removed)
}

/// Whether a lock excludes others.
fn locks(root: &Folder) -> Outcome<()> {
    let folder = store::work(root, "new")?;
    let name = Uuid::new_v4().to_string();
    let one = folder.create(&name)?;
    let locked = || {
        let other = folder.write(&name)?;
        match (try_lock(&one, true)?, try_lock(&other, false)?) {
            (true, false) => Ok(()),
            _ => Err(Trouble::new(
                ErrorKind::Other,
                "the file system's locks keep nobody out, so that two writers could spoil each other's work",
            )),
        }
    };
    let locked = locked();
    folder.remove(&name)?;
    locked
}
