//! What the API server serves, and every object of a namespace, untyped.
//!
//! A capture is complete only when every group was listed, so nothing here swallows an error: a group whose server
//! is away is named, and a list that fails is named with the group, version and resource it was for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::ListParams;
use kube::core::Request;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList, APIVersionDiscovery};
use kube::discovery::{ApiResource, verbs};
use kube::{Api, Client, Resource, core::DynamicObject};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Most objects of a page, the page size of kubectl.
const PAGE: u32 = 500;
/// Objects of the first page, before their size is known: an object may have megabytes.
const FIRST_PAGE: u32 = 20;
/// Bytes that a page should have.
const PAGE_SIZE: usize = 4 << 20;
/// How often a list is begun anew when its continue token has expired.
pub const LIST_RESTARTS: usize = 3;

/// One kind in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKind {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What can be done.
    pub verbs: Vec<String>,
    /// Whether this is the version to use: the newest preferred one of the group that has the kind.
    pub preferred: bool,
}

impl ApiKind {
    /// Whether the API server serves this verb for the kind.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|served| served == verb)
    }

    /// `resource.group/version`, for messages.
    pub fn title(&self) -> String {
        let ApiResource {
            group,
            version,
            plural,
            ..
        } = &self.resource;
        if group.is_empty() {
            format!("{plural}/{version}")
        } else {
            format!("{plural}.{group}/{version}")
        }
    }

    /// An untyped API of this kind: of `namespace` if the kind is namespaced, else of the cluster.
    pub fn api(&self, client: Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client, namespace, &self.resource)
        } else {
            Api::all_with(client, &self.resource)
        }
    }
}

/// Everything an API server serves.
#[derive(Clone, Debug, Default)]
pub struct ApiKinds {
    kinds: Vec<ApiKind>,
    unavailable: Vec<String>,
}

/// Why discovery failed.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The API server refused or did not answer.
    #[error("the API server did not list its kinds: {0}")]
    Api(#[from] kube::Error),
    /// The answer was not an aggregated one.
    #[error("the API server does not serve aggregated discovery; Kubernetes 1.30 or newer is needed")]
    Unsupported,
}

impl ApiKinds {
    /// Asks the API server, in two requests.
    pub async fn discover(client: &Client) -> Result<Self, DiscoverError> {
        let (core, groups) = futures::try_join!(
            client.list_core_api_versions_aggregated(),
            client.list_api_groups_aggregated()
        )?;
        Self::from_aggregated(core, groups)
    }

    fn from_aggregated(
        core: APIGroupDiscoveryList,
        groups: APIGroupDiscoveryList,
    ) -> Result<Self, DiscoverError> {
        // An API server without aggregated discovery answers with another type that has no items.
        if core.items.is_empty() || groups.items.is_empty() {
            return Err(DiscoverError::Unsupported);
        }
        let mut found = Self::default();
        for group in core.items.into_iter().chain(groups.items) {
            found.add_group(group);
        }
        Ok(found)
    }

    fn add_group(&mut self, group: APIGroupDiscovery) {
        let name = group.metadata.and_then(|m| m.name).unwrap_or_default();
        let first = self.kinds.len();
        for served in group.versions {
            // Stale: the server behind an aggregated API does not answer, what it serves is not known.
            if served.freshness.as_deref() == Some("Stale") {
                self.unavailable
                    .push(format!("{name}/{}", served.version.unwrap_or_default()));
                continue;
            }
            // Versions come in the order of preference.
            for mut kind in kinds_of(&name, served) {
                let seen = self.kinds[first..]
                    .iter()
                    .any(|k| k.resource.plural == kind.resource.plural);
                kind.preferred = !seen;
                self.kinds.push(kind);
            }
        }
    }

    /// Groups whose server is away, as `group/version`. What they hold cannot be listed.
    pub fn unavailable(&self) -> &[String] {
        &self.unavailable
    }

    /// Every kind, each once, in its preferred version.
    pub fn preferred(&self) -> impl Iterator<Item = &ApiKind> {
        self.kinds.iter().filter(|kind| kind.preferred)
    }

    /// Every namespaced kind whose objects can be listed and created, each once, in its preferred version. What cannot be
    /// created (metrics, computed views) holds nothing that could be brought back.
    pub fn storable_namespaced(&self) -> impl Iterator<Item = &ApiKind> {
        self.preferred()
            .filter(|kind| kind.namespaced && kind.can(verbs::LIST) && kind.can(verbs::CREATE))
    }

