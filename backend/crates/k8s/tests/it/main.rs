//! Against a real API server.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::time::{Duration, Instant};

use holdfast_crd::Requester;
use holdfast_k8s::{
    Access, ApiKinds, Cluster, Election, ElectionError, create_or_get, delete, describe, is_conflict,
    list_kind, review, update_status,
};
use holdfast_testkit::shared;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, NamespaceStatus};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

async fn namespace(name: &str) -> Client {
    let plane = shared().await;
    plane.namespace(name).await.unwrap();
    plane.client().unwrap()
}

#[tokio::test]
async fn every_object_is_listed_beyond_the_first_page_and_keeps_its_type() {
    let client = namespace("it-pages").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "it-pages");
    for number in 0..501 {
        let map = json!({"metadata": {"name": format!("m-{number}")}});
        maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap())
            .await
            .unwrap();
    }
    let kinds = ApiKinds::discover(&client).await.unwrap();
    assert_eq!(kinds.unavailable(), <[String; 0]>::default());
    let kind = kinds.find("v1", "ConfigMap").unwrap();
    let listed = list_kind(&client, kind, Some("it-pages")).await.unwrap();
    // Kubernetes itself may put its CA there.
    let ours = listed
        .iter()
        .filter(|map| map["metadata"]["name"].as_str().unwrap().starts_with("m-"));
    assert_eq!(ours.count(), 501);
    assert!(
        listed
            .iter()
            .all(|map| map["kind"] == "ConfigMap" && map["apiVersion"] == "v1")
    );
    let deployments = kinds.find("apps/v1", "Deployment").unwrap();
    assert!(deployments.namespaced && deployments.preferred && deployments.can("list"));
}

#[tokio::test]
async fn one_leads_at_a_time_and_the_next_follows_at_once_when_it_steps_down() {
    let client = namespace("it-lease").await;
    let candidate = |who: &str| Election::new(client.clone(), "it-lease", "operator", who);
    let stop = CancellationToken::new();
    let first = candidate("first").acquire(&stop).await.unwrap();
    let waiting = timeout(Duration::from_secs(5), candidate("second").acquire(&stop)).await;
    assert!(waiting.is_err(), "the lease is held");
    let step_down = CancellationToken::new();
    step_down.cancel();
    first.keep(&step_down).await.unwrap();
    let asked = Instant::now();
    let second = timeout(Duration::from_secs(5), candidate("second").acquire(&stop))
        .await
        .unwrap()
        .unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5));
    second.keep(&step_down).await.unwrap();
}

#[tokio::test]
async fn a_leader_hears_that_it_was_replaced_and_one_that_is_silent_is_replaced() {
    let client = namespace("it-lost").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "it-lost");
    let candidate = |who: &str| Election::new(client.clone(), "it-lost", "operator", who);
    let stop = CancellationToken::new();
    let lost = candidate("lost").acquire(&stop).await.unwrap();
    let usurper = json!({"spec": {"holderIdentity": "usurper"}});
    leases
        .patch("operator", &PatchParams::default(), &Patch::Merge(&usurper))
        .await
        .unwrap();
    let heard = timeout(Duration::from_secs(12), lost.keep(&stop)).await.unwrap();
    assert!(matches!(heard, Err(ElectionError::TakenOver(who)) if who == "usurper"));
    // The usurper never renews: after the whole duration, not before, the next one takes over.
    let asked = Instant::now();
    let next = timeout(Duration::from_secs(25), candidate("next").acquire(&stop))
        .await
        .unwrap()
        .unwrap();
    assert!(
        asked.elapsed() >= Duration::from_secs(14),
        "{:?}",
        asked.elapsed()
    );
    let lease = leases.get("operator").await.unwrap();
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(2));
    drop(next);
}

#[tokio::test]
async fn a_status_is_written_only_onto_the_version_that_was_read() {
    let client = namespace("it-status").await;
    let api: Api<Namespace> = Api::all(client);
    let seen = api.get("it-status").await.unwrap();
    let old = seen.status.clone().unwrap();
    assert!(
        update_status(&api, &seen, &old, &old).await.unwrap().is_none(),
        "nothing changed, nothing is sent"
    );
    let new = NamespaceStatus {
        conditions: Some(Vec::new()),
        ..old.clone()
    };
    let label = json!({"metadata": {"labels": {"changed": "meanwhile"}}});
    api.patch("it-status", &PatchParams::default(), &Patch::Merge(&label))
        .await
        .unwrap();
    let refused = update_status(&api, &seen, &old, &new).await.unwrap_err();
    assert!(is_conflict(&refused), "{refused}");
    assert!(describe(&refused).retryable);
}

#[tokio::test]
async fn a_requester_acts_with_its_own_rights_and_masters_are_nobody_special() {
    let plane = shared().await;
    plane.namespace("it-person").await.unwrap();
    let cluster = Cluster::with_config(plane.admin_config().unwrap()).unwrap();
    assert!(!cluster.uid().await.unwrap().is_empty());
    let requester = Requester {
        user: "mallory".into(),
        uid: Some("42".into()),
        groups: vec!["system:masters".into()],
        extra: [("scopes.example/x".to_owned(), vec!["a".to_owned()])].into(),
    };
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client_as(&requester).unwrap(), "it-person");
    let refused = maps.list(&ListParams::default()).await.unwrap_err();
    assert_eq!(describe(&refused).reason, "Forbidden");
    assert!(describe(&refused).message.contains("mallory"), "{refused}");
    let list = Access::new("list", "", "configmaps").in_namespace("it-person");
    assert!(
        !review(&cluster.client(), &requester, &list)
            .await
            .unwrap()
            .allowed
    );
}

#[tokio::test]
async fn repeated_writes_are_one_write() {
    let client = namespace("it-repeat").await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "it-repeat");
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap();
    let first = create_or_get(&maps, &map).await.unwrap();
    let again = create_or_get(&maps, &map).await.unwrap();
    assert_eq!(first.uid(), again.uid());
    assert!(is_conflict(
        &delete(&maps, "m", Some("another")).await.unwrap_err()
    ));
    assert!(!delete(&maps, "m", first.uid().as_deref()).await.unwrap());
    assert!(delete(&maps, "m", None).await.unwrap(), "nothing is left");
}
