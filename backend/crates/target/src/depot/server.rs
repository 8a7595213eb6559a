//! The side that has the folder.
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use bytes::Bytes;
use hyper_util::rt::TokioTimer;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, RwLock, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    credentials::{CredentialsError, DepotCredentials},
    operations::perform,
    wire::{Answer, Call, HEALTH, MAX_BODY, MAX_DOCUMENT, PATH, Problem, Request, head, split},
};
use crate::{
    DirectoryTarget, ErrorKind, TargetError,
    directory::{LOOK, bound},
};

/// Most bytes of objects that are in memory at once, in KiB.
const MEMORY: u32 = 256 << 10;
/// Longest wait for that memory.
const QUEUE: Duration = Duration::from_secs(15);
/// Time for a client to say what it wants.
const HEADERS: Duration = Duration::from_secs(10);
/// Time that calls under way get when the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// Why a depot does not serve.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    /// What it should be known by cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The port cannot be listened on, or listening ended by itself.
    #[error("the depot does not serve: {0}")]
    Serve(#[from] std::io::Error),
}

struct Depot {
    path: PathBuf,
    /// Hashes are compared, and in constant time.
    token: blake3::Hash,
    /// Open as long as it is the store that was asked for.
    open: RwLock<Option<DirectoryTarget>>,
    memory: Arc<Semaphore>,
}

/// Serves the folder at `path` on `listener` until `stop`. The folder is opened by the first call: until then, and while it
/// does not answer, the depot lives and says why it cannot work.
///
/// # Errors
/// [`DepotError`]; each must end the process.
pub async fn serve(
    path: &Path,
    credentials: &DepotCredentials,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), DepotError> {
    let depot = Arc::new(Depot {
        path: path.to_owned(),
        token: blake3::hash(credentials.token().as_bytes()),
        open: RwLock::default(),
        memory: Arc::new(Semaphore::new(MEMORY as usize)),
    });
    let routes = Router::new()
        .route(HEALTH, get(|| async { "ok" }))
        .route(PATH, post(answer))
        .with_state(depot);
    let tls = RustlsConfig::from_config(Arc::new(credentials.server_config()?));
    listener.set_nonblocking(true)?;
    let handle = Handle::new();
    let mut server = axum_server::from_tcp_rustls(listener, tls)?.handle(handle.clone());
    let mut http = server.http_builder().http1();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let server = server.serve(routes.into_make_service());
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => {
            ended?;
            Err(std::io::Error::other("it ended by itself").into())
        }
        () = stop.cancelled() => {
            handle.graceful_shutdown(Some(GRACE));
            Ok(server.await?)
        }
    }
}

/// A refusal before anything was done: a status and a line.
type Refusal = (StatusCode, &'static str);

async fn answer(State(depot): State<Arc<Depot>>, request: HttpRequest) -> Response {
    match depot.handle(request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

impl Depot {
    async fn handle(&self, request: HttpRequest) -> Result<Response, Refusal> {
        if !self.knows(request.headers()) {
            return Err((StatusCode::UNAUTHORIZED, "the token is not that of this depot"));
        }
        let (call, body, permit) = self.receive(request).await?;
        let done = match self.store(&call).await {
            Ok(store) => perform(&store, &call.call, body, |bytes| self.reserve(bytes)).await,
            Err(error) => Err(error),
        };
        drop(permit);
        if let Err(error) = &done {
            self.close_if_lost(error).await;
        }
        let (answer, body, permit) = match done {
            Ok(done) => (Answer::Ok(done.answer), done.body, done.permit),
            Err(error) => (Answer::Failed(Problem::of(&error)), Bytes::new(), None),
        };
        let too_long = (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the answer is longer than a depot gives",
        );
        let document = head::<Answer<Value>>(&answer).map_err(|_| too_long)?;
        // The memory is free again when the last piece is on its way.
        let pieces = futures::stream::iter([document, body].map(Ok::<_, std::io::Error>));
        let held = futures::stream::once(async move {
            drop(permit);
            Ok(Bytes::new())
        });
        Ok(Body::from_stream(futures::StreamExt::chain(pieces, held)).into_response())
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let token = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        token.is_some_and(|token| blake3::hash(token) == self.token)
    }

    async fn receive(
        &self,
        request: HttpRequest,
    ) -> Result<(Request, Bytes, Option<OwnedSemaphorePermit>), Refusal> {
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let length = length.ok_or((StatusCode::LENGTH_REQUIRED, "a call says how long it is"))?;
        let too_large = (
            StatusCode::PAYLOAD_TOO_LARGE,
            "the call is longer than a depot takes",
        );
        if length > MAX_BODY + MAX_DOCUMENT {
            return Err(too_large);
        }
        let busy = (
            StatusCode::SERVICE_UNAVAILABLE,
            "the depot has too much to do at once",
        );
        let permit = self.reserve(length as u64).await.ok_or(busy)?;
        let read = to_bytes(request.into_body(), length);
        let cut = (StatusCode::BAD_REQUEST, "the call did not come to its end");
        let bytes = timeout(bound(LOOK, length as u64), read).await;
        let bytes = bytes.map_err(|_| cut)?.map_err(|_| cut)?;
        let (call, body) =
            split(bytes).map_err(|_| (StatusCode::BAD_REQUEST, "the call cannot be understood"))?;
        Ok((call, body, permit))
    }

    /// Memory for so many bytes; `None` when it did not become free in time.
    async fn reserve(&self, bytes: u64) -> Option<Option<OwnedSemaphorePermit>> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(MEMORY).min(MEMORY);
        if kib == 0 {
            return Some(None);
        }
        let permit = timeout(QUEUE, self.memory.clone().acquire_many_owned(kib)).await;
        Some(Some(permit.ok()?.ok()?))
    }

    /// The store that a call is meant for.
    async fn store(&self, request: &Request) -> Result<DirectoryTarget, TargetError> {
        let expected = match (&request.store, &request.call) {
            (Some(id), _) => Some(id),
            (None, Call::Adopt) => None,
            (None, _) => return Err(self.refuse("the call does not say which store it means")),
        };
        let same = |open: &&DirectoryTarget| expected.is_some() && open.id().as_ref() == expected;
        if let Some(open) = self.open.read().await.as_ref().filter(same) {
            return Ok(open.clone());
        }
        let opened = match expected {
            Some(id) => DirectoryTarget::open(&self.path, id).await?,
            None => DirectoryTarget::adopt(&self.path).await?,
        };
        *self.open.write().await = Some(opened.clone());
        Ok(opened)
    }

    fn refuse(&self, why: &str) -> TargetError {
        let place = self.path.display().to_string();
        TargetError::new(ErrorKind::Protocol, "open", "", &place, why)
    }

    /// A folder that is not what it was is looked at anew by the next call.
    async fn close_if_lost(&self, error: &TargetError) {
        if error.kind() == ErrorKind::NotMounted {
            *self.open.write().await = None;
        }
    }
}

/// What came of a call: the answer, an object's bytes, and the memory that they take.
pub(super) struct Done {
    pub(super) answer: Value,
    pub(super) body: Bytes,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}
