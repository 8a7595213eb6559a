//! Lists, objects, creation, cancel, deletion.

use holdfast_shared::{NamespaceProtection, Page, Restore, Target, TargetType};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use serde_json::{Value, json};

use crate::app::TestApp;

fn target(namespace: &str, name: &str) -> Value {
    json!({
        "name": name, "namespace": namespace,
        "spec": {"type": "ObjectStore", "vendor": "MinIO", "objectStoreCredentials": {
            "bucketName": "bucket", "url": "https://s3.example", "credentialSecret": {"name": format!("{name}-keys")}}},
        "credentials": {"accessKey": "access", "secretKey": "secret"},
    })
}

#[tokio::test]
async fn target_is_created_with_its_secret_and_shows_no_key() {
    let app = TestApp::new().await;
    app.plane.namespace("res-target").await.unwrap();
    let admin = app.admin().await;
    let created = admin
        .post("/api/v1/targets", target("res-target", "one"))
        .await
        .expect(201);
    assert_eq!(created.headers["location"], "/api/v1/targets/res-target/one");
    assert!(!created.body.contains("\"secret\""), "{created:?}");
    let shown: Target =
        serde_json::from_str(&admin.get("/api/v1/targets/res-target/one").await.expect(200).body).unwrap();
    assert_eq!(shown.spec.place().0, "bucket");

    let secrets: Api<Secret> = Api::namespaced(app.plane.client().unwrap(), "res-target");
    let secret = secrets.get("one-keys").await.unwrap().data.unwrap();
    assert_eq!(secret["accessKey"].0, b"access");

    // The same name again: neither a second target nor a change of the Secret.
    assert_eq!(
        admin
            .post("/api/v1/targets", target("res-target", "one"))
            .await
            .expect(409)
            .code(),
        "alreadyExists"
    );
    // A target that the API server refuses takes its Secret with it.
    let mut bad = target("res-target", "two");
    bad["spec"]["objectStoreCredentials"]["bucketName"] = "x".into();
    let answer = admin.post("/api/v1/targets", bad).await.expect(422);
    assert!(
        answer.json()["error"]["details"][0]["field"]
            .as_str()
            .unwrap()
            .ends_with("bucketName"),
        "{answer:?}"
    );
    assert!(secrets.get_opt("two-keys").await.unwrap().is_none());
    // Credentials for elsewhere are refused before anything is written.
    let mut bad = target("res-target", "three");
    bad["spec"]["objectStoreCredentials"]["credentialSecret"]["namespace"] = "default".into();
    admin.post("/api/v1/targets", bad).await.expect(422);
}

#[tokio::test]
async fn a_target_of_files_is_created_without_credentials_and_has_the_block_of_its_type() {
    let app = TestApp::new().await;
    app.plane.namespace("res-files").await.unwrap();
    let admin = app.admin().await;
    let nfs = json!({"name": "nas", "namespace": "res-files", "spec": {"type": "NFS", "vendor": "Other",
        "nfsCredentials": {"nfsExport": "nas.example:/backups", "nfsOptions": "nfsvers=4.1"}}});
    admin.post("/api/v1/targets", nfs.clone()).await.expect(201);
    let shown: Target =
        serde_json::from_str(&admin.get("/api/v1/targets/res-files/nas").await.expect(200).body).unwrap();
    assert_eq!(shown.spec.target_type, TargetType::NFS);
    assert_eq!(
        shown.spec.place(),
        ("/backups".to_owned(), "nas.example".to_owned())
    );

    let mut keys = nfs.clone();
    keys["name"] = "keys".into();
    keys["credentials"] = json!({"accessKey": "a", "secretKey": "s"});
    let answer = admin.post("/api/v1/targets", keys).await.expect(422);
    assert!(answer.body.contains("ObjectStore"), "{answer:?}");
    // What the definition itself refuses.
    let mut other = nfs;
    other["name"] = "other".into();
    other["spec"]["type"] = "PersistentVolumeClaim".into();
    let answer = admin.post("/api/v1/targets", other).await.expect(422);
    assert!(answer.body.contains("stands in a target of type"), "{answer:?}");
}

#[tokio::test]
async fn unknown_fields_of_a_body_are_refused() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let body = json!({"namespace": "default", "backupPlan": "p", "delitionPolicy": "Delete"});
    let answer = admin.post("/api/v1/backups", body).await.expect(422);
    assert!(answer.body.contains("delitionPolicy"), "{answer:?}");
    admin.post("/api/v1/backups", json!("x")).await.expect(422);
}

