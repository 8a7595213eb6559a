//! What the next image of a volume goes on top of.

use holdfast_core::chain::{Choice, FullReason, Image, Shape, choose};
use holdfast_seal::KeyRing;
use holdfast_target::Target;
use holdfast_target::layout::{ImageRecord, VolumeHome};

use crate::RepositoryError;
use crate::chain::{Chain, Entry, missing_files};

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
    // Only what the newest one lies upon: other chains may be in clear where this one is sealed, or the other way round.
    let below = entries.last().zip(chain.file.as_ref());
    let below = below.map_or(Some(Vec::new()), |(newest, file)| file.chain_of(&newest.id));
    let Some(below) = below else {
        return Ok(Err(FullReason::Unreadable(
            "an image of it is not recorded".to_owned(),
        )));
    };
    let entries: Vec<Entry> = below.into_iter().rev().cloned().collect();
    let opened: Result<Vec<ImageRecord>, _> = entries.iter().map(|entry| entry.open(home, keys)).collect();
    let records = match opened {
        Ok(records) => records,
        Err(error) => return Ok(Err(FullReason::Unreadable(error.to_string()))),
    };
    let mut missing = missing_files(target, home, &entries).await?;
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

#[cfg(test)]
mod tests {
    use holdfast_seal::DataKey;
    use holdfast_target::testing::MemoryTarget;

    use super::*;
    use crate::chain::tests::{home, image_as};
    use crate::chain::{Sealing, append, newest};

    #[tokio::test]
    async fn a_chain_goes_on_beside_one_that_is_sealed_otherwise() {
        let target = MemoryTarget::new();
        let clear = image_as(&target, "a-a1", "a", None, None).await;
        append(&target, &home(), &clear, None).await.unwrap();
        let location = |backup: &str| format!("cluster/plan/{backup}").parse().unwrap();
        let key = DataKey::generate(location("b"));
        let sealed = image_as(&target, "b-a1", "b", None, Some(&key)).await;
        let id = key.id().clone();
        let ring = KeyRing::of([key]).unwrap();
        let chain = newest(&target, &home()).await.unwrap();
        let choice = choose_base(&target, &home(), &chain, 1, Some(&ring))
            .await
            .unwrap();
        assert_eq!(choice, Err(FullReason::Encryption));
        let seal = Sealing {
            ring: &ring,
            key: &id,
        };
        append(&target, &home(), &sealed, Some(seal)).await.unwrap();
        let chain = newest(&target, &home()).await.unwrap();
        let choice = choose_base(&target, &home(), &chain, 1, Some(&ring))
            .await
            .unwrap();
        assert_eq!(choice, Ok(vec![sealed]));
        let choice = choose_base(&target, &home(), &chain, 1, None).await.unwrap();
        assert_eq!(choice, Err(FullReason::Encryption));
    }
}
