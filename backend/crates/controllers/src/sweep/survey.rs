//! What the points of a plan need, by their commit objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_crd::names::reasons;
use holdfast_repository::point;
use holdfast_seal::KeyId;
use holdfast_target::layout::{ImageId, Location, VolumeHome};
use holdfast_target::{Key, Target as Store};

use crate::failure::Failure;

/// Most images of one plan, counted once for each point that needs them (eight bytes each): two thousand points of a
/// hundred volumes with chains of fifty.
const MAX_IMAGES: usize = 10_000_000;

/// What the points of a plan need.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Points that are committed.
    pub(super) points: usize,
    /// Folders without commit object.
    pub(super) uncommitted: Vec<Location>,
    /// Objects files of attempts before the one that was committed.
    pub(super) abandoned: Vec<Key>,
    /// Data keys of the points.
    pub(super) keys: BTreeSet<KeyId>,
    /// The images of every point, newest first.
    images: BTreeMap<VolumeHome, Vec<Vec<Arc<ImageId>>>>,
}

impl Survey {
    /// Reads every commit object. One that cannot be read ends it: what it needs would not be known.
    pub(super) async fn read(store: &dyn Store, folders: &[Location]) -> Result<Self, Failure> {
        let (mut survey, mut number) = (Self::default(), 0);
        // Every point names its whole chain: each id is kept once.
        let mut known: BTreeSet<Arc<ImageId>> = BTreeSet::new();
        for location in folders {
            let Some(found) = point::read(store, location).await? else {
                survey.uncommitted.push(location.clone());
                continue;
            };
            survey.points += 1;
            survey.keys.extend(found.key().cloned());
            let abandoned = point::abandoned(store, location, found.attempt()).await?;
            survey.abandoned.extend(abandoned);
            for needs in found.needs() {
                number += needs.images.len();
                let images = needs.images.into_iter().map(|image| match known.get(&image) {
                    Some(known) => known.clone(),
                    None => {
                        let image = Arc::new(image);
                        known.insert(image.clone());
                        image
                    }
                });
                let images = images.collect();
                survey.images.entry(needs.home).or_default().push(images);
            }
            check_number(number + survey.abandoned.len())?;
        }
        Ok(survey)
    }

    /// What every point that has this volume needs of it.
    pub(super) fn points_of(&self, home: &VolumeHome) -> &[Vec<Arc<ImageId>>] {
        self.images.get(home).map_or(&[], Vec::as_slice)
    }
}

/// Refuses a plan with more images than fit into memory beside those of other plans.
pub(super) fn check_number(images: usize) -> Result<(), Failure> {
    if images <= MAX_IMAGES {
        return Ok(());
    }
    let text = format!("the plan has more than {MAX_IMAGES} images; delete points of it");
    Err(Failure::lasting(reasons::TARGET_ERROR, text))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use holdfast_target::layout::Digest;
    use holdfast_target::testing::MemoryTarget;
    use serde_json::json;

    use super::*;

    async fn point(store: &MemoryTarget, attempt: u32) -> Location {
        let location: Location = "c/p/b".parse().unwrap();
        let uid = |uid: &str| json!({"namespace": "n", "name": "n", "uid": uid});
        let manifest = json!({"format": 0, "location": location, "attempt": attempt, "createdBy": "t",
            "cluster": {"uid": "c"}, "plan": uid("p"), "backup": uid("b"), "backupType": "Full",
            "started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:00Z",
            "namespace": {"name": "n", "uid": "n"}, "volumes": [],
            "objects": {"key": "o", "size": 1, "blake3": Digest::of(b"x"), "count": 1}});
        let body = Bytes::from(manifest.to_string());
        store.put(&location.commit_key(), body).await.unwrap();
        location
    }

    #[tokio::test]
    async fn an_attempt_beyond_every_count_is_damage() {
        let store = MemoryTarget::new();
        let location = point(&store, u32::MAX).await;
        let failure = Survey::read(&store, &[location]).await.unwrap_err();
        assert_eq!(failure.reason, reasons::DAMAGED, "{failure}");
    }

    #[test]
    fn a_plan_of_countless_images_is_refused() {
        assert_eq!(check_number(MAX_IMAGES), Ok(()));
        assert!(!check_number(MAX_IMAGES + 1).unwrap_err().retryable);
    }
}
