//! The webhooks.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde_json::{Value, json};

use crate::setup::{INSTALLED, admission, apply, backup, create, delete, merge, names, ours, plan, target};

async fn namespace(name: &str) -> (kube::Client, kube::Client) {
    let plane = admission().await;
    plane.namespace(name).await.unwrap();
    (
        plane.client_of("anna", Some("testers")).unwrap(),
        plane.client().unwrap(),
    )
}

#[tokio::test]
async fn the_requester_is_who_asks_whatever_the_manifest_says() {
    let (anna, _) = namespace("requester").await;
    let mut forged = backup("requester", "forged");
    forged["spec"]["requester"] =
        json!({"user": "root", "groups": ["system:masters"], "extra": {"scopes": ["all"]}});
    let stored = create(&anna, &forged).await.unwrap();
    let expected = json!({"user": "anna", "groups": ["testers", "system:authenticated"]});
    let seen = &stored.data["spec"]["requester"];
    assert_eq!(
        (&seen["user"], &seen["groups"]),
        (&expected["user"], &expected["groups"])
    );
    assert!(seen["extra"].get("scopes").is_none(), "{seen}");

    let applied = apply(&anna, &backup("requester", "applied")).await.unwrap();
    assert_eq!(applied.data["spec"]["requester"]["user"], "anna");
    let again = apply(&anna, &backup("requester", "applied")).await.unwrap();
    assert_eq!(
        again.data["spec"]["requester"]["user"], "anna",
        "GitOps applies the same manifest every few minutes"
    );

    let stolen = merge(&anna, &forged, json!({"spec": {"requester": {"user": "root"}}}))
        .await
        .unwrap_err();
    assert!(stolen.message.contains("spec.requester"), "{}", stolen.message);
}

#[tokio::test]
async fn unknown_fields_are_refused_with_the_nearest_name() {
    let (anna, _) = namespace("unknown").await;
    let typo = ours(
        "BackupPlan",
        "unknown",
        "p",
        json!({"backupConfg": {"target": {"name": "t"}}}),
    );
    let wanted = "spec.backupConfg: unknown field, did you mean \"backupConfig\"?";
    for refused in [
        create(&anna, &typo).await.unwrap_err(),
        apply(&anna, &typo).await.unwrap_err(),
    ] {
        assert!(refused.message.contains(wanted), "{}", refused.message);
        assert_eq!(refused.code, 422);
    }
    let mut deep = target("unknown", "t", &[]);
    deep["spec"]["objectStoreCredentials"]["bucketNam"] = json!("b");
    let refused = create(&anna, &deep).await.unwrap_err();
    assert!(
        refused
            .message
            .contains("spec.objectStoreCredentials.bucketNam: unknown field"),
        "{}",
        refused.message
    );
    assert!(names(&anna, &typo).await.is_empty());
}

