//! The claims of a namespace: which hold data, and whether it can be read.

use holdfast_core::capture::{Neighbours, reason_to_ignore};
use holdfast_core::quantity;
use holdfast_crd::external::VolumeSnapshotClass;
use holdfast_crd::names::reasons;
use holdfast_crd::transfer::VolumeSpec;
use holdfast_crd::{BackupPlan, Problem};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::Context;
use crate::failure::Failure;

/// A claim that will be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) claim: String,
    pub(super) claim_uid: String,
    pub(super) spec: VolumeSpec,
    pub(super) snapshot_class: String,
}

/// Every claim of the namespace, sorted into one of four drawers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) volumes: Vec<Volume>,
    /// Named by the plan.
    pub(super) excluded: Vec<String>,
    /// Never bound: there is no data yet.
    pub(super) empty: Vec<String>,
    /// Hold data that cannot be read.
    pub(super) problems: Vec<Problem>,
}

/// Looks at every claim of the namespace.
pub(super) async fn survey(ctx: &Context, namespace: &str, plan: &BackupPlan) -> Result<Survey, Failure> {
    let claims = ctx
        .namespaced::<PersistentVolumeClaim>(namespace)
        .list(&ListParams::default())
        .await?
        .items;
    let mut survey = Survey::default();
    if claims.is_empty() {
        return Ok(survey);
    }
    let classes = Classes::read(ctx).await?;
    let volumes = ctx.cluster_wide::<PersistentVolume>();
    for claim in &claims {
        let name = claim.name_any();
        let selector = plan.spec.exclude_resources.as_ref();
        if selector.is_some_and(|s| s.selects("", "v1", "PersistentVolumeClaim", &name)) {
            survey.excluded.push(name);
            continue;
        }
        if is_left_out(claim) {
            continue;
        }
        match holds(claim) {
            Holds::Nothing => survey.empty.push(name),
            Holds::Unreadable(why) => survey.problems.push(unreadable(&name, why)),
            Holds::Data(volume) => {
                let volume = volumes.get_opt(volume).await?;
                match examine(claim, volume.as_ref(), &classes) {
                    Ok(found) => survey.volumes.push(found),
                    Err(problem) => survey.problems.push(problem),
                }
            }
        }
    }
    Ok(survey)
}

/// Classes of the cluster.
#[derive(Default)]
struct Classes {
    storage: Vec<StorageClass>,
    snapshot: Vec<VolumeSnapshotClass>,
}

impl Classes {
    async fn read(ctx: &Context) -> Result<Self, Failure> {
        let storage = ctx
            .cluster_wide::<StorageClass>()
            .list(&ListParams::default())
            .await?
            .items;
        let snapshot = match ctx
            .cluster_wide::<VolumeSnapshotClass>()
            .list(&ListParams::default())
            .await
        {
            Ok(list) => list.items,
            // The cluster does not know snapshots at all; each volume says so by itself.
            // (A path that is not served is answered with 404 and no Status.)
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { storage, snapshot })
    }
}

/// Claims that the default ignore list leaves out: those that a pod brings along and takes with it.
fn is_left_out(claim: &PersistentVolumeClaim) -> bool {
    let mut value = serde_json::to_value(claim).unwrap_or_default();
    value["apiVersion"] = "v1".into();
    value["kind"] = "PersistentVolumeClaim".into();
    reason_to_ignore(&value, &Neighbours::default()).is_some()
}

enum Holds<'a> {
    Nothing,
    Data(&'a str),
    Unreadable(&'static str),
}

fn holds(claim: &PersistentVolumeClaim) -> Holds<'_> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Holds::Unreadable("is being deleted; wait until it is gone");
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    let volume = claim
        .spec
        .as_ref()
        .and_then(|s| s.volume_name.as_deref())
        .filter(|v| !v.is_empty());
    match (volume, phase) {
        (Some(volume), Some("Bound")) => Holds::Data(volume),
        (None, _) => Holds::Nothing,
        (Some(_), Some("Lost")) => Holds::Unreadable("has lost its volume"),
        (Some(_), _) => Holds::Unreadable("is not bound to its volume yet; wait until it is"),
    }
}

