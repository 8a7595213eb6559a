//! [`Target`] for [`S3Target`]: what is retried, and what an answer means.
use std::{ops::Range, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::timeout;

use super::{LONG, S3Target, SHORT, bound, page};
use crate::{
    Creation, ErrorKind, Immutability, Key, ListRequest, Listing, MAX_LIST, Object, ObjectMeta, OpenUpload,
    Part, PartNumber, Pin, Prefix, ProbeReport, Target, TargetError, Upload, Version,
};

/// Removals under way at once in one [`Target::delete`].
const DELETES: usize = 8;
/// Bound of a whole probe.
const PROBE: std::time::Duration = std::time::Duration::from_secs(10);

#[async_trait]
impl Target for S3Target {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError> {
        let call = self.call("write", key.as_str());
        if let Some(meta) = self.create(call, key, &body).await? {
            return Ok(meta);
        }
        let same = self.held(call, key, &body).await?;
        same.ok_or_else(|| call.error(ErrorKind::Exists, "it is there already with other content"))
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError> {
        let created = self.create(self.call("create", key.as_str()), key, &body).await?;
        Ok(created.map_or(Creation::Exists, Creation::Created))
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError> {
        let call = self.call("read", key.as_str());
        self.pinned(call, key, None, |pin| async move {
            let pin = pin.as_ref();
            self.retry(call, bound(max.min(64 << 20)), |_| {
                self.read(call, key, None, pin, max)
            })
            .await
        })
        .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>, pin: Option<&Pin>) -> Result<Bytes, TargetError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let call = self.call("read", key.as_str());
        let (wanted, range) = (range.end - range.start, &range);
        let object = self
            .pinned(call, key, pin, |pin| async move {
                let pin = pin.as_ref();
                self.retry(call, bound(wanted), |_| {
                    self.read(call, key, Some(range), pin, wanted)
                })
                .await
            })
            .await;
        let object = object.map_err(|error| match error.kind() {
            ErrorKind::TooLarge => call.error(ErrorKind::Other, "the store ignores the range of the request"),
            _ => error,
        })?;
        if object.body.len() as u64 != wanted {
            let end = range.start.saturating_add(object.meta.size);
            return Err(call.ends_inside(range, end));
        }
        Ok(object.body)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError> {
        self.look_up(self.call("look up", key.as_str()), key).await
    }

    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError> {
        let call = self.call("list", request.prefix.as_str());
        if self.versioned(call).await? {
            return self.list_versions(call, request).await;
        }
        let output = self
            .retry(call, SHORT, |_| async move {
                let sent = self
                    .client
                    .list_objects_v2()
                    .bucket(&self.bucket)
                    .prefix(request.prefix.as_str())
                    .set_delimiter(request.folders.then(|| "/".to_owned()))
                    .set_continuation_token(request.after.clone())
                    .max_keys(request.limit.clamp(1, MAX_LIST).cast_signed())
                    .send();
                sent.await.map_err(|error| call.explain(&error))
            })
            .await?;
        page::read(call, request, &output)
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError> {
        // One by one: not every store has the bulk call, and those that have it want a checksum others refuse.
        let removals = stream::iter(keys.to_vec())
            .map(|key| async move { self.remove(self.call("delete", key.as_str()), &key).await });
        let outcomes: Vec<_> = removals.buffer_unordered(DELETES).collect().await;
        let mut errors: Vec<TargetError> = outcomes.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| error.kind() == ErrorKind::Locked);
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError> {
        let call = self.call("begin an upload of", key.as_str());
        self.retry(call, SHORT, |_| self.begin_once(call, key)).await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        _offset: u64,
        body: Bytes,
    ) -> Result<Part, TargetError> {
        let call = self.call("upload a part of", upload.key.as_str());
        let body = &body;
        self.retry(call, bound(body.len() as u64), |_| {
            self.send_part(call, upload, number, body)
        })
        .await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        _offset: u64,
        source: &Key,
        range: Range<u64>,
        pin: &Pin,
    ) -> Result<Part, TargetError> {
        let call = self.call("copy a part of", source.as_str());
        let (bound, range) = (bound(range.end.saturating_sub(range.start)).min(LONG), &range);
        let copied = self.pinned(call, source, Some(pin), |pin| async move {
            let pin = &pin.ok_or_else(|| call.error(ErrorKind::Other, "a copy needs a pin"))?;
            self.retry(call, bound, |_| {
                self.copy_once(call, upload, number, source, range, pin)
            })
            .await
        });
        let error = match copied.await {
            // Stores have several words for a range that ends behind the object.
            Err(error) if error.kind() == ErrorKind::Other => error,
            settled => return settled,
        };
        let found = match &pin.version {
            None => self.look_up(call, source).await?,
            version => {
                let version = version.as_ref();
                self.retry(call, SHORT, |_| self.head_once(call, source, version))
                    .await?
            }
        };
        if found.size < range.end {
            return Err(call.ends_inside(range, found.size));
        }
        Err(error)
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>, TargetError> {
        self.parts(self.call("list the parts of", upload.key.as_str()), upload)
            .await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
        self.complete(
            self.call("finish the upload of", upload.key.as_str()),
            upload,
            parts,
            if_absent,
        )
        .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError> {
        let call = self.call("drop the upload of", upload.key.as_str());
        self.retry(call, SHORT, |_| self.abort_once(call, upload)).await
    }

    async fn list_uploads(&self, prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError> {
        let call = self.call("list the uploads of", prefix.as_str());
        self.retry(call, SHORT, |_| self.open_uploads(call, prefix)).await
    }

    async fn immutability(&self) -> Result<Immutability, TargetError> {
        self.settings(self.call("look up the settings of", "")).await
    }

    async fn lock(&self, key: &Key, version: &Version, until: Timestamp) -> Result<(), TargetError> {
        let call = self.call("lock", key.as_str());
        if !self.settings(call).await?.lockable {
            return Err(call.error(ErrorKind::Unsupported, "the bucket has no object lock"));
        }
        self.lock_version(call, key, version, until).await
    }

    async fn locked_until(&self, key: &Key, version: &Version) -> Result<Option<Timestamp>, TargetError> {
        let call = self.call("look up the lock of", key.as_str());
        if !self.settings(call).await?.lockable {
            return Ok(None);
        }
        let found = self.retention(call, key, version).await?;
        Ok(found.map(|(_, until)| until))
    }

    async fn probe(&self) -> Result<ProbeReport, TargetError> {
        let begun = Instant::now();
        let late = || {
            self.call("probe", "")
                .error(ErrorKind::Unreachable, "no answer in 10 s")
        };
        timeout(PROBE, Box::pin(self.try_out()))
            .await
            .unwrap_or_else(|_| Err(late()))?;
        Ok(ProbeReport {
            took: begun.elapsed(),
        })
    }
}
