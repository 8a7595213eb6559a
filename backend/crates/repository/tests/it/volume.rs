//! Files that stand for the volumes of an application.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_target::layout::Uid;
use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;

use crate::rng::Rng;

/// What devices count in.
const SECTOR: u64 = 512;

/// A folder for files that need not outlive the test, in memory where there is such a place.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    };
    tempfile::Builder::new()
        .prefix("holdfast-random-")
        .tempdir_in(place)
        .unwrap()
}

/// A volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) claim: Uid,
    pub(crate) path: PathBuf,
    /// Of the chains that begin with it.
    pub(crate) cluster_size: u32,
    /// It grows up to this.
    largest: u64,
}

impl Volume {
    pub(crate) fn create(folder: &Path, claim: &str, size: u64, cluster_size: u32) -> Self {
        let volume = Self {
            claim: claim.parse().unwrap(),
            path: folder.join(claim),
            cluster_size,
            // Devices end with a sector.
            largest: (size + size / 2) / SECTOR * SECTOR,
        };
        let options = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&volume.path);
        options.unwrap().set_len(size).unwrap();
        volume
    }

    /// The volume that an earlier process made there.
    pub(crate) fn open(folder: &Path, claim: &str, cluster_size: u32) -> Self {
        let path = folder.join(claim);
        let size = fs::metadata(&path).unwrap().len();
        Self {
            claim: claim.parse().unwrap(),
            path,
            cluster_size,
            largest: size,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    fn file(&self) -> File {
        OpenOptions::new().write(true).open(&self.path).unwrap()
    }

    fn range(&self, rng: &mut Rng, longest: u64) -> (u64, u64) {
        let size = self.size();
        let start = rng.below(size / SECTOR) * SECTOR;
        let len = (1 + rng.below(longest / SECTOR)) * SECTOR;
        (start, len.min(size - start))
    }

    /// Writes something somewhere: noise, or text that compresses.
    pub(crate) fn write(&self, rng: &mut Rng, longest: u64) -> String {
        let (start, len) = self.range(rng, longest);
        let count = usize::try_from(len).unwrap();
        let bytes = match rng.percent(60) {
            true => rng.bytes(count),
            false => {
                let line = format!("entry {} of a journal; ", rng.next());
                line.bytes().cycle().take(count).collect()
            }
        };
        self.file().write_all_at(&bytes, start).unwrap();
        format!("write {len} at {start} of {}", self.claim)
    }

    /// Fills the volume with noise.
    pub(crate) fn fill(&self, rng: &mut Rng) {
        let count = usize::try_from(self.size()).unwrap();
        self.file().write_all_at(&rng.bytes(count), 0).unwrap();
    }

    /// Writes zeroes somewhere.
    pub(crate) fn zero(&self, rng: &mut Rng) -> String {
        let (start, len) = self.range(rng, self.size() / 3 + SECTOR);
        let zeroes = vec![0; usize::try_from(len).unwrap()];
        self.file().write_all_at(&zeroes, start).unwrap();
        format!("zero {len} at {start} of {}", self.claim)
    }

    /// Frees a range.
    pub(crate) fn trim(&self, rng: &mut Rng) -> String {
        let (start, len) = self.range(rng, self.size() / 2 + SECTOR);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(self.file(), flags, start, len).unwrap();
        format!("trim {len} at {start} of {}", self.claim)
    }

    /// Makes it larger, if it may be.
    pub(crate) fn grow(&self, rng: &mut Rng) -> String {
        let more = (1 + rng.below(300)) * SECTOR;
        let size = self.largest.min(self.size() + more);
        self.file().set_len(size).unwrap();
        format!("grow {} to {size}", self.claim)
    }

    /// What it holds. `before` is given back where that is the same.
    pub(crate) fn content(&self, before: Option<&Arc<[u8]>>) -> Arc<[u8]> {
        let bytes = fs::read(&self.path).unwrap();
        match before {
            Some(before) if **before == *bytes => before.clone(),
            _ => bytes.into(),
        }
    }
}
