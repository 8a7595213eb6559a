//! Merges and sweeps.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::chain::{Link, MAX_CHAIN, mergeable};
use holdfast_mover::{MergeGain, MergeJob, Progress};
use holdfast_repository::chain::{self, Chain, ChainFile, Sealing};
use holdfast_repository::sweep::{self, AtWork, Look, Survey};
use holdfast_repository::{lock, point};
use holdfast_seal::KeyId;
use holdfast_target::Target;
use holdfast_target::layout::{FileStem, ImageId, ImageRecord, VolumeHome};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Failure, Operator};

/// Chains of so many images are merged whatever that frees.
const LONG: usize = MAX_CHAIN - 10;

/// What a look for merges did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Merged {
    pub(crate) merges: u64,
    pub(crate) gain: MergeGain,
}

/// The images of a merge stay as long as it lives.
struct Merging<'o> {
    operator: &'o Operator,
    images: Vec<(VolumeHome, ImageId)>,
}

impl Drop for Merging<'_> {
    fn drop(&mut self) {
        let mut merging = self.operator.merging();
        self.images.iter().for_each(|image| {
            merging.remove(image);
        });
    }
}

impl Operator {
    /// Merges what can be; `lazily` where it frees a quarter of what it moves.
    pub(crate) async fn merge(&self, target: &Arc<dyn Target>, lazily: bool) -> Result<Merged, Failure> {
        let points = point::points(&**target, &self.cluster, &self.plan).await?;
        let survey = Survey::read(&**target, &points).await?;
        let mut done = Merged::default();
        for home in point::homes(&**target, &self.cluster, &self.plan).await? {
            let heads: BTreeSet<String> = survey
                .points_of(&home)
                .iter()
                .filter_map(|images| images.first())
                .map(|image| image.to_string())
                .collect();
            let mut tried = BTreeSet::new();
            loop {
                let chain = chain::newest(&**target, &home).await?;
                let (Some(file), None) = (&chain.file, &chain.damage) else {
                    break;
                };
                let Some((run, length)) = next_run(file, &heads, &tried) else {
                    break;
                };
                tried.insert(run[0].clone());
                let rule = lazily && length < LONG;
                if let Some(gain) = Box::pin(self.merge_run(target, &home, &chain, &run, rule)).await? {
                    done.merges += 1;
                    done.gain.moved += gain.moved;
                    done.gain.freed += gain.freed;
                }
            }
        }
        Ok(done)
    }

    async fn merge_run(
        &self,
        target: &Arc<dyn Target>,
        home: &VolumeHome,
        chain: &Chain,
        run: &[ImageId],
        lazily: bool,
    ) -> Result<Option<MergeGain>, Failure> {
        let file = chain.file.as_ref().expect("a run is one of a chain");
        let entries: Vec<_> = run.iter().filter_map(|id| file.entry(id)).collect();
        let ring = match entries.iter().any(|entry| entry.is_sealed()) {
            true => Some(Arc::new(self.present(&**target, file.keys()).await?)),
            false => None,
        };
        let records: Result<Vec<ImageRecord>, _> = entries
            .iter()
            .map(|entry| entry.open(home, ring.as_deref()))
            .collect();
        let records = records?;
        if lock::any_locked(&**target, home, &records, Timestamp::now()).await? {
            return Ok(None);
        }
        let key: Option<KeyId> = ring.as_ref().map(|_| run[0].backup.as_str().parse().unwrap());
        let job = MergeJob {
            home: home.clone(),
            run: records.clone(),
            files: FileStem {
                image: run[0].clone(),
                merged: Some(chain.next_generation()),
            },
            seal: key.clone(),
        };
        let keys = ring.clone().unwrap_or_default();
        let stop = CancellationToken::new();
        let gain = holdfast_mover::survey(target.clone(), &job, keys.clone(), stop.clone()).await?;
        if lazily && !gain.is_worth_it() {
            return Ok(None);
        }
        let images: Vec<_> = run.iter().map(|id| (home.clone(), id.clone())).collect();
        self.merging().extend(images.iter().cloned());
        let _at_work = Merging {
            operator: self,
            images,
        };
        let progress = Arc::new(Progress::new());
        let merged = holdfast_mover::merge(target.clone(), &job, keys, progress, stop).await?;
        let sealing = ring
            .as_deref()
            .zip(key.as_ref())
            .map(|(ring, key)| Sealing { ring, key });
        chain::replace(&**target, home, &records, &merged, sealing, Timestamp::now()).await?;
        Ok(Some(gain))
    }

    pub(crate) async fn look(&self, target: &dyn Target) -> Result<Look, Failure> {
        Ok(sweep::look(target, &self.cluster, &self.plan).await?)
    }

    /// Removes what may go. Nobody is at work but the merges of this operator.
    pub(crate) async fn sweep(
        &self,
        target: &dyn Target,
        look: &Look,
        plan_lives: bool,
        grace: Duration,
        now: Timestamp,
    ) -> Result<usize, Failure> {
        let images =
            |home: &VolumeHome, image: &ImageId| self.merging().contains(&(home.clone(), image.clone()));
        let at_work = AtWork {
            runs: &BTreeSet::new(),
            images: &images,
            plan_lives,
        };
        Ok(sweep::sweep(target, look, &at_work, grace, now).await?)
    }
}

fn next_run(
    file: &ChainFile,
    heads: &BTreeSet<String>,
    tried: &BTreeSet<ImageId>,
) -> Option<(Vec<ImageId>, usize)> {
    let text = |id: &ImageId| id.to_string();
    let ids: Vec<(String, Option<String>)> = file
        .images
        .iter()
        .map(|entry| (text(&entry.id), entry.parent.as_ref().map(text)))
        .collect();
    let links: Vec<Link<'_>> = ids
        .iter()
        .map(|(id, parent)| Link {
            id,
            parent: parent.as_deref(),
            wanted: heads.contains(id),
        })
        .collect();
    let parsed = |run: &[&str]| -> Vec<ImageId> { run.iter().map(|id| id.parse().unwrap()).collect() };
    let mut runs = mergeable(&links)
        .into_iter()
        .map(|found| (parsed(&found.run), found.chain));
    runs.find(|(run, _)| !tried.contains(&run[0]))
}
