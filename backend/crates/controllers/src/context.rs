//! What every controller is given.

use std::sync::Arc;

use holdfast_crd::VolumeTransfer;
use holdfast_crd::names::labels;
use holdfast_k8s::{Cluster, Events};
use kube::api::ListParams;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::{Limits, Metrics, MoverSettings, TargetAccess};

/// Shared by all controllers of one leader. There is nothing in it that must survive a restart.
pub struct Context {
    /// The cluster, for clients that act as a requester.
    pub cluster: Cluster,
    /// A client with the operator's own identity.
    pub client: Client,
    /// Namespace Holdfast is installed in: transfers and everything temporary live there.
    pub install_namespace: String,
    /// UID of the namespace kube-system: the cluster's name on every target.
    pub cluster_uid: String,
    /// Kubernetes Events.
    pub events: Events,
    /// How mover pods are made.
    pub mover: MoverSettings,
    /// How much may run at the same time.
    pub limits: Limits,
    /// Opens targets.
    pub targets: TargetAccess,
    /// Public halves of the recovery keys that every data key is wrapped for.
    pub recovery: Vec<holdfast_seal::Recipient>,
    /// Counters and histograms.
    pub metrics: Metrics,
    /// Images that are being merged.
    pub(crate) merging: crate::retention::Merging,
    /// Streaks of passing failures.
    pub(crate) streaks: crate::streak::Streaks,
    /// Cancelled when the process shuts down.
    pub shutdown: CancellationToken,
}

impl Context {
    /// An API of one of our kinds or a built-in one in `namespace`.
    pub fn namespaced<K>(&self, namespace: &str) -> kube::Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        kube::Api::namespaced(self.client.clone(), namespace)
    }

    /// An API of a cluster-scoped kind.
    pub fn cluster_wide<K>(&self) -> kube::Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        kube::Api::all(self.client.clone())
    }

    /// An API in the install namespace.
    pub fn installed<K>(&self) -> kube::Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        self.namespaced(&self.install_namespace)
    }

    /// The volume-transfers of a run.
    pub(crate) async fn transfers_of(&self, run_uid: &str) -> Result<Vec<VolumeTransfer>, kube::Error> {
        let of_run = ListParams::default().labels(&format!("{}={run_uid}", labels::RUN));
        match self.installed::<VolumeTransfer>().list(&of_run).await {
            // Our definitions are being removed, that of transfers first: nothing is left to wait for.
            Err(error) if holdfast_k8s::is_not_found(&error) => Ok(Vec::new()),
            listed => Ok(listed?.items),
        }
    }

    /// Deletes a run's transfers, which stops those under way; true when none is left.
    pub(crate) async fn drop_transfers_of(&self, run_uid: &str) -> Result<bool, kube::Error> {
        let api = self.installed::<VolumeTransfer>();
        let transfers = self.transfers_of(run_uid).await?;
        for transfer in &transfers {
            if transfer.metadata.deletion_timestamp.is_none() {
                holdfast_k8s::delete(&api, &transfer.name_any(), transfer.uid().as_deref()).await?;
            }
        }
        Ok(transfers.is_empty())
    }

    /// A future that ends when the process shuts down, for `Controller::graceful_shutdown_on`.
    pub fn stopped(self: &Arc<Self>) -> impl Future<Output = ()> + Send + Sync + 'static {
        self.shutdown.clone().cancelled_owned()
    }
}
