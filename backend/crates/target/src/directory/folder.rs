//! System calls below an open folder: never through a symbolic link, and repeated when a signal comes in between. What
//! changes something passes [`step`], where tests end the process.
use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps,
        UTIME_NOW,
    },
    io::{Errno, retry_on_intr},
};

use super::trouble::{Outcome, Trouble};
use crate::{ETag, ErrorKind};

/// Most names of one folder that are taken into memory.
const MAX_NAMES: usize = 1_000_000;
/// Movers of one installation run as several users that share a group, and nobody else reads backups.
const FILE_MODE: u32 = 0o660;
const FOLDER_MODE: u32 = 0o770;

/// Where tests kill a process: before every change of the file system.
fn step() {
    #[cfg(feature = "testing")]
    crate::testing::step();
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

/// A name in a folder.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) is_folder: bool,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
// Without NONBLOCK, a pipe under a name of ours would hold us up for ever.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

impl Folder {
    /// Opens the folder that a person named, which may be a link.
    pub(super) fn open(path: &Path) -> Outcome<Self> {
        let opened = retry_on_intr(|| rustix::fs::openat(CWD, path, FOLDER, Mode::empty()))?;
        Ok(Self(opened))
    }

    pub(super) fn folder(&self, name: &str) -> Outcome<Self> {
        let flags = FOLDER.union(OFlags::NOFOLLOW);
        let opened = retry_on_intr(|| rustix::fs::openat(&self.0, name, flags, Mode::empty()))?;
        Ok(Self(opened))
    }

    /// Opens a folder, which is made if it is not there.
    pub(super) fn make_folder(&self, name: &str) -> Outcome<Self> {
        match self.folder(name) {
            Err(trouble) if trouble.is(Errno::NOENT) => {}
            settled => return settled,
        }
        step();
        let made = retry_on_intr(|| rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(FOLDER_MODE)));
        if !matches!(made, Err(Errno::EXIST)) {
            made?;
        }
        let folder = self.folder(name)?;
        share(folder.0.as_fd(), FOLDER_MODE)?;
        Ok(folder)
    }

    /// Opens a file for reading.
    pub(super) fn read(&self, name: &str) -> Outcome<File> {
        self.open_file(name, FILE.union(OFlags::RDONLY))
    }

    /// Opens a file for reading and writing.
    pub(super) fn write(&self, name: &str) -> Outcome<File> {
        self.open_file(name, FILE.union(OFlags::RDWR))
    }

    fn open_file(&self, name: &str, flags: OFlags) -> Outcome<File> {
        let opened = retry_on_intr(|| rustix::fs::openat(&self.0, name, flags, Mode::empty()))?;
        let file = File::from(opened);
        is_file(&stat(&file)?)?;
        Ok(file)
    }

    /// Makes a file that was not there.
    pub(super) fn create(&self, name: &str) -> Outcome<File> {
        step();
        let flags = FILE.union(OFlags::RDWR).union(OFlags::CREATE).union(OFlags::EXCL);
        let mode = Mode::from_raw_mode(FILE_MODE);
        let file = File::from(retry_on_intr(|| rustix::fs::openat(&self.0, name, flags, mode))?);
        share(file.as_fd(), FILE_MODE)?;
        Ok(file)
    }

    /// What the system says of a file; a name that is something else is not found.
    pub(super) fn stat(&self, name: &str) -> Outcome<Stat> {
        let stat = retry_on_intr(|| rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW))?;
        is_file(&stat)?;
        Ok(stat)
    }

    /// Gives a file of this folder a name in another one, where there must be none: an `EXIST` error. What was its name
    /// here may be gone afterwards, or not.
    pub(super) fn publish(&self, name: &str, to: &Self, as_name: &str) -> Outcome<()> {
        step();
        let linked = retry_on_intr(|| rustix::fs::linkat(&self.0, name, &to.0, as_name, AtFlags::empty()));
        match linked {
            // File systems without links, and those that forbid them.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
            settled => return Ok(settled?),
        }
        let flags = RenameFlags::NOREPLACE;
        match retry_on_intr(|| rustix::fs::renameat_with(&self.0, name, &to.0, as_name, flags)) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(Trouble::new(
                ErrorKind::Other,
                "the file system can neither link files nor rename them without overwriting others, so it cannot be a target",
            )),
            settled => Ok(settled?),
        }
    }

    /// Renames inside this folder, over what is there.
    pub(super) fn replace(&self, name: &str, by: &str) -> Outcome<()> {
        step();
        Ok(retry_on_intr(|| {
            rustix::fs::renameat(&self.0, by, &self.0, name)
        })?)
    }

    /// Removes a file; one that is not there, or is a folder, counts as removed.
    pub(super) fn remove(&self, name: &str) -> Outcome<()> {
        step();
        match retry_on_intr(|| rustix::fs::unlinkat(&self.0, name, AtFlags::empty())) {
            Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            settled => Ok(settled?),
        }
    }

    /// Removes an empty folder.
    pub(super) fn remove_folder(&self, name: &str) -> Outcome<()> {
        step();
        Ok(retry_on_intr(|| {
            rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
        })?)
    }

    /// Makes names durable.
    pub(super) fn sync(&self) -> Outcome<()> {
        step();
        match retry_on_intr(|| rustix::fs::fsync(&self.0)) {
            // File systems whose names are always durable do not have the call for folders.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
            settled => {
                settled?;
                // XFS that has just shut down after an error of its disk calls a lost folder synced, but says here that
                // it is gone.
                retry_on_intr(|| rustix::fs::fstat(&self.0))?;
                Ok(())
            }
        }
    }

    /// All files and folders whose names `wanted` takes; what else may lie there is left out.
    pub(super) fn names(&self, wanted: impl Fn(&str) -> bool) -> Outcome<Vec<Name>> {
        let mut names = Vec::new();
        let mut folder = Dir::read_from(&self.0)?;
        while let Some(entry) = folder.read() {
            let entry = entry?;
            let text = entry.file_name().to_str().ok();
            let Some(text) = text.filter(|text| *text != "." && *text != ".." && wanted(text)) else {
                continue;
            };
            let kind = match entry.file_type() {
                FileType::Unknown => self.file_type(text)?,
                known => Some(known),
            };
            let is_folder = match kind {
                Some(FileType::Directory) => true,
                Some(FileType::RegularFile) => false,
                _ => continue,
            };
            if names.len() == MAX_NAMES {
                let why = format!("a folder has more than {MAX_NAMES} names");
                return Err(Trouble::new(ErrorKind::TooLarge, why));
            }
            names.push(Name {
                text: text.to_owned(),
                is_folder,
            });
        }
        Ok(names)
    }

    fn file_type(&self, name: &str) -> Outcome<Option<FileType>> {
        match retry_on_intr(|| rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets the group in, whatever the process's mask. Where only the owner may do that, the file system's own rules hold.
fn share(fd: BorrowedFd<'_>, bits: u32) -> Outcome<()> {
    let mode = retry_on_intr(|| rustix::fs::fstat(fd))?.st_mode & 0o7777;
    if mode & bits == bits {
        return Ok(());
    }
    match retry_on_intr(|| rustix::fs::fchmod(fd, Mode::from_raw_mode(mode | bits))) {
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        settled => Ok(settled?),
    }
}

fn is_file(stat: &Stat) -> Outcome<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::NOENT.into()),
        _ => Err(Errno::LOOP.into()),
    }
}

