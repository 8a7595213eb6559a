//! Damaged content is stored again by the next backup.
use std::sync::Arc;

use holdfast_mover::{
    BackupJob, MoverError, Progress, ShardClusters, VerifyJob, VerifyReport, VerifyScope, verify,
};
use holdfast_seal::KeyRing;
use holdfast_target::{Target, layout::ImageRecord, testing::MemoryTarget};
use tokio_util::sync::CancellationToken;

use crate::support::*;

const SIZE: u64 = 40 * MIB;

async fn look(target: &Arc<MemoryTarget>, images: &[ImageRecord], keys: &Arc<KeyRing>) -> VerifyReport {
    let job = VerifyJob {
        home: home(),
        images: images.to_vec(),
        scope: VerifyScope::Full {
            from: None,
            budget: None,
        },
    };
    let (progress, cancel) = (Arc::new(Progress::new()), CancellationToken::new());
    verify(target.clone(), &job, keys.clone(), progress, cancel)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_cluster_is_stored_again_though_its_hash_is_known() {
    for sealed in [false, true] {
        let memory = Arc::new(MemoryTarget::new());
        let target: Arc<dyn Target> = memory.clone();
        let ring = keys(&["b1", "b2", "b3"]);
        let folder = tempfile::tempdir().unwrap();
        let mut volume = Volume::create(folder.path().join("volume.raw"), SIZE);
        volume.random(0, SIZE);
        let job = |backup: &str, parents: &[ImageRecord], heal: Vec<ShardClusters>| BackupJob {
            seal: sealed.then(|| backup.parse().unwrap()),
            heal,
            ..backup_job(&volume.path, &format!("{backup}-a1"), parents)
        };
        let full = run_backup_with(target.clone(), &job("b1", &[], vec![]), ring.clone())
            .await
            .unwrap();
        let key = home().file_key(&full.shards[0].image.key).unwrap();
        memory.damage(&key, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        let report = look(&memory, std::slice::from_ref(&full), &ring).await;
        assert!(!report.is_sound());
        let heal: Vec<ShardClusters> = report
            .problems
            .iter()
            .map(|problem| ShardClusters {
                shard: problem.shard,
                clusters: problem.clusters.clone().unwrap(),
            })
            .collect();

        // Who does not know of it, trusts the hash.
        let unaware = job("b2", std::slice::from_ref(&full), vec![]);
        let unaware = run_backup_with(target.clone(), &unaware, ring.clone())
            .await
            .unwrap();
        let back = Volume::create(folder.path().join("restored.raw"), SIZE);
        let chain = [unaware, full.clone()];
        let lost = run_restore_with(target.clone(), &chain, &back.path, ring.clone()).await;
        assert!(
            matches!(
                lost,
                Err(MoverError::Damaged { .. } | MoverError::DamagedCluster { .. })
            ),
            "{lost:?}"
        );

        let healing = job("b3", std::slice::from_ref(&full), heal.clone());
        let healing = run_backup_with(target.clone(), &healing, ring.clone())
            .await
            .unwrap();
        let bad: u64 = heal.iter().map(|bad| bad.clusters.end - bad.clusters.start).sum();
        let most = (bad + 4) * (64 << 10) + (256 << 10);
        assert!(
            healing.stored < most,
            "{} bytes for {bad} clusters",
            healing.stored
        );
        run_restore_with(target.clone(), &[healing, full], &back.path, ring.clone())
            .await
            .unwrap();
        assert_same(&volume.path, &back.path);
    }
}
