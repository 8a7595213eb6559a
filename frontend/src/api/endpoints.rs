//! The endpoints.

use gloo_net::http::Method;
use holdfast_shared::{
    Backup, BackupPlan, CreateBackup, CreateBackupPlan, CreateRestore, CreateTarget, NamespaceProtection,
    Page, Restore, Session, SignIn, Target, VerifyBackup,
};

use super::{Api, ApiError};

/// Pages of the namespace list read at most: 10,000 namespaces.
const MAX_PAGES: usize = 20;

/// A collection of resources that have a name and a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collection {
    Targets,
    BackupPlans,
    Backups,
    Restores,
}

impl Collection {
    fn path(self) -> &'static str {
        match self {
            Self::Targets => "/targets",
            Self::BackupPlans => "/backupplans",
            Self::Backups => "/backups",
            Self::Restores => "/restores",
        }
    }

    fn item(self, namespace: &str, name: &str) -> String {
        format!("{}/{namespace}/{name}", self.path())
    }
}

impl Api {
    /// Signs in; the session's cookie comes with the answer.
    pub(crate) async fn sign_in(self, credential: &SignIn) -> Result<Session, ApiError> {
        self.post("/session", credential).await
    }

    /// The session in force.
    pub(crate) async fn session(self) -> Result<Session, ApiError> {
        self.get("/session").await
    }

    /// Ends the session.
    pub(crate) async fn sign_out(self) -> Result<(), ApiError> {
        self.command(Method::DELETE, "/session").await
    }

    /// One namespace.
    pub(crate) async fn namespace(self, name: &str) -> Result<NamespaceProtection, ApiError> {
        self.get(&format!(
            "/namespaces/{}",
            String::from(js_sys::encode_uri_component(name))
        ))
        .await
    }

    /// Every namespace; needs the right to list them.
    pub(crate) async fn namespaces(self) -> Result<Vec<NamespaceProtection>, ApiError> {
        let mut all = Vec::new();
        let mut path = "/namespaces?limit=500".to_owned();
        for _ in 0..MAX_PAGES {
            let page: Page<NamespaceProtection> = self.get(&path).await?;
            all.extend(page.items);
            match page.continue_token {
                Some(token) => {
                    let token = String::from(js_sys::encode_uri_component(&token));
                    path = format!("/namespaces?limit=500&continue={token}");
                }
                None => break,
            }
        }
        Ok(all)
    }

    pub(crate) async fn create_target(self, body: &CreateTarget) -> Result<Target, ApiError> {
        self.post("/targets", body).await
    }

    pub(crate) async fn create_plan(self, body: &CreateBackupPlan) -> Result<BackupPlan, ApiError> {
        self.post("/backupplans", body).await
    }

    pub(crate) async fn create_backup(self, body: &CreateBackup) -> Result<Backup, ApiError> {
        self.post("/backups", body).await
    }

    /// Asks for a verification of a backup's point.
    pub(crate) async fn verify_backup(
        self,
        namespace: &str,
        name: &str,
        body: &VerifyBackup,
    ) -> Result<Backup, ApiError> {
        let path = format!("{}/verify", Collection::Backups.item(namespace, name));
        self.post(&path, body).await
    }

    pub(crate) async fn create_restore(self, body: &CreateRestore) -> Result<Restore, ApiError> {
        self.post("/restores", body).await
    }

    /// A resource as YAML.
    pub(crate) async fn yaml(
        self,
        collection: Collection,
        namespace: &str,
        name: &str,
    ) -> Result<String, ApiError> {
        self.text(&format!("{}/yaml", collection.item(namespace, name)))
            .await
    }

    /// Deletes a resource, but not a later one of the same name.
    pub(crate) async fn delete(
        self,
        collection: Collection,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), ApiError> {
        let path = format!("{}?uid={uid}", collection.item(namespace, name));
        self.command(Method::DELETE, &path).await
    }

    /// Asks a run to stop.
    pub(crate) async fn cancel(
        self,
        collection: Collection,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        self.command(
            Method::POST,
            &format!("{}/cancel", collection.item(namespace, name)),
        )
        .await
    }
}
