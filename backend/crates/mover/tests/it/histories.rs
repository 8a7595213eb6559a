//! Any history of writes, zeroes and holes: every backup of it restores to the bytes of its moment.
use std::sync::Arc;

use holdfast_mover::BackupJob;
use holdfast_target::{Target, layout::ImageRecord, testing::MemoryTarget};
use proptest::prelude::*;

use crate::support::*;

/// Two spans and a bit at 16 KiB clusters, and an end inside a cluster.
pub(crate) const SIZE: u64 = 66 * MIB + 1536;

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Random(u64, u64),
    Text(u64, u64),
    Zeroes(u64, u64),
    Punch(u64, u64),
}

impl Change {
    pub(crate) fn apply(self, volume: &mut Volume) {
        match self {
            Self::Random(at, len) => volume.random(at, len),
            Self::Text(at, len) => volume.text(at, len),
            Self::Zeroes(at, len) => volume.zeroes(at, len),
            Self::Punch(at, len) => volume.punch(at, len),
        }
    }
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    // Around the borders of spans and clusters as well as anywhere.
    let border = prop_oneof![Just(32 * MIB), Just(64 * MIB), Just(16 << 10), Just(SIZE - 1536)];
    let start = prop_oneof![0..SIZE, border.prop_map(|at| at - 512)];
    let len = prop_oneof![1..100u64, 1..100_000u64, 1..8 * MIB];
    let range = (start, len).prop_map(|(at, len)| (at, len.min(SIZE - at)));
    (range, 0..4u8).prop_map(|((at, len), kind)| match kind {
        0 => Change::Random(at, len),
        1 => Change::Text(at, len),
        2 => Change::Zeroes(at, len),
        _ => Change::Punch(at, len),
    })
}

/// With `sealed`, every backup has a key of its own.
async fn replay(history: Vec<Vec<Change>>, sealed: bool) {
    let ring = keys(&["b0", "b1", "b2", "b3", "b4"]);
    let target: Arc<dyn Target> = Arc::new(MemoryTarget::new());
    let folder = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(folder.path().join("volume.raw"), SIZE);
    let restored = Volume::dirty(folder.path().join("restored.raw"), SIZE);
    let mut chain: Vec<ImageRecord> = Vec::new();
    let mut moments = Vec::new();
    for (number, changes) in history.into_iter().enumerate() {
        for change in changes {
            change.apply(&mut volume);
        }
        let job = backup_job(&volume.path, &format!("b{number}-a1"), &chain);
        let job = BackupJob {
            cluster_size: 16 << 10,
            seal: sealed.then(|| format!("b{number}").parse().unwrap()),
            ..job
        };
        let record = run_backup_with(target.clone(), &job, ring.clone()).await.unwrap();
        chain.insert(0, record);
        moments.push((chain.clone(), std::fs::read(&volume.path).unwrap()));
    }
    // Newest first, over what the restore before has left.
    for (chain, bytes) in moments.into_iter().rev() {
        run_restore_with(target.clone(), &chain, &restored.path, ring.clone())
            .await
            .unwrap();
        assert!(
            std::fs::read(&restored.path).unwrap() == bytes,
            "image {} restores wrongly",
            chain[0].id
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn every_moment_of_any_history_restores(
        history in prop::collection::vec(prop::collection::vec(change(), 0..6), 1..5),
        sealed: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(replay(history, sealed));
    }
}
