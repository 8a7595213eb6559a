//! Who may run now: limits per node and per target, first come first served.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use holdfast_crd::names::reasons;
use holdfast_crd::{TransferStage, VolumeTransfer};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;

use super::task::{Step, Task};
use crate::failure::Failure;

/// The head of the queue looks this often for a place that became free. It costs one read each.
const LOOK: Duration = Duration::from_millis(500);
/// Those further behind look this often.
const LOOK_BEHIND: Duration = Duration::from_secs(5);
/// Length of the head of the queue.
const HEAD: usize = 16;
/// The number of nodes is believed for so long.
const NODES_FOR: Duration = Duration::from_secs(30);

/// A transfer, as far as admission cares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// First: what touches no volume can wait for what does.
    upkeep: bool,
    /// Then by age, then by name.
    created: Option<Timestamp>,
    name: String,
    target: String,
    node: Option<String>,
    running: bool,
}

/// How much may run at once.
struct Capacity {
    per_node: usize,
    nodes: usize,
    per_target: usize,
}

/// Whether `candidate` may run: the queue is played through in order of age, so that nobody is overtaken by a younger
/// transfer that needs the same place, and nobody waits behind one that needs another. What touches no volume comes last,
/// and leaves half of all places to what does.
fn admits(candidate: &str, places: &[Place], capacity: &Capacity) -> bool {
    let mut taken = Taken::default();
    for place in places.iter().filter(|place| place.running) {
        taken.add(place);
    }
    let mut waiting: Vec<&Place> = places.iter().filter(|place| !place.running).collect();
    waiting.sort();
    for place in waiting {
        let free = taken.has_room(place, capacity);
        if place.name == candidate {
            return free;
        }
        if free {
            taken.add(place);
        }
    }
    false
}

/// Places that are taken: how many, and how many of them by what touches no volume.
#[derive(Default)]
struct Taken<'p> {
    on_target: BTreeMap<&'p str, (usize, usize)>,
    on_node: BTreeMap<&'p str, usize>,
    total: (usize, usize),
}

impl<'p> Taken<'p> {
    fn add(&mut self, place: &'p Place) {
        let upkeep = usize::from(place.upkeep);
        let target = self.on_target.entry(&place.target).or_default();
        *target = (target.0 + 1, target.1 + upkeep);
        self.total = (self.total.0 + 1, self.total.1 + upkeep);
        if let Some(node) = &place.node {
            *self.on_node.entry(node).or_default() += 1;
        }
    }

    fn has_room(&self, place: &Place, capacity: &Capacity) -> bool {
        let all = capacity.per_node * capacity.nodes;
        let fits = |(taken, upkeep): (usize, usize), places: usize| {
            taken < places && !(place.upkeep && upkeep >= (places / 2).max(1))
        };
        let on_target = self
            .on_target
            .get(place.target.as_str())
            .copied()
            .unwrap_or_default();
        let on_node = place.node.as_deref().and_then(|node| self.on_node.get(node));
        let node_full = on_node.is_some_and(|running| *running >= capacity.per_node);
        fits(on_target, capacity.per_target) && fits(self.total, all) && !node_full
    }
}

fn place_of(transfer: &VolumeTransfer) -> Option<Place> {
    let status = transfer.status.as_ref()?;
    let running = match status.stage {
        TransferStage::Running => true,
        TransferStage::Queued => false,
        _ => return None,
    };
    let target = &transfer.spec.target;
    Some(Place {
        upkeep: !transfer.spec.direction.has_volume(),
        created: transfer.creation_timestamp().map(|time| time.0),
        name: transfer.name_any(),
        target: format!(
            "{}/{}",
            target.namespace.as_deref().unwrap_or_default(),
            target.name
        ),
        node: status.node.clone(),
        running,
    })
}

impl Task {
    /// Stage Queued: takes a place when one is free. Places are taken one transfer at a time, counted from what the API
    /// server says then; what the watch saw only spares that when there is no place anyway.
    pub(super) async fn queued(&mut self) -> Result<Step, Failure> {
        let ctx = self.ctx();
        let target = ctx
            .targets
            .resource(&self.transfer.spec.target, &ctx.install_namespace)
            .await?;
        let per_target = target
            .spec
            .max_concurrent_transfers
            .unwrap_or(ctx.limits.transfers_per_target);
        let capacity = Capacity {
            per_node: to_usize(ctx.limits.transfers_per_node),
            nodes: self.usable_nodes().await?,
            per_target: to_usize(per_target),
        };
        let name = self.transfer.name_any();
        let seen: Vec<Place> = self
            .machine
            .seen
            .state()
            .iter()
            .filter_map(|t| place_of(t))
            .collect();
        let known = seen.iter().any(|place| place.name == name && !place.running);
        if known && !admits(&name, &seen, &capacity) {
            return Ok(self.wait_behind(&seen));
        }
        let machine = self.machine.clone();
        let _one_at_a_time = machine.admission.lock().await;
        let all = self
            .ctx()
            .installed::<VolumeTransfer>()
            .list(&ListParams::default())
            .await?;
        let places: Vec<Place> = all.items.iter().filter_map(place_of).collect();
        if !admits(&name, &places, &capacity) {
            return Ok(self.wait_behind(&places));
        }
        // Stored under the lock: the next one that counts must see it.
        self.status.attempt += 1;
        self.enter(TransferStage::Running);
        if self.save().await? {
            self.entered(TransferStage::Running).await;
        }
        Ok(Step::Stay(Duration::ZERO))
    }

