//! The calls themselves.
use std::{ops::Range, time::Instant};

use async_trait::async_trait;
use aws_sdk_s3::{
    operation::put_object::PutObjectOutput,
    primitives::{ByteStream, DateTime},
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::{Call, LONG, S3Target, SHORT, bound};
use crate::{
    Creation, ETag, ErrorKind, Key, ListRequest, Listing, MAX_LIST, Object, ObjectMeta, OpenUpload, Part,
    PartNumber, Prefix, ProbeReport, Target, TargetError, Upload, layout::probe_key,
};

/// Removals under way at once in one [`Target::delete`].
const DELETES: usize = 8;
/// Bound of a whole probe.
const PROBE: std::time::Duration = std::time::Duration::from_secs(10);

/// Outcome of a conditional put: what the store answered, or that the name is taken.
enum Put {
    Done(Box<PutObjectOutput>),
    Taken,
}

impl S3Target {
    /// Puts on condition that the name is free. A name found taken by these very bytes after a lost answer is ours.
    async fn put_if_absent(&self, call: Call<'_>, key: &Key, body: &Bytes) -> Result<Put, TargetError> {
        self.retry(call, bound(body.len() as u64), |tries| async move {
            let sent = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(key.as_str())
                .if_none_match("*")
                .body(ByteStream::from(body.clone()))
                .send();
            match sent.await {
                Ok(output) => Ok(Put::Done(Box::new(output))),
                Err(error) => match call.explain(&error) {
                    found if found.kind() == ErrorKind::Exists => {
                        if tries > 0 && self.holds(call, key, body).await? {
                            Ok(Put::Done(Box::new(PutObjectOutput::builder().build())))
                        } else {
                            Ok(Put::Taken)
                        }
                    }
                    other => Err(other),
                },
            }
        })
        .await
    }

    /// Whether the object has exactly these bytes.
    async fn holds(&self, call: Call<'_>, key: &Key, body: &Bytes) -> Result<bool, TargetError> {
        match self.read(call, key, None, None, body.len() as u64).await {
            Ok(object) => Ok(object.body == *body),
            Err(error) if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What a put gives back; the entity tag is asked for where the answer was lost.
    async fn created(
        &self,
        key: &Key,
        size: u64,
        output: &PutObjectOutput,
    ) -> Result<ObjectMeta, TargetError> {
        match output.e_tag() {
            Some(etag) => Ok(ObjectMeta {
                key: key.clone(),
                size,
                etag: ETag::new(etag),
                modified: 0,
            }),
            None => self.head(key).await,
        }
    }

    /// One attempt of a read: at most `max` bytes in memory.
    async fn read(
        &self,
        call: Call<'_>,
        key: &Key,
        range: Option<&Range<u64>>,
        etag: Option<&ETag>,
        max: u64,
    ) -> Result<Object, TargetError> {
        let sent = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)))
            .set_if_match(etag.map(|etag| format!("\"{}\"", etag.as_str())))
            .send();
        let silent = |_| call.error(ErrorKind::Unreachable, "no answer in time");
        let answer = timeout(SHORT, sent).await.map_err(silent)?;
        let mut output = answer.map_err(|error| match call.explain(&error) {
            // The only precondition of a read is the entity tag.
            found if found.kind() == ErrorKind::Exists => {
                call.error(ErrorKind::Changed, "it has another ETag now")
            }
            other => other,
        })?;
        let found = ETag::new(output.e_tag().unwrap_or_default());
        if etag.is_some_and(|wanted| *wanted != found) {
            return Err(call.error(
                ErrorKind::Changed,
                format!("it has another ETag now ({})", found.as_str()),
            ));
        }
        let size = output
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .unwrap_or_default();
        let too_large = || call.error(ErrorKind::TooLarge, format!("it has more than {max} bytes"));
        if size > max {
            return Err(too_large());
        }
        let mut body = BytesMut::with_capacity(usize::try_from(size).unwrap_or_default());
        while let Some(chunk) = timeout(SHORT, output.body.next()).await.map_err(silent)? {
            let broken =
                |why: String| call.error(ErrorKind::Unreachable, format!("the answer broke off: {why}"));
            body.extend_from_slice(&chunk.map_err(|error| broken(super::transport::innermost(&error)))?);
            if body.len() as u64 > max {
                return Err(too_large());
            }
        }
        let modified = seconds(output.last_modified());
        let meta = ObjectMeta {
            key: key.clone(),
            size: body.len() as u64,
            etag: found,
            modified,
        };
        Ok(Object {
            meta,
            body: body.freeze(),
        })
    }

    async fn head_once(&self, call: Call<'_>, key: &Key) -> Result<ObjectMeta, TargetError> {
        let sent = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .send();
        let output = match sent.await {
            Ok(output) => output,
            Err(error) => {
                let error = call.explain(&error);
                // The answer to HEAD has no body, so "no such bucket" and "wrong key" look like "no such object" and
                // "denied"; a list says which it is.
                let listed = self
                    .client
                    .list_objects_v2()
                    .bucket(&self.bucket)
                    .prefix(key.as_str())
                    .max_keys(1)
                    .send();
                return match listed.await {
                    Err(other) if !error.is_retryable() => Err(call.explain(&other)),
                    _ => Err(error),
                };
            }
        };
        let size = output
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .unwrap_or_default();
        let etag = ETag::new(output.e_tag().unwrap_or_default());
        Ok(ObjectMeta {
            key: key.clone(),
            size,
            etag,
            modified: seconds(output.last_modified()),
        })
    }

    async fn delete_one(&self, key: &Key, version: Option<&str>) -> Result<(), TargetError> {
        let call = self.call("delete", key.as_str());
        self.retry(call, SHORT, |_| async move {
            let sent = self
                .client
                .delete_object()
                .bucket(&self.bucket)
                .key(key.as_str())
                .set_version_id(version.map(str::to_owned))
                .send();
            match sent.await.map_err(|error| call.explain(&error)) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Turns versioning on; only tests change a bucket's configuration.
    #[cfg(feature = "testing")]
    pub(crate) async fn enable_versioning(&self) -> Result<(), TargetError> {
        use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
        let call = self.call("configure", "");
        let configuration = VersioningConfiguration::builder()
            .status(BucketVersioningStatus::Enabled)
            .build();
        let request = self.client.put_bucket_versioning().bucket(&self.bucket);
        let sent = request.versioning_configuration(configuration).send().await;
        sent.map(|_| ()).map_err(|error| call.explain(&error))
    }

    /// Everything a backup will do, once, on an object of its own.
    async fn try_out(&self, key: &Key) -> Result<(), TargetError> {
        let call = self.call("probe", "");
        let body = Bytes::from(key.to_string());
        let version = match self.put_if_absent(call, key, &body).await? {
            Put::Done(output) => output.version_id().map(str::to_owned),
            Put::Taken => return Err(call.error(ErrorKind::Exists, "a name made up at random is taken")),
        };
        let tried = async {
            let other = Bytes::from_static(b"this must not be written");
            if let Put::Done(_) = self.put_if_absent(call, key, &other).await? {
                let why = "the store ignores If-None-Match, so two writers could overwrite each other";
                return Err(call.error(ErrorKind::Other, why));
            }
            let read = self
                .retry(call, SHORT, |_| self.read(call, key, None, None, 4096))
                .await?;
            if read.body != body {
                return Err(call.error(
                    ErrorKind::Changed,
                    "the store gave back other bytes than were written",
                ));
            }
            let prefix: Prefix = key.as_str().parse().expect("a key is a prefix of itself");
            if self.list(&ListRequest::all(prefix)).await?.objects.is_empty() {
                return Err(call.error(ErrorKind::Other, "the store does not list what was just written"));
            }
            Ok(())
        };
        let tried = tried.await;
        // Versioned buckets would keep every probe for ever, so the version itself is removed.
        let removed = self
            .delete_one(key, version.as_deref().filter(|version| *version != "null"))
            .await;
        tried.and(removed)
    }
}

fn seconds(time: Option<&DateTime>) -> i64 {
    time.map_or(0, DateTime::secs)
}

#[async_trait]
impl Target for S3Target {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError> {
        let call = self.call("write", key.as_str());
        match self.put_if_absent(call, key, &body).await? {
            Put::Done(output) => self.created(key, body.len() as u64, &output).await,
            Put::Taken => {
                let same = self
                    .retry(call, bound(body.len() as u64), |_| self.holds(call, key, &body))
                    .await?;
                if same {
                    return self.head(key).await;
                }
                Err(call.error(ErrorKind::Exists, "it is there already with other content"))
            }
        }
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError> {
        match self
            .put_if_absent(self.call("create", key.as_str()), key, &body)
            .await?
        {
            Put::Done(output) => Ok(Creation::Created(
                self.created(key, body.len() as u64, &output).await?,
            )),
            Put::Taken => Ok(Creation::Exists),
        }
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError> {
        let call = self.call("read", key.as_str());
        self.retry(call, bound(max.min(64 << 20)), |_| {
            self.read(call, key, None, None, max)
        })
        .await
    }

    async fn get_range(
        &self,
        key: &Key,
        range: Range<u64>,
        etag: Option<&ETag>,
    ) -> Result<Bytes, TargetError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let call = self.call("read", key.as_str());
        let wanted = range.end - range.start;
        let object = self
            .retry(call, bound(wanted), |_| {
                self.read(call, key, Some(&range), etag, wanted)
            })
            .await;
        let object = object.map_err(|error| match error.kind() {
            ErrorKind::TooLarge => call.error(ErrorKind::Other, "the store ignores the range of the request"),
            _ => error,
        })?;
        if object.body.len() as u64 != wanted {
            let why = format!(
                "it ends at byte {}, inside {}..{}",
                range.start + object.meta.size,
                range.start,
                range.end
            );
            return Err(call.error(ErrorKind::Changed, why));
        }
        Ok(object.body)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError> {
        let call = self.call("look up", key.as_str());
        self.retry(call, SHORT, |_| self.head_once(call, key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError> {
        let call = self.call("list", request.prefix.as_str());
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
        let objects = output.contents().iter().filter_map(|object| {
            Some(ObjectMeta {
                key: object.key()?.parse().ok()?,
                size: u64::try_from(object.size()?).ok()?,
                etag: ETag::new(object.e_tag().unwrap_or_default()),
                modified: seconds(object.last_modified()),
            })
        });
        let prefixes = output
            .common_prefixes()
            .iter()
            .filter_map(|prefix| prefix.prefix()?.parse().ok());
        let next = output
            .next_continuation_token()
            .filter(|_| output.is_truncated().unwrap_or_default());
        Ok(Listing {
            objects: objects.collect(),
            prefixes: prefixes.collect(),
            next: next.map(str::to_owned),
        })
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError> {
        // One by one: not every store has the bulk call, and those that have it want a checksum others refuse.
        let removals =
            stream::iter(keys.to_vec()).map(|key| async move { self.delete_one(&key, None).await });
        removals.buffer_unordered(DELETES).try_collect().await
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError> {
        let call = self.call("begin an upload of", key.as_str());
        self.retry(call, SHORT, |_| async move {
            let sent = self
                .client
                .create_multipart_upload()
                .bucket(&self.bucket)
                .key(key.as_str())
                .send();
            let output = sent.await.map_err(|error| call.explain(&error))?;
            let id = output
                .upload_id()
                .ok_or_else(|| call.error(ErrorKind::Other, "the store gave no upload id"))?;
            Ok(Upload {
                key: key.clone(),
                id: id.to_owned(),
            })
        })
        .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
    ) -> Result<Part, TargetError> {
        let call = self.call("upload a part of", upload.key.as_str());
        let size = body.len() as u64;
        let body = &body;
        self.retry(call, bound(size), |_| async move {
            let request = self
                .client
                .upload_part()
                .bucket(&self.bucket)
                .key(upload.key.as_str())
                .upload_id(&upload.id)
                .part_number(number.0.cast_signed())
                .body(ByteStream::from(body.clone()));
            let sent = if self.sign_parts {
                request.send().await
            } else {
                request.customize().disable_payload_signing().send().await
            };
            let output = sent.map_err(|error| call.explain(&error))?;
            let etag = output
                .e_tag()
                .ok_or_else(|| call.error(ErrorKind::Other, "the store gave no ETag"))?;
            Ok(Part {
                number,
                etag: ETag::new(etag),
                size,
            })
        })
        .await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
        let call = self.call("finish the upload of", upload.key.as_str());
        let mut sorted = parts.to_vec();
        sorted.sort_by_key(|part| part.number);
        let size: u64 = sorted.iter().map(|part| part.size).sum();
        let list = sorted.into_iter().map(|part| {
            CompletedPart::builder()
                .part_number(part.number.0.cast_signed())
                .e_tag(format!("\"{}\"", part.etag.as_str()))
                .build()
        });
        let list = CompletedMultipartUpload::builder()
            .set_parts(Some(list.collect()))
            .build();
        let list = &list;
        self.retry(call, LONG, |tries| async move {
            let sent = self
                .client
                .complete_multipart_upload()
                .bucket(&self.bucket)
                .key(upload.key.as_str())
                .upload_id(&upload.id)
                .set_if_none_match(if_absent.then(|| "*".to_owned()))
                .multipart_upload(list.clone())
                .send();
            match sent.await.map_err(|error| call.explain(&error)) {
                Ok(_) => Ok(()),
                // The answer to an earlier try was lost: what counts is the object, which is looked at below.
                Err(error)
                    if tries > 0 && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Exists) =>
                {
                    match self.head_once(call, &upload.key).await {
                        Ok(_) => Ok(()),
                        Err(_) => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        })
        .await?;
        let meta = self.head(&upload.key).await?;
        if meta.size != size {
            let why = format!("the store made {} bytes of parts that have {size}", meta.size);
            return Err(call.error(ErrorKind::Changed, why));
        }
        Ok(meta)
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError> {
        let call = self.call("drop the upload of", upload.key.as_str());
        self.retry(call, SHORT, |_| async move {
            let sent = self
                .client
                .abort_multipart_upload()
                .bucket(&self.bucket)
                .key(upload.key.as_str())
                .upload_id(&upload.id)
                .send();
            match sent.await.map_err(|error| call.explain(&error)) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn list_uploads(&self, prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError> {
        let call = self.call("list the uploads of", prefix.as_str());
        let output = self
            .retry(call, SHORT, |_| async move {
                let request = self
                    .client
                    .list_multipart_uploads()
                    .bucket(&self.bucket)
                    .prefix(prefix.as_str());
                let sent = request.max_uploads(MAX_LIST.cast_signed()).send();
                sent.await.map_err(|error| call.explain(&error))
            })
            .await?;
        let uploads = output.uploads().iter().filter_map(|upload| {
            let key = upload.key()?.parse().ok()?;
            let initiated = seconds(upload.initiated());
            Some(OpenUpload {
                upload: Upload {
                    key,
                    id: upload.upload_id()?.to_owned(),
                },
                initiated,
            })
        });
        Ok(uploads.collect())
    }

    async fn probe(&self) -> Result<ProbeReport, TargetError> {
        let begun = Instant::now();
        let key = probe_key();
        let late = || {
            self.call("probe", "")
                .error(ErrorKind::Unreachable, "no answer in 10 s")
        };
        timeout(PROBE, Box::pin(self.try_out(&key)))
            .await
            .unwrap_or_else(|_| Err(late()))?;
        Ok(ProbeReport {
            took: begun.elapsed(),
        })
    }
}
