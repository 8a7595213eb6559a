//! [`Target`] on an S3 compatible store.
//!
//! Decisions:
//! - Payloads of documents are always signed. Parts are signed over plain HTTP, where nothing else would notice a
//!   flipped bit, and unsigned over TLS, which checks every record itself (it saves a third of the processor time).
//! - No flexible checksums: many compatible stores refuse their trailers. What is stored is bound by our own digests.
//! - The SDK's retries and timeouts are off; ours know what a repeated conditional request means.
//! - A bucket with versions is told from one without by asking it, once a minute; a minute after versions were switched on
//!   everything goes by them.
//! - Path style addresses wherever a URL is given: compatible stores seldom have a wildcard name.

mod attempts;
mod explain;
mod locks;
mod operations;
mod page;
pub(crate) mod transport;
mod uploads;
mod versions;

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
    },
};

use self::{explain::Call, transport::Transport};
use crate::{Connection, ErrorKind, Immutability, Patience, TargetError};

/// A bucket of an S3 compatible store.
#[derive(Clone, Debug)]
pub struct S3Target {
    pub(crate) client: Client,
    pub(crate) bucket: String,
    place: String,
    sign_parts: bool,
    patience: Patience,
    /// What the bucket is set to, and when that was asked.
    pub(crate) settings: Arc<Mutex<Option<(Instant, Immutability)>>>,
}

/// Slowest rate at which an attempt may move its bytes before it counts as stuck.
const SLOWEST: u64 = 64 << 10;
/// Bound of an attempt that moves (nearly) no bytes, and of any pause while an answer is read.
const SHORT: Duration = Duration::from_secs(9);
/// Bound of putting an upload together: large stores take minutes for it.
const LONG: Duration = Duration::from_secs(600);

/// Bound of an attempt that moves this many bytes.
fn bound(bytes: u64) -> Duration {
    SHORT + Duration::from_secs(bytes / SLOWEST)
}

impl S3Target {
    /// Prepares the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::WrongCredentials`] for keys that no request can carry, [`ErrorKind::Invalid`] for a URL, region,
    /// bucket or CA that cannot be used.
    pub fn connect(connection: &Connection) -> Result<Self, TargetError> {
        // What is refused is not repeated: a URL may hold the password it is refused for.
        let blind = |(kind, why): (ErrorKind, String)| {
            TargetError::new(kind, "connect to", "", "the bucket of the target", why)
        };
        connection.check().map_err(blind)?;
        let url = connection.url.as_deref().map(check_url).transpose();
        let url = url.map_err(|why| blind((ErrorKind::Invalid, why)))?;
        let place = connection.place();
        let refuse = |why: String| TargetError::new(ErrorKind::Invalid, "connect to", "", &place, why);
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(connection.region.clone()))
            .credentials_provider(Credentials::new(
                &connection.access_key,
                connection.secret_key.expose(),
                None,
                None,
                "holdfast",
            ))
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        let mut sign_parts = false;
        if let Some(url) = url {
            sign_parts = url.scheme() == "http";
            config = config
                .endpoint_url(url.as_str().trim_end_matches('/'))
                .force_path_style(true);
        }
        let transport = Transport::new(connection).map_err(refuse)?;
        let client = Client::from_conf(config.http_client(transport).build());
        let bucket = connection.bucket.clone();
        Ok(Self {
            client,
            bucket,
            place,
            sign_parts,
            patience: Patience::INTERACTIVE,
            settings: Arc::default(),
        })
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    fn call<'a>(&'a self, verb: &'static str, object: &'a str) -> Call<'a> {
        Call {
            verb,
            object,
            place: &self.place,
        }
    }

    /// Runs attempts until one succeeds, fails for good, or patience ends. `attempt` is told how many went before it.
    async fn retry<T, F>(
        &self,
        call: Call<'_>,
        bound: Duration,
        attempt: impl FnMut(u32) -> F,
    ) -> Result<T, TargetError>
    where
        F: Future<Output = Result<T, TargetError>>,
    {
        let late = || {
            call.error(
                ErrorKind::Unreachable,
                format!("no answer in {} s", bound.as_secs()),
            )
        };
        self.patience.retry(bound, late, attempt).await
    }
}

fn check_url(url: &str) -> Result<url::Url, String> {
    // The parser drops some of them in silence.
    if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("the url must not hold spaces, line breaks or control characters".to_owned());
    }
    let parsed = url::Url::parse(url).map_err(|error| format!("the url cannot be used: {error}"))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() {
        return Err("the url must be http://host[:port] or https://host[:port]".to_owned());
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err("the url must not hold credentials".to_owned());
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err("the url must not hold a query or fragment".to_owned());
    }
    if let Err(error) = parsed.as_str().parse::<http::Uri>() {
        return Err(format!("the url cannot be used: {error}"));
    }
    Ok(parsed)
}
