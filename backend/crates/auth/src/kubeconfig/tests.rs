//! One test per attack that a kubeconfig can carry.

use serde_json::{Value, json};

use super::*;

/// A kubeconfig with a token; `change` may damage user and cluster.
fn with(change: impl FnOnce(&mut Value, &mut Value)) -> String {
    let mut user = json!({"token": "abc"});
    let mut cluster = json!({"server": "https://elsewhere.example", "certificate-authority-data": "AA=="});
    change(&mut user, &mut cluster);
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    })
    .to_string()
}

fn refused(text: &str) -> Refusal {
    credential(text, None).expect_err("it must be refused")
}

fn user_field_is_refused(field: &str, value: Value) {
    let refusal = refused(&with(|user, _| user[field] = value));
    assert_eq!(refusal.field, format!("kubeconfig.users[u].user.{field}"));
    assert!(
        !refusal.why.contains("not known"),
        "{field} has a reason of its own: {}",
        refusal.why
    );
}

fn cluster_field_is_refused(field: &str, value: Value) {
    let refusal = refused(&with(|_, cluster| cluster[field] = value));
    assert_eq!(refusal.field, format!("kubeconfig.clusters[k].cluster.{field}"));
    assert!(
        !refusal.why.contains("not known"),
        "{field} has a reason of its own: {}",
        refusal.why
    );
}

#[test]
fn inline_token_is_taken() {
    assert!(matches!(
        credential(&with(|_, _| ()), None),
        Ok(Credential::Token(_))
    ));
}

#[test]
fn exec_is_refused() {
    user_field_is_refused(
        "exec",
        json!({"command": "/bin/sh", "apiVersion": "client.authentication.k8s.io/v1"}),
    );
    user_field_is_refused("exec", json!({}));
}

#[test]
fn auth_provider_is_refused() {
    user_field_is_refused(
        "auth-provider",
        json!({"name": "gcp", "config": {"cmd-path": "/bin/sh"}}),
    );
}

#[test]
fn token_file_is_refused() {
    user_field_is_refused(
        "tokenFile",
        json!("/var/run/secrets/kubernetes.io/serviceaccount/token"),
    );
    user_field_is_refused(
        "token-file",
        json!("/var/run/secrets/kubernetes.io/serviceaccount/token"),
    );
}

#[test]
fn certificate_and_key_paths_are_refused() {
    user_field_is_refused("client-certificate", json!("/etc/holdfast/tls.crt"));
    user_field_is_refused("client-key", json!("/etc/holdfast/tls.key"));
    cluster_field_is_refused("certificate-authority", json!("/etc/passwd"));
}

#[test]
fn proxy_is_refused() {
    cluster_field_is_refused("proxy-url", json!("http://attacker.example:3128"));
}

#[test]
fn insecure_flag_is_refused_and_its_absence_is_not() {
    cluster_field_is_refused("insecure-skip-tls-verify", json!(true));
    cluster_field_is_refused("insecure-skip-tls-verify", json!("true"));
    assert!(
        credential(
            &with(|_, cluster| cluster["insecure-skip-tls-verify"] = json!(false)),
            None
        )
        .is_ok()
    );
}

#[test]
fn passwords_are_refused() {
    user_field_is_refused("username", json!("admin"));
    user_field_is_refused("password", json!("secret"));
}

#[test]
fn impersonation_is_refused() {
    user_field_is_refused("as", json!("system:admin"));
    user_field_is_refused("as-uid", json!("1"));
    user_field_is_refused("as-groups", json!(["system:masters"]));
    user_field_is_refused("as-user-extra", json!({"scopes": ["all"]}));
}

#[test]
fn unknown_fields_are_refused() {
    let refusal = refused(&with(|user, _| user["tokenSource"] = json!("x")));
    assert_eq!(refusal.field, "kubeconfig.users[u].user.tokenSource");
}

#[test]
fn only_the_chosen_context_counts() {
    let mut file: Value = serde_json::from_str(&with(|_, _| ())).unwrap();
    file["users"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "v", "user": {"exec": {"command": "x"}}}));
    file["contexts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "d", "context": {"cluster": "k", "user": "v"}}));
    assert!(credential(&file.to_string(), None).is_ok());
    assert_eq!(
        credential(&file.to_string(), Some("d")).unwrap_err().field,
        "kubeconfig.users[v].user.exec"
    );
    assert_eq!(
        credential(&file.to_string(), Some("e")).unwrap_err().field,
        "kubeconfig.contexts[e]"
    );
}

#[test]
fn a_second_entry_of_the_same_name_is_refused() {
    let mut file: Value = serde_json::from_str(&with(|_, _| ())).unwrap();
    file["users"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "u", "user": {"token": "other"}}));
    assert_eq!(
        refused(&file.to_string()).why,
        "there are several entries of this name"
    );
}

#[test]
fn two_credentials_are_refused() {
    let refusal = refused(&with(|user, _| {
        user["client-certificate-data"] = json!("AA==");
        user["client-key-data"] = json!("AA==");
    }));
    assert!(refusal.why.contains("keep one"), "{}", refusal.why);
}

#[test]
fn half_a_certificate_is_refused() {
    let refusal = refused(&with(|user, _| {
        *user = json!({"client-certificate-data": "AA=="})
    }));
    assert_eq!(refusal.field, "kubeconfig.users[u].user.client-key-data");
    assert!(
        refused(&with(|user, _| *user = json!({})))
            .why
            .contains("neither")
    );
}

#[test]
fn what_is_no_certificate_is_refused() {
    let refusal = refused(&with(|user, _| {
        *user = json!({"client-certificate-data": "bm90IHBlbQ==", "client-key-data": "bm90IHBlbQ=="});
    }));
    assert_eq!(refusal.field, "kubeconfig.users[u].user.client-certificate-data");
}

#[test]
fn the_answer_never_quotes_the_file() {
    let refusal = refused("token: hush-hush\n  broken: [");
    assert!(!refusal.to_string().contains("hush"), "{refusal}");
}

#[test]
fn bombs_are_refused() {
    assert!(refused(&" ".repeat(MAX_SIZE + 1)).why.contains("larger"));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    assert_eq!(refused(&bomb).field, "kubeconfig");
}
