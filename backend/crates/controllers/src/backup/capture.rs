//! Reads every object of a namespace into one compressed file of JSON lines.
//!
//! Order: definitions of custom resources, the namespace, then all objects by group, kind and name. A page of few kinds is
//! in memory at a time; what is kept is the compressed file, a frame for each kind. What a restore could not read, because
//! there is too much of it, is refused here.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use holdfast_core::capture::{Neighbours, ignores_group, ignores_kind, reason_to_ignore, sanitise};
use holdfast_core::limit::{MAX_FILE, TooLarge, Weight};
use holdfast_core::restore::ObjectKey;
use holdfast_crd::ResourceSelector;
use holdfast_crd::names::reasons;
use holdfast_k8s::{
    ApiKind, ApiKinds, LIST_RESTARTS, ListFailure, ListFailures, Page, Pages, is_expired, is_not_found,
    list_kind,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Resource;
use kube::api::GetParams;
use kube::core::Request;
use serde_json::Value;

use crate::Context;
use crate::failure::Failure;

/// Kinds that are listed at the same time, a page of each in memory.
const PARALLEL: usize = 6;
/// Compression level: a namespace is small, and level 3 is free.
const LEVEL: i32 = 3;

/// The captured objects.
pub(super) struct Captured {
    /// JSON lines, compressed.
    pub(super) file: Bytes,
    /// Number of lines.
    pub(super) count: u64,
    /// Secrets among them, as far as their content is stored.
    pub(super) secrets: Vec<String>,
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
    let rules = Arc::new(Rules {
        neighbours: neighbours(ctx, &kinds, namespace).await?,
        exclude: exclude.cloned(),
    });
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
            let rules = &rules;
            async move {
                let frame = read_kind(ctx, &kind, namespace, rules).await;
                (kind, frame)
            }
            .boxed()
        })
        .collect();
    let mut lists = stream::iter(lists).buffered(PARALLEL);
    let mut body = Frames::default();
    let mut definitions = BTreeSet::new();
    while let Some((kind, frames)) = lists.next().await {
        let frames = frames?;
        if frames.weight.objects > 0 && kind.resource.group.contains('.') {
            definitions.insert(format!("{}.{}", kind.resource.plural, kind.resource.group));
        }
        body.append(frames)?;
    }
    let mut file = read_head(ctx, namespace, &definitions).await?;
    file.append(body)?;
    Ok(Captured {
        count: file.weight.objects,
        secrets: file.secrets,
        file: Bytes::from(file.bytes),
    })
}

/// Definitions of the custom resources that were captured, and the namespace. A group that no definition stands for is
/// served otherwise.
async fn read_head(
    ctx: &Context,
    namespace: &str,
    definitions: &BTreeSet<String>,
) -> Result<Frames, Failure> {
    let mut head = Lines::new()?;
    let path = CustomResourceDefinition::url_path(&(), None);
    for name in definitions {
        if let Some(mut definition) = read(ctx, &path, name).await? {
            sanitise(&mut definition);
            head.add(&definition)?;
        }
    }
    head.add(&read_namespace(ctx, namespace).await?)?;
    head.finish()
}

/// Everything of one kind that is captured. Of the objects themselves only a page is in memory.
async fn read_kind(
    ctx: &Context,
    kind: &ApiKind,
    namespace: &str,
    rules: &Arc<Rules>,
) -> Result<Frames, Failure> {
    let mut restarts = 0;
    'anew: loop {
        let mut pages = Pages::of(&ctx.client, kind, Some(namespace));
        let mut lines = Lines::new()?;
        loop {
            match pages.next().await {
                Ok(Some(page)) => lines = add_page(lines, page, kind, Arc::clone(rules)).await?,
                Ok(None) => return lines.finish(),
                Err(error) if is_expired(&error) && restarts < LIST_RESTARTS => {
                    restarts += 1;
                    continue 'anew;
                }
                Err(error) => return Err(not_listed(&kind.title(), error)),
            }
        }
    }
}

/// Appends what is kept of a page, off the async threads.
async fn add_page(mut lines: Lines, page: Page, kind: &ApiKind, rules: Arc<Rules>) -> Result<Lines, Failure> {
    let title = kind.title();
    let added = tokio::task::spawn_blocking(move || {
        for object in page {
            let object = object.map_err(|source| not_listed(&title, source))?;
            if let Some(kept) = rules.select(object) {
                lines.add(&kept)?;
            }
        }
        Ok(lines)
    });
    added.await.map_err(|e| encoding(std::io::Error::other(e)))?
}

fn not_listed(kind: &str, source: kube::Error) -> Failure {
    let retryable = holdfast_k8s::describe(&source).retryable;
    let failure = ListFailure {
        kind: kind.to_owned(),
        source,
    };
    incomplete(&failure, retryable)
}

/// What decides about one object.
struct Rules {
    neighbours: Neighbours,
    exclude: Option<ResourceSelector>,
}

impl Rules {
    /// Applies both lists and takes off what the API server sets.
    fn select(&self, mut object: Value) -> Option<Value> {
        let excluded = self.exclude.as_ref().is_some_and(|e| names(e, &object));
        if excluded || reason_to_ignore(&object, &self.neighbours).is_some() {
            return None;
        }
        sanitise(&mut object);
        Some(object)
    }
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

/// Finished zstd frames: one after the other they are one file to every decoder.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    weight: Weight,
    secrets: Vec<String>,
}

