//! [`Target`] for [`S3Target`]: what is retried, and what an answer means.
use std::{ops::Range, time::Instant};

use async_trait::async_trait;
use aws_sdk_s3::{
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::{
    LONG, S3Target, SHORT,
    attempts::{Put, seconds},
    bound, page,
};
use crate::{
    Creation, ETag, ErrorKind, Key, ListRequest, Listing, MAX_LIST, Object, ObjectMeta, OpenUpload, Part,
    PartNumber, Prefix, ProbeReport, Target, TargetError, Upload, layout::probe_key,
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
                range.start.saturating_add(object.meta.size),
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
        page::read(call, request, &output)
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