fn unreadable(claim: &str, why: &str) -> Problem {
    problem(claim, reasons::VOLUME_UNREADABLE, &format!("claim {claim} {why}"))
}

fn problem(claim: &str, reason: &str, what: &str) -> Problem {
    Problem {
        object: format!("PersistentVolumeClaim/{claim}"),
        reason: reason.to_owned(),
        message: format!(
            "{what}; or leave it out by naming it in spec.excludeResources of the plan (kind PersistentVolumeClaim)"
        ),
    }
}

/// What is needed to read a bound claim, or why it cannot be read.
fn examine(
    claim: &PersistentVolumeClaim,
    volume: Option<&PersistentVolume>,
    classes: &Classes,
) -> Result<Volume, Problem> {
    let name = claim.name_any();
    let spec = volume.and_then(|v| v.spec.as_ref());
    let Some(spec) = spec else {
        return Err(unreadable(&name, "is bound to a volume that does not exist"));
    };
    let Some(csi) = &spec.csi else {
        return Err(unreadable(
            &name,
            "has a volume without CSI driver, of which no snapshot can be taken",
        ));
    };
    let snapshot_class = snapshot_class(&name, &csi.driver, &classes.snapshot)?;
    let wanted = spec.storage_class_name.as_deref().unwrap_or_default();
    let storage_class = storage_class(wanted, &csi.driver, &classes.storage).ok_or_else(|| {
        let why = format!(
            "has a volume of driver {}, for which there is no storage class; create one",
            csi.driver
        );
        unreadable(&name, &why)
    })?;
    let capacity = spec
        .capacity
        .as_ref()
        .and_then(|c| c.get("storage"))
        .and_then(|q| quantity::bytes(&q.0));
    let Some(capacity) = capacity.filter(|c| *c > 0) else {
        return Err(unreadable(&name, "has a volume that does not say its capacity"));
    };
    let claimed = claim.spec.as_ref();
    Ok(Volume {
        claim_uid: claim.uid().unwrap_or_default(),
        spec: VolumeSpec {
            capacity,
            driver: csi.driver.clone(),
            storage_class,
            volume_mode: spec
                .volume_mode
                .clone()
                .unwrap_or_else(|| "Filesystem".to_owned()),
            access_modes: claimed.and_then(|s| s.access_modes.clone()).unwrap_or_default(),
            fs_type: csi.fs_type.clone(),
        },
        snapshot_class,
        claim: name,
    })
}

/// The default class of the driver, else its only one.
fn snapshot_class(claim: &str, driver: &str, classes: &[VolumeSnapshotClass]) -> Result<String, Problem> {
    let of_driver: Vec<&VolumeSnapshotClass> = classes.iter().filter(|c| c.driver == driver).collect();
    let defaults: Vec<&&VolumeSnapshotClass> = of_driver.iter().filter(|c| c.is_default()).collect();
    match (defaults.as_slice(), of_driver.as_slice()) {
        ([only], _) => Ok(only.name_any()),
        ([], [only]) => Ok(only.name_any()),
        (_, []) => {
            let what =
                format!("claim {claim}: there is no VolumeSnapshotClass for its driver {driver}; create one");
            Err(problem(claim, reasons::SNAPSHOT_CLASS_MISSING, &what))
        }
        (_, several) => {
            let names: Vec<String> = several.iter().map(|c| c.name_any()).collect();
            let what = format!(
                "claim {claim}: its driver {driver} has the VolumeSnapshotClasses {}; mark exactly one with the \
                 annotation {}",
                names.join(", "),
                VolumeSnapshotClass::DEFAULT_ANNOTATION
            );
            Err(problem(claim, reasons::SNAPSHOT_CLASS_MISSING, &what))
        }
    }
}