    /// The kind in exactly this version (`v1`, `apps/v1`).
    pub fn find(&self, api_version: &str, kind: &str) -> Option<&ApiKind> {
        self.kinds
            .iter()
            .find(|k| k.resource.api_version == api_version && k.resource.kind == kind)
    }
}

fn kinds_of(group: &str, served: APIVersionDiscovery) -> Vec<ApiKind> {
    let version = served.version.unwrap_or_default();
    let api_version = if group.is_empty() {
        version.clone()
    } else {
        format!("{group}/{version}")
    };
    let kind = |resource: kube::core::discovery::v2::APIResourceDiscovery| {
        Some(ApiKind {
            namespaced: resource.scope.as_deref() == Some("Namespaced"),
            resource: ApiResource {
                group: group.to_owned(),
                version: version.clone(),
                api_version: api_version.clone(),
                kind: resource.response_kind?.kind?,
                plural: resource.resource?,
            },
            verbs: resource.verbs,
            preferred: false,
        })
    };
    served.resources.into_iter().filter_map(kind).collect()
}

/// One list that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {source}")]
pub struct ListFailure {
    /// What was listed, as `resource.group/version`.
    pub kind: String,
    /// What the API server said.
    pub source: kube::Error,
}

/// Lists that did not succeed: the namespace is not known completely.
#[derive(Debug, Default, thiserror::Error)]
#[error("{}", self.text())]
pub struct ListFailures {
    /// Groups whose server is away.
    pub unavailable: Vec<String>,
    /// Lists that failed.
    pub failed: Vec<ListFailure>,
}

impl ListFailures {
    fn text(&self) -> String {
        let away = self
            .unavailable
            .iter()
            .map(|group| format!("{group}: its API server does not answer"));
        let failed = self.failed.iter().map(ToString::to_string);
        away.chain(failed).collect::<Vec<_>>().join("; ")
    }
}

#[derive(Deserialize)]
struct RawList {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default, deserialize_with = "null_is_empty")]
    items: Vec<Box<RawValue>>,
}

/// Go servers send `null` for an empty slice.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// Every object of one kind, of a namespace or of the whole cluster, a page at a time. Small objects come by the
/// hundreds, large ones by few, so that a page is never much memory.
pub struct Pages<'a> {
    client: &'a Client,
    resource: &'a ApiResource,
    url: String,
    /// What to ask for next; `None` at the end.
    next: Option<ListParams>,
}

impl<'a> Pages<'a> {
    /// Begins a list.
    pub fn of(client: &'a Client, kind: &'a ApiKind, namespace: Option<&str>) -> Self {
        Self {
            client,
            resource: &kind.resource,
            url: DynamicObject::url_path(&kind.resource, namespace),
            next: Some(ListParams::default().limit(FIRST_PAGE)),
        }
    }

    /// The next page; `None` at the end.
    ///
    /// # Errors
    /// Whatever the API server answers. When [`is_expired`], the list has to be begun anew: pages of two states of the
    /// world do not add up.
    pub async fn next(&mut self) -> Result<Option<Page>, kube::Error> {
        let Some(params) = self.next.take() else {
            return Ok(None);
        };
        let request = Request::new(&self.url)
            .list(&params)
            .map_err(kube::Error::BuildRequest)?;
        let text = self.client.request_text(request).await?;
        let list: RawList = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
        let token = list.metadata.continue_.filter(|token| !token.is_empty());
        self.next = token.map(|token| {
            let fitting = PAGE_SIZE * list.items.len().max(1) / text.len().max(1);
            let limit = u32::try_from(fitting).unwrap_or(PAGE).clamp(1, PAGE);
            ListParams::default().limit(limit).continue_token(&token)
        });
        Ok(Some(Page {
            items: list.items.into_iter(),
            resource: self.resource.clone(),
        }))
    }
}

/// Objects that came together, taken apart one by one.
pub struct Page {
    items: std::vec::IntoIter<Box<RawValue>>,
    resource: ApiResource,
}

impl Iterator for Page {
    type Item = Result<Value, kube::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let object = serde_json::from_str(self.items.next()?.get()).map_err(kube::Error::SerdeError);
        Some(object.map(|object| with_type(object, &self.resource)))
    }
}

