//! The certificate authority and the serving certificate: made here, kept as one Secret, renewed before they age.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Days a certificate authority lives, and how many before its end a new one is made.
const AUTHORITY_DAYS: (i64, i64) = (3650, 400);
/// Days a serving certificate lives, and how many before its end a new one is made.
const SERVING_DAYS: (i64, i64) = (90, 30);

/// Annotations of the Secret: when each of the two ends, and the names the serving one is for.
const AUTHORITY_ENDS: &str = "holdfast.dev/ca-not-after";
const SERVING_ENDS: &str = "holdfast.dev/tls-not-after";
const SERVING_NAMES: &str = "holdfast.dev/tls-names";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The certificate library refused.
    #[error("no certificate could be made: {0}")]
    Make(#[from] rcgen::Error),
    /// What lies in the Secret is not what a replica of ours writes.
    #[error("the Secret {secret} holds no usable certificate: {problem}; delete it and a new one is made")]
    Unusable {
        /// Name of the Secret.
        secret: String,
        /// What is wrong.
        problem: String,
    },
}

/// Everything the replicas share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Material {
    authority: String,
    authority_key: String,
    /// The authority before this one, trusted until every replica serves a certificate of the new one.
    previous: Option<String>,
    authority_ends: Timestamp,
    certificate: String,
    key: String,
    serving_ends: Timestamp,
    names: String,
}

impl Material {
    /// A new authority with a certificate for `names`.
    pub(crate) fn make(names: &[String], now: Timestamp) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "holdfast admission authority");
        let authority_ends = set_validity(&mut params, now, AUTHORITY_DAYS.0);
        let authority = params.self_signed(&key)?.pem();
        let mut material = Self {
            authority,
            authority_key: key.serialize_pem(),
            previous: None,
            authority_ends,
            certificate: String::new(),
            key: String::new(),
            serving_ends: now,
            names: names.join(","),
        };
        material.sign(names, now)?;
        Ok(material)
    }

    /// What replaces this at `now`, if anything is due; serving names that changed are due at once.
    pub(crate) fn renewed(&self, names: &[String], now: Timestamp) -> Result<Option<Self>, CertificateError> {
        if days_left(self.authority_ends, now) < AUTHORITY_DAYS.1 {
            let mut next = Self::make(names, now)?;
            next.previous = Some(self.authority.clone());
            return Ok(Some(next));
        }
        if days_left(self.serving_ends, now) >= SERVING_DAYS.1 && self.names == names.join(",") {
            return Ok(None);
        }
        let mut next = self.clone();
        next.sign(names, now)?;
        Ok(Some(next))
    }

    fn sign(&mut self, names: &[String], now: Timestamp) -> Result<(), CertificateError> {
        let issuer = Issuer::from_ca_cert_pem(&self.authority, KeyPair::from_pem(&self.authority_key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params
            .distinguished_name
            .push(DnType::CommonName, "holdfast admission");
        self.serving_ends = set_validity(&mut params, now, SERVING_DAYS.0);
        self.certificate = params.signed_by(&key, &issuer)?.pem();
        self.key = key.serialize_pem();
        self.names = names.join(",");
        Ok(())
    }

    /// Certificates the API server must trust, PEM.
    pub(crate) fn bundle(&self) -> String {
        format!(
            "{}{}",
            self.authority,
            self.previous.as_deref().unwrap_or_default()
        )
    }

    /// Reads what [`Material::write_to`] wrote.
    pub(crate) fn read_from(secret: &Secret) -> Result<Self, CertificateError> {
        let unusable = |problem: String| CertificateError::Unusable {
            secret: secret.metadata.name.clone().unwrap_or_default(),
            problem,
        };
        let data = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|d| d.get(key));
            bytes.and_then(|b| String::from_utf8(b.0.clone()).ok())
        };
        let needed = |key: &str| data(key).ok_or_else(|| unusable(format!("it has no text under {key}")));
        let annotation = |name: &str| {
            let value = secret.metadata.annotations.as_ref().and_then(|a| a.get(name));
            value
                .cloned()
                .ok_or_else(|| unusable(format!("it has no annotation {name}")))
        };
        let time = |name: &str| {
            let text = annotation(name)?;
            text.parse::<Timestamp>()
                .map_err(|e| unusable(format!("annotation {name}: {e}")))
        };
        let material = Self {
            authority: needed("ca.crt")?,
            authority_key: needed("ca.key")?,
            previous: data("previous-ca.crt"),
            authority_ends: time(AUTHORITY_ENDS)?,
            certificate: needed("tls.crt")?,
            key: needed("tls.key")?,
            serving_ends: time(SERVING_ENDS)?,
            names: annotation(SERVING_NAMES)?,
        };
        material.server_config().map_err(unusable)?;
        Ok(material)
    }

    /// Fills a Secret with everything, data and annotations.
    pub(crate) fn write_to(&self, secret: &mut Secret) {
        let mut data: BTreeMap<String, ByteString> = [
            ("ca.crt", &self.authority),
            ("ca.key", &self.authority_key),
            ("tls.crt", &self.certificate),
            ("tls.key", &self.key),
        ]
        .map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())))
        .into();
        if let Some(previous) = &self.previous {
            data.insert(
                "previous-ca.crt".to_owned(),
                ByteString(previous.clone().into_bytes()),
            );
        }
        secret.data = Some(data);
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(AUTHORITY_ENDS.to_owned(), self.authority_ends.to_string());
        annotations.insert(SERVING_ENDS.to_owned(), self.serving_ends.to_string());
        annotations.insert(SERVING_NAMES.to_owned(), self.names.clone());
    }

    /// TLS as the server speaks it; fails when key and certificate do not belong together.
    pub(crate) fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, String> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| format!("tls.crt: {e}"))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| format!("tls.key: {e}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|e| e.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Valid from yesterday (clocks differ) for `days`; returns the end.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i64) -> Timestamp {
    let today = now.to_zoned(TimeZone::UTC).date();
    let (from, to) = (today.saturating_sub(1.day()), today.saturating_add(days.days()));
    let date = |d: jiff::civil::Date| {
        let (month, day) = (d.month().unsigned_abs(), d.day().unsigned_abs());
        rcgen::date_time_ymd(i32::from(d.year()), month, day)
    };
    (params.not_before, params.not_after) = (date(from), date(to));
    to.to_zoned(TimeZone::UTC).map_or(now, |z: Zoned| z.timestamp())
}