impl Frames {
    fn append(&mut self, more: Self) -> Result<(), Failure> {
        self.weight
            .merge(more.weight)
            .map_err(|why| too_large(None, why))?;
        self.bytes.extend(more.bytes);
        self.secrets.extend(more.secrets);
        if self.bytes.len() as u64 > MAX_FILE {
            return Err(too_large(None, TooLarge::File));
        }
        Ok(())
    }
}

/// JSON lines on their way into one zstd frame.
struct Lines {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    weight: Weight,
    line: Vec<u8>,
    secrets: Vec<String>,
}

impl Lines {
    fn new() -> Result<Self, Failure> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(encoding)?;
        encoder.include_checksum(true).map_err(encoding)?;
        Ok(Self {
            encoder,
            weight: Weight::default(),
            line: Vec::new(),
            secrets: Vec::new(),
        })
    }

    /// Appends an object, if a restore could read it.
    fn add(&mut self, object: &Value) -> Result<(), Failure> {
        let Some(key) = ObjectKey::of(object) else {
            let text = format!(
                "the API server lists something without a usable apiVersion, kind or name, which no restore could \
                 write: {}",
                object.to_string().chars().take(200).collect::<String>()
            );
            return Err(Failure::lasting(reasons::CAPTURE_INCOMPLETE, text));
        };
        self.line.clear();
        serde_json::to_writer(&mut self.line, object).map_err(|e| encoding(e.into()))?;
        self.weight
            .add(&self.line)
            .map_err(|why| too_large(Some(&key), why))?;
        self.line.push(b'\n');
        // What was taken off before, a token of an account, leaves a Secret without content.
        let has = |field: &str| {
            object
                .get(field)
                .and_then(Value::as_object)
                .is_some_and(|data| !data.is_empty())
        };
        if key.kind == "Secret" && key.group.is_empty() && (has("data") || has("stringData")) {
            self.secrets.push(key.name);
        }
        self.encoder.write_all(&self.line).map_err(encoding)
    }

    fn finish(self) -> Result<Frames, Failure> {
        if self.weight == Weight::default() {
            return Ok(Frames::default());
        }
        Ok(Frames {
            bytes: self.encoder.finish().map_err(encoding)?,
            weight: self.weight,
            secrets: self.secrets,
        })
    }
}

/// A point that no restore could read is none.
fn too_large(at: Option<&ObjectKey>, why: TooLarge) -> Failure {
    let at = at.map(|key| format!(", found at {key}")).unwrap_or_default();
    let text = format!(
        "the namespace has more than a restore can read: {why}{at}; leave out what is not needed by naming it in \
         spec.excludeResources of the plan"
    );
    Failure::lasting(reasons::CAPTURE_INCOMPLETE, text)
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

    fn object(api: &str, kind: &str, name: &str) -> Value {
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}})
    }

    #[test]
    fn frames_read_as_one_file_in_order() {
        let mut file = Frames::default();
        for names in [&["a"][..], &[], &["b", "c"]] {
            let mut lines = Lines::new().unwrap();
            for name in names {
                lines.add(&object("v1", "ConfigMap", name)).unwrap();
            }
            file.append(lines.finish().unwrap()).unwrap();
        }
        assert_eq!(file.weight.objects, 3);
        let text = zstd::stream::decode_all(file.bytes.as_slice()).unwrap();
        let names: Vec<Value> = String::from_utf8(text)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["metadata"]["name"].take())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn what_no_restore_could_read_is_refused_with_the_way_out() {
        let refused = |object: &Value| Lines::new().unwrap().add(object).unwrap_err();
        let mut large = object("v1", "ConfigMap", "large");
        large["data"] = json!({"x": "x".repeat(holdfast_core::limit::MAX_OBJECT)});
        let failure = refused(&large);
        assert_eq!(failure.reason, reasons::CAPTURE_INCOMPLETE);
        for part in ["4 MiB", "ConfigMap/large", "excludeResources"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        for odd in [
            json!(7),
            json!([]),
            json!({"apiVersion": "v1", "kind": "Thing", "metadata": {}}),
        ] {
            assert!(refused(&odd).message.contains("no restore could write"));
        }
        let mut half = Lines::new().unwrap();
        let mut wide = object("v1", "ConfigMap", "wide");
        wide["data"] = json!(vec![0; 1_000_000]);
        half.add(&wide).unwrap();
        half.add(&wide).unwrap();
        let mut file = half.finish().unwrap();
        let mut other = Lines::new().unwrap();
        other.add(&wide).unwrap();
        other.add(&wide).unwrap();
        let failure = file.append(other.finish().unwrap()).unwrap_err();
        assert!(
            failure.message.contains("512 MiB of memory"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn what_the_plan_excludes_by_name_is_left_out() {
        let exclude: ResourceSelector = serde_json::from_value(json!({"gvkSelector": [
            {"groupVersionKind": {"kind": "ConfigMap"}, "objects": ["a"]},
            {"groupVersionKind": {"group": "apps", "kind": "Deployment"}}]}))
        .unwrap();
        let objects = vec![
            object("v1", "ConfigMap", "a"),
            object("v1", "ConfigMap", "b"),
            object("apps/v1", "Deployment", "x"),
            object("apps/v1", "StatefulSet", "x"),
        ];
        let rules = Rules {
            neighbours: Neighbours::default(),
            exclude: Some(exclude),
        };
        let kept: Vec<Value> = objects.into_iter().filter_map(|o| rules.select(o)).collect();
        let names: Vec<_> = kept
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["b", "x"]);
    }
}
