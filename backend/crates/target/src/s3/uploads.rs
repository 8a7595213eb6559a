//! Multipart uploads: single attempts, and what is made of several.
use std::ops::Range;

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;

use super::{Call, LONG, S3Target, SHORT, attempts::seconds};
use crate::{
    ETag, ErrorKind, Key, MAX_LIST, ObjectMeta, OpenUpload, Part, PartNumber, Pin, Prefix, TargetError,
    Upload, Version,
};

impl S3Target {
    pub(super) async fn begin_once(&self, call: Call<'_>, key: &Key) -> Result<Upload, TargetError> {
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
    }

    pub(super) async fn send_part(
        &self,
        call: Call<'_>,
        upload: &Upload,
        number: PartNumber,
        body: &Bytes,
    ) -> Result<Part, TargetError> {
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
            size: body.len() as u64,
        })
    }

    pub(super) async fn copy_once(
        &self,
        call: Call<'_>,
        upload: &Upload,
        number: PartNumber,
        source: &Key,
        range: &Range<u64>,
        pin: &Pin,
    ) -> Result<Part, TargetError> {
        if range.is_empty() {
            return Err(call.error(ErrorKind::Other, "no part can be made of no bytes"));
        }
        let sent = self
            .client
            .upload_part_copy()
            .bucket(&self.bucket)
            .key(upload.key.as_str())
            .upload_id(&upload.id)
            .part_number(number.0.cast_signed())
            .copy_source(self.copy_source(source, pin))
            .copy_source_range(format!("bytes={}-{}", range.start, range.end - 1))
            .copy_source_if_match(format!("\"{}\"", pin.etag.as_str()))
            .send();
        let output = sent.await.map_err(|error| call.explain_copy(&error))?;
        // A store that does not know the call takes it for an upload of no bytes, and says nothing of a copy.
        let etag = output
            .copy_part_result()
            .and_then(|result| result.e_tag())
            .ok_or_else(|| call.error(ErrorKind::Unsupported, "the store does not say that it copied"))?;
        Ok(Part {
            number,
            etag: ETag::new(etag),
            size: range.end - range.start,
        })
    }

    /// Value of `x-amz-copy-source`: bucket, key and version, percent-encoded.
    fn copy_source(&self, source: &Key, pin: &Pin) -> String {
        let mut text = format!("{}/{}", encoded(&self.bucket), source.as_str());
        if let Some(version) = &pin.version {
            text.push_str("?versionId=");
            text.push_str(&encoded(version.as_str()));
        }
        text
    }

    /// All parts of an upload, page by page.
    pub(super) async fn parts(&self, call: Call<'_>, upload: &Upload) -> Result<Vec<Part>, TargetError> {
        let mut parts: Vec<Part> = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let after = &marker;
            let output = self
                .retry(call, SHORT, |_| async move {
                    let request = self.client.list_parts().bucket(&self.bucket);
                    let request = request.key(upload.key.as_str()).upload_id(&upload.id);
                    let request = request.max_parts(MAX_LIST.cast_signed());
                    let sent = request.set_part_number_marker(after.clone()).send();
                    sent.await.map_err(|error| call.explain(&error))
                })
                .await?;
            let wrong = |why: &str| Err(call.error(ErrorKind::Protocol, why));
            for part in output.parts() {
                let number = part.part_number().and_then(|number| u32::try_from(number).ok());
                let number = PartNumber(number.unwrap_or_default());
                let size = part.size().and_then(|size| u64::try_from(size).ok());
                let before = parts.last().map_or(PartNumber(0), |part| part.number);
                // So the list ends: numbers only rise, up to the last.
                let (Some(size), true) = (size, number > before && number <= PartNumber::LAST) else {
                    return wrong("the store lists parts that cannot be");
                };
                let etag = ETag::new(part.e_tag().unwrap_or_default());
                parts.push(Part { number, etag, size });
            }
            if !output.is_truncated().unwrap_or_default() {
                return Ok(parts);
            }
            let next = output.next_part_number_marker().map(str::to_owned);
            if output.parts().is_empty() || next.is_none() {
                return wrong("the store says that there are more parts, but not where");
            }
            marker = next;
        }
    }

    pub(super) async fn complete(
        &self,
        call: Call<'_>,
        upload: &Upload,
        parts: &[Part],
        if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
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
        let version = self
            .retry(call, LONG, |tries| async move {
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
                    Ok(output) => Ok(output.version_id().map(Version::new)),
                    // The answer to an earlier try was lost: what counts is the object, which is looked at below.
                    Err(error)
                        if tries > 0 && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Exists) =>
                    {
                        match self.look_up(call, &upload.key).await {
                            Ok(_) => Ok(None),
                            Err(_) => Err(error),
                        }
                    }
                    Err(error) => Err(error),
                }
            })
            .await?;
        if let Some(version) = &version
            && self.versioned(call).await?
            && !self.came_first(call, &upload.key, version).await?
        {
            return Err(call.error(ErrorKind::Exists, "it is there already"));
        }
        let meta = self.look_up(call, &upload.key).await?;
        if meta.size != size {
            let why = format!("the store made {} bytes of parts that have {size}", meta.size);
            return Err(call.error(ErrorKind::Changed, why));
        }
        Ok(meta)
    }

    pub(super) async fn abort_once(&self, call: Call<'_>, upload: &Upload) -> Result<(), TargetError> {
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
    }

    pub(super) async fn open_uploads(
        &self,
        call: Call<'_>,
        prefix: &Prefix,
    ) -> Result<Vec<OpenUpload>, TargetError> {
        let request = self
            .client
            .list_multipart_uploads()
            .bucket(&self.bucket)
            .prefix(prefix.as_str());
        let sent = request.max_uploads(MAX_LIST.cast_signed()).send();
        let output = sent.await.map_err(|error| call.explain(&error))?;
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
}

/// Everything but letters, digits and `-._~` as `%` and two hexadecimal digits (RFC 3986, section 2).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
