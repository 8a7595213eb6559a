//! Whole objects: written beside, made durable, then given their name at once.
use std::{fs::File, ops::Range};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    folder::{Folder, etag, read_at, settle, size, stat, write_at},
    place::{self, Place},
    store::{read_whole, work},
    trouble::{Outcome, Trouble},
    workers::Waiter,
};
use crate::{ErrorKind, Key, Object, ObjectMeta, Pin};

/// Bytes that are written or read between two looks at whether anybody still waits.
pub(super) const CHUNK: usize = 4 << 20;

/// What came of an attempt to create an object.
pub(super) enum Written {
    Created(ObjectMeta),
    /// There is one of this name.
    Taken,
}

/// A file without a name of ours yet; removed with the value. (The system removes what a killed process leaves only by
/// [`sweep`].)
struct Draft {
    folder: Folder,
    name: String,
    file: File,
}

impl Draft {
    fn new(root: &Folder) -> Outcome<Self> {
        let folder = work(root, "new")?;
        let name = Uuid::new_v4().to_string();
        let file = folder.create(&name)?;
        Ok(Self { folder, name, file })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What stays is swept later.
        let _ = self.folder.remove(&self.name);
    }
}

/// Creates an object unless there is one.
pub(super) fn create(root: &Folder, waiter: &Waiter<'_>, key: &Key, body: &[u8]) -> Outcome<Written> {
    match head(root, key) {
        Err(trouble) if trouble.is_absence() => {}
        settled => return settled.map(|_| Written::Taken),
    }
    let draft = Draft::new(root)?;
    let mut offset = 0;
    for chunk in body.chunks(CHUNK) {
        waiter.check()?;
        write_at(&draft.file, chunk, offset)?;
        offset += chunk.len() as u64;
    }
    let settled = settle(&draft.file)?;
    waiter.check()?;
    match place::publish(root, &draft.folder, &draft.name, &draft.file, key)? {
        true => Ok(Written::Created(meta(key, &settled))),
        false => Ok(Written::Taken),
    }
}

/// Whether the object has exactly these bytes.
pub(super) fn holds(
    root: &Folder,
    waiter: &Waiter<'_>,
    key: &Key,
    body: &[u8],
) -> Outcome<Option<ObjectMeta>> {
    let object = match read(root, waiter, key, body.len() as u64) {
        Err(trouble) if matches!(trouble.kind(), ErrorKind::TooLarge | ErrorKind::NotFound) => {
            return Ok(None);
        }
        settled => settled?,
    };
    if object.body != body {
        return Ok(None);
    }
    // A rival's folders may not be durable yet, and ours is about to be believed.
    place::sync(root, key)?;
    Ok(Some(object.meta))
}

pub(super) fn head(root: &Folder, key: &Key) -> Outcome<ObjectMeta> {
    let place = Place::of(root, key)?;
    Ok(meta(key, &place.parent().stat(place.name)?))
}

fn meta(key: &Key, stat: &rustix::fs::Stat) -> ObjectMeta {
    ObjectMeta {
        key: key.clone(),
        size: size(stat),
        etag: etag(stat),
        version: None,
        modified: stat.st_mtime,
    }
}

/// Opens an object for reading.
pub(super) fn open(root: &Folder, key: &Key) -> Outcome<File> {
    let place = Place::of(root, key)?;
    place.parent().read(place.name)
}

pub(super) fn read(root: &Folder, waiter: &Waiter<'_>, key: &Key, max: u64) -> Outcome<Object> {
    let file = open(root, key)?;
    let found = stat(&file)?;
    if size(&found) > max {
        return Err(Trouble::new(
            ErrorKind::TooLarge,
            format!("it has more than {max} bytes"),
        ));
    }
    let body = range(&file, waiter, 0..size(&found))?;
    let meta = meta(key, &found);
    Ok(Object { meta, body })
}

pub(super) fn read_range(
    root: &Folder,
    waiter: &Waiter<'_>,
    key: &Key,
    wanted: Range<u64>,
    pin: Option<&Pin>,
) -> Outcome<Bytes> {
    let file = open(root, key)?;
    check_range(&file, &wanted, pin)?;
    range(&file, waiter, wanted)
}

/// Whether this is the pinned file, and has these bytes.
pub(super) fn check_range(file: &File, wanted: &Range<u64>, pin: Option<&Pin>) -> Outcome<()> {
    let found = stat(file)?;
    let tag = etag(&found);
    if pin.is_some_and(|pin| pin.etag != tag) {
        let why = format!("it has another ETag now ({})", tag.as_str());
        return Err(Trouble::new(ErrorKind::Changed, why));
    }
    let end = size(&found);
    if wanted.end > end {
        let why = format!(
            "it ends at byte {end}, before or inside {}..{}",
            wanted.start, wanted.end
        );
        return Err(Trouble::new(ErrorKind::Changed, why));
    }
    Ok(())
}

/// Bytes that the file has.
fn range(file: &File, waiter: &Waiter<'_>, wanted: Range<u64>) -> Outcome<Bytes> {
    let len = usize::try_from(wanted.end - wanted.start)
        .map_err(|_| Trouble::new(ErrorKind::TooLarge, "it does not fit into memory"))?;
    let mut bytes = vec![0; len];
    let mut offset = wanted.start;
    for chunk in bytes.chunks_mut(CHUNK) {
        waiter.check()?;
        read_at(file, chunk, offset)?;
        offset += chunk.len() as u64;
    }
    Ok(bytes.into())
}

/// Removes an object and the folders that it leaves empty.
pub(super) fn remove(root: &Folder, key: &Key) -> Outcome<()> {
    place::remove(root, key)?;
    place::prune(root, key);
    Ok(())
}

/// Removes drafts that are older than `seconds`: their processes are dead. Gives the time by the clock of the store.
pub(super) fn sweep(root: &Folder, seconds: i64) -> Outcome<i64> {
    let draft = Draft::new(root)?;
    let now = settle(&draft.file)?.st_mtime;
    for name in draft.folder.names(|_| true)? {
        let old = |stat: rustix::fs::Stat| now - stat.st_mtime > seconds;
        match draft.folder.stat(&name.text) {
            Ok(stat) if old(stat) => draft.folder.remove(&name.text)?,
            Err(trouble) if !trouble.is_absence() => return Err(trouble),
            _ => {}
        }
    }
    Ok(now)
}

/// A small file of a folder for work in progress.
pub(super) fn read_note(folder: &Folder, name: &str) -> Outcome<Vec<u8>> {
    const MAX_NOTE: u64 = 16 << 10;
    read_whole(&folder.read(name)?, MAX_NOTE)
}
