//! A tenant never gains rights.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::app::{self, location};
use crate::cluster::{Cluster, INSTALLED, refusal, told};

/// Gives `user` the role `admin` in a namespace: a tenant who owns it and nothing else.
async fn tenant(cluster: &Cluster, namespace: &str, user: &str) -> Result<()> {
    cluster
        .apply(&format!(
            r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: tenant, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {user}}}]
"#
        ))
        .await
}

#[tokio::test]
async fn a_tenant_protects_and_restores_the_own_namespace_only() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let mine = cluster.namespace("mine").await?;
    let other = cluster.namespace("other").await?;
    for namespace in [&mine, &other] {
        app::deploy_stateless(&cluster, namespace).await?;
        app::target(&cluster, namespace, &[]).await?;
    }
    tenant(&cluster, &mine, "alice").await?;
    let alice = cluster.as_user("alice")?;
    alice
        .create(app::plan_manifest(&mine, "plan", "store", &mine))
        .await?;
    cluster
        .wait("BackupPlan", &mine, "plan", "Accepted", Duration::from_secs(30))
        .await?;
    alice.create(app::backup_manifest(&mine, "b", "Full")).await?;
    let point = cluster
        .wait("Backup", &mine, "b", "Complete", Duration::from_secs(60))
        .await?;

    // Another namespace's target is not for its plans.
    let stolen = alice
        .create(app::plan_manifest(&mine, "stolen", "store", &other))
        .await;
    let (code, message) = refusal(stolen);
    assert_eq!(code, 403, "{message}");
    assert!(message.contains("allowedNamespaces"), "{message}");
    // Nor is a point of that namespace for its restores: the Target does not name her namespace.
    cluster
        .create(app::plan_manifest(&other, "plan", "store", &other))
        .await?;
    cluster
        .wait("BackupPlan", &other, "plan", "Accepted", Duration::from_secs(30))
        .await?;
    let foreign = app::backup(&cluster, &other, "b", "Full").await?;
    let theft = |target: serde_json::Value| {
        json!({"apiVersion": "holdfast.dev/v1", "kind": "Restore", "metadata": {"name": "theft", "namespace": mine},
            "spec": {"source": {"type": "Location", "location": location(&foreign), "target": target}}})
    };
    let (code, message) = refusal(
        alice
            .create(theft(json!({"name": "store", "namespace": other})))
            .await,
    );
    assert_eq!(code, 403, "{message}");
    assert!(message.contains("allowedNamespaces"), "{message}");
    // Her own point, though, comes back once the originals are gone.
    for (kind, group, version, name) in [
        ("Deployment", "apps", "v1", "web"),
        ("ConfigMap", "", "v1", "settings"),
        ("Secret", "", "v1", "password"),
        ("Service", "", "v1", "web"),
        ("ServiceAccount", "", "v1", "app"),
        ("RoleBinding", "rbac.authorization.k8s.io", "v1", "reader"),
        ("Role", "rbac.authorization.k8s.io", "v1", "reader"),
    ] {
        let resource =
            kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind));
        let api: kube::Api<kube::api::DynamicObject> =
            kube::Api::namespaced_with(cluster.client.clone(), &mine, &resource);
        api.delete(name, &kube::api::DeleteParams::foreground()).await?;
        crate::cluster::until(
            &format!("{kind} {name} to go"),
            Duration::from_secs(60),
            || async { Ok(api.get_opt(name).await?.is_none().then_some(())) },
        )
        .await?;
    }
    // What lives on is no conflict: the Target's own Secret, and the binding `tenant`, which is as it was.
    alice
        .create(json!({"apiVersion": "holdfast.dev/v1", "kind": "Restore", "metadata": {"name": "back", "namespace": mine},
            "spec": {"source": {"type": "Backup", "backup": {"name": "b"}}}}))
        .await?;
    let status = cluster
        .wait("Restore", &mine, "back", "Complete", Duration::from_secs(60))
        .await?;
    assert_eq!(status["location"], point["location"]);
    app::running(&cluster, &mine).await?;
    cluster.delete_namespace(&mine).await?;
    cluster.delete_namespace(&other).await
}

#[tokio::test]
async fn a_restore_gives_no_right_that_its_requester_lacks() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let source = cluster.namespace("rbac").await?;
    app::deploy_stateless(&cluster, &source).await?;
    cluster
        .apply(&format!(
            r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: everything, namespace: {source}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: app, namespace: {source}}}]
"#
        ))
        .await?;
    app::protect(&cluster, &source).await?;
    let point = app::backup(&cluster, &source, "b", "Full").await?;
    app::vault(&cluster).await?;
    // Bob may restore this point into his namespace, but he is no cluster administrator.
    let mine = cluster.namespace("bob").await?;
    tenant(&cluster, &mine, "bob").await?;
    cluster
        .apply(&format!(
            r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: bob-{mine}, namespace: {INSTALLED}}}
rules: [{{apiGroups: [holdfast.dev], resources: [targets], verbs: [get, restore]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: bob-{mine}, namespace: {INSTALLED}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: bob-{mine}}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: bob}}]
"#
        ))
        .await?;
    let bob = cluster.as_user("bob")?;
    bob.create(json!({"apiVersion": "holdfast.dev/v1", "kind": "Restore", "metadata": {"name": "rise", "namespace": mine},
        "spec": {"source": {"type": "Location", "location": location(&point),
            "target": {"name": "vault", "namespace": INSTALLED}}}}))
        .await?;
    let status = cluster
        .wait("Restore", &mine, "rise", "Failed", Duration::from_secs(60))
        .await?;
    let (reason, message) = told(&status, "Failed");
    assert_eq!(reason, "Forbidden", "{message}");
    assert!(message.contains("RoleBinding"), "{message}");
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(cluster.client.clone(), &mine);
    assert!(
        maps.get_opt("settings").await?.is_none(),
        "objects were written before the refusal"
    );
    cluster.delete_namespace(&mine).await?;
    cluster.delete_namespace(&source).await
}
