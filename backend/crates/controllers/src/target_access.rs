//! From a Target resource to an open target: its Secret, its certificate authority or its depot, one client for all who
//! use it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_crd::names::reasons;
use holdfast_crd::{ObjectRef, Target as TargetResource};
use holdfast_k8s::is_not_found;
use holdfast_target::depot::{DepotAccess, DepotTarget};
use holdfast_target::{Address, Connection, Directory, S3Target, SecretKey, StoreId, Target, TargetError};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::{Api, Client, ResourceExt};

use crate::depot::{self, Folder};
use crate::failure::Failure;
use crate::transfer::DatamoverTask;

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
    install_namespace: String,
    open: Mutex<HashMap<String, Opened>>,
}

struct Opened {
    /// Digest of the way: another one means that the resource, the Secret or the certificate changed.
    fingerprint: blake3::Hash,
    target: Arc<dyn Target>,
}

/// How the operator gets to a target.
enum Way {
    Bucket(Connection),
    Depot { access: DepotAccess, store: StoreId },
}

impl Way {
    fn fingerprint(&self) -> blake3::Hash {
        let text = match self {
            Self::Bucket(connection) => connection.expose_json().to_string(),
            Self::Depot { access, store } => {
                let files = access.credentials.expose_files();
                format!("{} {} {store} {files:?}", access.address, access.name)
            }
        };
        blake3::hash(text.as_bytes())
    }

    fn connect(&self) -> Result<Arc<dyn Target>, TargetError> {
        Ok(match self {
            Self::Bucket(connection) => Arc::new(S3Target::connect(connection)?),
            Self::Depot { access, store } => Arc::new(DepotTarget::connect(access, store.clone())?),
        })
    }
}

impl TargetAccess {
    /// Reads Secrets, ConfigMaps and Services with `client`; depots are in the install namespace.
    pub fn new(client: Client, install_namespace: &str) -> Self {
        Self {
            client,
            install_namespace: install_namespace.to_owned(),
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
    /// With the condition reasons `CredentialsMissing`, `NotFound` (of the certificates' ConfigMap), `InvalidSpec`,
    /// `DepotNotReady`, or what the API server said.
    pub async fn open(&self, resource: &TargetResource) -> Result<Arc<dyn Target>, Failure> {
        let way = match Folder::of(resource)? {
            None => Way::Bucket(self.connection(resource).await?),
            Some(folder) => Way::Depot {
                store: identified(resource, &folder)?,
                access: self.depot(&folder).await?,
            },
        };
        let fingerprint = way.fingerprint();
        let id = resource
            .uid()
            .unwrap_or_else(|| format!("{:?}/{}", resource.namespace(), resource.name_any()));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(&id).filter(|known| known.fingerprint == fingerprint) {
            return Ok(known.target.clone());
        }
        let target = way.connect()?;
        open.insert(
            id,
            Opened {
                fingerprint,
                target: target.clone(),
            },
        );
        Ok(target)
    }

    /// How a mover reaches the target behind a resource, credentials included: it mounts a folder itself.
    pub(crate) async fn address(
        &self,
        resource: &TargetResource,
        folder: Option<&Folder>,
    ) -> Result<Address, Failure> {
        Ok(match folder {
            None => Address::ObjectStore(self.connection(resource).await?),
            Some(folder) => Address::Directory(Directory {
                path: DatamoverTask::STORE.into(),
                store: identified(resource, folder)?,
            }),
        })
    }

    /// Which store a folder holds, by its depot; an empty one becomes a store.
    pub(crate) async fn adopt(&self, folder: &Folder) -> Result<StoreId, Failure> {
        Ok(DepotTarget::adopt(&self.depot(folder).await?).await?)
    }

    /// How to reach the depot of a folder.
    async fn depot(&self, folder: &Folder) -> Result<DepotAccess, Failure> {
        let missing = |what: &str| {
            let text = format!("the {what} of the depot that opens the {folder} is being made");
            Failure::passing(reasons::DEPOT_NOT_READY, text)
        };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.install_namespace);
        let secret = secrets.get_opt(&folder.depot()).await?;
        let credentials = depot::read(&secret.ok_or_else(|| missing("Secret"))?)?;
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.install_namespace);
        let service = services.get_opt(&folder.depot()).await?;
        let address = service.and_then(|service| service.spec?.cluster_ip?.parse::<IpAddr>().ok());
        Ok(DepotAccess {
            address: SocketAddr::new(address.ok_or_else(|| missing("Service"))?, depot::PORT),
            name: folder.host(&self.install_namespace),
            credentials,
            place: folder.to_string(),
        })
    }

    /// How to reach the bucket behind a resource, credentials included.
    async fn connection(&self, resource: &TargetResource) -> Result<Connection, Failure> {
        let namespace = resource.namespace().unwrap_or_default();
        let store = resource.spec.object_store_credentials.as_ref().ok_or_else(|| {
            Failure::lasting(reasons::INVALID_SPEC, "spec.objectStoreCredentials is missing")
        })?;
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

/// The store that a Target is known to be.
fn identified(resource: &TargetResource, folder: &Folder) -> Result<StoreId, Failure> {
    depot::store_of(resource, folder).ok_or_else(|| {
        let text = format!("it is not known yet which store the {folder} holds");
        Failure::passing(reasons::DEPOT_NOT_READY, text)
    })
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
