//! The side that does not have the folder.
use std::{net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::StatusCode;
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use super::{
    credentials::DepotCredentials,
    wire::{Answer, Call, MAX_BODY, MAX_DOCUMENT, MAX_NAMES, PATH, Request, head, split},
};
use crate::{
    Creation, ErrorKind, Immutability, Key, ListRequest, Listing, Object, ObjectMeta, OpenUpload, Part,
    PartNumber, Patience, Pin, Prefix, ProbeReport, StoreId, Target, TargetError, Upload, Version,
    s3::transport::TransportError,
};

/// Longest wait for a connection. It is not far, and the first packet to a new address of the cluster may be lost: there
/// must be time for a second try.
const CONNECT: Duration = Duration::from_secs(2);

/// How to reach a depot.
#[derive(Clone, Debug)]
pub struct DepotAccess {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name that its certificate is for; it need not resolve.
    pub name: String,
    /// What it is known by, and knows us by.
    pub credentials: DepotCredentials,
    /// What it serves, for people: which claim or export.
    pub place: String,
}

/// A store in a folder that is mounted elsewhere.
#[derive(Clone, Debug)]
pub struct DepotTarget {
    client: reqwest::Client,
    url: String,
    token: Arc<SecretString>,
    place: String,
    store: Option<StoreId>,
    patience: Patience,
}

impl DepotTarget {
    /// For this very store; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the credentials cannot be used.
    pub fn connect(access: &DepotAccess, store: StoreId) -> Result<Self, TargetError> {
        Self::new(access, Some(store))
    }

    /// Which store the depot's folder holds; an empty one becomes a store if something is mounted there.
    ///
    /// # Errors
    /// As [`crate::DirectoryTarget::adopt`].
    pub async fn adopt(access: &DepotAccess) -> Result<StoreId, TargetError> {
        Self::new(access, None)?.ask(|_| Call::Adopt, Bytes::new()).await
    }

    fn new(access: &DepotAccess, store: Option<StoreId>) -> Result<Self, TargetError> {
        let DepotAccess {
            address,
            name,
            credentials,
            place,
        } = access;
        let invalid = |why: String| TargetError::new(ErrorKind::Invalid, "open", "", place, why);
        let tls = tls(credentials).map_err(invalid)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve(name, *address)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_nodelay(true)
            .build()
            .map_err(|error| invalid(TransportError::of(&error).to_string()))?;
        Ok(Self {
            client,
            url: format!("https://{name}:{}{PATH}", address.port()),
            token: Arc::new(credentials.token().to_owned().into()),
            place: place.clone(),
            store,
            patience: Patience::INTERACTIVE,
        })
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// A call that is answered by a document.
    async fn ask<T: DeserializeOwned>(
        &self,
        call: impl Fn(u32) -> Call,
        body: Bytes,
    ) -> Result<T, TargetError> {
        Ok(self.call(call, body).await?.0)
    }

    /// Calls until there is an answer, or patience ends. `call` is told how many tries went before.
    async fn call<T: DeserializeOwned>(
        &self,
        call: impl Fn(u32) -> Call,
        body: Bytes,
    ) -> Result<(T, Bytes), TargetError> {
        let first = call(0);
        let bound = first.deadline(body.len());
        let late = || {
            let why = format!("no answer in {} s", bound.as_secs());
            self.error(&first, ErrorKind::Unreachable, &why)
        };
        self.patience
            .retry(bound, late, |tries| self.once(call(tries), body.clone()))
            .await
    }

    async fn once<T: DeserializeOwned>(&self, call: Call, body: Bytes) -> Result<(T, Bytes), TargetError> {
        if body.len() > MAX_BODY {
            let why = "it is longer than 160 MiB";
            return Err(self.error(&call, ErrorKind::TooLarge, why));
        }
        let max = MAX_DOCUMENT.saturating_add(
            usize::try_from(call.answer_max())
                .unwrap_or(MAX_BODY)
                .min(MAX_BODY),
        );
        let request = Request {
            store: self.store.clone(),
            call,
        };
        let head = head(&request).map_err(|why| self.error(&request.call, ErrorKind::TooLarge, &why))?;
        let Request { call, .. } = request;
        let response = self
            .client
            .post(&self.url)
            .bearer_auth(self.token.expose_secret())
            .header(http::header::CONTENT_LENGTH, head.len() + body.len())
            .body(reqwest::Body::wrap_stream(futures::stream::iter(
                [head, body].map(Ok::<_, std::io::Error>),
            )))
            .send()
            .await
            .map_err(|error| self.unanswered(&call, &error))?;
        let status = response.status();
        let bytes = self.read(&call, response, max).await?;
        if status != StatusCode::OK {
            return Err(self.refused(&call, status, &bytes));
        }
        let protocol = |why: String| self.error(&call, ErrorKind::Protocol, &why);
        let (answer, body) = split::<Answer<T>>(bytes).map_err(protocol)?;
        match answer {
            Answer::Ok(answer) => Ok((answer, body)),
            Answer::Failed(problem) => Err(problem.told(&call, &self.place)),
        }
    }

    async fn read(&self, call: &Call, response: reqwest::Response, max: usize) -> Result<Bytes, TargetError> {
        let mut bytes = BytesMut::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.unanswered(call, &error))?;
            if bytes.len() + piece.len() > max {
                let why = "the answer is longer than it may be";
                return Err(self.error(call, ErrorKind::Protocol, why));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    fn error(&self, call: &Call, kind: ErrorKind, why: &str) -> TargetError {
        TargetError::new(kind, call.verb(), call.object(), &self.place, why)
    }

    fn unanswered(&self, call: &Call, error: &(dyn std::error::Error + 'static)) -> TargetError {
        match TransportError::of(error) {
            TransportError::Certificate(why) => {
                let why = format!("the depot shows another certificate than it was given: {why}");
                // Its Secret was replaced, and the pod has not yet been.
                self.error(call, ErrorKind::UntrustedCertificate, &why)
                    .transient(true)
            }
            TransportError::Network(why) => {
                let why = format!("the depot of the target does not answer: {why}");
                self.error(call, ErrorKind::Unreachable, &why)
            }
        }
    }

    fn refused(&self, call: &Call, status: StatusCode, body: &[u8]) -> TargetError {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
        let why = format!("the depot refuses the call ({status}): {text}");
        match status {
            StatusCode::SERVICE_UNAVAILABLE => self.error(call, ErrorKind::Throttled, &why),
            // Its Secret was replaced, and the pod has not yet been.
            StatusCode::UNAUTHORIZED => self.error(call, ErrorKind::Unreachable, &why),
            StatusCode::PAYLOAD_TOO_LARGE => self.error(call, ErrorKind::TooLarge, &why),
            _ => self.error(call, ErrorKind::Protocol, &why),
        }
    }
}

/// Trusts one certificate, and no authority.
fn tls(credentials: &DepotCredentials) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let certificate = credentials.certificate().map_err(|error| error.to_string())?;
    roots
        .add(certificate)
        .map_err(|error| format!("the depot's certificate cannot be used: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[async_trait]
impl Target for DepotTarget {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError> {
        self.ask(|_| Call::Put { key: key.clone() }, body).await
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError> {
        let call = |tries| Call::PutNew {
            key: key.clone(),
            again: tries > 0,
        };
        self.ask(call, body).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError> {
        let call = |_| Call::Get {
            key: key.clone(),
            max,
        };
        let (meta, body): (ObjectMeta, Bytes) = self.call(call, Bytes::new()).await?;
        if body.len() as u64 != meta.size {
            let why = format!("{} bytes came of {}", body.len(), meta.size);
            return Err(self.error(&call(0), ErrorKind::Changed, &why));
        }
        Ok(Object { meta, body })
    }

    async fn get_range(&self, key: &Key, range: Range<u64>, pin: Option<&Pin>) -> Result<Bytes, TargetError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let call = |_| Call::GetRange {
            key: key.clone(),
            range: range.clone(),
            pin: pin.cloned(),
        };
        let ((), body) = self.call(call, Bytes::new()).await?;
        if body.len() as u64 != range.end - range.start {
            let why = format!("{} bytes came of {}", body.len(), range.end - range.start);
            return Err(self.error(&call(0), ErrorKind::Changed, &why));
        }
        Ok(body)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError> {
        self.ask(|_| Call::Head { key: key.clone() }, Bytes::new()).await
    }

    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError> {
        let call = |_| Call::List {
            request: request.clone(),
        };
        self.ask(call, Bytes::new()).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError> {
        let mut outcome = Ok(());
        for keys in keys.chunks(MAX_NAMES) {
            let call = |_| Call::Delete { keys: keys.to_vec() };
            let deleted = self.ask(call, Bytes::new()).await;
            outcome = outcome.and(deleted);
        }
        outcome
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError> {
        self.ask(|_| Call::BeginUpload { key: key.clone() }, Bytes::new())
            .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        body: Bytes,
    ) -> Result<Part, TargetError> {
        // The connection may outlive this call, and then must not hold the caller's memory.
        let body = Bytes::copy_from_slice(&body);
        let call = |_| Call::UploadPart {
            upload: upload.clone(),
            number,
            offset,
        };
        self.ask(call, body).await
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
        let call = |_| Call::CopyPart {
            upload: upload.clone(),
            number,
            offset,
            source: source.clone(),
            range: range.clone(),
            pin: pin.clone(),
        };
        self.ask(call, Bytes::new()).await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>, TargetError> {
        let call = |_| Call::ListParts {
            upload: upload.clone(),
        };
        self.ask(call, Bytes::new()).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        // A folder never overwrites.
        _if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
        let call = |tries| Call::CompleteUpload {
            upload: upload.clone(),
            parts: parts.to_vec(),
            again: tries > 0,
        };
        self.ask(call, Bytes::new()).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError> {
        let call = |_| Call::AbortUpload {
            upload: upload.clone(),
        };
        self.ask(call, Bytes::new()).await
    }

    async fn list_uploads(&self, prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError> {
        let call = |_| Call::ListUploads {
            prefix: prefix.clone(),
        };
        self.ask(call, Bytes::new()).await
    }

    async fn immutability(&self) -> Result<Immutability, TargetError> {
        Ok(Immutability::default())
    }

    async fn lock(&self, key: &Key, _: &Version, _: Timestamp) -> Result<(), TargetError> {
        let why = "a folder has no object lock";
        Err(TargetError::new(
            ErrorKind::Unsupported,
            "lock",
            key,
            &self.place,
            why,
        ))
    }

    async fn locked_until(&self, _: &Key, _: &Version) -> Result<Option<Timestamp>, TargetError> {
        Ok(None)
    }

    async fn probe(&self) -> Result<ProbeReport, TargetError> {
        let took = self.ask(|_| Call::Probe, Bytes::new()).await?;
        Ok(ProbeReport { took })
    }
}
