//! Volumes with a history: every image of them, and what they held then.
use std::{ops::Range, path::PathBuf, sync::Arc};

use holdfast_mover::{BackupJob, MergeJob, MoverError, Progress, VerifyJob, VerifyScope, merge, verify};
use holdfast_seal::KeyRing;
use holdfast_target::{
    Key, Target,
    layout::{FileStem, Generation, ImageKind, ImageRecord, ObjectRecord},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::*;

pub(crate) const SIZE: u64 = 160 * MIB + 512;

/// A volume with a history: its images, and what it held at each of them.
pub(crate) struct History {
    pub(crate) target: Arc<dyn Target>,
    /// Newest first.
    pub(crate) chain: Vec<ImageRecord>,
    pub(crate) states: Vec<(ImageRecord, PathBuf)>,
    pub(crate) volume: Volume,
    folder: TempDir,
    pub(crate) ring: Arc<KeyRing>,
    pub(crate) sealed: bool,
    cluster_size: u32,
}

impl History {
    pub(crate) fn new(target: Arc<dyn Target>, size: u64, sealed: bool, cluster_size: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            target,
            chain: Vec::new(),
            states: Vec::new(),
            volume: Volume::create(folder.path().join("volume.raw"), size),
            folder,
            ring: keys(&["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"]),
            sealed,
            cluster_size,
        }
    }

    /// Four images with much and little in them, on the same places and on others.
    pub(crate) async fn usual(target: Arc<dyn Target>, sealed: bool, cluster_size: u32) -> Self {
        let mut history = Self::new(target, SIZE, sealed, cluster_size);
        let volume = &mut history.volume;
        volume.random(MIB, 60 * MIB);
        volume.text(100 * MIB, 4 * MIB);
        history.backup().await;
        let volume = &mut history.volume;
        volume.random(10 * MIB, 12 * MIB);
        volume.punch(40 * MIB, 2 * MIB);
        volume.random(90 * MIB, 20 * MIB);
        history.backup().await;
        let volume = &mut history.volume;
        volume.random(15 * MIB + 4096, 100);
        volume.zeroes(95 * MIB, MIB);
        volume.random(SIZE - 512, 512);
        history.backup().await;
        let volume = &mut history.volume;
        volume.random(120 * MIB, 8 * MIB);
        volume.text(95 * MIB, MIB / 2);
        volume.punch(0, 3 * MIB);
        history.backup().await;
        history
    }

    pub(crate) async fn backup(&mut self) {
        let number = self.states.len();
        let job = BackupJob {
            cluster_size: self.cluster_size,
            seal: self.sealed.then(|| format!("b{number}").parse().unwrap()),
            ..backup_job(&self.volume.path, &format!("b{number}-a1"), &self.chain)
        };
        let record = run_backup_with(self.target.clone(), &job, self.ring.clone())
            .await
            .unwrap();
        self.chain.insert(0, record.clone());
        let state = self.folder.path().join(format!("state{number}.raw"));
        run(std::process::Command::new("cp")
            .arg("--sparse=always")
            .arg(&self.volume.path)
            .arg(&state));
        self.states.push((record, state));
    }

    /// The job that merges these positions of the chain.
    pub(crate) fn job(&self, run: Range<usize>, generation: u64) -> MergeJob {
        let newest = &self.chain[run.start];
        MergeJob {
            home: home(),
            run: self.chain[run].to_vec(),
            files: FileStem {
                image: newest.id.clone(),
                merged: Some(Generation(generation)),
            },
            seal: self.sealed.then(|| newest.id.backup.as_str().parse().unwrap()),
        }
    }

    pub(crate) async fn merge_on(
        &self,
        target: Arc<dyn Target>,
        job: &MergeJob,
    ) -> Result<ImageRecord, MoverError> {
        let progress = Arc::new(Progress::new());
        let merged = merge(
            target,
            job,
            self.ring.clone(),
            progress.clone(),
            CancellationToken::new(),
        )
        .await?;
        let seen = progress.snapshot();
        assert!(
            seen.bytes_done <= seen.bytes_total && seen.bytes_total > 0,
            "{seen:?}"
        );
        Ok(merged)
    }

    /// Puts the merged image in the place of its run.
    pub(crate) fn replace(&mut self, run: Range<usize>, merged: ImageRecord) {
        let parent = self.chain.get(run.end).map(|below| below.id.clone());
        assert_eq!((&merged.id, &merged.parent), (&self.chain[run.start].id, &parent));
        assert_eq!(merged.kind == ImageKind::Full, parent.is_none());
        self.chain.splice(run, [merged]);
    }

    /// Every point whose image is in the chain restores to what the volume held then, and all images are sound.
    pub(crate) async fn check(&self) {
        for position in 0..self.chain.len() {
            let chain = &self.chain[position..];
            let of = |(record, _): &&(ImageRecord, PathBuf)| record.id == chain[0].id;
            let (_, state) = self.states.iter().find(of).unwrap();
            let size = std::fs::metadata(state).unwrap().len();
            let restored = Volume::dirty(self.folder.path().join("restored.raw"), size);
            run_restore_with(self.target.clone(), chain, &restored.path, self.ring.clone())
                .await
                .unwrap();
            assert_same(state, &restored.path);
            std::fs::remove_file(&restored.path).unwrap();
        }
        let job = VerifyJob {
            home: home(),
            images: self.chain.clone(),
            scope: VerifyScope::Full {
                from: None,
                budget: None,
            },
        };
        let progress = Arc::new(Progress::new());
        let report = verify(
            self.target.clone(),
            &job,
            self.ring.clone(),
            progress,
            CancellationToken::new(),
        );
        let report = report.await.unwrap();
        assert!(report.is_sound(), "{report:?}");
    }

    /// `qemu-img` finds nothing wrong with the files of the chain, under the names of their ids, and reads the volume.
    pub(crate) async fn check_by_qemu(&self) {
        let files = self.folder.path().join("files");
        std::fs::create_dir_all(&files).unwrap();
        for record in &self.chain {
            for shard in &record.shards {
                let bytes = self.target.get(&key(&shard.image), 1 << 30).await.unwrap().body;
                let file = files.join(record.id.file_name(shard.shard));
                std::fs::write(&file, bytes).unwrap();
            }
        }
        for record in &self.chain {
            qemu_check(&files.join(record.id.file_name(record.shards[0].shard)));
        }
        let newest = &self.chain[0];
        let state = self.states.iter().find(|(record, _)| record.id == newest.id);
        run(std::process::Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "qcow2"])
            .arg(&state.unwrap().1)
            .arg(files.join(newest.id.file_name(newest.shards[0].shard))));
        std::fs::remove_dir_all(files).unwrap();
    }
}

pub(crate) fn key(object: &ObjectRecord) -> Key {
    home().file_key(&object.key).unwrap()
}
