//! Keeps the certificate Secret and the webhook configurations in step with each other.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{BoxStream, StreamExt, select_all};
use holdfast_crd::names::{FIELD_MANAGER, MANAGED_BY, labels};
use holdfast_k8s::{is_already_exists, is_conflict};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::certificate::{CertificateError, Material};

/// Name of the Secret in the install namespace.
const SECRET: &str = "holdfast-admission-tls";
/// How often everything is looked at although nothing was said to have changed.
const LOOK: Duration = Duration::from_secs(3600);

/// What goes wrong while keeping.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the API server refused: {0}")]
    Api(#[from] kube::Error),
}

pub(crate) struct Keeper {
    client: Client,
    namespace: String,
    webhooks: String,
    names: Vec<String>,
}

impl Keeper {
    pub(crate) fn new(client: Client, config: &crate::Config) -> Self {
        let (service, namespace) = (&config.service_name, &config.install_namespace);
        Self {
            client,
            namespace: namespace.clone(),
            webhooks: config.webhook_name.clone(),
            names: vec![
                format!("{service}.{namespace}.svc"),
                format!("{service}.{namespace}.svc.cluster.local"),
            ],
        }
    }

    /// One look: the certificate to serve, made or renewed if need be, and trusted by the webhook configurations.
    pub(crate) async fn step(&self) -> Result<Material, KeepError> {
        let material = self.material().await?;
        let bundle = STANDARD.encode(material.bundle());
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        self.trust(&mutating, &bundle).await?;
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        self.trust(&validating, &bundle).await?;
        Ok(material)
    }

    /// Says when it is time for the next [`Keeper::step`]: something changed, or an hour has passed.
    pub(crate) fn changes(&self) -> BoxStream<'static, ()> {
        let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.client.clone(), &self.namespace);
        let mutating: Api<PartialObjectMeta<MutatingWebhookConfiguration>> = Api::all(self.client.clone());
        let validating: Api<PartialObjectMeta<ValidatingWebhookConfiguration>> =
            Api::all(self.client.clone());
        let ticks = futures::stream::unfold((), |()| async {
            tokio::time::sleep(LOOK).await;
            Some(((), ()))
        });
        let all: Vec<BoxStream<'static, ()>> = vec![
            watch(secrets, SECRET),
            watch(mutating, &self.webhooks),
            watch(validating, &self.webhooks),
            ticks.boxed(),
        ];
        select_all(all).boxed()
    }

    /// Reads, makes or renews. Of several replicas that write at once one wins and the others take what it wrote.
    async fn material(&self) -> Result<Material, KeepError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        loop {
            let now = Timestamp::now();
            let written = match api.get_opt(SECRET).await? {
                None => {
                    let material = Material::make(&self.names, now)?;
                    let mut secret = self.empty();
                    material.write_to(&mut secret);
                    api.create(&PostParams::default(), &secret)
                        .await
                        .map(|_| material)
                }
                Some(mut secret) => {
                    let material = Material::read_from(&secret)?;
                    let Some(next) = material.renewed(&self.names, now)? else {
                        return Ok(material);
                    };
                    next.write_to(&mut secret);
                    // The resourceVersion that was read goes along: a rival's write makes this one a conflict.
                    api.replace(SECRET, &PostParams::default(), &secret)
                        .await
                        .map(|_| next)
                }
            };
            match written {
                Err(error) if is_already_exists(&error) || is_conflict(&error) => {}
                other => return Ok(other?),
            }
        }
    }

    fn empty(&self) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some([(labels::MANAGED_BY.to_owned(), MANAGED_BY.to_owned())].into()),
                ..Default::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            ..Default::default()
        }
    }

    /// Writes the bundle into every webhook of a configuration that has another one. A configuration that is not there
    /// (yet) is none of our making: the chart brings it, and then the watch says so.
    async fn trust<K>(&self, api: &Api<K>, bundle: &str) -> Result<(), KeepError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let Some(found) = api.get_opt(&self.webhooks).await? else {
            return Ok(());
        };
        let found = serde_json::to_value(&found).map_err(kube::Error::SerdeError)?;
        let steps = trust_patch(&found, bundle);
        if steps.is_empty() {
            return Ok(());
        }
        let patch: json_patch::Patch =
            serde_json::from_value(Value::Array(steps)).map_err(kube::Error::SerdeError)?;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..Default::default()
        };
        api.patch(&self.webhooks, &params, &Patch::<K>::Json(patch))
            .await?;
        tracing::info!(webhook.kind = %K::kind(&()), "webhook configuration trusts the certificate");
        Ok(())
    }
}

/// JSON patch that puts the bundle where it is missing; each place is tested to be the webhook that was seen there.
fn trust_patch(configuration: &Value, bundle: &str) -> Vec<Value> {
    let webhooks = configuration.get("webhooks").and_then(Value::as_array);
    let differs = |w: &Value| w.pointer("/clientConfig/caBundle").and_then(Value::as_str) != Some(bundle);
    let wanting = webhooks
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, w)| differs(w));
    wanting
        .flat_map(|(i, webhook)| {
            [
                json!({"op": "test", "path": format!("/webhooks/{i}/name"), "value": webhook["name"]}),
                json!({"op": "add", "path": format!("/webhooks/{i}/clientConfig/caBundle"), "value": bundle}),
            ]
        })
        .collect()
}

fn watch<K>(api: Api<K>, name: &str) -> BoxStream<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher(api, config).default_backoff().touched_objects();
    events.map(|_| ()).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_webhooks_without_the_bundle_are_patched() {
        let configuration = json!({"webhooks": [
            {"name": "a", "clientConfig": {"caBundle": "new"}},
            {"name": "b", "clientConfig": {"caBundle": "old"}},
            {"name": "c", "clientConfig": {}}
        ]});
        let patch = trust_patch(&configuration, "new");
        let paths: Vec<_> = patch.iter().map(|p| p["path"].as_str().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "/webhooks/1/name",
                "/webhooks/1/clientConfig/caBundle",
                "/webhooks/2/name",
                "/webhooks/2/clientConfig/caBundle"
            ]
        );
    }
}