    fn wait_behind(&mut self, places: &[Place]) -> Step {
        self.note(
            reasons::QUEUED,
            "waits for a free place under the limits of nodes and target",
        );
        let mut waiting: Vec<&Place> = places.iter().filter(|place| !place.running).collect();
        waiting.sort();
        let name = self.transfer.name_any();
        let ahead = waiting.iter().take_while(|place| place.name != name).count();
        Step::Stay(if ahead < HEAD { LOOK } else { LOOK_BEHIND })
    }

    /// Nodes that take pods; at least one, for a cluster that scales from zero.
    async fn usable_nodes(&self) -> Result<usize, Failure> {
        let counted = *self.machine.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = counted.filter(|(when, _)| when.elapsed() < NODES_FOR) {
            return Ok(count);
        }
        let nodes = self
            .ctx()
            .cluster_wide::<Node>()
            .list(&ListParams::default())
            .await?;
        let usable = |node: &Node| {
            node.spec
                .as_ref()
                .is_none_or(|spec| spec.unschedulable != Some(true))
        };
        let count = nodes.items.iter().filter(|node| usable(node)).count().max(1);
        *self.machine.nodes.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), count));
        Ok(count)
    }
}

fn to_usize(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(age: i64, name: &str, target: &str, running: bool) -> Place {
        Place {
            upkeep: false,
            created: Some(Timestamp::from_second(age).unwrap()),
            name: name.into(),
            target: target.into(),
            node: None,
            running,
        }
    }

    #[test]
    fn backups_and_restores_do_not_wait_behind_verifications() {
        let upkeep = |age, name: &str| Place {
            upkeep: true,
            ..place(age, name, "t", false)
        };
        let mut places = vec![upkeep(1, "v1"), upkeep(2, "v2"), upkeep(3, "v3")];
        assert!(admits("v1", &places, &CAPACITY));
        assert!(
            !admits("v2", &places, &CAPACITY),
            "half of the places are for volumes"
        );
        places[0].running = true;
        places.push(place(4, "b", "t", false));
        places.push(place(5, "c", "t", false));
        assert!(admits("b", &places, &CAPACITY));
        assert!(!admits("c", &places, &CAPACITY) && !admits("v2", &places, &CAPACITY));
    }

    const CAPACITY: Capacity = Capacity {
        per_node: 2,
        nodes: 2,
        per_target: 2,
    };

    #[test]
    fn the_oldest_goes_first_and_a_full_target_stops_only_its_own() {
        let places = [
            place(1, "r1", "a", true),
            place(2, "r2", "a", true),
            place(3, "old-a", "a", false),
            place(4, "b1", "b", false),
            place(5, "b2", "b", false),
            place(6, "b3", "b", false),
        ];
        let may = |name: &str| admits(name, &places, &CAPACITY);
        assert!(!may("old-a"));
        assert!(may("b1") && may("b2"));
        assert!(!may("b3"), "two of target b and four in all is the limit");
    }

    #[test]
    fn a_younger_one_does_not_overtake() {
        let places = [
            place(1, "r", "a", true),
            place(3, "young", "a", false),
            place(2, "old", "a", false),
        ];
        assert!(admits("old", &places, &CAPACITY));
        assert!(!admits("young", &places, &CAPACITY));
    }

    #[test]
    fn a_full_node_takes_no_more() {
        let on = |mut p: Place, node: &str| {
            p.node = Some(node.into());
            p
        };
        let places = [
            on(place(1, "r1", "a", true), "n1"),
            on(place(2, "r2", "b", true), "n1"),
            on(place(3, "here", "c", false), "n1"),
            on(place(4, "there", "c", false), "n2"),
        ];
        assert!(!admits("here", &places, &CAPACITY));
        assert!(admits("there", &places, &CAPACITY));
    }

    #[test]
    fn who_does_not_wait_is_not_admitted() {
        assert!(!admits("nobody", &[], &CAPACITY));
    }
}
