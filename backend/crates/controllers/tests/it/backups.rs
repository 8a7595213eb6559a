//! Backups of applications without volumes, and everything that is refused before anything is made.

use std::time::{Duration, Instant};

use holdfast_crd::{Backup, VolumeTransfer};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::world::{INSTALLED, World, make};

#[tokio::test]
async fn an_application_without_volumes_is_a_point_within_seconds() {
    let world = World::new("plain").await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"kind": "Gadget", "plural": "gadgets"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    make(&world.client, &definition).await;
    for name in ["b", "a", "kube-root-ca.crt"] {
        world.make(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await; // until the new kind is served
    world.make(json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "g"}, "any": {"x": [1]}})).await;

    let started = Instant::now();
    world.backup("first", json!({})).await;
    let backup = world.completed("first").await;
    let took = started.elapsed();
    println!("create to Complete without volumes: {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");

    let (manifest, objects) = world.point(&backup).await;
    let name = |o: &Value| {
        format!(
            "{}/{}",
            o["kind"].as_str().unwrap(),
            o["metadata"]["name"].as_str().unwrap()
        )
    };
    let names: Vec<String> = objects.iter().map(name).collect();
    assert_eq!(
        names,
        [
            "CustomResourceDefinition/gadgets.example.com",
            "Namespace/plain",
            "ConfigMap/a",
            "ConfigMap/b",
            "Secret/keys",
            "Gadget/g"
        ]
    );
    assert_eq!(
        objects[5]["any"],
        json!({"x": [1]}),
        "what no program knows is kept"
    );
    assert!(
        objects
            .iter()
            .all(|o| o["metadata"].get("managedFields").is_none())
    );
    assert_eq!(
        (manifest.requester.as_deref(), manifest.namespace.name.as_str()),
        (Some("anna"), "plain")
    );

    let backup = world.cleaned_up("first").await;
    let status = backup.status.unwrap();
    let phases: Vec<String> = status
        .phases
        .iter()
        .map(|p| format!("{:?} {:?}", p.phase, p.state))
        .collect();
    assert_eq!(
        phases,
        [
            "Validate Completed",
            "CaptureMetadata Completed",
            "SnapshotVolumes Skipped",
            "UploadVolumes Skipped",
            "UploadMetadata Completed",
            "Commit Completed",
            "CleanUp Completed"
        ]
    );
    assert_eq!(
        (status.percentage_completion, status.kind.as_deref()),
        (Some(100), Some("Full"))
    );
}

#[tokio::test]
async fn runs_of_a_plan_go_one_after_the_other_in_the_order_they_were_asked_for() {
    let world = World::new("queue").await;
    // Creation times have whole seconds: within one, names decide.
    for name in ["a", "b", "c"] {
        world.backup(name, json!({})).await;
    }
    let mut last = None;
    for name in ["a", "b", "c"] {
        let status = world.completed(name).await.status.unwrap();
        let (start, end) = (
            status.start_timestamp.unwrap().0,
            status.completion_timestamp.unwrap().0,
        );
        assert!(
            last.is_none_or(|last| last <= start),
            "{name} began before the one ahead had ended"
        );
        last = Some(end);
    }
}

#[tokio::test]
async fn what_cannot_be_read_fails_the_backup_unless_the_plan_names_it() {
    let world = World::new("unreadable").await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "local-1"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/none"}}});
    make(&world.client, &volume).await;
    let claim = |name: &str, volume: Option<&str>| {
        let mut spec =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        if let Some(volume) = volume {
            spec["volumeName"] = json!(volume);
        }
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})
    };
    world.make(claim("data", Some("local-1"))).await;
    world.make(claim("never-bound", None)).await;
    let claims: Api<k8s_openapi::api::core::v1::PersistentVolumeClaim> = world.api();
    let bound = json!({"status": {"phase": "Bound"}});
    claims
        .patch_status("data", &Default::default(), &kube::api::Patch::Merge(bound))
        .await
        .unwrap();

    world.backup("fails", json!({})).await;
    let (reason, message) = world.failed("fails").await;
    assert_eq!(reason, "VolumeUnreadable");
    assert!(
        message.contains("claim data") && message.contains("spec.excludeResources"),
        "{message}"
    );
    let failed = world.cleaned_up("fails").await;
    assert_eq!(
        failed.status.unwrap().problems[0].object,
        "PersistentVolumeClaim/data"
    );
    let transfers: Api<VolumeTransfer> = Api::namespaced(world.client.clone(), INSTALLED);
    assert!(
        transfers
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty(),
        "nothing was made"
    );
    let events = world
        .api::<Event>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert!(
        events
            .iter()
            .any(|e| e.reason.as_deref() == Some("VolumeUnreadable")),
        "{events:#?}"
    );

    let exclude = json!({"gvkSelector": [{"groupVersionKind": {"kind": "PersistentVolumeClaim"}, "objects": ["data"]}]});
    world
        .merge::<holdfast_crd::BackupPlan>("p", json!({"spec": {"excludeResources": exclude}}))
        .await;
    world.backup("passes", json!({})).await;
    let backup = world.completed("passes").await;
    assert_eq!(backup.status.clone().unwrap().excluded_claims, ["data"]);
    let (manifest, objects) = world.point(&backup).await;
    assert_eq!(manifest.excluded_claims, ["data"]);
    let claims: Vec<_> = objects
        .iter()
        .filter(|o| o["kind"] == "PersistentVolumeClaim")
        .collect();
    assert_eq!(
        claims.len(),
        1,
        "a claim without data is an object like any other: {claims:#?}"
    );
}

#[tokio::test]
async fn the_wrong_person_no_person_and_a_stopped_run_end_with_their_reason() {
    let world = World::new("refused").await;
    world
        .backup("stranger", json!({"requester": {"user": "bob"}}))
        .await;
    world.backup("nobody", json!({"requester": null})).await;
    world.backup("stopped", json!({"cancel": true})).await;
    world
        .backup("no-plan", json!({"backupPlan": {"name": "none"}}))
        .await;
    let (reason, message) = world.failed("stranger").await;
    assert_eq!(reason, "Forbidden");
    assert!(message.contains("bob may not get secrets"), "{message}");
    assert_eq!(world.failed("nobody").await.0, "InvalidSpec");
    assert_eq!(world.failed("stopped").await.0, "Canceled");
    let (reason, message) = world.failed("no-plan").await;
    assert_eq!(reason, "NotFound");
    assert!(message.contains("no BackupPlan none"), "{message}");
}

#[tokio::test]
async fn a_backup_that_comes_with_its_plan_and_target_waits_for_them() {
    let world = World::bare("together").await;
    world.backup("early", json!({})).await;
    world.plan("p", json!({})).await;
    world.target("t", json!({})).await;
    world.secret("keys", None).await;
    let waiting = |b: Backup| b.status.is_some_and(|s| s.start_timestamp.is_some());
    world.until::<Backup>("early", waiting).await;
}
