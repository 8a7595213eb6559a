//! What is needed to reach a store.
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::ErrorKind;

/// Longest access key id, in bytes; those of AWS have up to 128.
const MAX_ACCESS_KEY: usize = 256;
/// Longest secret key, in bytes.
const MAX_SECRET_KEY: usize = 4096;
/// Longest region, in bytes.
const MAX_REGION: usize = 64;
/// Longest bucket name, in bytes: the oldest buckets of AWS have up to 255.
const MAX_BUCKET: usize = 255;

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

    /// Checks what goes into the headers and the address of a request, because the signer of requests panics on what a
    /// header cannot hold. The URL is checked where it is taken apart.
    ///
    /// # Errors
    /// The kind, and what to correct. Neither a key nor anything else of the connection is repeated in it.
    pub(crate) fn check(&self) -> Result<(), (ErrorKind, String)> {
        let wrong = |kind, why: String| Err((kind, why));
        if !within(&self.access_key, MAX_ACCESS_KEY, |b| b.is_ascii_graphic()) {
            let why = format!(
                "the access key must be 1 to {MAX_ACCESS_KEY} printable ASCII characters without spaces and line breaks"
            );
            return wrong(ErrorKind::WrongCredentials, why);
        }
        if !within(self.secret_key.expose(), MAX_SECRET_KEY, |b| {
            !b.is_ascii_control()
        }) {
            let why = format!(
                "the secret key must be 1 to {MAX_SECRET_KEY} bytes without line breaks and other control characters"
            );
            return wrong(ErrorKind::WrongCredentials, why);
        }
        if !within(&self.region, MAX_REGION, |b| {
            b.is_ascii_alphanumeric() || b == b'-'
        }) {
            let why = format!("the region must be 1 to {MAX_REGION} letters, digits and hyphens");
            return wrong(ErrorKind::Invalid, why);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if !within(&self.bucket, MAX_BUCKET, plain) || self.bucket.bytes().all(|b| b == b'.') {
            let why = format!(
                "the bucket's name must be 1 to {MAX_BUCKET} letters, digits, hyphens, dots, underscores and colons"
            );
            return wrong(ErrorKind::Invalid, why);
        }
        Ok(())
    }

    /// Bucket and endpoint, for people.
    pub(crate) fn place(&self) -> String {
        match &self.url {
            Some(url) => format!("bucket {} at {url}", self.bucket),
            None => format!("bucket {} of AWS region {}", self.bucket, self.region),
        }
    }
}

/// Whether a text has 1 to `max` bytes, all of them allowed.
fn within(text: &str, max: usize, allowed: impl Fn(u8) -> bool) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(allowed)
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

    fn with(field: &str, value: &str) -> Result<(), (ErrorKind, String)> {
        let mut json = serde_json::json!({"bucket": "b-1.x", "accessKey": "ak/+=", "secretKey": "s3 cr3t"});
        json[field] = value.into();
        serde_json::from_value::<Connection>(json).unwrap().check()
    }

    #[test]
    fn what_a_header_cannot_hold_is_refused_and_not_repeated() {
        assert_eq!(with("region", "eu-central-1"), Ok(()));
        assert_eq!(with("bucket", "tenant:Old_Bucket"), Ok(()));
        let long = "a".repeat(5000);
        for (field, kind, bad) in [
            (
                "accessKey",
                ErrorKind::WrongCredentials,
                vec!["", "AK\nIA", "AK IA", "AK\u{7f}", "AKÄ", &long],
            ),
            (
                "secretKey",
                ErrorKind::WrongCredentials,
                vec!["", "se\ncret", "se\0cret", &long],
            ),
            (
                "region",
                ErrorKind::Invalid,
                vec!["", "eu\n", "eu central", "eu/1", "eu.x", &long],
            ),
            (
                "bucket",
                ErrorKind::Invalid,
                vec!["", ".", "..", "a/b", "a\nb", "a b", "a?b", &long],
            ),
        ] {
            for value in bad {
                let (found, why) = with(field, value).expect_err(value);
                assert_eq!(found, kind, "{field} {value:?}");
                assert!(value.len() < 3 || !why.contains(value), "{why}");
            }
        }
    }
}
