//! Volumes, chains and the outside judge.
use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use holdfast_mover::{BackupJob, MoverError, Progress, RestoreJob, RestoreSummary, backup, restore};
use holdfast_seal::{DataKey, KeyRing};
use holdfast_target::{
    Prefix, Target,
    layout::{ImageRecord, VolumeHome},
    list_all,
};
use tokio_util::sync::CancellationToken;

pub(crate) const MIB: u64 = 1 << 20;

/// A sparse file that stands for a block device.
pub(crate) struct Volume {
    pub(crate) path: PathBuf,
    file: File,
    seed: u64,
}

impl Volume {
    pub(crate) fn create(path: PathBuf, size: u64) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(size).unwrap();
        Self {
            path,
            file,
            seed: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Bytes that do not compress, never the same twice.
    pub(crate) fn random(&mut self, offset: u64, len: u64) {
        let mut bytes = vec![0u8; usize::try_from(len.min(MIB)).unwrap()];
        let mut at = offset;
        while at < offset + len {
            for word in bytes.chunks_mut(8) {
                self.seed ^= self.seed << 13;
                self.seed ^= self.seed >> 7;
                self.seed ^= self.seed << 17;
                word.copy_from_slice(&self.seed.to_le_bytes()[..word.len()]);
            }
            let now = usize::try_from((offset + len - at).min(MIB)).unwrap();
            self.file.write_all_at(&bytes[..now], at).unwrap();
            at += now as u64;
        }
    }

    /// Bytes that compress well.
    pub(crate) fn text(&mut self, offset: u64, len: u64) {
        let line = format!("line {} of a file that compresses well; ", self.seed);
        let bytes: Vec<u8> = line.bytes().cycle().take(usize::try_from(len).unwrap()).collect();
        self.file.write_all_at(&bytes, offset).unwrap();
    }

    /// Zeroes that are written, not holes.
    pub(crate) fn zeroes(&mut self, offset: u64, len: u64) {
        self.file
            .write_all_at(&vec![0; usize::try_from(len).unwrap()], offset)
            .unwrap();
    }

    /// A hole where there was data.
    pub(crate) fn punch(&mut self, offset: u64, len: u64) {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, offset, len).unwrap();
    }

    /// A volume full of another volume's leftovers, to be restored upon.
    pub(crate) fn dirty(path: PathBuf, size: u64) -> Self {
        let volume = Self::create(path, size);
        let junk = vec![0xa5; usize::try_from(MIB).unwrap()];
        for at in (0..size).step_by(usize::try_from(MIB).unwrap()) {
            let now = usize::try_from((size - at).min(MIB)).unwrap();
            volume.file.write_all_at(&junk[..now], at).unwrap();
        }
        volume
    }
}

/// Asserts that two files have the same bytes; says where not.
pub(crate) fn assert_same(left: &Path, right: &Path) {
    assert_eq!(
        fs::metadata(left).unwrap().len(),
        fs::metadata(right).unwrap().len(),
        "sizes"
    );
    let (mut a, mut b) = (File::open(left).unwrap(), File::open(right).unwrap());
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0u64;
    loop {
        let n = a.read(&mut x).unwrap();
        if n == 0 {
            return;
        }
        b.read_exact(&mut y[..n]).unwrap();
        if x[..n] != y[..n] {
            let first = x.iter().zip(&y).position(|(p, q)| p != q).unwrap() as u64;
            panic!(
                "{} and {} differ at byte {}",
                left.display(),
                right.display(),
                at + first
            );
        }
        at += n as u64;
    }
}

pub(crate) fn home() -> VolumeHome {
    "0c1d-cluster/0c1d-plan/0c1d-claim".parse().unwrap()
}

/// The next image of a chain (newest first) of `volume`.
pub(crate) fn backup_job(device: &Path, image: &str, parents: &[ImageRecord]) -> BackupJob {
    let cluster_size = parents.first().map_or(65536, |parent| parent.cluster_size);
    BackupJob {
        device: device.to_owned(),
        home: home(),
        image: image.parse().unwrap(),
        parents: parents.to_vec(),
        cluster_size,
        seal: None,
        heal: Vec::new(),
        source: None,
    }
}

pub(crate) async fn run_backup(target: Arc<dyn Target>, job: &BackupJob) -> Result<ImageRecord, MoverError> {
    run_backup_with(target, job, Arc::default()).await
}

pub(crate) async fn run_backup_with(
    target: Arc<dyn Target>,
    job: &BackupJob,
    keys: Arc<KeyRing>,
) -> Result<ImageRecord, MoverError> {
    backup(
        target,
        job,
        keys,
        Arc::new(Progress::new()),
        CancellationToken::new(),
    )
    .await
}

/// A data key for each of these backups.
pub(crate) fn keys(backups: &[&str]) -> Arc<KeyRing> {
    let location = |backup: &&str| format!("0c1d-cluster/0c1d-plan/{backup}").parse().unwrap();
    let made = backups.iter().map(|backup| DataKey::generate(location(backup)));
    Arc::new(KeyRing::of(made).unwrap())
}

pub(crate) async fn run_restore(
    target: Arc<dyn Target>,
    chain: &[ImageRecord],
    device: &Path,
) -> Result<RestoreSummary, MoverError> {
    run_restore_with(target, chain, device, Arc::default()).await
}

pub(crate) async fn run_restore_with(
    target: Arc<dyn Target>,
    chain: &[ImageRecord],
    device: &Path,
    keys: Arc<KeyRing>,
) -> Result<RestoreSummary, MoverError> {
    let job = RestoreJob {
        device: device.to_owned(),
        home: home(),
        chain: chain.to_vec(),
        from: 0,
    };
    restore(
        target,
        &job,
        keys,
        Arc::new(Progress::new()),
        CancellationToken::new(),
    )
    .await
}

/// Names of the objects of the home.
pub(crate) async fn names(target: &dyn Target) -> Vec<String> {
    let objects = list_all(target, &home().prefix(), 1000).await.unwrap();
    objects
        .iter()
        .map(|object| object.key.file_name().to_owned())
        .collect()
}

/// Nothing is on the target, not even an upload.
pub(crate) async fn assert_empty(target: &dyn Target) {
    assert_eq!(names(target).await, Vec::<String>::new());
    let uploads = target.list_uploads(&Prefix::root()).await.unwrap();
    assert!(uploads.is_empty(), "{uploads:?}");
}

/// Downloads everything below a prefix as plain files, with the keys as paths.
pub(crate) async fn download(target: &dyn Target, prefix: &Prefix, folder: &Path) {
    for object in list_all(target, prefix, 1000).await.unwrap() {
        let path = folder.join(object.key.as_str());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, target.get(&object.key, 1 << 30).await.unwrap().body).unwrap();
    }
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// `qemu-img check` finds nothing at all wrong with an image.
pub(crate) fn qemu_check(image: &Path) {
    let text = run(Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(image));
    assert!(text.contains("No errors were found"), "{text}");
}

/// What `qemu-img` makes of an image and its backing files.
pub(crate) fn qemu_convert(image: &Path, raw: &Path) {
    run(Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(image)
        .arg(raw));
}
