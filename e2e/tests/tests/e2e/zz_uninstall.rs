//! Our definitions go away, with every resource of ours: the points stay, and restore once we are installed again.
//! Named to run last, for it takes the product from under other tests.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};

use crate::app::{self, Volumes, location};
use crate::cluster::{Cluster, INSTALLED, until};

#[tokio::test]
async fn points_survive_the_deletion_of_our_definitions() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("zz").await?;
    let pod = app::deploy(&cluster, &namespace, Volumes::SMALL).await?;
    app::protect(&cluster, &namespace).await?;
    app::write(&cluster, &namespace, &pod, "x").await?;
    let mut manifest = app::backup_manifest(&namespace, "b", "Full");
    // Even a policy of deletion means deletion by a person, not of the definitions.
    manifest["spec"]["deletionPolicy"] = serde_json::json!("Delete");
    cluster.create(manifest).await?;
    let point = cluster
        .wait("Backup", &namespace, "b", "Complete", Duration::from_secs(120))
        .await?;
    let before = app::checksums(&cluster, &namespace, &pod).await?;
    cluster.nothing_left().await?;

    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let ours = holdfast_crd::generate::definitions();
    for definition in &ours {
        definitions
            .delete(&definition.name_any(), &DeleteParams::default())
            .await?;
    }
    for definition in &ours {
        let name = definition.name_any();
        until(&format!("{name} to go"), Duration::from_secs(90), || async {
            Ok(definitions.get_opt(&name).await?.is_none().then_some(()))
        })
        .await?;
    }
    cluster.delete_namespace(&namespace).await?;
    let key = format!("holdfast/points/{}/backup.json", location(&point));
    assert_eq!(
        cluster.keys(&key).await?,
        std::slice::from_ref(&key),
        "the point left the target"
    );

    for definition in &ours {
        definitions.create(&PostParams::default(), definition).await?;
    }
    until(
        "our kinds to be served again",
        Duration::from_secs(30),
        || async {
            Ok(cluster
                .ours("Target", INSTALLED)
                .list(&kube::api::ListParams::default())
                .await
                .ok()
                .map(|_| ()))
        },
    )
    .await?;
    until(
        "the target to be accepted again",
        Duration::from_secs(90),
        || async { Ok(app::vault(&cluster).await.ok()) },
    )
    .await?;
    app::restore(&cluster, &location(&point), &namespace)
        .await
        .context("restoring after reinstallation")?;
    let pod = app::running(&cluster, &namespace).await?;
    assert_eq!(app::checksums(&cluster, &namespace, &pod).await?, before);
    cluster.delete_namespace(&namespace).await
}
