//! Multipart uploads as a folder each:
//!
//! ```text
//! holdfast/.work/uploads/<id>/upload.json                         which object it is to be; without it there is no upload
//! holdfast/.work/uploads/<id>/data                                the object, parts at their offsets
//! holdfast/.work/uploads/<id>/part-<number>-<offset>-<size>-<id>  these bytes of it are durable (hexadecimal, empty file)
//! ```
//! Everything that counts is a name, made after what it speaks of is durable: so an upload survives its process, and
//! another one on another node can go on with it. Whoever writes into `data` holds a shared lock on it, who ends the
//! upload an exclusive one: a late writer, such as a call nobody waits for any more, cannot touch a finished object.
use std::{fs::File, num::NonZeroU64, ops::Range, thread::sleep, time::Duration};

use rustix::{
    fs::{Advice, copy_file_range, fadvise},
    io::{Errno, retry_on_intr},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    folder::{Folder, etag, read_at, settle, size, stat, sync_data, truncate, try_lock, write_at},
    objects::{CHUNK, check_range, head, open, read_note},
    place,
    store::{find_work, work},
    trouble::{Outcome, Trouble},
    workers::Waiter,
};
use crate::{ETag, ErrorKind, Key, MAX_LIST, ObjectMeta, OpenUpload, Part, PartNumber, Pin, Prefix, Upload};

const NOTE: &str = "upload.json";
const DATA: &str = "data";
/// How long another writer is waited for.
const LOCK_TRIES: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// `upload.json`.
#[derive(Serialize, Deserialize)]
struct Note {
    key: Key,
}

/// A part that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    number: PartNumber,
    offset: u64,
    size: u64,
    id: Uuid,
}

impl Record {
    fn name(&self) -> String {
        let Self {
            number,
            offset,
            size,
            id,
        } = self;
        format!("part-{:x}-{offset:x}-{size:x}-{}", number.0, id.simple())
    }

    fn parse(name: &str) -> Option<Self> {
        let mut fields = name.strip_prefix("part-")?.split('-');
        let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
        let (part, offset, size) = (number()?, number()?, number()?);
        let record = Self {
            number: PartNumber(u32::try_from(part).ok()?),
            offset,
            size,
            id: fields.next()?.parse().ok()?,
        };
        (record.name() == name).then_some(record)
    }

    fn part(&self) -> Part {
        Part {
            number: self.number,
            etag: self.etag(),
            size: self.size,
        }
    }

