//! The policies alone, on an API server without any webhook: what holds when admission is bypassed.

use std::time::Duration;

use holdfast_testkit::ControlPlane;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::setup::{INSTALLED, backup, chart, create, merge, permit};

async fn plane() -> ControlPlane {
    let plane = ControlPlane::start().await.unwrap();
    plane.install_crds().await.unwrap();
    plane.namespace(INSTALLED).await.unwrap();
    let client = plane.client().unwrap();
    permit(&client).await;
    for manifest in chart("policies.yaml") {
        create(&client, &manifest).await.unwrap();
    }
    plane
}

/// Policies take a moment to be in force.
async fn eventually_refused<F>(mut attempt: impl FnMut(usize) -> F) -> String
where
    F: Future<Output = Option<String>>,
{
    for i in 0..200 {
        if let Some(message) = attempt(i).await {
            return message;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never refused");
}

#[tokio::test]
async fn without_webhooks_a_forged_requester_and_a_nosy_mover_are_still_refused() {
    let plane = plane().await;
    let anna = plane.client_of("anna", Some("testers")).unwrap();
    let with = |name: &str, requester: Value| {
        let mut run = backup("default", name);
        run["spec"]["requester"] = requester;
        run
    };
    let message = eventually_refused(|i| {
        let (anna, run) = (
            anna.clone(),
            with(&format!("forged-{i}"), json!({"user": "root"})),
        );
        async move { create(&anna, &run).await.err().map(|e| e.message) }
    })
    .await;
    assert!(
        message.contains("spec.requester must be the user who creates"),
        "{message}"
    );

    for forged in [
        json!({"user": "anna"}),
        json!({"user": "anna", "groups": ["system:masters", "testers", "system:authenticated"]}),
        json!({"user": "anna", "uid": "0", "groups": ["testers", "system:authenticated"]}),
        json!({"user": "anna", "groups": ["testers", "system:authenticated"], "extra": {"scopes": ["all"]}}),
    ] {
        let result = create(&anna, &with("again", forged.clone())).await;
        assert!(result.is_err(), "{forged} was accepted");
    }
    assert!(
        create(&anna, &backup("default", "none")).await.is_err(),
        "a run without requester was accepted"
    );
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}});
    let me = create(&anna, &review).await.unwrap().data["status"]["userInfo"].clone();
    let honest = with(
        "honest",
        json!({"user": me["username"], "groups": me["groups"],
        "extra": me.get("extra").cloned().unwrap_or(json!({}))}),
    );
    create(&anna, &honest).await.unwrap();
    let change = json!({"spec": {"requester": {"user": "root"}}});
    assert!(
        merge(&anna, &honest, change).await.is_err(),
        "the requester was changed"
    );

    movers(&plane).await;
}

async fn movers(plane: &ControlPlane) {
    let admin = plane.client().unwrap();
    for name in ["hf-one", "hf-two"] {
        let transfer = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "VolumeTransfer",
            "metadata": {"name": name, "namespace": INSTALLED}, "spec": {"direction": "Backup",
            "run": {"kind": "Backup", "namespace": "n", "name": "n", "uid": "u"}, "target": {"name": "t"},
            "claim": {"namespace": "n", "name": "c", "uid": "u"}, "home": "h", "volume": {"capacity": 1,
            "driver": "d", "storageClass": "s", "volumeMode": "Block", "accessModes": []}}});
        create(&admin, &transfer).await.unwrap();
        // A mover only ever finds a transfer that the operator has brought so far.
        let api: Api<holdfast_crd::VolumeTransfer> = Api::namespaced(admin.clone(), INSTALLED);
        let running = Patch::Merge(json!({"status": {"stage": "Running", "attempt": 1, "node": "n"}}));
        api.patch_status(name, &PatchParams::default(), &running)
            .await
            .unwrap();
    }
    let mover = mover(plane, &admin, "hf-one-1-x7k2p").await;
    let patch = |name: &'static str, status: Value| {
        let mover = mover.clone();
        async move {
            let api: Api<holdfast_crd::VolumeTransfer> = Api::namespaced(mover, INSTALLED);
            api.patch_status(
                name,
                &PatchParams::default(),
                &Patch::Merge(json!({ "status": status })),
            )
            .await
        }
    };
    let report = json!({"mover": {"attempt": 1, "bytesTotal": 1, "bytesDone": 1, "bytesTransferred": 0,
        "bytesDevice": 0, "rate": 0, "peakMemory": 0}});
    patch("hf-one", report.clone()).await.unwrap();
    let refused = patch("hf-two", report).await.unwrap_err().to_string();
    assert!(refused.contains("the transfer its pod was made for"), "{refused}");
    for forged in [
        json!({"stage": "Succeeded"}),
        json!({"result": {"id": "x"}}),
        json!({"attempt": 9}),
        json!({"savedVolume": {"a": 1}}),
    ] {
        let refused = patch("hf-one", forged.clone()).await.unwrap_err().to_string();
        assert!(
            refused.contains("only change status.mover"),
            "{forged}: {refused}"
        );
    }
}

/// A client with the token of a data mover's pod.
async fn mover(plane: &ControlPlane, admin: &Client, pod: &str) -> Client {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "holdfast-datamover", "namespace": INSTALLED}});
    create(admin, &account).await.unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "mover", "namespace": INSTALLED},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "testers"},
        "subjects": [{"kind": "ServiceAccount", "name": "holdfast-datamover", "namespace": INSTALLED}]});
    create(admin, &role).await.unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": INSTALLED},
        "spec": {"serviceAccountName": "holdfast-datamover", "containers": [{"name": "c", "image": "i"}]}});
    let pod = create(admin, &pod).await.unwrap();
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name,
        uid: pod.metadata.uid,
    };
    let spec = TokenRequestSpec {
        bound_object_ref: Some(bound),
        ..Default::default()
    };
    let request = TokenRequest {
        spec,
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), INSTALLED);
    let answer = accounts
        .create_token_request("holdfast-datamover", &PostParams::default(), &request)
        .await
        .unwrap();
    let mut config = plane.anonymous_config();
    config.auth_info.token = Some(answer.status.unwrap().token.into());
    Client::try_from(config).unwrap()
}