/// Whether the token that a list goes on by has expired.
pub fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

/// Every object of one kind at once, for kinds of which there are few.
///
/// # Errors
/// Whatever the API server answers.
pub async fn list_kind(
    client: &Client,
    kind: &ApiKind,
    namespace: Option<&str>,
) -> Result<Vec<Value>, kube::Error> {
    let mut restarts = 0;
    loop {
        match list_once(client, kind, namespace).await {
            Err(error) if is_expired(&error) && restarts < LIST_RESTARTS => restarts += 1,
            other => return other,
        }
    }
}

async fn list_once(
    client: &Client,
    kind: &ApiKind,
    namespace: Option<&str>,
) -> Result<Vec<Value>, kube::Error> {
    let mut pages = Pages::of(client, kind, namespace);
    let mut objects = Vec::new();
    while let Some(page) = pages.next().await? {
        for object in page {
            objects.push(object?);
        }
    }
    Ok(objects)
}

/// Items of a list come without their type; it goes first, as people write it.
fn with_type(object: Value, resource: &ApiResource) -> Value {
    let Value::Object(mut fields) = object else {
        return object;
    };
    let mut typed = Map::with_capacity(fields.len() + 2);
    let api_version = fields.shift_remove("apiVersion");
    let kind = fields.shift_remove("kind");
    typed.insert(
        "apiVersion".into(),
        api_version.unwrap_or_else(|| resource.api_version.clone().into()),
    );
    typed.insert(
        "kind".into(),
        kind.unwrap_or_else(|| resource.kind.clone().into()),
    );
    typed.extend(fields);
    Value::Object(typed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn discovered() -> ApiKinds {
        let resource = |name: &str, kind: &str, scope: &str, verbs: &[&str]| json!({"resource": name, "responseKind": {"kind": kind}, "scope": scope, "verbs": verbs});
        let all = ["list", "create", "get"];
        let core = json!({"items": [{"versions": [{"version": "v1", "freshness": "Current", "resources": [
            resource("pods", "Pod", "Namespaced", &all), resource("nodes", "Node", "Cluster", &all),
            resource("bindings", "Binding", "Namespaced", &["create"]),
            resource("podmetrics", "PodMetrics", "Namespaced", &["list", "get"])]}]}]});
        let groups = json!({"items": [
            {"metadata": {"name": "autoscaling"}, "versions": [
                {"version": "v2", "freshness": "Current", "resources": [
                    resource("horizontalpodautoscalers", "HorizontalPodAutoscaler", "Namespaced", &all)]},
                {"version": "v1", "freshness": "Current", "resources": [
                    resource("horizontalpodautoscalers", "HorizontalPodAutoscaler", "Namespaced", &all),
                    resource("olds", "Old", "Namespaced", &all)]}]},
            {"metadata": {"name": "metrics.example"}, "versions": [{"version": "v1", "freshness": "Stale"}]}]});
        ApiKinds::from_aggregated(
            serde_json::from_value(core).unwrap(),
            serde_json::from_value(groups).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn what_can_be_listed_and_created_counts_once_in_its_preferred_version() {
        let kinds = discovered();
        let titles: Vec<_> = kinds.storable_namespaced().map(ApiKind::title).collect();
        assert_eq!(
            titles,
            [
                "pods/v1",
                "horizontalpodautoscalers.autoscaling/v2",
                "olds.autoscaling/v1"
            ]
        );
        assert!(kinds.find("autoscaling/v1", "HorizontalPodAutoscaler").is_some());
    }

    #[test]
    fn a_group_whose_server_is_away_is_named() {
        assert_eq!(discovered().unavailable(), ["metrics.example/v1"]);
    }

    #[test]
    fn an_answer_that_is_not_aggregated_is_no_empty_cluster() {
        let empty = || APIGroupDiscoveryList::default();
        assert!(matches!(
            ApiKinds::from_aggregated(empty(), empty()),
            Err(DiscoverError::Unsupported)
        ));
    }

    #[test]
    fn items_get_their_type_and_keep_what_we_do_not_know() {
        let resource = discovered().find("v1", "Pod").unwrap().resource.clone();
        let object = with_type(
            json!({"metadata": {"name": "a", "newField": 1}, "spec": {"x": [1]}}),
            &resource,
        );
        assert_eq!(
            object.to_string(),
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","newField":1},"spec":{"x":[1]}}"#
        );
    }
}
