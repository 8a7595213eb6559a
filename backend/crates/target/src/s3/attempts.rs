//! Single attempts, and the calls that are made of several: what the methods of [`crate::Target`] are built from.
use std::{future::Future, ops::Range};

use aws_sdk_s3::{
    operation::put_object::PutObjectOutput,
    primitives::{ByteStream, DateTime},
};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{Call, S3Target, SHORT, bound, transport::innermost};
use crate::{
    ETag, ErrorKind, Key, ListRequest, Object, ObjectMeta, Pin, Prefix, Target, TargetError, Version,
    layout::{probe_key, standing_probe_key},
};

/// Most memory that is reserved before the first byte of an object is there.
const MAX_RESERVED: u64 = 64 << 20;

/// Outcome of a conditional put: what the store answered, or that the name is taken.
enum Put {
    Done(Box<PutObjectOutput>),
    Taken,
}

impl S3Target {
    /// Creates an object; `None` where its name is taken.
    pub(super) async fn create(
        &self,
        call: Call<'_>,
        key: &Key,
        body: &Bytes,
    ) -> Result<Option<ObjectMeta>, TargetError> {
        let versioned = self.versioned(call).await?;
        let output = match self.put_if_absent(call, key, body).await? {
            Put::Done(output) => output,
            Put::Taken => return Ok(None),
        };
        let (Some(etag), version) = (output.e_tag(), output.version_id().map(Version::new)) else {
            // The answer was lost.
            return self.look_up(call, key).await.map(Some);
        };
        if versioned
            && let Some(version) = &version
            && !self.came_first(call, key, version).await?
        {
            return Ok(None);
        }
        Ok(Some(ObjectMeta {
            key: key.clone(),
            size: body.len() as u64,
            etag: ETag::new(etag),
            version,
            modified: 0,
        }))
    }

    /// Puts on condition that the name is free. A name found taken by these very bytes after a lost answer is ours.
    async fn put_if_absent(&self, call: Call<'_>, key: &Key, body: &Bytes) -> Result<Put, TargetError> {
        // Stores want a checksum of what they lock at once.
        let locked = self.settings(call).await?.default.is_some();
        let checksum = locked.then(|| BASE64_STANDARD.encode(Sha256::digest(body)));
        let checksum = &checksum;
        self.retry(call, bound(body.len() as u64), |tries| async move {
            let sent = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(key.as_str())
                .if_none_match("*")
                .set_checksum_sha256(checksum.clone())
                .body(ByteStream::from(body.clone()))
                .send();
            match sent.await {
                Ok(output) => Ok(Put::Done(Box::new(output))),
                Err(error) => match call.explain(&error) {
                    found if found.kind() == ErrorKind::Exists => {
                        if tries > 0 && self.held(call, key, body).await?.is_some() {
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

    /// The object, if it has exactly these bytes.
    pub(super) async fn held(
        &self,
        call: Call<'_>,
        key: &Key,
        body: &Bytes,
    ) -> Result<Option<ObjectMeta>, TargetError> {
        let read = self.pinned(call, key, None, |pin| async move {
            let pin = pin.as_ref();
            let max = body.len() as u64;
            self.retry(call, bound(max), |_| self.read(call, key, None, pin, max))
                .await
        });
        match read.await {
            Ok(object) => Ok(Some(object.meta).filter(|_| object.body == *body)),
            Err(error) if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the store says of the object that a name stands for.
    pub(super) async fn look_up(&self, call: Call<'_>, key: &Key) -> Result<ObjectMeta, TargetError> {
        match self.versioned(call).await? {
            true => self.oldest(call, key).await,
            false => self.retry(call, SHORT, |_| self.head_once(call, key, None)).await,
        }
    }

    /// Runs `attempt` on the object that is meant: the pinned version; the one that counts where there is no pin; and the
    /// oldest one with the entity tag of the pin, where that names no version or one that is not here, because the bucket
    /// got its versions later or is a copy of another one.
    pub(super) async fn pinned<T, F>(
        &self,
        call: Call<'_>,
        key: &Key,
        pin: Option<&Pin>,
        attempt: impl Fn(Option<Pin>) -> F,
    ) -> Result<T, TargetError>
    where
        F: Future<Output = Result<T, TargetError>>,
    {
        let Some(pin) = pin else {
            let pin = match self.versioned(call).await? {
                true => Some(self.oldest(call, key).await?.pin()),
                false => None,
            };
            return attempt(pin).await;
        };
        let error = match attempt(Some(pin.clone())).await {
            Err(error) => error,
            done => return done,
        };
        let elsewhere = match error.kind() {
            ErrorKind::NotFound => true,
            ErrorKind::Changed => pin.version.is_none(),
            // What stores say to a copy of a delete marker, and buckets without versions to the id of one.
            ErrorKind::Other => pin.version.is_none() || error.why().starts_with("InvalidArgument"),
            _ => false,
        };
        if !elsewhere {
            return Err(error);
        }
        match (self.versioned(call).await?, &pin.version) {
            (true, _) => attempt(Some(self.pin_version(call, key, pin).await?)).await,
            (false, None) => Err(error),
            (false, Some(_)) => {
                attempt(Some(Pin {
                    version: None,
                    ..pin.clone()
                }))
                .await
            }
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

    /// Removes an object, all its versions included.
    pub(super) async fn remove(&self, call: Call<'_>, key: &Key) -> Result<(), TargetError> {
        match self.versioned(call).await? {
            true => self.delete_versions(call, key).await,
            false => self.delete_version(call, key, None).await,
        }
    }

    pub(super) async fn delete_version(
        &self,
        call: Call<'_>,
        key: &Key,
        version: Option<&Version>,
    ) -> Result<(), TargetError> {
        self.retry(call, SHORT, |_| async move {
            let sent = self
                .client
                .delete_object()
                .bucket(&self.bucket)
                .key(key.as_str())
                .set_version_id(version.map(|version| version.as_str().to_owned()))
                .send();
            match sent.await.map_err(|error| call.explain(&error)) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Everything a backup will do, once, on an object of its own. Where every new object is locked, that is always the
    /// same one: it would stay.
    pub(super) async fn try_out(&self) -> Result<(), TargetError> {
        let call = self.call("probe", "");
        let stays = self.settings(call).await?.default.is_some();
        let key = if stays { standing_probe_key() } else { probe_key() };
        let body = Bytes::from(key.to_string());
        if self.create(call, &key, &body).await?.is_none() && !stays {
            return Err(call.error(ErrorKind::Exists, "a name made up at random is taken"));
        }
        let tried = self.try_object(call, &key, &body).await;
        match stays {
            true => tried,
            false => tried.and(self.remove(call, &key).await),
        }
    }

    async fn try_object(&self, call: Call<'_>, key: &Key, body: &Bytes) -> Result<(), TargetError> {
        let other = Bytes::from_static(b"this must not be written");
        if let Put::Done(_) = self.put_if_absent(call, key, &other).await? {
            let why = "the store ignores If-None-Match, so two writers could overwrite each other";
            return Err(call.error(ErrorKind::Other, why));
        }
        if self.held(call, key, body).await?.is_none() {
            let why = "the store gave back other bytes than were written";
            return Err(call.error(ErrorKind::Changed, why));
        }
        let prefix: Prefix = key.as_str().parse().expect("a key is a prefix of itself");
        if self.list(&ListRequest::all(prefix)).await?.objects.is_empty() {
            return Err(call.error(ErrorKind::Other, "the store does not list what was just written"));
        }
        Ok(())
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
