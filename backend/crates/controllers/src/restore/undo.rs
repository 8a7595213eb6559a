//! Takes back what a run made before it began to write objects.

use holdfast_crd::RestoreStatus;
use holdfast_crd::names::annotations;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::Run;
use crate::failure::Failure;

impl Run<'_> {
    /// Deletes claims that this run handed over and the namespace that it created. Objects were not written yet.
    pub(super) async fn undo(&self, status: &RestoreStatus) -> Result<(), Failure> {
        let destination = self.destination();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), &destination);
        for claim in claims.list(&ListParams::default()).await?.items {
            if claim.annotations().get(annotations::RESTORED_BY) == Some(&self.uid()) {
                holdfast_k8s::delete(&claims, &claim.name_any(), claim.uid().as_deref()).await?;
            }
        }
        if !status.created_namespace || !self.made_by_us(&destination).await? {
            return Ok(());
        }
        // As the requester: the operator's own account deletes no namespace. A person who may create but not delete
        // one keeps an empty namespace, and an event says so.
        let requester = self.restore.spec.requester.clone().unwrap_or_default();
        let client = self.client()?;
        if let Err(error) = holdfast_k8s::delete(&Api::<Namespace>::all(client), &destination, None).await {
            let text = format!(
                "the empty namespace {destination} could not be removed as {}: {error}",
                requester.user
            );
            self.ctx
                .events
                .warning(self.restore, "NamespaceLeft", &text)
                .await;
        }
        Ok(())
    }
}
