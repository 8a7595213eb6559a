//! Block devices, and files that stand for them: read and written past the node's page cache.
use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use holdfast_qcow2::is_zero;
use rustix::{
    fs::{Advice, FallocateFlags, OFlags},
    io::Errno,
};

use crate::{
    MoverError,
    buffer::{ALIGNMENT, AlignedBuffer},
    job::Zeroing,
};

/// A device opened twice: with O_DIRECT where that is possible, and buffered for what is not aligned.
#[derive(Debug)]
pub(crate) struct Device {
    path: PathBuf,
    buffered: File,
    direct: Option<File>,
    /// Some file systems take the flag at open and refuse the first transfer.
    direct_works: AtomicBool,
    size: u64,
}

impl Device {
    /// For reading.
    pub(crate) fn open(path: &Path) -> Result<Self, MoverError> {
        Self::open_with(path, OpenOptions::new().read(true))
    }

    /// For writing over; never creates a file.
    pub(crate) fn open_for_writing(path: &Path) -> Result<Self, MoverError> {
        Self::open_with(path, OpenOptions::new().read(true).write(true))
    }

    fn open_with(path: &Path, options: &OpenOptions) -> Result<Self, MoverError> {
        let device = path.to_owned();
        let fail = |what, source| MoverError::Device {
            device: path.to_owned(),
            what,
            offset: 0,
            source,
        };
        let mut buffered = options.open(path).map_err(|source| fail("opening", source))?;
        let kind = buffered
            .metadata()
            .map_err(|source| fail("opening", source))?
            .file_type();
        if !(kind.is_file() || kind.is_block_device()) {
            return Err(MoverError::Job(format!(
                "{} is neither a block device nor a file",
                path.display()
            )));
        }
        // The end of a block device is its size; no ioctl, which needs unsafe code.
        let size = buffered
            .seek(SeekFrom::End(0))
            .map_err(|source| fail("measuring", source))?;
        if size == 0 || size % 512 != 0 {
            return Err(MoverError::Job(format!(
                "{} has {size} bytes, which no block device has",
                path.display()
            )));
        }
        let flags = i32::try_from(OFlags::DIRECT.bits()).expect("O_DIRECT is a small flag");
        let direct = options.clone().custom_flags(flags).open(path).ok();
        Ok(Self {
            path: device,
            buffered,
            direct,
            direct_works: AtomicBool::new(true),
            size,
        })
    }

