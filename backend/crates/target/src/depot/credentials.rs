//! What the two sides of a depot know each other by.
use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};

/// Days that a certificate is valid. Credentials are replaced as a whole, long before that.
const VALID_DAYS: i64 = 400;

/// Names of the files.
const TOKEN: &str = "token";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The certificate library refused.
    #[error("no certificate could be made: {0}")]
    Make(#[from] rcgen::Error),
    /// A file is not there, or is not what [`DepotCredentials::make`] makes.
    #[error("the file {file} of the depot's credentials is not usable: {why}")]
    Unusable {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A token, and a certificate that signs itself with its key.
#[derive(Clone)]
pub struct DepotCredentials {
    token: SecretString,
    certificate: String,
    key: SecretString,
}

impl DepotCredentials {
    /// Makes new ones for a depot that is reached under `name`.
    ///
    /// # Errors
    /// [`CredentialsError::Make`] for a name that no certificate can have.
    pub fn make(name: &str, now: Timestamp) -> Result<Self, CredentialsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params
            .distinguished_name
            .push(DnType::CommonName, "holdfast depot");
        // Clocks differ by less than a day.
        let date = |days: i64| {
            let day = now.to_zoned(TimeZone::UTC).date().saturating_add(days.days());
            let (month, of_month) = (day.month().unsigned_abs(), day.day().unsigned_abs());
            rcgen::date_time_ymd(i32::from(day.year()), month, of_month)
        };
        (params.not_before, params.not_after) = (date(-1), date(VALID_DAYS));
        // 244 random bits.
        let token = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(|id| id.simple().to_string());
        Ok(Self {
            token: token.concat().into(),
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem().into(),
        })
    }

    /// The files, **with token and key in clear**, for the Secret of the depot. Nothing else writes them out.
    pub fn expose_files(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            (TOKEN, self.token.expose_secret().to_owned()),
            (CERTIFICATE, self.certificate.clone()),
            (KEY, self.key.expose_secret().to_owned()),
        ])
    }

    /// Reads them from files by name.
    ///
    /// # Errors
    /// [`CredentialsError::Unusable`]; nothing of a file is repeated in it.
    pub fn from_files(file: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Self, CredentialsError> {
        let text = |name: &'static str| {
            let unusable = |why: &str| CredentialsError::Unusable {
                file: name,
                why: why.to_owned(),
            };
            let bytes = file(name).ok_or_else(|| unusable("it is not there"))?;
            match String::from_utf8(bytes) {
                Ok(text) if !text.is_empty() => Ok(text),
                _ => Err(unusable("it is empty or no text")),
            }
        };
        let credentials = Self {
            token: text(TOKEN)?.into(),
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?.into(),
        };
        credentials.server_config()?;
        Ok(credentials)
    }

    pub(super) fn token(&self) -> &str {
        self.token.expose_secret()
    }

    pub(super) fn certificate(&self) -> Result<CertificateDer<'static>, CredentialsError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| unusable(CERTIFICATE, &error))
    }

    /// TLS as the depot speaks it.
    pub(super) fn server_config(&self) -> Result<ServerConfig, CredentialsError> {
        let key = PrivateKeyDer::from_pem_slice(self.key.expose_secret().as_bytes())
            .map_err(|error| unusable(KEY, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(CERTIFICATE, &error))?;
        let certificates = vec![self.certificate()?];
        let mut config = builder
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|error| unusable(CERTIFICATE, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn unusable(file: &'static str, why: &dyn fmt::Display) -> CredentialsError {
    CredentialsError::Unusable {
        file,
        why: why.to_string(),
    }
}

impl fmt::Debug for DepotCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DepotCredentials([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> DepotCredentials {
        DepotCredentials::make("depot.example.svc", Timestamp::now()).unwrap()
    }

    #[test]
    fn what_is_written_reads_back_and_is_not_shown() {
        let made = made();
        let files = made.expose_files();
        let file = |name: &str| files.get(name).map(|text| text.clone().into_bytes());
        let read = DepotCredentials::from_files(file).unwrap();
        assert_eq!(read.expose_files(), files);
        assert!(!format!("{read:?}").contains(read.token()));
        assert_eq!(read.token().len(), 64);
    }

    #[test]
    fn another_key_or_a_missing_file_is_refused_by_name() {
        let (one, other) = (made().expose_files(), made().expose_files());
        let mixed = |name: &str| match name {
            KEY => other.get(name),
            _ => one.get(name),
        };
        let of = |name: &str| mixed(name).map(|text| text.clone().into_bytes());
        let error = DepotCredentials::from_files(of).unwrap_err().to_string();
        assert!(error.contains(CERTIFICATE), "{error}");
        let error = DepotCredentials::from_files(|name| of(name).filter(|_| name != TOKEN)).unwrap_err();
        assert!(error.to_string().contains("token"), "{error}");
    }
}
