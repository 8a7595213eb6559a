//! Disks that are larger than the machine.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Bytes at the begin of each GiB of a dense disk that do not compress at all.
const NOISE: u64 = 64 * MIB;
/// Bytes behind the last data that are left alone: what is being written may come out of order.
const MARGIN: u64 = 512 * MIB;

/// A file that stands for a disk.
pub(crate) struct Volume {
    path: PathBuf,
    file: File,
    size: u64,
    state: u64,
}

impl Volume {
    pub(crate) fn create(path: &Path, size: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(path)?;
        file.set_len(size)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            state: 0x9e37_79b9_7f4a_7c15,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that do not compress, never the same twice.
    pub(crate) fn noise(&mut self, at: u64, len: usize) -> Result<()> {
        let mut bytes = vec![0; len];
        for word in bytes.chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes()[..word.len()]);
        }
        Ok(self.file.write_all_at(&bytes, at)?)
    }

    pub(crate) fn punch(&self, at: u64, len: u64) -> Result<()> {
        Ok(punch(&self.file, at, len)?)
    }

    /// Fills the disk: one GiB of clusters, the first ones all noise, of the others an eighth, and then the same extents
    /// again and again.
    pub(crate) fn fill_dense(&mut self) -> Result<()> {
        let first = GIB.min(self.size);
        let cluster = 64 << 10;
        for at in (0..first).step_by(MIB as usize) {
            let text: Vec<u8> = (at / 8..).flat_map(u64::to_le_bytes).take(MIB as usize).collect();
            self.file.write_all_at(&text, at)?;
            for at in (at..at + MIB).step_by(cluster) {
                self.noise(at, if at < NOISE { cluster } else { cluster / 8 })?;
            }
        }
        self.file.sync_all()?;
        for begin in (first..self.size).step_by(GIB as usize) {
            let (mut from, mut to) = (0, begin);
            while to < (begin + GIB).min(self.size) {
                let wanted = ((begin + GIB).min(self.size) - to) as usize;
                let copied = copy_file_range(&self.file, Some(&mut from), &self.file, Some(&mut to), wanted)?;
                ensure!(copied > 0, "the disk's first GiB ended early");
            }
        }
        Ok(())
    }
}

fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, at, len)?)
}

/// A file system of its own, gone with this.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// An XFS in a sparse file, which shares extents among files.
    pub(crate) fn xfs(at: &Path, size: u64) -> Result<Self> {
        let image = at.with_extension("xfs");
        File::create_new(&image)?.set_len(size)?;
        run(Command::new("mkfs.xfs")
            .args(["-q", "-m", "reflink=1"])
            .arg(&image))?;
        fs::create_dir(at)?;
        run(Command::new("mount").args(["-o", "loop"]).args([&image, at]))?;
        Ok(Self(at.to_owned()))
    }

    /// Memory as files.
    pub(crate) fn tmpfs(at: &Path, size: u64) -> Result<Self> {
        fs::create_dir(at)?;
        let size = format!("size={size}");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "peak"])
            .arg(at))?;
        Ok(Self(at.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Files in it may still be open; the file system goes when they are closed.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// Takes away again what is written to a file, so that it holds little at any time.
pub(crate) struct Puncher {
    thread: JoinHandle<io::Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Puncher {
    /// For a file that is written from its begin to its end.
    pub(crate) fn behind(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut done = 0;
            while !stopped.load(Ordering::Relaxed) {
                let behind = last_data(&file, done)?.saturating_sub(MARGIN);
                if behind > done {
                    punch(&file, done, behind - done)?;
                    done = behind;
                }
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        Ok(Self { thread, stop })
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        Ok(ended.map_err(|_| io::Error::other("the thread that punches panicked"))??)
    }
}

/// End of the last data behind `from`.
fn last_data(file: &File, from: u64) -> io::Result<u64> {
    let mut end = from;
    loop {
        match seek(file, SeekFrom::Data(end)) {
            Ok(data) => end = seek(file, SeekFrom::Hole(data))?,
            Err(rustix::io::Errno::NXIO) => return Ok(end),
            Err(error) => return Err(error.into()),
        }
    }
}
