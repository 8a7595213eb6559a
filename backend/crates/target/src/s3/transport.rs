//! The HTTP client below the S3 SDK. Our own, because the SDK's takes no "skip verification", panics on a bad PEM, and
//! because a failed handshake must be told from an unreachable host.
use std::{sync::Arc, time::Duration};

use aws_sdk_s3::config::{RuntimeComponents, http::HttpRequest};
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

use crate::Connection;

/// Longest wait for a connection, name lookup and TLS handshake included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of an answer that is read whole. A page of a thousand names of 1024 bytes, every one of them a character
/// that XML escapes, has less. Objects are counted where they are read.
pub(super) const MAX_ANSWER: usize = 8 << 20;

/// Why no HTTP answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// TLS stopped at the server's certificate.
    #[error("the certificate of the endpoint is not trusted: {0}")]
    Certificate(String),
    /// Anything before that or after.
    #[error("{0}")]
    Network(String),
}

impl TransportError {
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        match certificate_problem(error) {
            Some(problem) => Self::Certificate(problem),
            None => Self::Network(innermost(error)),
        }
    }
}

/// The certificate error somewhere below, if that is what it was.
fn certificate_problem(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(problem)) => return Some(format!("{problem}")),
            Some(rustls::Error::NoCertificatesPresented) => return Some("it presented none".to_owned()),
            _ => {}
        }
        // `io::Error::source` skips the error it wraps.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(problem) = wrapped.and_then(|inner| certificate_problem(inner)) {
            return Some(problem);
        }
        next = error.source();
    }
    None
}

/// The last error of the chain, which is the one that says something ("connection refused").
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// A pool of connections to one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    client: reqwest::Client,
}

impl Transport {
    pub(super) fn new(connection: &Connection) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(connection)?)
            // A proxy from the environment would see every byte and be invisible in the target's spec.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_nodelay(true)
            .build()
            .map_err(|error| format!("the HTTP client cannot be made: {}", innermost(&error)))?;
        Ok(Self { client })
    }
}

fn tls(connection: &Connection) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    if connection.skip_cert_verification {
        let verifier = Arc::new(AnyCertificate(provider));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match &connection.ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| format!("the CA is not PEM: {error}"))?;
                roots
                    .add(certificate)
                    .map_err(|error| format!("the CA holds an unusable certificate: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the CA holds no certificate".to_owned());
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Takes any certificate, but still checks that the peer holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl HttpClient for Transport {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.client.clone();
        let reads_object = is_object_read(&request);
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))
                .map_err(|error| ConnectorError::user(error.into()))?;
            let response = client
                .execute(request)
                .await
                .map_err(|error| ConnectorError::io(TransportError::of(&error).into()))?;
            let response: http::Response<reqwest::Body> = response.into();
            let streamed = reads_object && response.status().is_success();
            response
                .map(|body| match streamed {
                    true => SdkBody::from_body_1_x(body),
                    // The SDK takes these into memory as they come, however long they are.
                    false => SdkBody::from_body_1_x(Limited::new(body, MAX_ANSWER)),
                })
                .try_into()
                .map_err(|error| ConnectorError::other(Box::new(error), None))
        })
    }
}

/// Whether the answer is an object, which its reader takes piece by piece: the SDK writes the operation into the query.
fn is_object_read(request: &HttpRequest) -> bool {
    let query = request.uri().split_once('?').map_or("", |(_, query)| query);
    request.method() == "GET" && query.split('&').any(|pair| pair == "x-id=GetObject")
}
