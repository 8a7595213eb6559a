//! The registered cluster: who holds a credential there, and clients that act as that person.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_crd::Requester;
use holdfast_db::UserInfo;
use holdfast_k8s::{ADMINISTRATORS, impersonated};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::client::{Body, ConfigExt as _};
use kube::{Api, Client, Config};
use tower::Layer as _;

use crate::credential::{Credential, Refusal};

/// The group that bypasses authorization in every API server.
const MASTERS: &str = "system:masters";
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Extra attributes under this prefix describe the credential that was presented and the pod or node it is bound to.
/// An impersonated request presents no such credential, and the API server guards these keys.
const CREDENTIAL_EXTRA: &str = "authentication.kubernetes.io/";
/// How long the API server may take to say who somebody is.
const REVIEW_DEADLINE: Duration = Duration::from_secs(15);

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// What was presented is not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The API server does not accept the credential.
    #[error(
        "the cluster {0} does not accept this credential; a credential of another cluster does not work here"
    )]
    NotAccepted(String),
    /// The API server accepted it and knows nobody by it.
    #[error("the cluster knows nobody by this credential")]
    Anonymous,
    /// It is past its end.
    #[error("the credential ended at {0}")]
    Expired(Timestamp),
    /// The user or group name cannot be sent on.
    #[error("the name of the user or of a group holds characters that cannot be impersonated")]
    UnusableName,
    /// The API server did not answer, or with an error that fits nothing else.
    #[error("the cluster could not be asked")]
    Cluster(#[source] Box<kube::Error>),
    /// The API server took too long.
    #[error("the cluster did not answer in time")]
    Timeout,
}

/// The cluster the server is registered with; for now the one it runs in.
#[derive(Clone)]
pub struct Cluster {
    name: String,
    /// Endpoint and certificate authority, without any identity.
    endpoint: Config,
    /// With the server's own identity, which may impersonate and nothing else.
    client: Client,
}