#[tokio::test]
async fn lists_come_in_pages_and_can_be_searched() {
    let app = TestApp::new().await;
    app.plane.namespace("res-pages").await.unwrap();
    let admin = app.admin().await;
    for n in 0..7 {
        let body = json!({"namespace": "res-pages", "name": format!("backup-{n}"), "backupPlan": "p", "type": "Full"});
        admin.post("/api/v1/backups", body).await.expect(201);
    }
    let read = async |query: &str| -> (Vec<String>, Option<String>) {
        let answer = admin
            .get(&format!("/api/v1/backups?namespace=res-pages&{query}"))
            .await
            .expect(200);
        let page: Page<holdfast_shared::Backup> = serde_json::from_str(&answer.body).unwrap();
        (
            page.items.into_iter().map(|b| b.metadata.name).collect(),
            page.continue_token,
        )
    };
    let mut seen = Vec::new();
    let mut next = Some(String::new());
    while let Some(token) = next {
        let (names, token) = read(&format!("limit=3&continue={token}")).await;
        assert!(names.len() <= 3);
        seen.extend(names);
        next = token;
    }
    assert_eq!(seen, (0..7).map(|n| format!("backup-{n}")).collect::<Vec<_>>());

    assert_eq!(read("search=UP-5").await, (vec!["backup-5".to_owned()], None));
    assert_eq!(read("search=nothing").await, (vec![], None));
    let (first, more) = read("search=res-pages&limit=2").await;
    assert_eq!(
        (first.len(), more.is_some()),
        (2, true),
        "the namespace is searched too"
    );

    for bad in ["limit=0", "limit=501"] {
        admin.get(&format!("/api/v1/backups?{bad}")).await.expect(422);
    }
    admin.get("/api/v1/backups?limt=5").await.expect(400);
    admin.get("/api/v1/backups?continue=garbage").await.expect(400);
}

#[tokio::test]
async fn backup_is_started_shown_stopped_and_deleted() {
    let app = TestApp::new().await;
    app.plane.namespace("res-backup").await.unwrap();
    let admin = app.admin().await;
    let created = admin
        .post(
            "/api/v1/backups",
            json!({"namespace": "res-backup", "backupPlan": "daily"}),
        )
        .await
        .expect(201);
    let name = created.json()["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("daily-") && name.len() > 8, "{name}");
    let path = format!("/api/v1/backups/res-backup/{name}");
    assert_eq!(created.headers["location"], path.as_str());
    assert_eq!(created.json()["spec"]["type"], "Incremental");
    assert_eq!(created.json()["spec"]["deletionPolicy"], "Retain");

    let yaml = admin.get(&format!("{path}/yaml")).await.expect(200);
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(
        yaml.body.contains("kind: Backup\n") && !yaml.body.contains("managedFields"),
        "{}",
        yaml.body
    );

    let stopped = admin
        .post(&format!("{path}/cancel"), Value::Null)
        .await
        .expect(200);
    assert_eq!(stopped.json()["spec"]["cancel"], true);

    // An old page must not delete a later object of the same name.
    assert_eq!(
        admin
            .delete(&format!("{path}?uid=another"))
            .await
            .expect(409)
            .code(),
        "conflict"
    );
    let uid = created.json()["metadata"]["uid"].as_str().unwrap().to_owned();
    admin.delete(&format!("{path}?uid={uid}")).await.expect(202);
    assert_eq!(admin.get(&path).await.expect(404).code(), "notFound");
    admin.delete(&path).await.expect(404);
}

#[tokio::test]
async fn restore_brings_its_namespace_when_asked() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let mut body = json!({
        "namespace": "res-gone", "name": "back",
        "source": {"type": "Location", "location": "c/p/b", "target": {"name": "t", "namespace": "holdfast-system"}},
    });
    admin.post("/api/v1/restores", body.clone()).await.expect(404);
    body["createNamespace"] = true.into();
    let created = admin.post("/api/v1/restores", body.clone()).await.expect(201);
    let restore: Restore = serde_json::from_str(&created.body).unwrap();
    assert_eq!(restore.spec.source.location.as_deref(), Some("c/p/b"));
    admin.post("/api/v1/restores", body).await.expect(409);

    // A restore that is refused takes the namespace with it that was made for it.
    let mut bad = json!({
        "namespace": "res-refused", "createNamespace": true, "name": "back",
        "source": {"type": "Location", "location": "x".repeat(201)},
    });
    admin.post("/api/v1/restores", bad.clone()).await.expect(422);
    let namespaces: Api<Namespace> = Api::all(app.plane.client().unwrap());
    let left = namespaces.get_opt("res-refused").await.unwrap();
    assert!(left.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()));
    bad["namespace"] = "Not A Name".into();
    admin.post("/api/v1/restores", bad).await.expect(422);
}

#[tokio::test]
async fn namespaces_show_their_protection() {
    let app = TestApp::new().await;
    app.plane.namespace("res-protected").await.unwrap();
    let admin = app.admin().await;
    let plan = json!({"name": "daily", "namespace": "res-protected", "spec": {"backupConfig": {"target": {"name": "t"}}}});
    let read = async || -> NamespaceProtection {
        let page = admin
            .get("/api/v1/namespaces?search=res-protected")
            .await
            .expect(200);
        let page: Page<NamespaceProtection> = serde_json::from_str(&page.body).unwrap();
        let [one] = <[_; 1]>::try_from(page.items).unwrap();
        let direct = admin.get("/api/v1/namespaces/res-protected").await.expect(200);
        assert_eq!(
            serde_json::from_str::<NamespaceProtection>(&direct.body).unwrap(),
            one
        );
        one
    };
    assert_eq!(serde_json::to_value(read().await.state).unwrap(), "Unprotected");
    admin.post("/api/v1/backupplans", plan).await.expect(201);
    admin
        .post(
            "/api/v1/backups",
            json!({"namespace": "res-protected", "backupPlan": "daily"}),
        )
        .await
        .expect(201);
    let state = read().await;
    assert_eq!(serde_json::to_value(state.state).unwrap(), "NeverBackedUp");
    assert_eq!((state.plans, state.running.len()), (vec!["daily".to_owned()], 1));
    admin.get("/api/v1/namespaces/not-there").await.expect(404);
}