    fn etag(&self) -> ETag {
        ETag::new(&self.id.simple().to_string())
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// Begins an upload.
pub(super) fn begin(root: &Folder, key: &Key) -> Outcome<Upload> {
    let uploads = work(root, "uploads")?;
    let id = Uuid::new_v4().simple().to_string();
    let folder = uploads.make_folder(&id)?;
    settle(&folder.create(DATA)?)?;
    let note = serde_json::to_vec(&Note { key: key.clone() }).expect("a key serialises");
    let draft = folder.create(".upload.json")?;
    write_at(&draft, &note, 0)?;
    settle(&draft)?;
    folder.replace(NOTE, ".upload.json")?;
    folder.sync()?;
    uploads.sync()?;
    Ok(Upload { key: key.clone(), id })
}

/// Opens the folder of an upload; one that has ended, or never was, is not found.
fn enter(root: &Folder, upload: &Upload) -> Outcome<Folder> {
    let gone = || Trouble::new(ErrorKind::NotFound, "there is no such upload, or it has ended");
    // An id that is none of ours could lead out of the folder.
    let id: Uuid = upload.id.parse().map_err(|_| gone())?;
    if id.simple().to_string() != upload.id {
        return Err(gone());
    }
    let uploads = find_work(root, "uploads")?.ok_or_else(gone)?;
    let folder = match uploads.folder(&upload.id) {
        Err(trouble) if trouble.is_absence() => return Err(gone()),
        settled => settled?,
    };
    match read_note(&folder, NOTE) {
        Err(trouble) if trouble.is_absence() => Err(gone()),
        Err(trouble) => Err(trouble),
        Ok(note) => match serde_json::from_slice::<Note>(&note) {
            Ok(note) if note.key == upload.key => Ok(folder),
            _ => Err(gone()),
        },
    }
}

/// Opens and locks the data of an upload that has not ended.
fn lock(root: &Folder, waiter: &Waiter<'_>, upload: &Upload, exclusive: bool) -> Outcome<(Folder, File)> {
    let data = enter(root, upload)?.write(DATA)?;
    let mut tries = 0;
    while !try_lock(&data, exclusive)? {
        waiter.check()?;
        tries += 1;
        if tries == LOCK_TRIES {
            let why = "another process, or another call, is writing to it or finishing it";
            return Err(Trouble::new(ErrorKind::Unreachable, why));
        }
        sleep(LOCK_PAUSE);
    }
    // Looked at again, because it may have ended before we got the lock.
    Ok((enter(root, upload)?, data))
}

/// Locks the data for writing.
fn lock_for_part(root: &Folder, waiter: &Waiter<'_>, upload: &Upload) -> Outcome<(Folder, File)> {
    let (folder, data) = lock(root, waiter, upload, false)?;
    // Its end was begun: the object has its name already.
    if stat(&data)?.st_nlink != 1 {
        return Err(Trouble::new(ErrorKind::NotFound, "the upload has ended"));
    }
    Ok((folder, data))
}

/// Takes back what is recorded of a part, before its bytes change.
fn forget(folder: &Folder, number: PartNumber) -> Outcome<()> {
    let mut changed = false;
    for record in records(folder)? {
        if record.number == number {
            folder.remove(&record.name())?;
            changed = true;
        }
    }
    if changed { folder.sync() } else { Ok(()) }
}

/// Makes a part durable, then records it.
fn record(folder: &Folder, data: &File, number: PartNumber, offset: u64, size: u64) -> Outcome<Part> {
    sync_data(data)?;
    if let Some(len) = NonZeroU64::new(size) {
        // Nobody here reads it again soon; where the system keeps it anyway, nothing is lost.
        let _ = fadvise(data, offset, Some(len), Advice::DontNeed);
    }
    let record = Record {
        number,
        offset,
        size,
        id: Uuid::new_v4(),
    };
    folder.create(&record.name())?;
    folder.sync()?;
    Ok(record.part())
}

/// Stores a part whose bytes `next` gives piece by piece, `size` in all.
pub(super) fn store_part(
    root: &Folder,
    waiter: &Waiter<'_>,
    upload: &Upload,
    (number, offset): (PartNumber, u64),
    size: u64,
    mut next: impl FnMut() -> Option<bytes::Bytes>,
) -> Outcome<Part> {
    let (folder, data) = lock_for_part(root, waiter, upload)?;
    forget(&folder, number)?;
    let mut at = offset;
    while let Some(piece) = next() {
        write_at(&data, &piece, at)?;
        at += piece.len() as u64;
    }
    // A caller that went away stopped giving.
    waiter.check()?;
    if at != offset.saturating_add(size) {
        return Err(Trouble::new(ErrorKind::Other, "its bytes stopped coming"));
    }
    record(&folder, &data, number, offset, size)
}

/// Makes a part out of bytes of an object.
pub(super) fn copy_part(
    root: &Folder,
    waiter: &Waiter<'_>,
    upload: &Upload,
    (number, offset): (PartNumber, u64),
    (source, range, pin): (&Key, &Range<u64>, &Pin),
) -> Outcome<Part> {
    let from = open(root, source)?;
    check_range(&from, range, Some(pin))?;
    let size = range.end.saturating_sub(range.start);
    if size == 0 {
        return Err(Trouble::new(ErrorKind::Other, "no part can be made of no bytes"));
    }
    let (folder, data) = lock_for_part(root, waiter, upload)?;
    forget(&folder, number)?;
    copy(&from, &data, range, offset, waiter)?;
    record(&folder, &data, number, offset, size)
}

/// Copies inside the file system where it can, else through memory.
fn copy(from: &File, to: &File, range: &Range<u64>, offset: u64, waiter: &Waiter<'_>) -> Outcome<()> {
    const AT_ONCE: u64 = 64 << 20;
    let (mut source, mut target) = (range.start, offset);
    while source < range.end {
        waiter.check()?;
        let len = usize::try_from((range.end - source).min(AT_ONCE)).expect("64 MiB");
        let copied = retry_on_intr(|| {
            let (mut read, mut written) = (source, target);
            copy_file_range(from, Some(&mut read), to, Some(&mut written), len)
        });
        match copied {
            Ok(0) => return Err(Trouble::new(ErrorKind::Changed, "it became shorter")),
            Ok(copied) => {
                source += copied as u64;
                target += copied as u64;
            }
            // The file system does not have it, or not for these files.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                return copy_through_memory(from, to, source..range.end, target, waiter);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_through_memory(
    from: &File,
    to: &File,
    range: Range<u64>,
    mut offset: u64,
    waiter: &Waiter<'_>,
) -> Outcome<()> {
    let mut source = range.start;
    let mut buffer = vec![0; CHUNK];
    while source < range.end {
        waiter.check()?;
        let len = usize::try_from((range.end - source).min(CHUNK as u64)).expect("a chunk");
        read_at(from, &mut buffer[..len], source)?;
        write_at(to, &buffer[..len], offset)?;
        source += len as u64;
        offset += len as u64;
    }
    Ok(())
}

fn records(folder: &Folder) -> Outcome<Vec<Record>> {
    let names = folder.names(|name| name.starts_with("part-"))?;
    let mut records: Vec<Record> = names
        .iter()
        .filter_map(|name| Record::parse(&name.text))
        .collect();
    records.sort_by_key(|record| record.number);
    Ok(records)
}

/// Parts that are durable, in the order of their numbers.
pub(super) fn parts(root: &Folder, upload: &Upload) -> Outcome<Vec<Part>> {
    let records = records(&enter(root, upload)?)?;
    Ok(records.iter().map(Record::part).collect())
}

/// Which records are meant, and how long the object will be; refuses what would not be the object that was written.
fn choose(records: &[Record], parts: &[Part]) -> Outcome<u64> {
    let refuse = |why: String| Err(Trouble::new(ErrorKind::Other, why));
    if parts.is_empty() {
        return refuse("no object can be made of no parts".to_owned());
    }
    let mut sorted = parts.to_vec();
    sorted.sort_by_key(|part| part.number);
    let mut chosen: Vec<&Record> = Vec::new();
    let mut end = 0;
    for part in &sorted {
        let found = records.iter().find(|record| record.part() == *part);
        let Some(record) = found else {
            return refuse(format!("part {} is not there as it was answered", part.number.0));
        };
        if record.offset != end {
            let (number, offset) = (part.number.0, record.offset);
            return refuse(format!(
                "part {number} lies at {offset}, the one before it ends at {end}"
            ));
        }
        end = record.end();
        chosen.push(record);
    }
    let foreign = |record: &&Record| record.offset < end && !chosen.contains(record);
    if let Some(other) = records.iter().find(foreign) {
        return refuse(format!("part {} was written over the others", other.number.0));
    }
    Ok(end)
}

/// Makes the object.
pub(super) fn complete(
    root: &Folder,
    waiter: &Waiter<'_>,
    upload: &Upload,
    parts: &[Part],
) -> Outcome<ObjectMeta> {
    let (folder, data) = lock(root, waiter, upload, true)?;
    let length = choose(&records(&folder)?, parts)?;
    let mut found = stat(&data)?;
    // Else it has its name already, and its entity tag: what was interrupted goes on behind that.
    if found.st_nlink == 1 {
        if size(&found) < length {
            let why = format!("{} bytes are there of parts that have {length}", size(&found));
            return Err(Trouble::new(ErrorKind::Changed, why));
        }
        if size(&found) > length {
            truncate(&data, length)?;
        }
        found = settle(&data)?;
    }
    waiter.check()?;
    if !place::publish(root, &folder, DATA, &data, &upload.key)? {
        return Err(Trouble::new(ErrorKind::Exists, "it is there already"));
    }
    // From here on the object is there; what stays of the upload is removed by whoever drops it.
    let _ = clear(root, upload, &folder);
    Ok(ObjectMeta {
        key: upload.key.clone(),
        size: length,
        etag: etag(&found),
        version: None,
        modified: found.st_mtime,
    })
}

/// Whether the object is there with this length: after an answer that nobody heard.
pub(super) fn completed(root: &Folder, upload: &Upload, parts: &[Part]) -> Outcome<Option<ObjectMeta>> {
    let length: u64 = parts.iter().map(|part| part.size).sum();
    match head(root, &upload.key) {
        Ok(meta) if meta.size == length => Ok(Some(meta)),
        Ok(_) => Ok(None),
        Err(trouble) if trouble.is_absence() => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Drops an upload.
pub(super) fn abort(root: &Folder, upload: &Upload) -> Outcome<()> {
    match enter(root, upload) {
        Ok(folder) => clear(root, upload, &folder),
        Err(trouble) if trouble.kind() == ErrorKind::NotFound => Ok(()),
        Err(trouble) => Err(trouble),
    }
}

/// Removes the folder of an upload, first what makes it one.
fn clear(root: &Folder, upload: &Upload, folder: &Folder) -> Outcome<()> {
    folder.remove(NOTE)?;
    folder.sync()?;
    empty(&work(root, "uploads")?, &upload.id, folder)
}

fn empty(uploads: &Folder, id: &str, folder: &Folder) -> Outcome<()> {
    // A late writer may add a record while the names are read.
    for _ in 0..10 {
        for name in folder.names(|_| true)? {
            // A server's own names stay as long as somebody has the file open.
            if !name.text.starts_with(".nfs") {
                folder.remove(&name.text)?;
            }
        }
        match uploads.remove_folder(id) {
            Err(trouble) if trouble.is(Errno::NOTEMPTY) || trouble.is(Errno::EXIST) => {}
            Err(trouble) if trouble.is_absence() => break,
            settled => {
                settled?;
                break;
            }
        }
    }
    uploads.sync()
}

/// Open uploads of keys with a prefix.
pub(super) fn list(root: &Folder, prefix: &Prefix) -> Outcome<Vec<OpenUpload>> {
    let mut open = Vec::new();
    let Some(uploads) = find_work(root, "uploads")? else {
        return Ok(open);
    };
    for name in uploads.names(|_| true)? {
        if open.len() == MAX_LIST as usize {
            break;
        }
        let read = || {
            let folder = uploads.folder(&name.text)?;
            Ok((read_note(&folder, NOTE)?, folder.stat(NOTE)?))
        };
        let (note, stat) = match read() {
            Err(trouble) if Trouble::is_absence(&trouble) => continue,
            settled => settled?,
        };
        let Note { key } = serde_json::from_slice(&note).map_err(|error| {
            let why = format!("the note of upload {} is damaged: {error}", name.text);
            Trouble::new(ErrorKind::Other, why)
        })?;
        if key.as_str().starts_with(prefix.as_str()) {
            open.push(OpenUpload {
                upload: Upload { key, id: name.text },
                initiated: stat.st_mtime,
            });
        }
    }
    Ok(open)
}

/// Removes folders that are no uploads, because their processes died while they began or ended, when they are older
/// than `seconds`.
pub(super) fn sweep(root: &Folder, now: i64, seconds: i64) -> Outcome<()> {
    let Some(uploads) = find_work(root, "uploads")? else {
        return Ok(());
    };
    for name in uploads.names(|_| true)? {
        let folder = match uploads.folder(&name.text) {
            Err(trouble) if trouble.is_absence() => continue,
            settled => settled?,
        };
        let changed = rustix::fs::fstat(folder.fd()).map_err(Trouble::from)?.st_mtime;
        let no_upload = matches!(folder.stat(NOTE), Err(trouble) if trouble.is_absence());
        if no_upload && now - changed > seconds {
            empty(&uploads, &name.text, &folder)?;
        }
    }
    Ok(())
}