/// The claim's own class, or any of the same driver when it has none (any more).
fn storage_class(wanted: &str, driver: &str, classes: &[StorageClass]) -> Option<String> {
    let of_driver = || classes.iter().filter(|c| c.provisioner == driver);
    let own = of_driver().find(|c| c.name_any() == wanted);
    own.or_else(|| of_driver().next()).map(ResourceExt::name_any)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
        let mut value = json!({"metadata": {"name": "data", "uid": "u"},
            "spec": {"volumeName": "pv", "accessModes": ["ReadWriteOnce"], "storageClassName": "fast"},
            "status": {"phase": "Bound"}});
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn volume() -> PersistentVolume {
        serde_json::from_value(
            json!({"metadata": {"name": "pv"}, "spec": {"capacity": {"storage": "1Gi"},
            "storageClassName": "fast", "volumeMode": "Block", "csi": {"driver": "d", "volumeHandle": "h"}}}),
        )
        .unwrap()
    }

    fn classes(snapshot: &[(&str, bool)]) -> Classes {
        let class = |(name, default): &(&str, bool)| -> VolumeSnapshotClass {
            serde_json::from_value(
                json!({"driver": "d", "deletionPolicy": "Delete", "metadata": {"name": name,
                "annotations": {VolumeSnapshotClass::DEFAULT_ANNOTATION: default.to_string()}}}),
            )
            .unwrap()
        };
        let storage = json!({"metadata": {"name": "fast"}, "provisioner": "d"});
        Classes {
            storage: vec![serde_json::from_value(storage).unwrap()],
            snapshot: snapshot.iter().map(class).collect(),
        }
    }

    #[test]
    fn a_bound_csi_volume_with_one_class_is_read() {
        let found = examine(&claim(|_| {}), Some(&volume()), &classes(&[("snap", false)])).unwrap();
        assert_eq!(
            (found.snapshot_class.as_str(), found.spec.capacity),
            ("snap", 1 << 30)
        );
        assert_eq!(found.spec.volume_mode, "Block");
    }

    #[test]
    fn the_default_class_wins_and_a_draw_names_all() {
        let of = |classes: &Classes| examine(&claim(|_| {}), Some(&volume()), classes);
        assert_eq!(
            of(&classes(&[("a", false), ("b", true)])).unwrap().snapshot_class,
            "b"
        );
        for draw in [&[("a", false), ("b", false)], &[("a", true), ("b", true)]] {
            let problem = of(&classes(draw)).unwrap_err();
            assert_eq!(problem.reason, reasons::SNAPSHOT_CLASS_MISSING);
            assert!(problem.message.contains("a, b"), "{}", problem.message);
        }
        assert_eq!(
            of(&classes(&[])).unwrap_err().reason,
            reasons::SNAPSHOT_CLASS_MISSING
        );
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_way_out() {
        let mut local = volume();
        local.spec.as_mut().unwrap().csi = None;
        let problem = examine(&claim(|_| {}), Some(&local), &classes(&[("s", true)])).unwrap_err();
        assert_eq!(
            (problem.reason.as_str(), problem.object.as_str()),
            (reasons::VOLUME_UNREADABLE, "PersistentVolumeClaim/data")
        );
        assert!(
            problem.message.contains("excludeResources"),
            "{}",
            problem.message
        );
    }

    #[test]
    fn only_what_was_never_bound_is_empty() {
        let unbound = claim(|c| {
            c["spec"]["volumeName"] = Value::Null;
            c["status"]["phase"] = json!("Pending");
        });
        assert!(matches!(holds(&unbound), Holds::Nothing));
        assert!(matches!(
            holds(&claim(|c| c["status"]["phase"] = json!("Lost"))),
            Holds::Unreadable(_)
        ));
        assert!(matches!(
            holds(&claim(|c| c["status"]["phase"] = json!("Pending"))),
            Holds::Unreadable(_)
        ));
        let leaving = claim(|c| c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert!(matches!(holds(&leaving), Holds::Unreadable(_)));
        assert!(matches!(holds(&claim(|_| {})), Holds::Data("pv")));
    }

    #[test]
    fn an_ephemeral_volume_goes_with_its_pod() {
        let ephemeral = claim(|c| {
            c["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x", "controller": true}]);
        });
        assert!(is_left_out(&ephemeral));
        assert!(!is_left_out(&claim(|_| {})));
    }
}
