//! Single attempts, and the calls that are made of several: what the methods of [`crate::Target`] are built from.
use std::ops::Range;

use aws_sdk_s3::{
    operation::put_object::PutObjectOutput,
    primitives::{ByteStream, DateTime},
};
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::{Call, S3Target, SHORT, bound, transport::innermost};
use crate::{
    ETag, ErrorKind, Key, ListRequest, Object, ObjectMeta, Pin, Prefix, Target, TargetError, Version,
};

/// Most memory that is reserved before the first byte of an object is there.
const MAX_RESERVED: u64 = 64 << 20;

/// Outcome of a conditional put: what the store answered, or that the name is taken.
pub(super) enum Put {
    Done(Box<PutObjectOutput>),
    Taken,
}

impl S3Target {
    /// Puts on condition that the name is free. A name found taken by these very bytes after a lost answer is ours.
    pub(super) async fn put_if_absent(
        &self,
        call: Call<'_>,
        key: &Key,
        body: &Bytes,
    ) -> Result<Put, TargetError> {
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
    pub(super) async fn holds(&self, call: Call<'_>, key: &Key, body: &Bytes) -> Result<bool, TargetError> {
        match self.read(call, key, None, None, body.len() as u64).await {
            Ok(object) => Ok(object.body == *body),
            Err(error) if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What a put gives back; the entity tag is asked for where the answer was lost.
    pub(super) async fn created(
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
                version: output.version_id().map(Version::new),
                modified: 0,
            }),
            None => self.head(key).await,
        }
    }

    /// One attempt of a read: at most `max` bytes in memory.
    pub(super) async fn read(
        &self,
        call: Call<'_>,
        key: &Key,
        range: Option<&Range<u64>>,
        pin: Option<&Pin>,
        max: u64,
    ) -> Result<Object, TargetError> {
        let sent = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)))
            .set_version_id(pin.and_then(version_id))
            .set_if_match(pin.map(|pin| format!("\"{}\"", pin.etag.as_str())))
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
        if pin.is_some_and(|pin| pin.etag != found) {
            return Err(call.error(
                ErrorKind::Changed,
                format!("it has another ETag now ({})", found.as_str()),
            ));
        }
        if range.is_some_and(|range| range.start > 0) && output.content_range().is_none() {
            // The whole object may be just as long.
            return Err(call.error(ErrorKind::Other, "the store ignores the range of the request"));
        }
        let size = output
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .unwrap_or_default();
        let too_large = || call.error(ErrorKind::TooLarge, format!("it has more than {max} bytes"));
        if size > max {
            return Err(too_large());
        }
        // What the store announces is only believed so far; the rest grows as it comes.
        let announced = usize::try_from(size.min(MAX_RESERVED)).unwrap_or_default();
        let mut body = BytesMut::with_capacity(announced);
        while let Some(chunk) = timeout(SHORT, output.body.next()).await.map_err(silent)? {
            let broken =
                |why: String| call.error(ErrorKind::Unreachable, format!("the answer broke off: {why}"));
            body.extend_from_slice(&chunk.map_err(|error| broken(innermost(&error)))?);
            if body.len() as u64 > max {
                return Err(too_large());
            }
        }
        let modified = seconds(output.last_modified());
        let meta = ObjectMeta {
            key: key.clone(),
            size: body.len() as u64,
            etag: found,
            version: output.version_id.as_deref().map(Version::new),
            modified,
        };
        Ok(Object {
            meta,
            body: body.freeze(),
        })
    }

    pub(super) async fn head_once(
        &self,
        call: Call<'_>,
        key: &Key,
        version: Option<&Version>,
    ) -> Result<ObjectMeta, TargetError> {
        let sent = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_version_id(version.map(|version| version.as_str().to_owned()))
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
            version: output.version_id().map(Version::new),
            modified: seconds(output.last_modified()),
        })
    }

    pub(super) async fn delete_one(&self, key: &Key, version: Option<&str>) -> Result<(), TargetError> {
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
    pub(super) async fn try_out(&self, key: &Key) -> Result<(), TargetError> {
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

/// The version of a pin as requests name it.
fn version_id(pin: &Pin) -> Option<String> {
    pin.version.as_ref().map(|version| version.as_str().to_owned())
}

/// Seconds since 1970; 0 where the store does not say.
pub(super) fn seconds(time: Option<&DateTime>) -> i64 {
    time.map_or(0, DateTime::secs)
}
