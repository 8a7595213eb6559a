//! What a point becomes here: objects by level, and claims with what their volumes need. Pure, and not for an async
//! thread: a point is as large and as odd as somebody made it.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::quantity::at_least;
use holdfast_core::restore::{ObjectPlan, PlannedObject, plan_objects};
use holdfast_crd::names::{annotations, reasons};
use holdfast_target::layout::{VolumeMode, VolumeRecord};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::placement;
use crate::failure::Failure;

/// What is planned for.
pub(super) struct Terms {
    /// The namespace that is restored into.
    pub(super) destination: String,
    /// UID of the Restore.
    pub(super) run_uid: String,
    /// Kind and name of core objects that stay as they are, since the destination's Targets use them.
    pub(super) in_use: BTreeSet<(&'static str, String)>,
}

/// Everything a restore makes.
pub(super) struct Planned {
    pub(super) objects: ObjectPlan,
    /// Claims whose data comes back, by name.
    pub(super) claims: BTreeMap<String, PlannedClaim>,
}

/// A claim whose data comes back.
pub(super) struct PlannedClaim {
    /// As the application gets it, but for the name of its volume.
    pub(super) manifest: PersistentVolumeClaim,
    /// Node rules of the pod that will use it.
    pub(super) placement: Option<Value>,
}

impl Planned {
    /// Number of objects and claims.
    pub(super) fn len(&self) -> usize {
        self.objects.len() + self.claims.len()
    }

    /// The claims, to be asked about like other objects.
    pub(super) fn claims_to_ask(&self) -> Vec<PlannedObject> {
        let ask = |claim: &PlannedClaim| {
            let manifest = json!(claim.manifest);
            let key = holdfast_core::restore::ObjectKey::of(&manifest)?;
            Some(PlannedObject {
                key,
                manifest,
                owners: Vec::new(),
            })
        };
        self.claims.values().filter_map(ask).collect()
    }
}

/// Plans the objects and volumes of a point.
///
/// # Errors
/// `Damaged` when the manifest of a claim is none.
pub(super) fn plan(objects: Vec<Value>, volumes: &[VolumeRecord], terms: &Terms) -> Result<Planned, Failure> {
    let names: BTreeSet<String> = volumes.iter().map(|v| v.claim.clone()).collect();
    let mut placements = placement::for_claims(&objects, &names);
    let mut planned = plan_objects(objects, &terms.destination, &names);
    let in_use: BTreeSet<(&str, &str)> = terms.in_use.iter().map(|(k, n)| (*k, n.as_str())).collect();
    planned.leave_out("a Target of this namespace uses it", |key| {
        key.group.is_empty() && in_use.contains(&(key.kind.as_str(), key.name.as_str()))
    });
    let mut claims = BTreeMap::new();
    for volume in volumes {
        let manifest = claim(planned.claims.remove(&volume.claim), volume, terms)?;
        let claim = PlannedClaim {
            manifest,
            placement: placements.remove(&volume.claim),
        };
        claims.insert(volume.claim.clone(), claim);
    }
    Ok(Planned {
        objects: planned,
        claims,
    })
}

/// Bytes that a volume is provisioned with.
pub(super) fn capacity(volume: &VolumeRecord) -> u64 {
    let image_size = volume.chain.first().map_or(0, |image| image.virtual_size);
    volume.capacity.max(image_size)
}

/// The claim as it will be: what it was captured as, if it was, of the kind and size of the volume it will get. The size
/// matters because quotas count what a claim asks for, whatever the volume is that it gets.
fn claim(
    captured: Option<Value>,
    volume: &VolumeRecord,
    terms: &Terms,
) -> Result<PersistentVolumeClaim, Failure> {
    let mut claim: PersistentVolumeClaim = captured
        .map_or_else(|| Ok(PersistentVolumeClaim::default()), serde_json::from_value)
        .map_err(|e| {
            let text = format!(
                "claim {}: its manifest in the point is no PersistentVolumeClaim: {e}",
                volume.claim
            );
            Failure::lasting(reasons::DAMAGED, text)
        })?;
    claim.metadata.name = Some(volume.claim.clone());
    claim.metadata.namespace = Some(terms.destination.clone());
    let marks = claim.metadata.annotations.get_or_insert_default();
    marks.insert(annotations::RESTORED_BY.to_owned(), terms.run_uid.clone());
    claim.status = None;
    let spec = claim.spec.get_or_insert_default();
    spec.access_modes = Some(volume.access_modes.clone());
    spec.storage_class_name = Some(volume.storage_class.clone().unwrap_or_default());
    spec.volume_mode = Some(mode(volume).to_owned());
    (spec.volume_name, spec.selector) = (None, None);
    (spec.data_source, spec.data_source_ref) = (None, None);
    request_at_least(spec.resources.get_or_insert_default(), capacity(volume));
    Ok(claim)
}

/// `Filesystem` or `Block`.
pub(super) fn mode(volume: &VolumeRecord) -> &'static str {
    match volume.volume_mode {
        VolumeMode::Filesystem => "Filesystem",
        VolumeMode::Block => "Block",
    }
}

/// Makes a claim ask for what its volume holds.
fn request_at_least(resources: &mut VolumeResourceRequirements, bytes: u64) {
    let requests = resources.requests.get_or_insert_default();
    let own = requests.entry("storage".to_owned()).or_default();
    *own = Quantity(at_least(&own.0, bytes));
}

#[cfg(test)]
mod tests;
