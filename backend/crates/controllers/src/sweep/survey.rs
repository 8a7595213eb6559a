//! What the points of a plan need, by their commit objects.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crd::names::reasons;
use holdfast_target::layout::{ImageId, Location, VolumeHome};
use holdfast_target::{Key, Target as Store};

use crate::failure::Failure;
use crate::stored;

/// Most images of one plan: a thousand points of five hundred volumes.
const MAX_IMAGES: usize = 500_000;

/// What the points of a plan need.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Points that are committed.
    pub(super) points: usize,
    /// Folders without commit object.
    pub(super) uncommitted: Vec<Location>,
    /// Objects files of attempts before the one that was committed.
    pub(super) abandoned: Vec<Key>,
    /// Every image that a point reads.
    images: BTreeMap<VolumeHome, BTreeSet<ImageId>>,
}

impl Survey {
    /// Reads every commit object. One that cannot be read ends it: what it needs would not be known.
    pub(super) async fn read(store: &dyn Store, folders: &[Location]) -> Result<Self, Failure> {
        let (mut survey, mut number) = (Self::default(), 0);
        for location in folders {
            let Some(manifest) = stored::manifest(store, location).await? else {
                survey.uncommitted.push(location.clone());
                continue;
            };
            survey.points += 1;
            let abandoned = stored::abandoned(store, location, manifest.attempt).await?;
            survey.abandoned.extend(abandoned);
            for volume in manifest.volumes {
                let images = survey.images.entry(volume.home).or_default();
                let before = images.len();
                images.extend(volume.chain.into_iter().map(|image| image.id));
                number += images.len() - before;
            }
            check_number(number + survey.abandoned.len())?;
        }
        Ok(survey)
    }

    /// Whether a point reads this image.
    pub(super) fn needs(&self, home: &VolumeHome, image: &ImageId) -> bool {
        self.images.get(home).is_some_and(|images| images.contains(image))
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
    use holdfast_target::layout::{Attempt, Digest};
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
    async fn of_earlier_attempts_only_files_that_are_there_are_removed() {
        let store = MemoryTarget::new();
        let location = point(&store, 1_000_000).await;
        for attempt in [2, 999_999, 1_000_000, 1_000_001] {
            let key = location.objects_key(Attempt(attempt));
            store.put(&key, Bytes::from_static(b"x")).await.unwrap();
        }
        let survey = Survey::read(&store, std::slice::from_ref(&location))
            .await
            .unwrap();
        let old = [2, 999_999].map(|attempt| location.objects_key(Attempt(attempt)));
        assert_eq!(survey.abandoned.into_iter().collect::<BTreeSet<_>>(), old.into());
        assert_eq!((survey.points, survey.uncommitted.len()), (1, 0));
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
