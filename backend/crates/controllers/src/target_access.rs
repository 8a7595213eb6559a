//! From a Target resource to an open target: its Secret, its certificate authority, one client for all who use it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_crd::names::reasons;
use holdfast_crd::{ObjectRef, Target as TargetResource};
use holdfast_k8s::is_not_found;
use holdfast_target::{Connection, S3Target, SecretKey, Target};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt};

use crate::failure::Failure;

/// Key of the access key id in a credential Secret.
const ACCESS_KEY: &str = "accessKey";
/// Key of the secret access key in a credential Secret.
const SECRET_KEY: &str = "secretKey";
/// Key of the certificates in a ConfigMap when the Target names none.
const DEFAULT_CERT_KEY: &str = "ca.crt";
/// Region when the Target names none.
const DEFAULT_REGION: &str = "us-east-1";

/// Opens targets and keeps one client for each, as long as neither the resource nor its Secret change.
pub struct TargetAccess {
    client: Client,
    open: Mutex<HashMap<String, Opened>>,
}

struct Opened {
    /// Digest of the connection: another one means that the resource, the Secret or the certificate changed.
    fingerprint: blake3::Hash,
    target: Arc<dyn Target>,
}

impl TargetAccess {
    /// Reads Secrets and ConfigMaps with `client`.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            open: Mutex::default(),
        }
    }

    /// The Target a reference means; without a namespace it is in `namespace`.
    pub async fn resource(&self, reference: &ObjectRef, namespace: &str) -> Result<TargetResource, Failure> {
        let namespace = reference.namespace.as_deref().unwrap_or(namespace);
        let api: Api<TargetResource> = Api::namespaced(self.client.clone(), namespace);
        api.get(&reference.name).await.map_err(|error| {
            if is_not_found(&error) {
                let text = format!("there is no Target {} in namespace {namespace}", reference.name);
                return Failure::lasting(reasons::NOT_FOUND, text);
            }
            Failure::from(error)
        })
    }

    /// The target behind a resource, open. Nothing is sent to the store by this.
    ///
    /// # Errors
    /// With the condition reasons `CredentialsMissing`, `NotFound` (of the certificates' ConfigMap), `InvalidSpec`, or
    /// what the API server said.
    pub async fn open(&self, resource: &TargetResource) -> Result<Arc<dyn Target>, Failure> {
        let connection = self.connection(resource).await?;
        let fingerprint = blake3::hash(connection.expose_json().to_string().as_bytes());
        let id = resource
            .uid()
            .unwrap_or_else(|| format!("{:?}/{}", resource.namespace(), resource.name_any()));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(&id).filter(|known| known.fingerprint == fingerprint) {
            return Ok(known.target.clone());
        }
        let target: Arc<dyn Target> = Arc::new(S3Target::connect(&connection)?);
        open.insert(
            id,
            Opened {
                fingerprint,
                target: target.clone(),
            },
        );
        Ok(target)
    }

    /// How to reach the target behind a resource, credentials included.
    pub async fn connection(&self, resource: &TargetResource) -> Result<Connection, Failure> {
        let namespace = resource.namespace().unwrap_or_default();
        let store = &resource.spec.object_store_credentials;
        let secret = self.secret(&store.credential_secret, &namespace).await?;
        let ca = match &store.ssl_cert_config {
            Some(config) => {
                let key = config.cert_key.as_deref().unwrap_or(DEFAULT_CERT_KEY);
                Some(
                    self.certificates(&config.cert_config_map, key, &namespace)
                        .await?,
                )
            }
            None => None,
        };
        Ok(Connection {
            url: store.url.clone(),
            region: store.region.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            bucket: store.bucket_name.clone(),
            access_key: text_of(&secret, ACCESS_KEY)?,
            secret_key: SecretKey::new(text_of(&secret, SECRET_KEY)?),
            ca,
            skip_cert_verification: store.skip_cert_verification,
        })
    }

    /// References to Secrets and ConfigMaps stay in the Target's namespace: whoever may write a Target there must not
    /// read another namespace's Secrets through us.
    async fn secret(&self, reference: &ObjectRef, namespace: &str) -> Result<Secret, Failure> {
        same_namespace(reference, namespace, "credentialSecret")?;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        api.get(&reference.name).await.map_err(|error| {
            if is_not_found(&error) {
                let text = format!(
                    "there is no Secret {} in namespace {namespace}; create it with the keys {ACCESS_KEY} and {SECRET_KEY}",
                    reference.name
                );
                return Failure::lasting(reasons::CREDENTIALS_MISSING, text);
            }
            Failure::from(error)
        })
    }

    async fn certificates(
        &self,
        reference: &ObjectRef,
        key: &str,
        namespace: &str,
    ) -> Result<String, Failure> {
        same_namespace(reference, namespace, "certConfigMap")?;
        let name = &reference.name;
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_opt(name).await?.and_then(|map| map.data?.remove(key));
        found.ok_or_else(|| {
            let text = format!("there is no ConfigMap {name} with the key {key} in namespace {namespace}");
            Failure::lasting(reasons::NOT_FOUND, text)
        })
    }
}

fn same_namespace(reference: &ObjectRef, namespace: &str, field: &str) -> Result<(), Failure> {
    match reference.namespace.as_deref() {
        Some(other) if other != namespace => {
            let text =
                format!("{field} names namespace {other}; it must be in the Target's own, {namespace}");
            Err(Failure::lasting(reasons::INVALID_SPEC, text))
        }
        _ => Ok(()),
    }
}

fn text_of(secret: &Secret, key: &str) -> Result<String, Failure> {
    let name = secret.name_any();
    let missing = |why: &str| {
        Failure::lasting(
            reasons::CREDENTIALS_MISSING,
            format!("the Secret {name} {why} the key {key}"),
        )
    };
    let ByteString(bytes) = secret
        .data
        .as_ref()
        .and_then(|data| data.get(key))
        .ok_or_else(|| missing("does not have"))?;
    let text = std::str::from_utf8(bytes)
        .map_err(|_| missing("has no UTF-8 text under"))?
        .trim();
    if text.is_empty() {
        Err(missing("has nothing under"))
    } else {
        Ok(text.to_owned())
    }
}
