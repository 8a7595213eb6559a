//! What admission refuses, and in which words.

use anyhow::Result;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::app;
use crate::cluster::{Cluster, refusal};

#[tokio::test]
async fn an_unknown_field_is_refused_with_the_nearest_name() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("adm").await?;
    let mut plan = app::plan_manifest(&namespace, "plan", "store", &namespace);
    plan["spec"]["backupConfg"] = plan["spec"]["backupConfig"].take();
    plan["spec"]["backupConfig"] = json!({"target": {"name": "store"}});
    // A plain create, as `kubectl create --validate=false` sends it: no field validation by the API server.
    let (code, message) = refusal(cluster.create(plan.clone()).await);
    assert!((400..500).contains(&code), "{code}");
    assert!(
        message.contains("backupConfg") && message.contains("backupConfig"),
        "{message}"
    );
    // Server-side apply.
    let applied = cluster
        .ours("BackupPlan", &namespace)
        .patch("plan", &PatchParams::apply("e2e").force(), &Patch::Apply(&plan))
        .await;
    assert!(applied.is_err_and(|e| e.to_string().contains("backupConfg")));
    let mut target = app::target_manifest(&cluster, &namespace, "t", "http://127.0.0.1:1", &[]);
    target["spec"]["objectStoreCredentials"]["bucketNam"] = json!("x");
    let (_, message) = refusal(cluster.create(target).await);
    assert!(
        message.contains("bucketNam") && message.contains("bucketName"),
        "{message}"
    );
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn contradictions_and_later_changes_are_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("adm").await?;
    app::deploy_stateless(&cluster, &namespace).await?;
    app::protect(&cluster, &namespace).await?;
    let restore = |source: serde_json::Value| {
        json!({"apiVersion": "holdfast.dev/v1", "kind": "Restore",
            "metadata": {"name": "r", "namespace": namespace}, "spec": {"source": source}})
    };
    refusal(
        cluster
            .create(restore(json!({"type": "Backup", "location": "a/b/c"})))
            .await,
    );
    refusal(
        cluster
            .create(restore(json!({"type": "Location", "location": "a/b/c"})))
            .await,
    );
    let mut elsewhere = restore(json!({"type": "Backup", "backup": {"name": "b"}}));
    elsewhere["spec"]["restoreNamespace"] = json!("other");
    let (_, message) = refusal(cluster.create(elsewhere).await);
    assert!(message.contains("restoreNamespace"), "{message}");

    let plans = cluster.ours("BackupPlan", &namespace);
    let moved = json!({"spec": {"backupConfig": {"target": {"name": "another"}}}});
    let error = plans
        .patch("plan", &PatchParams::default(), &Patch::Merge(&moved))
        .await;
    assert!(
        error.is_err_and(|e| e.to_string().contains("target")),
        "a plan moved to another target"
    );

    app::backup(&cluster, &namespace, "b", "Full").await?;
    let backups = cluster.ours("Backup", &namespace);
    for change in [
        json!({"spec": {"type": "Incremental"}}),
        json!({"spec": {"requester": {"user": "root"}}}),
    ] {
        let result = backups
            .patch("b", &PatchParams::default(), &Patch::Merge(&change))
            .await;
        assert!(result.is_err(), "{change} was accepted");
    }
    let target = cluster
        .ours("Target", &namespace)
        .delete("store", &kube::api::DeleteParams::default())
        .await;
    assert!(
        target.is_err_and(|e| e.to_string().contains("plan")),
        "a target in use was deleted"
    );
    // In a namespace that goes away nothing is in the way.
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn the_requester_is_who_the_api_server_says() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("adm").await?;
    app::deploy_stateless(&cluster, &namespace).await?;
    app::protect(&cluster, &namespace).await?;
    let mut forged = app::backup_manifest(&namespace, "forged", "Full");
    forged["spec"]["requester"] = json!({"user": "somebody-else", "groups": ["system:masters"]});
    let created = cluster.create(forged).await?;
    let user = created
        .data
        .pointer("/spec/requester/user")
        .and_then(|u| u.as_str())
        .unwrap_or_default();
    assert!(!user.is_empty() && user != "somebody-else", "requester is {user}");
    cluster.delete_namespace(&namespace).await
}
