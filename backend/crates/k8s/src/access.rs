//! May this person do that? The API server's own answer.

use holdfast_crd::Requester;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::cluster::ADMINISTRATORS;

/// One thing that can be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `get`, `create`, …
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Plural of the resource.
    pub resource: String,
    /// Subresource, such as `exec`.
    pub subresource: Option<String>,
    /// Namespace; `None` asks for every namespace, or for a cluster-scoped resource.
    pub namespace: Option<String>,
    /// Name; `None` asks for any.
    pub name: Option<String>,
}

impl Access {
    /// `verb` on `resource` of `group`, everywhere.
    pub fn new(verb: &str, group: &str, resource: &str) -> Self {
        Self {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            ..Self::default()
        }
    }

    /// Within a namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// On one object.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// The API server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why, if an authorizer said.
    pub reason: Option<String>,
}

/// Asks whether `requester` may do `access`. `system:masters` counts as [`ADMINISTRATORS`], as in impersonation.
pub async fn review(
    client: &Client,
    requester: &Requester,
    access: &Access,
) -> Result<Decision, kube::Error> {
    let groups = requester
        .groups
        .iter()
        .map(|g| if g == "system:masters" { ADMINISTRATORS } else { g }.to_owned());
    let spec = SubjectAccessReviewSpec {
        user: Some(requester.user.clone()),
        uid: requester.uid.clone(),
        groups: Some(groups.collect()),
        extra: Some(requester.extra.clone()),
        resource_attributes: Some(ResourceAttributes {
            verb: Some(access.verb.clone()),
            group: Some(access.group.clone()),
            resource: Some(access.resource.clone()),
            subresource: access.subresource.clone(),
            namespace: access.namespace.clone(),
            name: access.name.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let question = SubjectAccessReview {
        spec,
        ..Default::default()
    };
    let answer = Api::all(client.clone())
        .create(&PostParams::default(), &question)
        .await?;
    let status = answer.status.unwrap_or_default();
    Ok(Decision {
        allowed: status.allowed && status.denied != Some(true),
        reason: status.reason,
    })
}
