//! Removes depots, claims and volumes that no Target needs any more. Nothing of that is data.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use holdfast_crd::Target;
use holdfast_crd::names::labels;
use holdfast_k8s::delete;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Secret, Service};
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::Folder;
use crate::Context;

/// Longest time between two looks.
const INTERVAL: Duration = Duration::from_secs(300);
/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Looks whenever a Target changes or goes, until the process shuts down.
pub(crate) async fn run(ctx: Arc<Context>) {
    tokio::select! {
        () = ctx.shutdown.cancelled() => {}
        () = look(&ctx) => {}
    }
}

async fn look(ctx: &Context) {
    let targets: Api<PartialObjectMeta<Target>> = ctx.cluster_wide();
    let changes = watcher(targets, watcher::Config::default());
    let mut changes = changes.default_backoff().touched_objects().boxed();
    loop {
        if let Err(error) = remove(ctx).await {
            tracing::warn!(%error, "depots without a Target not removed; trying again");
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            _ = changes.next() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
        while changes.next().now_or_never().is_some() {}
    }
}

/// What a Target still needs.
enum Need {
    /// Its folder's.
    Of(Folder),
    /// Nobody can tell: everything.
    All,
}

async fn remove(ctx: &Context) -> Result<(), kube::Error> {
    // Things first: the Target of each was made before it, so that it is on the list that is read after.
    let marked = ListParams::default().labels(labels::TARGET);
    let deployments = listed::<Deployment>(&ctx.installed(), &marked).await?;
    let services = listed::<Service>(&ctx.installed(), &marked).await?;
    let secrets = listed::<Secret>(&ctx.installed(), &marked).await?;
    let claims = listed::<PersistentVolumeClaim>(&ctx.installed(), &marked).await?;
    let volumes = listed::<PersistentVolume>(&ctx.cluster_wide(), &marked).await?;
    let all = ctx.cluster_wide::<Target>().list(&ListParams::default()).await?;
    let needs: HashMap<String, Need> = all.items.iter().filter_map(need).collect();
    // The pod before what it mounts, the claim before its volume.
    drop_unneeded(&ctx.installed::<Deployment>(), &deployments, &needs).await?;
    drop_unneeded(&ctx.installed::<Service>(), &services, &needs).await?;
    drop_unneeded(&ctx.installed::<Secret>(), &secrets, &needs).await?;
    drop_unneeded(&ctx.installed::<PersistentVolumeClaim>(), &claims, &needs).await?;
    drop_unneeded(&ctx.cluster_wide::<PersistentVolume>(), &volumes, &needs).await
}

fn need(target: &Target) -> Option<(String, Need)> {
    let need = match Folder::of(target) {
        Ok(None) => return None,
        Ok(Some(folder)) => Need::Of(folder),
        Err(_) => Need::All,
    };
    Some((target.uid()?, need))
}

/// Name, UID and Target of a thing.
struct Thing {
    name: String,
    uid: Option<String>,
    target: String,
}

async fn listed<K>(api: &Api<K>, marked: &ListParams) -> Result<Vec<Thing>, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = api.list_metadata(marked).await?.items.into_iter();
    let things = found.filter(|thing| thing.metadata.deletion_timestamp.is_none());
    Ok(things
        .filter_map(|thing| {
            Some(Thing {
                name: thing.name_any(),
                uid: thing.uid(),
                target: thing.labels().get(labels::TARGET)?.clone(),
            })
        })
        .collect())
}

async fn drop_unneeded<K>(
    api: &Api<K>,
    things: &[Thing],
    needs: &HashMap<String, Need>,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    for thing in things.iter().filter(|thing| !is_needed(thing, needs)) {
        delete(api, &thing.name, thing.uid.as_deref()).await?;
        tracing::info!(kind = %K::kind(&()), name = %thing.name, "removed, no Target needs it");
    }
    Ok(())
}

fn is_needed(thing: &Thing, needs: &HashMap<String, Need>) -> bool {
    match needs.get(&thing.target) {
        None => false,
        Some(Need::All) => true,
        Some(Need::Of(folder)) => folder.needs(&thing.name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{nfs, target};
    use super::*;

    #[test]
    fn what_a_target_needs_stays_and_what_nobody_can_tell_about_too() {
        let one = nfs("hard");
        let folder = Folder::of(&one).unwrap().unwrap();
        let thing = |name: String, target: &str| Thing {
            name,
            uid: None,
            target: target.to_owned(),
        };
        let needs: HashMap<_, _> = need(&one).into_iter().collect();
        assert!(is_needed(&thing(folder.claim(), "t-uid"), &needs));
        assert!(is_needed(&thing(folder.depot(), "t-uid"), &needs));
        assert!(!is_needed(&thing("hf-nfs-old".to_owned(), "t-uid"), &needs));
        assert!(!is_needed(&thing(folder.depot(), "gone"), &needs));
        let broken = target(&json!({"type": "NFS", "vendor": "Other"}), &json!({}));
        let needs: HashMap<_, _> = need(&broken).into_iter().collect();
        assert!(is_needed(&thing("hf-nfs-old".to_owned(), "t-uid"), &needs));
        let bucket = json!({"type": "ObjectStore", "vendor": "Other"});
        assert!(
            need(&target(&bucket, &json!({}))).is_none(),
            "a bucket needs no depot"
        );
    }
}
