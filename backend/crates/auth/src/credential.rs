//! What a person may present: a bearer token, or a client certificate with its key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kube::Config;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use x509_parser::pem::Pem;

/// Longest token that is passed on, in bytes; API servers refuse headers that are much longer.
const MAX_TOKEN: usize = 32 * 1024;

/// What was presented is not taken. `field` names what is at fault, as a path inside what was presented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Refusal {
    /// Path of the field.
    pub field: String,
    /// Why it is not taken, and what to do instead.
    pub why: String,
}

impl Refusal {
    pub(crate) fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }
}

/// A credential that can be presented to the registered cluster. Never stored, never printed.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A bearer token.
    Token(SecretString),
    /// A client certificate chain, leaf first, and its key; both PEM.
    Certificate {
        /// The chain.
        certificate: String,
        /// The private key.
        key: SecretString,
    },
}

impl Credential {
    /// A bearer token. `field` is where it came from.
    ///
    /// # Errors
    /// When it is empty, too long, or holds a character that no token has: it becomes part of a request header.
    pub fn token(text: &str, field: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Refusal::new(field, "the token is empty"));
        }
        if text.len() > MAX_TOKEN {
            return Err(Refusal::new(
                field,
                format!("the token is longer than {MAX_TOKEN} bytes"),
            ));
        }
        // RFC 6750, 2.1: b64token.
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
        {
            return Err(Refusal::new(
                field,
                "this is not a bearer token: it holds characters that no token has",
            ));
        }
        Ok(Self::Token(text.into()))
    }

    /// A client certificate and key, each base64 of PEM as in a kubeconfig.
    pub(crate) fn certificate(data: &str, key_data: &str, user: &str) -> Result<Self, Refusal> {
        let certificate_field = format!("{user}.client-certificate-data");
        let certificate = decode(data, &certificate_field)?;
        if certificates(&certificate, &certificate_field)?.is_empty() {
            return Err(Refusal::new(
                certificate_field,
                "there is no PEM certificate in it",
            ));
        }
        let key_field = format!("{user}.client-key-data");
        let key = decode(key_data, &key_field)?;
        PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| Refusal::new(key_field, "there is no PEM private key in it"))?;
        Ok(Self::Certificate {
            certificate,
            key: key.into(),
        })
    }

    /// When the credential ends by its own account, if it says so. Nothing is verified: only the API server can, and a
    /// lie here shortens or keeps the session of a credential that the API server has accepted all the same.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn expires_at(&self) -> Result<Option<Timestamp>, Refusal> {
        match self {
            Self::Token(token) => token_end(token.expose_secret()),
            Self::Certificate { certificate, .. } => {
                let ends = certificates(certificate, "client-certificate-data")?;
                Ok(ends.into_iter().min())
            }
        }
    }

    /// `config` with this credential and no other.
    pub(crate) fn apply(&self, config: &mut Config) {
        config.auth_info = kube::config::AuthInfo::default();
        match self {
            Self::Token(token) => config.auth_info.token = Some(token.clone()),
            Self::Certificate { certificate, key } => {
                config.auth_info.client_certificate_data = Some(STANDARD.encode(certificate));
                config.auth_info.client_key_data = Some(STANDARD.encode(key.expose_secret()).into());
            }
        }
    }
}

fn decode(data: &str, field: &str) -> Result<String, Refusal> {
    let compact: String = data.split_ascii_whitespace().collect();
    let bytes = STANDARD
        .decode(compact)
        .map_err(|_| Refusal::new(field, "this is not base64"))?;
    String::from_utf8(bytes).map_err(|_| Refusal::new(field, "this is not PEM"))
}

/// `notAfter` of every certificate.
fn certificates(pem: &str, field: &str) -> Result<Vec<Timestamp>, Refusal> {
    let broken = || Refusal::new(field, "this is not an X.509 certificate");
    let mut ends = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|_| broken())?;
        if block.label == "CERTIFICATE" {
            let certificate = block.parse_x509().map_err(|_| broken())?;
            let end = certificate.validity().not_after.timestamp();
            // The year 9999 stands for "no end"; what does not fit a timestamp ends later than any session.
            ends.push(Timestamp::from_second(end).unwrap_or(Timestamp::MAX));
        }
    }
    Ok(ends)
}

/// The `exp` claim of a JWT (RFC 7519, 4.1.4), seconds since the epoch. `None` for an opaque token, which has no three
/// parts, and for a JWT without end. One that looks like a JWT and does not read is not taken: its session could outlive
/// it.
fn token_end(token: &str) -> Result<Option<Timestamp>, Refusal> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: Option<f64>,
    }
    if token.split('.').count() != 3 {
        return Ok(None);
    }
    let decoded = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token);
    let claims = decoded.map_err(|e| {
        Refusal::new(
            "token",
            format!("it looks like a JWT and does not read as one: {e}"),
        )
    })?;
    Ok(claims
        .exp
        .and_then(|seconds| Timestamp::from_second(seconds as i64).ok()))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn jwt(claims: &str) -> Credential {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
        let token = format!("{header}.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        Credential::token(&token, "token").unwrap()
    }

    #[test]
    fn token_says_when_it_ends() {
        let end = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(jwt(r#"{"exp":1800000000}"#).expires_at(), Ok(Some(end)));
        assert_eq!(jwt(r#"{"exp":1800000000.5}"#).expires_at(), Ok(Some(end)));
        assert_eq!(jwt(r#"{"sub":"x"}"#).expires_at(), Ok(None));
        let opaque = Credential::token("opaque", "token").unwrap();
        assert_eq!(opaque.expires_at(), Ok(None));
        let broken = Credential::token("not.a.jwt", "token").unwrap();
        assert_eq!(broken.expires_at().unwrap_err().field, "token");
    }

    #[test]
    fn token_cannot_smuggle_a_header() {
        for bad in ["", "  ", "abc\r\nImpersonate-User: admin", "abc def", "tök"] {
            assert!(Credential::token(bad, "token").is_err(), "{bad:?}");
        }
        assert!(Credential::token(&"a".repeat(MAX_TOKEN + 1), "token").is_err());
        assert!(Credential::token(" abc.def-_~+/= \n", "token").is_ok());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let shown = format!("{:?}", Credential::token("hush-hush", "token").unwrap());
        assert!(!shown.contains("hush"), "{shown}");
    }
}
