//! What is needed to reach a store.
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// A secret key: not printed, wiped from memory when dropped, serialised only where [`Connection::expose_json`] is
/// called by name.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct SecretKey(SecretString);

impl SecretKey {
    /// Takes the secret in.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(SecretString::from(secret.into()))
    }

    /// Lets the secret out, for signing.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for SecretKey {
    fn from(secret: String) -> Self {
        Self::new(secret)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How to reach a bucket. Read with serde; written only by [`Connection::expose_json`], because the text holds the
/// secret key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// `http(s)://host[:port]`; absent: the endpoint of AWS for the region.
    #[serde(default)]
    pub url: Option<String>,
    /// Region that requests are signed for; stores that have none take any.
    #[serde(default = "default_region")]
    pub region: String,
    /// Bucket name.
    pub bucket: String,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: SecretKey,
    /// Certificates in PEM. Where given, **only** these are trusted; absent: those of the system.
    #[serde(default)]
    pub ca: Option<String>,
    /// Take any certificate: whoever is on the way can read and change everything.
    #[serde(default)]
    pub skip_cert_verification: bool,
}

/// Region used where the target names none.
fn default_region() -> String {
    "us-east-1".to_owned()
}

impl Connection {
    /// The connection as JSON **with the secret key in clear**, for the Secret that a mover pod mounts. Nothing else
    /// writes it out.
    pub fn expose_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Exposed<'a> {
            url: &'a Option<String>,
            region: &'a str,
            bucket: &'a str,
            access_key: &'a str,
            secret_key: &'a str,
            ca: &'a Option<String>,
            skip_cert_verification: bool,
        }
        let Self {
            url,
            region,
            bucket,
            access_key,
            secret_key,
            ca,
            skip_cert_verification,
        } = self;
        serde_json::to_value(Exposed {
            url,
            region,
            bucket,
            access_key,
            secret_key: secret_key.expose(),
            ca,
            skip_cert_verification: *skip_cert_verification,
        })
        .expect("plain strings and a bool serialise")
    }

    /// Bucket and endpoint, for people.
    pub(crate) fn place(&self) -> String {
        match &self.url {
            Some(url) => format!("bucket {} at {url}", self.bucket),
            None => format!("bucket {} of AWS region {}", self.bucket, self.region),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_shows_only_where_asked_by_name() {
        let json = r#"{"bucket":"b","accessKey":"ak","secretKey":"s3cr3t"}"#;
        let connection: Connection = serde_json::from_str(json).unwrap();
        assert!(!format!("{connection:?}").contains("s3cr3t"));
        let exposed = connection.expose_json();
        assert_eq!(exposed["secretKey"], "s3cr3t");
        let again: Connection = serde_json::from_value(exposed).unwrap();
        assert_eq!(again.secret_key.expose(), "s3cr3t");
        assert_eq!(again.region, "us-east-1");
    }
}