fn days_left(ends: Timestamp, now: Timestamp) -> i64 {
    (ends.as_second() - now.as_second()) / 86_400
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["holdfast.home.svc".to_owned()]
    }

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap()
    }

    #[test]
    fn what_is_stored_reads_back_and_serves() {
        let material = Material::make(&names(), at(0)).unwrap();
        let mut secret = Secret::default();
        material.write_to(&mut secret);
        assert_eq!(Material::read_from(&secret).unwrap(), material);
    }

    #[test]
    fn a_key_of_another_certificate_is_not_served() {
        let material = Material::make(&names(), at(0)).unwrap();
        let mut secret = Secret::default();
        material.write_to(&mut secret);
        let other = Material::make(&names(), at(0)).unwrap();
        let key = ByteString(other.key.into_bytes());
        secret.data.as_mut().unwrap().insert("tls.key".to_owned(), key);
        let error = Material::read_from(&secret).unwrap_err().to_string();
        assert!(error.contains("no usable certificate"), "{error}");
    }

    #[test]
    fn the_serving_certificate_is_renewed_under_the_same_authority() {
        let first = Material::make(&names(), at(0)).unwrap();
        assert_eq!(first.renewed(&names(), at(59)).unwrap(), None);
        let second = first.renewed(&names(), at(61)).unwrap().unwrap();
        assert_eq!(
            second.bundle(),
            first.bundle(),
            "what the API server trusts stays"
        );
        assert_ne!(second.certificate, first.certificate);
        let moved = first.renewed(&["other.svc".to_owned()], at(0)).unwrap();
        assert!(moved.is_some(), "another name needs another certificate at once");
    }

    #[test]
    fn a_new_authority_is_trusted_beside_the_old_one() {
        let first = Material::make(&names(), at(0)).unwrap();
        let second = first.renewed(&names(), at(3300)).unwrap().unwrap();
        assert!(second.bundle().contains(&first.authority) && second.bundle().starts_with(&second.authority));
    }
}
