//! What the next image of a volume goes on top of.

use holdfast_core::chain::{Choice, FullReason, Image, Shape, choose};
use holdfast_seal::KeyRing;
use holdfast_target::Target;
use holdfast_target::layout::{ImageRecord, VolumeHome};

use crate::RepositoryError;
use crate::chain::{Chain, missing_files};

/// The images that the next one of a volume overlays, newest first; or none, and why not. `chain` is the newest one there
/// is, `keys` opens it where the plan encrypts.
///
/// # Errors
/// Those of the store. A chain that cannot be read or is not whole is no error: a full image begins another one.
pub async fn choose_base(
    target: &dyn Target,
    home: &VolumeHome,
    chain: &Chain,
    capacity: u64,
    keys: Option<&KeyRing>,
) -> Result<Result<Vec<ImageRecord>, FullReason>, RepositoryError> {
    if let Some(why) = &chain.damage {
        return Ok(Err(FullReason::Unreadable(why.clone())));
    }
    let entries = chain.images();
    if entries
        .last()
        .is_some_and(|newest| newest.is_sealed() != keys.is_some())
    {
        return Ok(Err(FullReason::Encryption));
    }
    let opened: Result<Vec<ImageRecord>, _> = entries.iter().map(|entry| entry.open(home, keys)).collect();
    let records = match opened {
        Ok(records) => records,
        Err(error) => return Ok(Err(FullReason::Unreadable(error.to_string()))),
    };
    let mut missing = missing_files(target, home, entries).await?;
    let image = |record: &ImageRecord| Image {
        id: record.id.to_string(),
        parent: record.parent.as_ref().map(ToString::to_string),
        virtual_size: record.virtual_size,
        cluster_size: record.cluster_size,
        missing: missing.remove(&record.id).unwrap_or_default(),
    };
    let images: Vec<Image> = records.iter().map(image).collect();
    let shape = Shape {
        virtual_size: capacity,
        // A mover goes on with the cluster size of the chain it is given.
        cluster_size: images.last().map_or(0, |newest| newest.cluster_size),
    };
    match choose(true, shape, &images) {
        Choice::Full { reason } => Ok(Err(reason.unwrap_or(FullReason::First))),
        Choice::Incremental { chain } => {
            let record = |id: &String| records.iter().find(|r| r.id.to_string() == *id).cloned();
            Ok(Ok(chain.iter().filter_map(record).collect()))
        }
    }
}