impl Cluster {
    /// The cluster that `config` reaches with the server's own identity.
    ///
    /// # Errors
    /// When the configuration does not make a client.
    pub fn new(name: impl Into<String>, config: Config) -> Result<Self, kube::Error> {
        let client = Client::try_from(config.clone())?;
        let mut endpoint = config;
        endpoint.auth_info = kube::config::AuthInfo::default();
        endpoint.headers.clear();
        Ok(Self {
            name: name.into(),
            endpoint,
            client,
        })
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its API server answers.
    pub async fn ping(&self) -> Result<(), kube::Error> {
        let request = http::Request::get("/version")
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await.map(|_| ())
    }

    /// Asks the API server who holds the credential, and returns the person with the end of the credential.
    /// `system:masters` becomes `holdfast:administrators`: the right to bypass authorization is never handed on.
    ///
    /// # Errors
    /// See [`SignInError`].
    pub async fn identify(
        &self,
        credential: &Credential,
        now: Timestamp,
    ) -> Result<(UserInfo, Option<Timestamp>), SignInError> {
        let ends = credential.expires_at()?;
        if let Some(end) = ends
            && end <= now
        {
            return Err(SignInError::Expired(end));
        }
        let user = person(self.review(credential).await?)?;
        // Proves that every name can be put into a header, before a session depends on it.
        self.client_for(&user)?;
        Ok((user, ends))
    }

    /// A client whose every request acts as `user`. All of them share the server's connections.
    ///
    /// # Errors
    /// [`SignInError::UnusableName`] when a name cannot be put into a header.
    pub fn client_for(&self, user: &UserInfo) -> Result<Client, SignInError> {
        let requester = Requester {
            user: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        };
        let headers = impersonated(self.endpoint.clone(), &requester)
            .extra_headers_layer()
            .map_err(|_| SignInError::UnusableName)?;
        let shared = self.client.clone();
        let send = tower::service_fn(move |request: http::Request<Body>| {
            let client = shared.clone();
            async move { client.send(request).await }
        });
        Ok(Client::new(
            headers.layer(send),
            self.endpoint.default_namespace.clone(),
        ))
    }

    async fn review(&self, credential: &Credential) -> Result<SelfSubjectReview, SignInError> {
        let mut config = self.endpoint.clone();
        credential.apply(&mut config);
        let client = Client::try_from(config).map_err(|_| unusable_certificate())?;
        let reviews: Api<SelfSubjectReview> = Api::all(client);
        let (parameters, question) = (PostParams::default(), SelfSubjectReview::default());
        let answer = reviews.create(&parameters, &question);
        match in_time(answer).await? {
            Ok(review) => Ok(review),
            Err(kube::Error::Api(status)) if status.code == 401 => {
                Err(SignInError::NotAccepted(self.name.clone()))
            }
            // Anonymous requests are authenticated and then lack this right, which everybody else has.
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(ANONYMOUS) => {
                Err(SignInError::Anonymous)
            }
            Err(error) => Err(SignInError::Cluster(Box::new(error))),
        }
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> Result<T, SignInError> {
    tokio::time::timeout(REVIEW_DEADLINE, future)
        .await
        .map_err(|_| SignInError::Timeout)
}

fn unusable_certificate() -> SignInError {
    SignInError::Refused(Refusal::new(
        "client-certificate-data",
        "certificate and key cannot be used together",
    ))
}

/// The person in a review, made fit for impersonation.
fn person(review: SelfSubjectReview) -> Result<UserInfo, SignInError> {
    let info = review
        .status
        .and_then(|status| status.user_info)
        .unwrap_or_default();
    let name = info.username.unwrap_or_default();
    let groups = info.groups.unwrap_or_default();
    if name.is_empty() || name == ANONYMOUS || groups.iter().any(|group| group == UNAUTHENTICATED) {
        return Err(SignInError::Anonymous);
    }
    let mut kept: Vec<String> = Vec::with_capacity(groups.len());
    for group in groups {
        let group = if group == MASTERS {
            ADMINISTRATORS.to_owned()
        } else {
            group
        };
        if !kept.contains(&group) {
            kept.push(group);
        }
    }
    let extra: BTreeMap<_, _> = info.extra.unwrap_or_default();
    Ok(UserInfo {
        name,
        uid: info.uid.filter(|uid| !uid.is_empty()),
        groups: kept,
        extra: extra
            .into_iter()
            .filter(|(key, _)| !key.starts_with(CREDENTIAL_EXTRA))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::{SelfSubjectReviewStatus, UserInfo as Reviewed};

    use super::*;

    fn review(name: &str, groups: &[&str], extra: &[&str]) -> SelfSubjectReview {
        let user = Reviewed {
            username: Some(name.to_owned()),
            groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
            extra: Some(
                extra
                    .iter()
                    .map(|key| ((*key).to_owned(), vec!["x".to_owned()]))
                    .collect(),
            ),
            uid: Some(String::new()),
        };
        let status = SelfSubjectReviewStatus {
            user_info: Some(user),
        };
        SelfSubjectReview {
            status: Some(status),
            ..SelfSubjectReview::default()
        }
    }

    #[test]
    fn masters_become_administrators_once() {
        let user = person(review(
            "root",
            &[MASTERS, ADMINISTRATORS, "system:authenticated"],
            &[],
        ))
        .unwrap();
        assert_eq!(user.groups, [ADMINISTRATORS, "system:authenticated"]);
        assert_eq!(user.uid, None);
    }

    #[test]
    fn anonymous_is_nobody() {
        assert!(matches!(
            person(review(ANONYMOUS, &[UNAUTHENTICATED], &[])),
            Err(SignInError::Anonymous)
        ));
        assert!(matches!(
            person(review("", &[], &[])),
            Err(SignInError::Anonymous)
        ));
        assert!(matches!(
            person(SelfSubjectReview::default()),
            Err(SignInError::Anonymous)
        ));
    }

    #[test]
    fn narrowing_attributes_are_kept_and_those_of_the_credential_are_not() {
        let keys = [
            "scopes.authorization.openshift.io",
            "authentication.kubernetes.io/credential-id",
        ];
        let user = person(review("anna", &["system:authenticated"], &keys)).unwrap();
        assert_eq!(
            user.extra.keys().collect::<Vec<_>>(),
            ["scopes.authorization.openshift.io"]
        );
    }
}
