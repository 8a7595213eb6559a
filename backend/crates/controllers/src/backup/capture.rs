//! Reads every object of a namespace into one compressed file of JSON lines.
//!
//! Order: definitions of custom resources, the namespace, then all objects by group, kind and name. Few kinds are in
//! memory at a time; what is kept is the compressed file.

use std::collections::BTreeSet;
use std::io::Write;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use holdfast_core::capture::{Neighbours, ignores_group, ignores_kind, reason_to_ignore, sanitise};
use holdfast_crd::ResourceSelector;
use holdfast_crd::names::reasons;
use holdfast_k8s::{ApiKind, ApiKinds, ListFailure, ListFailures, is_not_found, list_kind};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Resource;
use kube::api::GetParams;
use kube::core::Request;
use serde_json::Value;

use crate::Context;
use crate::failure::Failure;

/// Kinds that are listed at the same time, and so in memory at once.
const PARALLEL: usize = 6;
/// Compression level: a namespace is small, and level 3 is free.
const LEVEL: i32 = 3;
/// Largest file that a restore reads.
const MAX_FILE: usize = 256 << 20;

/// The captured objects.
pub(super) struct Captured {
    /// JSON lines, compressed.
    pub(super) file: Bytes,
    /// Number of lines.
    pub(super) count: u64,
}

/// Captures everything in `namespace` but what the default ignore list and `exclude` leave out.
///
/// # Errors
/// `CaptureIncomplete` when any group or kind could not be listed: what is missing would not be known.
pub(super) async fn capture(
    ctx: &Context,
    namespace: &str,
    exclude: Option<&ResourceSelector>,
) -> Result<Captured, Failure> {
    let kinds = ApiKinds::discover(&ctx.client)
        .await
        .map_err(|e| incomplete(&e, true))?;
    let unavailable: Vec<String> = kinds
        .unavailable()
        .iter()
        .filter(|version| !ignores_group(version.split('/').next().unwrap_or_default()))
        .cloned()
        .collect();
    if !unavailable.is_empty() {
        let failures = ListFailures {
            unavailable,
            failed: Vec::new(),
        };
        return Err(incomplete(&failures, true));
    }
    let neighbours = neighbours(ctx, &kinds, namespace).await?;
    let mut wanted: Vec<ApiKind> = kinds
        .storable_namespaced()
        .filter(|k| !ignores_kind(&k.resource.group, &k.resource.kind))
        .cloned()
        .collect();
    wanted.sort_by(|a, b| (&a.resource.group, &a.resource.kind).cmp(&(&b.resource.group, &b.resource.kind)));
    // Boxed, because the compiler cannot prove the borrowing closures Send inside a stream.
    let lists: Vec<BoxFuture<'_, _>> = wanted
        .into_iter()
        .map(|kind| {
            async move {
                let objects = list_kind(&ctx.client, &kind, Some(namespace)).await;
                (kind, objects)
            }
            .boxed()
        })
        .collect();
    let mut lists = stream::iter(lists).buffered(PARALLEL);
    let mut body = Lines::new()?;
    let mut definitions = BTreeSet::new();
    while let Some((kind, objects)) = lists.next().await {
        let objects = objects.map_err(|source| {
            let retryable = holdfast_k8s::describe(&source).retryable;
            incomplete(
                &ListFailure {
                    kind: kind.title(),
                    source,
                },
                retryable,
            )
        })?;
        let kept = select(objects, &neighbours, exclude);
        if kept.is_empty() {
            continue;
        }
        if kind.resource.group.contains('.') {
            definitions.insert(format!("{}.{}", kind.resource.plural, kind.resource.group));
        }
        body = body.add(kept).await?;
    }
    let mut head = Lines::new()?
        .add(read_definitions(ctx, &definitions).await?)
        .await?;
    head = head.add(vec![read_namespace(ctx, namespace).await?]).await?;
    // Two frames one after the other are one file to every zstd decoder.
    let count = head.count + body.count;
    let mut file = head.finish()?;
    file.extend(body.finish()?);
    Ok(Captured {
        file: Bytes::from(file),
        count,
    })
}

/// Applies both lists and takes off what the API server sets.
fn select(objects: Vec<Value>, neighbours: &Neighbours, exclude: Option<&ResourceSelector>) -> Vec<Value> {
    let mut kept: Vec<Value> = objects
        .into_iter()
        .filter(|object| {
            reason_to_ignore(object, neighbours).is_none() && !exclude.is_some_and(|e| names(e, object))
        })
        .collect();
    kept.iter_mut().for_each(sanitise);
    kept
}