    /// Bytes of the device.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn fail(&self, what: &'static str, offset: u64, source: io::Error) -> MoverError {
        MoverError::Device {
            device: self.path.clone(),
            what,
            offset,
            source,
        }
    }

    /// The O_DIRECT file, if the transfer may use it.
    fn direct_for(&self, offset: u64, len: usize) -> Option<&File> {
        let aligned = offset.is_multiple_of(ALIGNMENT) && (len as u64).is_multiple_of(ALIGNMENT);
        self.direct
            .as_ref()
            .filter(|_| aligned && self.direct_works.load(Ordering::Relaxed))
    }

    /// Reads `len` bytes at `offset` into the start of `buffer`, whose whole length may be used for it.
    pub(crate) fn read(&self, offset: u64, len: usize, buffer: &mut AlignedBuffer) -> Result<(), MoverError> {
        let mut read = 0;
        // At the end of the device the aligned read is longer than what is there, and comes back short.
        let whole = len.next_multiple_of(ALIGNMENT as usize).min(buffer.len());
        while read < len {
            let at = offset + read as u64;
            let Some(direct) = self.direct_for(at, whole - read) else {
                break;
            };
            match direct.read_at(&mut buffer[read..whole], at) {
                Ok(0) => return Err(self.fail("reading", at, io::ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.direct_works.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(self.fail("reading", at, error)),
            }
        }
        if read < len {
            let at = offset + read as u64;
            self.buffered
                .read_exact_at(&mut buffer[read..len], at)
                .map_err(|error| self.fail("reading", at, error))?;
            self.forget(at, (len - read) as u64);
        }
        Ok(())
    }

    /// Tells the kernel that what was read will not be read again. Only advice, so its failure does not matter.
    fn forget(&self, offset: u64, len: u64) {
        let _ = rustix::fs::fadvise(
            &self.buffered,
            offset,
            std::num::NonZeroU64::new(len),
            Advice::DontNeed,
        );
    }

    /// The next range at or after `offset` that may hold something else than zeroes; `None` when there is no more.
    /// Block devices have no holes to tell.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, MoverError> {
        let seek = |from| rustix::fs::seek(&self.buffered, from);
        let fail = |error: Errno| self.fail("looking for holes", offset, error.into());
        match seek(rustix::fs::SeekFrom::Data(offset)) {
            Ok(start) if start >= self.size => Ok(None),
            Ok(start) => {
                let end = seek(rustix::fs::SeekFrom::Hole(start)).map_err(fail)?;
                Ok(Some(start..end.min(self.size)))
            }
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset..self.size)),
            Err(error) => Err(fail(error)),
        }
    }

    /// Writes `bytes`, whose address should be aligned, at `offset`.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MoverError> {
        let fail = |error| self.fail("writing", offset, error);
        if let Some(direct) = self.direct_for(offset, bytes.len()) {
            match direct.write_all_at(bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.direct_works.store(false, Ordering::Relaxed);
                }
                settled => return settled.map_err(fail),
            }
        }
        self.buffered.write_all_at(bytes, offset).map_err(fail)
    }

    /// Asks the kernel to zero a range and give its space back. Unlike discard this promises zeroes, for files and for
    /// block devices (fallocate(2), FALLOC_FL_PUNCH_HOLE), and needs no privilege. `false`: it cannot.
    pub(crate) fn punch(&self, range: &Range<u64>) -> Result<bool, MoverError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.buffered, flags, range.start, range.end - range.start) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::NODEV) => Ok(false),
            Err(error) => Err(self.fail("zeroing", range.start, error.into())),
        }
    }

    /// Whether first, last and one arbitrary block of a range read as zeroes.
    pub(crate) fn samples_are_zero(
        &self,
        range: &Range<u64>,
        buffer: &mut AlignedBuffer,
    ) -> Result<bool, MoverError> {
        let block = ALIGNMENT.min(range.end - range.start);
        let blocks = (range.end - range.start) / block;
        // Spread over the volume without a generator: a multiplicative hash of the offset.
        let arbitrary = range.start.wrapping_mul(0x9e37_79b9_7f4a_7c15) % blocks;
        for at in [range.start, range.start + arbitrary * block, range.end - block] {
            let len = usize::try_from(block).expect("a block is small");
            self.read(at, len, buffer)?;
            if !is_zero(&buffer[..len]) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until everything written is on the device.
    pub(crate) fn sync(&self) -> Result<(), MoverError> {
        self.buffered
            .sync_all()
            .map_err(|error| self.fail("flushing", 0, error))
    }
}

/// How a restore zeroes, and whether the kernel still does it for us.
#[derive(Debug)]
pub(crate) struct Zeroer {
    device: Arc<Device>,
    punch: AtomicBool,
}

/// A range that was punched and does not read as zeroes: the device lies.
#[derive(Debug)]
pub(crate) struct PunchLied;

impl Zeroer {
    pub(crate) fn new(device: Arc<Device>, zeroing: Zeroing) -> Self {
        Self {
            device,
            punch: AtomicBool::new(zeroing == Zeroing::Punched),
        }
    }

    /// How ranges are zeroed by now.
    pub(crate) fn zeroing(&self) -> Zeroing {
        if self.punch.load(Ordering::Relaxed) {
            Zeroing::Punched
        } else {
            Zeroing::Written
        }
    }

    /// Zeroes a range; `scratch` is overwritten. Calls `each` for every piece done, which may stop it.
    pub(crate) fn zero(
        &self,
        range: Range<u64>,
        scratch: &mut AlignedBuffer,
        mut each: impl FnMut(u64) -> Result<(), MoverError>,
    ) -> Result<Result<(), PunchLied>, MoverError> {
        if self.punch.load(Ordering::Relaxed) {
            if self.device.punch(&range)? {
                if !self.device.samples_are_zero(&range, scratch)? {
                    return Ok(Err(PunchLied));
                }
                each(range.end - range.start)?;
                return Ok(Ok(()));
            }
            self.punch.store(false, Ordering::Relaxed);
        }
        scratch.fill(0);
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(scratch.len() as u64);
            self.device.write(
                at,
                &scratch[..usize::try_from(len).expect("a piece fits its buffer")],
            )?;
            at += len;
            each(len)?;
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn reads_and_writes_any_sector_range() {
        let bytes: Vec<u8> = (0..40 * 512u32).map(|n| (n / 7) as u8).collect();
        let file = file(&bytes);
        let device = Device::open_for_writing(file.path()).unwrap();
        assert_eq!(device.size(), 40 * 512);
        let mut buffer = AlignedBuffer::new(1 << 20);
        for (offset, len) in [(0, 20480), (4096, 8192), (512, 1024), (16384, 4096), (19968, 512)] {
            device.read(offset, len, &mut buffer).unwrap();
            assert_eq!(buffer[..len], bytes[offset as usize..][..len], "{offset}+{len}");
        }
        buffer.fill(9);
        device.write(4096, &buffer[..4096]).unwrap();
        device.write(19968, &buffer[..512]).unwrap();
        device.sync().unwrap();
        let now = std::fs::read(file.path()).unwrap();
        assert!(now[4096..8192].iter().chain(&now[19968..]).all(|byte| *byte == 9));
        assert_eq!(now[8192..19968], bytes[8192..19968]);
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(matches!(Device::open(Path::new("/")), Err(MoverError::Job(_))));
        assert!(matches!(
            Device::open(Path::new("/dev/null")),
            Err(MoverError::Job(_))
        ));
        assert!(matches!(
            Device::open(file(&[1; 100]).path()),
            Err(MoverError::Job(_))
        ));
        assert!(matches!(
            Device::open(Path::new("/no/such/device")),
            Err(MoverError::Device { .. })
        ));
    }

    #[test]
    fn both_ways_of_zeroing_zero() {
        for zeroing in [Zeroing::Punched, Zeroing::Written] {
            let file = file(&[7; 1 << 20]);
            let device = Arc::new(Device::open_for_writing(file.path()).unwrap());
            let mut scratch = AlignedBuffer::new(64 << 10);
            let zeroer = Zeroer::new(device, zeroing);
            let mut seen = 0;
            let count = |bytes| {
                seen += bytes;
                Ok(())
            };
            zeroer
                .zero(4096..(1 << 20) - 512, &mut scratch, count)
                .unwrap()
                .unwrap();
            assert_eq!((seen, zeroer.zeroing()), ((1 << 20) - 512 - 4096, zeroing));
            let now = std::fs::read(file.path()).unwrap();
            assert!(now[4096..(1 << 20) - 512].iter().all(|byte| *byte == 0));
            assert!(
                now[..4096]
                    .iter()
                    .chain(&now[(1 << 20) - 512..])
                    .all(|byte| *byte == 7)
            );
        }
    }

    #[test]
    fn samples_notice_a_device_that_did_not_zero() {
        let file = file(&[7; 64 << 10]);
        let device = Device::open(file.path()).unwrap();
        assert!(
            !device
                .samples_are_zero(&(0..64 << 10), &mut AlignedBuffer::new(4096))
                .unwrap()
        );
    }

    #[test]
    fn holes_of_files_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        file.as_file().write_all_at(&[1; 4096], 32 << 20).unwrap();
        let device = Device::open(file.path()).unwrap();
        let data = device.next_data(0).unwrap().unwrap();
        assert!(
            data.start <= 32 << 20 && data.end >= (32 << 20) + 4096,
            "{data:?}"
        );
        if data.start > 0 {
            assert_eq!(device.next_data(data.end).unwrap(), None);
        }
    }
}
