//! Reads a foreign kubeconfig with suspicion.
//!
//! It was written for a program on its owner's machine, and on a server each of its conveniences is a hole: it can
//! name programs to run, files to read, proxies to send the credential to, other endpoints and a switch that stops
//! checking certificates. Only an inline token or an inline client certificate and key are taken; what could do harm
//! is refused by name instead of ignored, so that nobody believes it was honoured.

use serde_json::{Map, Value};

use crate::credential::{Credential, Refusal};

/// Largest file that is read, in bytes.
pub const MAX_SIZE: usize = 256 * 1024;

const FLATTEN: &str = "put the content inline: `kubectl config view --raw --minify --flatten`";

/// Fields of a user that are refused, and why.
const USER_REFUSED: &[(&str, &str)] = &[
    (
        "exec",
        "a credential program would have to run on the server; sign in with a token instead",
    ),
    (
        "auth-provider",
        "a credential plugin would have to run on the server; sign in with a token instead",
    ),
    (
        "tokenFile",
        "a path would be read on the server, not on your machine; put the token inline",
    ),
    (
        "token-file",
        "a path would be read on the server, not on your machine; put the token inline",
    ),
    (
        "client-certificate",
        "a path would be read on the server, not on your machine",
    ),
    (
        "client-key",
        "a path would be read on the server, not on your machine",
    ),
    (
        "username",
        "Kubernetes has no passwords any more; use a token or a client certificate",
    ),
    (
        "password",
        "Kubernetes has no passwords any more; use a token or a client certificate",
    ),
    (
        "as",
        "acting as somebody else is not taken from a kubeconfig; sign in as that person",
    ),
    (
        "as-uid",
        "acting as somebody else is not taken from a kubeconfig; sign in as that person",
    ),
    (
        "as-groups",
        "acting as somebody else is not taken from a kubeconfig; sign in as that person",
    ),
    (
        "as-user-extra",
        "acting as somebody else is not taken from a kubeconfig; sign in as that person",
    ),
];
const USER_TAKEN: &[&str] = &[
    "token",
    "client-certificate-data",
    "client-key-data",
    "extensions",
];

/// Fields of a cluster that are refused, and why. The rest is not used: the registered cluster's endpoint and
/// certificate authority are.
const CLUSTER_REFUSED: &[(&str, &str)] = &[
    (
        "proxy-url",
        "the credential is sent to the registered cluster only, through no proxy",
    ),
    (
        "insecure-skip-tls-verify",
        "the registered cluster's certificate is always checked",
    ),
    (
        "certificate-authority",
        "a path would be read on the server, not on your machine",
    ),
];
const CLUSTER_UNUSED: &[&str] = &[
    "server",
    "certificate-authority-data",
    "tls-server-name",
    "disable-compression",
    "extensions",
];

/// The credential of a context, the file's current one when `context` is `None`.
///
/// # Errors
/// A [`Refusal`] that names the field.
pub fn credential(text: &str, context: Option<&str>) -> Result<Credential, Refusal> {
    if text.len() > MAX_SIZE {
        return Err(Refusal::new(
            "kubeconfig",
            format!("the file is larger than {MAX_SIZE} bytes"),
        ));
    }
    let file: Value = serde_saphyr::from_str(text)
        // The parser's message may quote the file, and the file holds secrets.
        .map_err(|_| Refusal::new("kubeconfig", "this is not valid YAML or JSON"))?;
    let context = match context {
        Some(name) => name,
        None => text_of(&file, "current-context")
            .ok_or_else(|| Refusal::new("kubeconfig.current-context", "no context is chosen; name one"))?,
    };
    let chosen = entry(&file, "contexts", "context", context)?;
    let path = format!("kubeconfig.contexts[{context}].context");
    let reference = |key: &str| {
        chosen
            .get(key)
            .and_then(Value::as_str)
            .ok_or_else(|| Refusal::new(format!("{path}.{key}"), "it is missing"))
    };
    let (cluster, user) = (reference("cluster")?, reference("user")?);
    check_cluster(
        entry(&file, "clusters", "cluster", cluster)?,
        &format!("kubeconfig.clusters[{cluster}].cluster"),
    )?;
    read_user(
        entry(&file, "users", "user", user)?,
        &format!("kubeconfig.users[{user}].user"),
    )
}

fn check_cluster(cluster: &Map<String, Value>, path: &str) -> Result<(), Refusal> {
    check_fields(cluster, path, CLUSTER_REFUSED, CLUSTER_UNUSED)
}

fn read_user(user: &Map<String, Value>, path: &str) -> Result<Credential, Refusal> {
    check_fields(user, path, USER_REFUSED, USER_TAKEN)?;
    let text = |key: &str| match user.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Refusal::new(format!("{path}.{key}"), "it must be a text")),
    };
    let (token, certificate, key) = (
        text("token")?,
        text("client-certificate-data")?,
        text("client-key-data")?,
    );
    match (token, certificate, key) {
        (Some(token), None, None) => Credential::token(token, &format!("{path}.token")),
        (None, Some(certificate), Some(key)) => Credential::certificate(certificate, key, path),
        (None, None, None) => Err(Refusal::new(
            path,
            "there is neither a token nor a client certificate with its key in it",
        )),
        (None, Some(_), None) => Err(Refusal::new(
            format!("{path}.client-key-data"),
            "the certificate's key is missing",
        )),
        (None, None, Some(_)) => Err(Refusal::new(
            format!("{path}.client-certificate-data"),
            "the key's certificate is missing",
        )),
        (Some(_), ..) => Err(Refusal::new(
            path,
            "there are a token and a client certificate in it; keep one of them",
        )),
    }
}

fn check_fields(
    object: &Map<String, Value>,
    path: &str,
    refused: &[(&str, &str)],
    known: &[&str],
) -> Result<(), Refusal> {
    for (key, value) in object {
        if is_empty(value) || known.contains(&key.as_str()) {
            continue;
        }
        let why = match refused.iter().find(|(name, _)| name == key) {
            Some((_, why)) if why.starts_with("a path") => format!("{why}; {FLATTEN}"),
            Some((_, why)) => (*why).to_owned(),
            None => "this field is not known here and could change what the credential means".to_owned(),
        };
        return Err(Refusal::new(format!("{path}.{key}"), why));
    }
    Ok(())
}

/// Whether a field says nothing: absent, empty or switched off. An empty `exec: {}` is a mapping and does say something.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn text_of<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object
        .get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// The one entry of that name in a list of `{name, <inner>}`.
fn entry<'a>(
    file: &'a Value,
    list: &str,
    inner: &str,
    name: &str,
) -> Result<&'a Map<String, Value>, Refusal> {
    let path = format!("kubeconfig.{list}[{name}]");
    let entries = file
        .get(list)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut found = entries
        .iter()
        .filter(|entry| text_of(entry, "name") == Some(name));
    let Some(first) = found.next() else {
        return Err(Refusal::new(path, "there is no entry of this name"));
    };
    if found.next().is_some() {
        return Err(Refusal::new(path, "there are several entries of this name"));
    }
    first
        .get(inner)
        .and_then(Value::as_object)
        .ok_or_else(|| Refusal::new(format!("{path}.{inner}"), "it is missing"))
}

#[cfg(test)]
#[path = "kubeconfig/tests.rs"]
mod tests;