fn names(selector: &ResourceSelector, object: &Value) -> bool {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let api_version = text("/apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    selector.selects(group, version, text("/kind"), text("/metadata/name"))
}

/// Services decide which Endpoints are the cluster's own.
async fn neighbours(ctx: &Context, kinds: &ApiKinds, namespace: &str) -> Result<Neighbours, Failure> {
    let mut neighbours = Neighbours::default();
    if let Some(services) = kinds.find("v1", "Service") {
        let listed = list_kind(&ctx.client, services, Some(namespace)).await;
        listed
            .map_err(|e| incomplete(&e, true))?
            .iter()
            .for_each(|service| neighbours.note(service));
    }
    Ok(neighbours)
}

/// Definitions of the custom resources that were captured; a group that no definition stands for is served otherwise.
async fn read_definitions(ctx: &Context, names: &BTreeSet<String>) -> Result<Vec<Value>, Failure> {
    let mut found = Vec::new();
    for name in names {
        let path = CustomResourceDefinition::url_path(&(), None);
        if let Some(mut definition) = read(ctx, &path, name).await? {
            sanitise(&mut definition);
            found.push(definition);
        }
    }
    Ok(found)
}

async fn read_namespace(ctx: &Context, namespace: &str) -> Result<Value, Failure> {
    let found = read(ctx, &Namespace::url_path(&(), None), namespace).await?;
    let mut found = found.ok_or_else(|| {
        Failure::lasting(
            reasons::CAPTURE_INCOMPLETE,
            format!("namespace {namespace} does not exist any more"),
        )
    })?;
    sanitise(&mut found);
    Ok(found)
}

async fn read(ctx: &Context, path: &str, name: &str) -> Result<Option<Value>, Failure> {
    let request = Request::new(path)
        .get(name, &GetParams::default())
        .map_err(kube::Error::BuildRequest)?;
    match ctx.client.request::<Value>(request).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn incomplete(error: &dyn std::error::Error, retryable: bool) -> Failure {
    let text = format!(
        "not every object of the namespace could be listed: {error}; make the API group available (or remove its \
         APIService or definition) and try again"
    );
    Failure {
        reason: reasons::CAPTURE_INCOMPLETE,
        message: text,
        retryable,
    }
}

/// JSON lines on their way into one zstd frame.
struct Lines {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    count: u64,
}

impl Lines {
    fn new() -> Result<Self, Failure> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(encoding)?;
        encoder.include_checksum(true).map_err(encoding)?;
        Ok(Self { encoder, count: 0 })
    }

    /// Appends objects, off the async threads.
    async fn add(mut self, objects: Vec<Value>) -> Result<Self, Failure> {
        let written = tokio::task::spawn_blocking(move || {
            for object in &objects {
                serde_json::to_writer(&mut self.encoder, object).map_err(std::io::Error::other)?;
                self.encoder.write_all(b"\n")?;
                self.count += 1;
            }
            Ok::<_, std::io::Error>(self)
        });
        let lines = written
            .await
            .map_err(|e| encoding(std::io::Error::other(e)))?
            .map_err(encoding)?;
        if lines.encoder.get_ref().len() > MAX_FILE {
            let text = format!("the objects of the namespace are more than {MAX_FILE} bytes when compressed");
            return Err(Failure::lasting(reasons::CAPTURE_INCOMPLETE, text));
        }
        Ok(lines)
    }

    fn finish(self) -> Result<Vec<u8>, Failure> {
        self.encoder.finish().map_err(encoding)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn encoding(error: std::io::Error) -> Failure {
    Failure::passing(
        reasons::INTERNAL,
        format!("the captured objects were not encoded: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn two_frames_read_as_one_file_in_order() {
        let head = Lines::new().unwrap().add(vec![json!({"a": 1})]).await.unwrap();
        let body = Lines::new()
            .unwrap()
            .add(vec![json!({"b": 2}), json!({"c": 3})])
            .await
            .unwrap();
        let mut file = head.finish().unwrap();
        file.extend(body.finish().unwrap());
        let text = zstd::stream::decode_all(file.as_slice()).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n"
        );
    }

    #[test]
    fn what_the_plan_excludes_by_name_is_left_out() {
        let exclude: ResourceSelector = serde_json::from_value(json!({"gvkSelector": [
            {"groupVersionKind": {"kind": "ConfigMap"}, "objects": ["a"]},
            {"groupVersionKind": {"group": "apps", "kind": "Deployment"}}]}))
        .unwrap();
        let object = |api: &str, kind: &str, name: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}});
        let objects = vec![
            object("v1", "ConfigMap", "a"),
            object("v1", "ConfigMap", "b"),
            object("apps/v1", "Deployment", "x"),
            object("apps/v1", "StatefulSet", "x"),
        ];
        let kept = select(objects, &Neighbours::default(), Some(&exclude));
        let names: Vec<_> = kept
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["b", "x"]);
    }
}
