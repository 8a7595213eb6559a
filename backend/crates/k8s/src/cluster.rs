//! One cluster: how it is reached, who it is, and clients that act as somebody else.

use std::collections::HashMap;

use holdfast_crd::Requester;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Config};

/// The group that stands for `system:masters`, which is never impersonated: bypassing authorization cannot be
/// granted by a custom resource. What it may do is what a ClusterRoleBinding of the installation gives it.
pub const ADMINISTRATORS: &str = "holdfast:administrators";

/// Kubernetes' group that bypasses authorization.
const MASTERS: &str = "system:masters";

/// Why a cluster cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a service account nor a usable kubeconfig was found.
    #[error("no Kubernetes configuration: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration does not make a client.
    #[error("the Kubernetes configuration is not usable: {0}")]
    Client(#[source] kube::Error),
    /// The API server did not answer, or not well.
    #[error("the API server did not say who it is: {0}")]
    Identity(#[source] kube::Error),
    /// The namespace kube-system has no UID, which no API server does.
    #[error("the namespace kube-system has no UID")]
    NoUid,
}

/// A connection to one cluster with the operator's own identity, and the source of clients with another's.
#[derive(Clone)]
pub struct Cluster {
    config: Config,
    client: Client,
}

impl Cluster {
    /// Connects with `KUBECONFIG` or the default kubeconfig when there is one, else as the pod's service account.
    pub async fn connect() -> Result<Self, ConnectError> {
        Self::with_config(Config::infer().await?)
    }

    /// Connects with a given configuration.
    pub fn with_config(config: Config) -> Result<Self, ConnectError> {
        let client = Client::try_from(config.clone()).map_err(ConnectError::Client)?;
        Ok(Self { config, client })
    }

    /// A client with our own identity.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client that acts as `requester`, with their rights and nothing else. It has a connection of its own: keep
    /// it for the length of a run.
    pub fn client_as(&self, requester: &Requester) -> Result<Client, ConnectError> {
        let config = impersonated(self.config.clone(), requester);
        Client::try_from(config).map_err(ConnectError::Client)
    }

    /// Who the cluster is: the UID of the namespace kube-system, which lives as long as the cluster does.
    pub async fn uid(&self) -> Result<String, ConnectError> {
        let namespaces: Api<Namespace> = Api::all(self.client());
        let system = namespaces
            .get("kube-system")
            .await
            .map_err(ConnectError::Identity)?;
        system.metadata.uid.ok_or(ConnectError::NoUid)
    }
}

/// `config` changed so that every request acts as `requester`. `system:masters` becomes [`ADMINISTRATORS`].
pub fn impersonated(mut config: Config, requester: &Requester) -> Config {
    let groups = requester.groups.iter().map(|group| {
        let group = if group == MASTERS { ADMINISTRATORS } else { group };
        group.to_owned()
    });
    let extra: HashMap<String, Vec<String>> = requester
        .extra
        .iter()
        .map(|(key, values)| (key.clone(), values.clone()))
        .collect();
    config.auth_info.impersonate = Some(requester.user.clone());
    config.auth_info.impersonate_uid = requester.uid.clone();
    config.auth_info.impersonate_groups = Some(groups.collect());
    config.auth_info.impersonate_user_extra = Some(extra);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_never_impersonated() {
        let requester = Requester {
            user: "root".into(),
            uid: Some("u1".into()),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            extra: [("scopes".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into(),
        };
        let config = Config::new("https://cluster.example".parse().unwrap());
        let auth = impersonated(config, &requester).auth_info;
        assert_eq!(auth.impersonate.as_deref(), Some("root"));
        assert_eq!(auth.impersonate_uid.as_deref(), Some("u1"));
        assert_eq!(
            auth.impersonate_groups.unwrap(),
            [ADMINISTRATORS, "system:authenticated"]
        );
        assert_eq!(auth.impersonate_user_extra.unwrap()["scopes"], ["a", "b"]);
    }
}