#[tokio::test]
async fn a_run_can_only_be_canceled() {
    let (anna, _) = namespace("immutable").await;
    let run = backup("immutable", "run");
    create(&anna, &run).await.unwrap();
    for change in [
        json!({"type": "Incremental"}),
        json!({"backupPlan": {"name": "other"}}),
        json!({"deletionPolicy": "Delete"}),
        json!({"requester": null, "type": "Incremental"}),
    ] {
        let refused = merge(&anna, &run, json!({ "spec": change })).await.unwrap_err();
        assert_eq!(refused.code, 422, "{change}: {refused:?}");
    }
    merge(&anna, &run, json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .unwrap();
    merge(&anna, &run, json!({"spec": {"requester": null}}))
        .await
        .unwrap();
    let canceled = merge(&anna, &run, json!({"spec": {"cancel": true}}))
        .await
        .unwrap();
    assert_eq!(
        canceled.data["spec"]["requester"]["user"], "anna",
        "what a client leaves out stays"
    );
    let refused = merge(&anna, &run, json!({"spec": {"cancel": false}}))
        .await
        .unwrap_err();
    assert!(refused.message.contains("spec.cancel"), "{}", refused.message);
}

#[tokio::test]
async fn contradictions_are_refused() {
    let (anna, _) = namespace("contradict").await;
    let refused = |spec: Value| {
        let anna = anna.clone();
        async move {
            create(&anna, &ours("Restore", "contradict", "r", spec))
                .await
                .unwrap_err()
                .message
        }
    };
    let both = json!({"source": {"type": "Backup", "backup": {"name": "b"}, "location": "a/b/c"}});
    assert!(
        refused(both)
            .await
            .contains("spec.source.location contradicts spec.source.type")
    );
    let elsewhere =
        json!({"source": {"type": "Backup", "backup": {"name": "b"}}, "restoreNamespace": "other"});
    assert!(
        refused(elsewhere)
            .await
            .contains("only a Restore in the namespace holdfast-system")
    );
    let other_plan = ours(
        "Backup",
        "contradict",
        "b",
        json!({"type": "Full", "backupPlan": {"name": "p", "namespace": "default"}}),
    );
    let message = create(&anna, &other_plan).await.unwrap_err().message;
    assert!(message.contains("spec.backupPlan.namespace"), "{message}");
}

#[tokio::test]
async fn a_target_serves_those_it_names_and_stays_while_it_is_used() {
    let (anna, _) = namespace("shared").await;
    namespace("guest").await;
    namespace("stranger").await;
    let shared = target("shared", "t", &["guest"]);
    create(&anna, &shared).await.unwrap();
    let reference = json!({"name": "t", "namespace": "shared"});
    let refused = create(&anna, &plan("stranger", "plan", reference.clone()))
        .await
        .unwrap_err();
    assert_eq!(refused.code, 403);
    assert!(
        refused.message.contains("spec.allowedNamespaces"),
        "{}",
        refused.message
    );
    let used = plan("guest", "plan", reference);
    create(&anna, &used).await.unwrap();

    let moved = merge(
        &anna,
        &used,
        json!({"spec": {"backupConfig": {"target": {"name": "u"}}}}),
    )
    .await
    .unwrap_err();
    assert!(
        moved.message.contains("the target of a plan cannot change"),
        "{}",
        moved.message
    );
    let bucket = json!({"spec": {"objectStoreCredentials": {"bucketName": "another"}}});
    let refused = merge(&anna, &shared, bucket.clone()).await.unwrap_err();
    assert!(
        refused.message.contains("BackupPlan guest/plan"),
        "{}",
        refused.message
    );
    let secret = json!({"spec": {"objectStoreCredentials": {"credentialSecret": {"name": "rotated"}}}});
    merge(&anna, &shared, secret).await.unwrap();
    let refused = delete(&anna, &shared).await.unwrap_err();
    assert!(
        refused.message.contains("BackupPlan guest/plan"),
        "{}",
        refused.message
    );

    create(&anna, &backup("guest", "running")).await.unwrap();
    let refused = delete(&anna, &used).await.unwrap_err();
    assert!(
        refused.message.contains("Backup guest/running"),
        "{}",
        refused.message
    );
    delete(&anna, &backup("guest", "running")).await.unwrap();
    delete(&anna, &used).await.unwrap();
    merge(&anna, &shared, bucket).await.unwrap();
    delete(&anna, &shared).await.unwrap();
}

#[tokio::test]
async fn nothing_holds_up_a_namespace_that_is_going_away() {
    let (anna, admin) = namespace("leaving").await;
    let used = target("leaving", "t", &[]);
    create(&anna, &used).await.unwrap();
    create(&anna, &plan("leaving", "plan", json!({"name": "t"})))
        .await
        .unwrap();
    assert!(delete(&anna, &used).await.is_err());
    let namespaces: Api<Namespace> = Api::all(admin);
    namespaces.delete("leaving", &Default::default()).await.unwrap();
    delete(&anna, &used).await.unwrap();
}

#[tokio::test]
async fn points_of_others_need_the_verb_restore_on_the_target() {
    let (anna, admin) = namespace("mine").await;
    namespace("theirs").await;
    create(&anna, &target("theirs", "t", &["mine"])).await.unwrap();
    create(&anna, &plan("theirs", "plan", json!({"name": "t"})))
        .await
        .unwrap();
    let from_plan = |name: &str| {
        ours(
            "Restore",
            "mine",
            name,
            json!({"source": {"type": "BackupPlan",
        "backupPlan": {"name": "plan", "namespace": "theirs"}}}),
        )
    };
    let uid = Api::<Namespace>::all(admin.clone())
        .get("kube-system")
        .await
        .unwrap()
        .metadata
        .uid
        .unwrap();
    let located = |name: &str, cluster: &str| {
        ours(
            "Restore",
            "mine",
            name,
            json!({"source": {"type": "Location",
        "location": format!("{cluster}/p/b"), "target": {"name": "t", "namespace": "theirs"}}}),
        )
    };
    for refused in [from_plan("a"), located("a", "another-cluster")] {
        let refused = create(&anna, &refused).await.unwrap_err();
        assert_eq!(refused.code, 403, "{refused:?}");
        assert!(
            refused.message.contains("\"restore\" on targets.holdfast.dev"),
            "{}",
            refused.message
        );
    }
    // A location of this cluster may be this namespace's own: the run looks into the point.
    create(&anna, &located("own", &uid)).await.unwrap();
    let missing = ours(
        "Restore",
        "mine",
        "m",
        json!({"source": {"type": "Backup",
        "backup": {"name": "none", "namespace": "theirs"}}}),
    );
    assert_eq!(create(&anna, &missing).await.unwrap_err().code, 422);

    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "restorer", "namespace": "theirs"},
        "rules": [{"apiGroups": ["holdfast.dev"], "resources": ["targets"], "verbs": ["restore"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "restorer", "namespace": "theirs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "restorer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "anna"}]});
    create(&admin, &role).await.unwrap();
    create(&admin, &binding).await.unwrap();
    let mut last = None;
    for _ in 0..50 {
        // The authorizer learns of a new binding by watch.
        last = create(&anna, &from_plan("b")).await.err();
        if last.is_none() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(last.is_none(), "{last:?}");
    create(&anna, &located("c", "another-cluster")).await.unwrap();
}

#[tokio::test]
async fn the_certificate_is_shared_and_trusted_again_after_a_reinstall() {
    use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
    use k8s_openapi::api::core::v1::Secret;
    let (_, admin) = namespace("certificate").await;
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), INSTALLED);
    let authority = secrets.get("holdfast-admission-tls").await.unwrap().data.unwrap()["ca.crt"].clone();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(admin);
    let bundle = || async {
        let found = configurations.get("holdfast").await.unwrap();
        found.webhooks.unwrap()[0].client_config.ca_bundle.clone()
    };
    assert_eq!(bundle().await, Some(authority.clone()));
    // Not removed but replaced by the same: the other tests go on meanwhile.
    let mut found = configurations.get("holdfast").await.unwrap();
    let twice = [authority.0.clone(), authority.0.clone()].concat();
    found.webhooks.as_mut().unwrap()[0].client_config.ca_bundle = Some(k8s_openapi::ByteString(twice));
    configurations
        .replace("holdfast", &Default::default(), &found)
        .await
        .unwrap();
    for _ in 0..100 {
        if bundle().await == Some(authority.clone()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the bundle was not written again");
}