pub(super) fn stat(file: &File) -> Outcome<Stat> {
    Ok(retry_on_intr(|| rustix::fs::fstat(file))?)
}

/// Bytes of a file.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// Entity tag of a file: time of its last change and its size, which copies with times kept have too.
pub(super) fn etag(stat: &Stat) -> ETag {
    let nanos = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    ETag::new(&format!("{:x}-{:x}", nanos, size(stat)))
}

/// Whether both are the same file.
pub(super) fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> Outcome<()> {
    step();
    Ok(file.write_all_at(bytes, offset)?)
}

pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Outcome<()> {
    Ok(file.read_exact_at(bytes, offset)?)
}

pub(super) fn truncate(file: &File, size: u64) -> Outcome<()> {
    step();
    Ok(retry_on_intr(|| rustix::fs::ftruncate(file, size))?)
}

/// Makes what was written, and the size, durable.
pub(super) fn sync_data(file: &File) -> Outcome<()> {
    step();
    Ok(retry_on_intr(|| rustix::fs::fdatasync(file))?)
}

/// Settles the time of the last change, by the clock of whoever keeps the file, and makes everything durable: from now
/// on the entity tag stays, also after a power cut.
pub(super) fn settle(file: &File) -> Outcome<Stat> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    step();
    retry_on_intr(|| rustix::fs::futimens(file, &times))?;
    step();
    retry_on_intr(|| rustix::fs::fsync(file))?;
    stat(file)
}

/// Takes a lock without waiting; `false` where another holds one that excludes it.
pub(super) fn try_lock(file: &File, exclusive: bool) -> Outcome<bool> {
    let operation = match exclusive {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    match retry_on_intr(|| rustix::fs::flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Err(Trouble::new(
            ErrorKind::Other,
            "the file system has no locks, so that two writers could spoil each other's work; of an NFS server the lock \
             service must be reachable",
        )),
        Err(errno) => Err(errno.into()),
    }
}
