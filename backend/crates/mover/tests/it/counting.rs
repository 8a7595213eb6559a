//! A target that writes down what is asked of it.
use std::{ops::Range, sync::Arc, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_target::{
    Creation, Immutability, Key, ListRequest, Listing, Object, ObjectMeta, OpenUpload, Part, PartNumber, Pin,
    Prefix, ProbeReport, Target, TargetError, Upload, Version,
};
use jiff::Timestamp;

/// A request that moves bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Read(String, Range<u64>),
    Copy(String, Range<u64>),
    Send(PartNumber, u64),
}

#[derive(Debug)]
pub(crate) struct Counting {
    inner: Arc<dyn Target>,
    log: Mutex<Vec<Request>>,
}

impl Counting {
    pub(crate) fn new(inner: Arc<dyn Target>) -> Self {
        Self {
            inner,
            log: Mutex::default(),
        }
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    fn note(&self, request: Request) {
        self.log.lock().unwrap().push(request);
    }
}

#[async_trait]
impl Target for Counting {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError> {
        self.inner.put(key, body).await
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError> {
        self.inner.put_new(key, body).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError> {
        self.inner.get(key, max).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>, pin: Option<&Pin>) -> Result<Bytes, TargetError> {
        assert!(pin.is_some(), "{key} is read without being bound");
        self.note(Request::Read(key.file_name().to_owned(), range.clone()));
        self.inner.get_range(key, range, pin).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError> {
        self.inner.head(key).await
    }

    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError> {
        self.inner.list(request).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError> {
        self.inner.delete(keys).await
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError> {
        self.inner.begin_upload(key).await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        body: Bytes,
    ) -> Result<Part, TargetError> {
        self.note(Request::Send(number, body.len() as u64));
        self.inner.upload_part(upload, number, offset, body).await
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
        self.note(Request::Copy(source.file_name().to_owned(), range.clone()));
        let copied = self.inner.copy_part(upload, number, offset, source, range, pin);
        copied.await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>, TargetError> {
        self.inner.list_parts(upload).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
        self.inner.complete_upload(upload, parts, if_absent).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError> {
        self.inner.abort_upload(upload).await
    }

    async fn list_uploads(&self, prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError> {
        self.inner.list_uploads(prefix).await
    }

    async fn immutability(&self) -> Result<Immutability, TargetError> {
        self.inner.immutability().await
    }

    async fn lock(&self, key: &Key, version: &Version, until: Timestamp) -> Result<(), TargetError> {
        self.inner.lock(key, version, until).await
    }

    async fn locked_until(&self, key: &Key, version: &Version) -> Result<Option<Timestamp>, TargetError> {
        self.inner.locked_until(key, version).await
    }

    async fn probe(&self) -> Result<ProbeReport, TargetError> {
        self.inner.probe().await
    }
}
