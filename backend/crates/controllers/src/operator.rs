//! The operator process: becomes leader, runs the controllers, and ends when it is told to or loses the lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_crd::names;
use holdfast_k8s::{Cluster, ConnectError, Election, ElectionError, Events};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Context, Limits, Metrics, MoverSettings, TargetAccess};

/// Name of the Lease in the install namespace.
const LEASE: &str = "holdfast-operator";
/// Time the controllers get to finish what they are doing when the process is asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How often our definitions are looked at.
const DEFINITIONS_CHECK: Duration = Duration::from_secs(3);
/// How often a missing custom resource definition is mentioned in the log.
const REMIND: Duration = Duration::from_secs(30);

/// What the operator is started with.
pub struct Config {
    /// The cluster it works on.
    pub cluster: Cluster,
    /// Namespace it is installed in.
    pub install_namespace: String,
    /// Name of this process, unique in the cluster: the pod name.
    pub instance: String,
    /// How mover pods are made.
    pub mover: MoverSettings,
    /// How much may run at the same time.
    pub limits: Limits,
    /// Public halves of the recovery keys.
    pub recovery: Vec<holdfast_seal::Recipient>,
    /// Its metrics.
    pub metrics: Metrics,
}

/// Why the operator ended. Each of them must end the process.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The cluster does not answer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The lease is lost: another replica may be acting already.
    #[error(transparent)]
    Lease(#[from] ElectionError),
    /// The controllers ended by themselves, which they never should.
    #[error("the controllers ended without being asked to")]
    Ended,
}

/// Runs the operator until `stop`: waits for the custom resource definitions, then for the lease, then runs every
/// controller.
///
/// # Errors
/// Every error must end the process at once; in particular a lost lease, for another leader may be at work.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), OperatorError> {
    let client = config.cluster.client();
    let cluster_uid = config.cluster.uid().await?;
    if !established(&client, &stop).await {
        return Ok(());
    }
    let identity = format!("{}_{}", config.instance, uuid::Uuid::new_v4());
    let election = Election::new(client, &config.install_namespace, LEASE, &identity);
    let leadership = match election.acquire(&stop).await {
        Err(ElectionError::Stopped) => return Ok(()),
        other => other?,
    };
    tracing::info!(lease.holder = %identity, "leading");
    // The controllers stop first, then the lease is released: until they have stopped, nobody else may act. The lease
    // is renewed by a task of its own, which no reconcile can hold up.
    let release = CancellationToken::new();
    let released = release.clone();
    let mut keep = tokio::spawn(async move { leadership.keep(&released).await });
    let mut work = Box::pin(lead(config, cluster_uid, stop.clone()));
    let kept = tokio::select! {
        kept = &mut keep => kept,
        () = &mut work => {
            release.cancel();
            keep.await
        }
    };
    kept.map_err(|_| OperatorError::Ended)??;
    if stop.is_cancelled() {
        Ok(())
    } else {
        Err(OperatorError::Ended)
    }
}

/// Runs the controllers until `stop`.
async fn lead(config: Config, cluster_uid: String, stop: CancellationToken) {
    let Config {
        cluster,
        install_namespace,
        instance,
        mover,
        limits,
        recovery,
        metrics,
    } = config;
    let client = cluster.client();
    let watched = client.clone();
    let context = Arc::new(Context {
        events: Events::new(client.clone(), names::MANAGED_BY, Some(instance)),
        targets: TargetAccess::new(client.clone(), &install_namespace),
        cluster,
        client,
        install_namespace,
        cluster_uid,
        mover,
        limits,
        recovery,
        metrics,
        merging: crate::retention::Merging::default(),
        streaks: crate::streak::Streaks::default(),
        shutdown: stop.clone(),
    });
    let controllers = controllers(context);
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = controllers => {}
        () = overdue => tracing::warn!("controllers still busy, stopping anyway; the next leader goes on"),
        () = replaced(&watched) => tracing::warn!("a definition of ours was deleted and made again: starting anew"),
    }
}

/// Ends when one of our definitions is another one than at the start. A watch that was opened on the old one may hear
/// nothing of the new one for minutes.
async fn replaced(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    loop {
        for definition in holdfast_crd::generate::definitions() {
            let name = definition.name_any();
            // Gone, or not to be told: what counts is another one in its place.
            let Ok(Some(found)) = api.get_metadata_opt(&name).await else {
                continue;
            };
            let uid = found.uid().unwrap_or_default();
            if *known.entry(name).or_insert_with(|| uid.clone()) != uid {
                return;
            }
        }
        tokio::time::sleep(DEFINITIONS_CHECK).await;
    }
}

/// Every controller of the product, each in a task of its own. One that ends before it is asked to, or panics, ends
/// them all, and with them the process: half an operator must not lead.
async fn controllers(context: Arc<Context>) {
    let mut all = JoinSet::new();
    all.spawn(crate::target::run(context.clone()));
    all.spawn(crate::depot::remove_unneeded(context.clone()));
    all.spawn(crate::plan::run(context.clone()));
    all.spawn(crate::backup::run(context.clone()));
    all.spawn(crate::restore::run(context.clone()));
    all.spawn(crate::transfer::run(context.clone()));
    all.spawn(crate::sweep::run(context.clone()));
    all.spawn(crate::retention::run(context.clone()));
    all.spawn(crate::verification::run(context.clone()));
    while let Some(ended) = all.join_next().await {
        if let Err(error) = &ended {
            tracing::error!(%error, "a controller broke down");
        }
        if ended.is_err() || !context.shutdown.is_cancelled() {
            return;
        }
    }
}

/// Waits until our kinds are served; `false` when told to stop before that. A watch on a kind that does not exist
/// yet would fail in a loop.
async fn established(client: &Client, stop: &CancellationToken) -> bool {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in holdfast_crd::generate::definitions() {
        let name = definition.name_any();
        loop {
            let there = await_condition(api.clone(), &name, conditions::is_crd_established());
            tokio::select! {
                () = stop.cancelled() => return false,
                result = tokio::time::timeout(REMIND, there) => match result {
                    Ok(Ok(_)) => break,
                    Ok(Err(error)) => {
                        tracing::warn!(crd = %name, %error, "custom resource definition not watched");
                        tokio::time::sleep(Duration::from_secs(2)).await;
                    }
                    Err(_) => tracing::warn!(crd = %name, "waiting for the custom resource definition"),
                }
            }
        }
    }
    true
}
