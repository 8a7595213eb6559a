//! What a backup is for: the application comes back with every byte.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::app::{self, Volumes, backup, location};
use crate::cluster::{Cluster, INSTALLED};

/// Budget of the brief for an application without volumes, each way.
const WITHOUT_VOLUMES: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_deleted_namespace_comes_back_from_the_target_with_its_bytes() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("trip").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    for name in ["first", "more", "much-more"] {
        app::write(&cluster, &namespace, &pod, name).await?;
    }
    let full = backup(&cluster, &namespace, "full", "Full").await?;
    assert_eq!(full["type"], "Full");
    let after_full = app::checksums(&cluster, &namespace, &pod).await?;

    app::write(&cluster, &namespace, &pod, "second").await?;
    let incremental = backup(&cluster, &namespace, "incremental", "Incremental").await?;
    assert_eq!(incremental["type"], "Incremental", "{incremental:#}");
    assert!(
        incremental["size"].as_u64().map(|size| size * 2) < full["size"].as_u64(),
        "an increment of a third of the data stores {} after {}",
        incremental["size"],
        full["size"]
    );
    let after_incremental = app::checksums(&cluster, &namespace, &pod).await?;
    cluster.nothing_left().await?;

    cluster.delete_namespace(&namespace).await?;
    for point in [&full, &incremental] {
        let key = format!("holdfast/points/{}/backup.json", location(point));
        assert!(
            cluster.keys(&key).await?.contains(&key),
            "deleting the namespace took {key} from the target"
        );
    }
    let restored = app::restore(&cluster, &location(&incremental), &namespace).await?;
    assert_eq!(restored["objects"]["failed"].as_u64(), Some(0), "{restored:#}");
    let pod = app::running(&cluster, &namespace).await?;
    assert_eq!(
        app::checksums(&cluster, &namespace, &pod).await?,
        after_incremental
    );
    assert_eq!(
        cluster.exec(&namespace, &pod, "echo $greeting $password").await?,
        "hello correct-horse"
    );
    assert!(
        restored["report"]
            .as_str()
            .is_some_and(|key| key.starts_with("holdfast/reports/")),
        "{restored:#}"
    );

    // The older point of the same chain, into another namespace beside the restored one.
    let beside = format!("{namespace}-old");
    app::restore(&cluster, &location(&full), &beside).await?;
    let pod = app::running(&cluster, &beside).await?;
    assert_eq!(app::checksums(&cluster, &beside, &pod).await?, after_full);
    cluster.nothing_left().await?;
    cluster.delete_namespace(&beside).await?;
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn volumes_bound_on_first_use_come_back_too() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("wffc").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::ON_FIRST_USE).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "first").await?;
    let point = backup(&cluster, &namespace, "full", "Full").await?;
    let before = app::checksums(&cluster, &namespace, &pod).await?;
    let other = format!("{namespace}-copy");
    app::restore(&cluster, &location(&point), &other).await?;
    let pod = app::running(&cluster, &other).await?;
    assert_eq!(app::checksums(&cluster, &other, &pod).await?, before);
    cluster.nothing_left().await?;
    cluster.delete_namespace(&other).await?;
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn without_volumes_a_backup_and_a_restore_take_seconds() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("quick").await?;
    app::deploy_stateless(&cluster, &namespace).await?;
    app::protect(&cluster, &namespace).await?;
    let started = Instant::now();
    let point = backup(&cluster, &namespace, "full", "Full").await?;
    let backup_took = started.elapsed();
    app::vault(&cluster).await?;
    let other = format!("{namespace}-copy");
    let started = Instant::now();
    app::restore(&cluster, &location(&point), &other).await?;
    app::running(&cluster, &other).await?;
    let restore_took = started.elapsed();
    println!("backup {backup_took:?}, restore until Ready {restore_took:?}");
    assert!(backup_took <= WITHOUT_VOLUMES, "the backup took {backup_took:?}");
    assert!(
        restore_took <= WITHOUT_VOLUMES,
        "the restore took {restore_took:?}"
    );
    cluster.delete_namespace(&other).await?;
    cluster.delete_namespace(&namespace).await
}

#[tokio::test]
async fn custom_resources_come_back_with_their_definition() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("crd").await?;
    let group = format!("{namespace}.example.com");
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("widgets.{group}"), "labels": {"holdfast-e2e": "true"}},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    cluster.create(definition).await?;
    let widget = json!({"apiVersion": format!("{group}/v1"), "kind": "Widget",
        "metadata": {"name": "one", "namespace": namespace}, "spec": {"anything": [1, {"deep": true}]}});
    crate::cluster::until("the definition to be served", Duration::from_secs(20), || async {
        Ok(cluster.create(widget.clone()).await.ok())
    })
    .await?;
    app::protect(&cluster, &namespace).await?;
    let point = backup(&cluster, &namespace, "full", "Full").await?;
    cluster.delete_namespace(&namespace).await?;
    let resource = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    ));
    let definitions: kube::Api<kube::api::DynamicObject> =
        kube::Api::all_with(cluster.client.clone(), &resource);
    let name = format!("widgets.{group}");
    definitions
        .delete(&name, &kube::api::DeleteParams::default())
        .await?;
    crate::cluster::until("the definition to go", Duration::from_secs(60), || async {
        Ok(definitions.get_opt(&name).await?.is_none().then_some(()))
    })
    .await?;
    app::restore(&cluster, &location(&point), &namespace).await?;
    let kind = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(&group, "v1", "Widget"));
    let widgets: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(cluster.client.clone(), &namespace, &kind);
    assert_eq!(
        widgets.get("one").await?.data["spec"],
        json!({"anything": [1, {"deep": true}]})
    );
    cluster.delete_namespace(&namespace).await?;
    definitions
        .delete(&name, &kube::api::DeleteParams::default())
        .await?;
    Ok(())
}

#[tokio::test]
async fn data_leaves_the_target_only_by_policy_and_deletion() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("keep").await?;
    app::deploy_stateless(&cluster, &namespace).await?;
    app::protect(&cluster, &namespace).await?;
    let kept = backup(&cluster, &namespace, "kept", "Full").await?;
    let mut manifest = app::backup_manifest(&namespace, "dropped", "Full");
    manifest["spec"]["deletionPolicy"] = json!("Delete");
    cluster.create(manifest).await?;
    let dropped = cluster
        .wait(
            "Backup",
            &namespace,
            "dropped",
            "Complete",
            Duration::from_secs(60),
        )
        .await?;
    for name in ["kept", "dropped"] {
        cluster
            .ours("Backup", &namespace)
            .delete(name, &kube::api::DeleteParams::default())
            .await?;
    }
    let prefix = |status| format!("holdfast/points/{}/", location(status));
    crate::cluster::until(
        "the dropped point to leave the target",
        Duration::from_secs(60),
        || async { Ok(cluster.keys(&prefix(&dropped)).await?.is_empty().then_some(())) },
    )
    .await?;
    assert!(
        !cluster.keys(&prefix(&kept)).await?.is_empty(),
        "a retained point left the target"
    );
    // It is still restorable, though its resource is gone.
    let other = format!("{namespace}-copy");
    app::restore(&cluster, &location(&kept), &other).await?;
    assert!(cluster.ours("Backup", INSTALLED).get_opt("kept").await?.is_none());
    cluster.delete_namespace(&other).await?;
    cluster.delete_namespace(&namespace).await
}
