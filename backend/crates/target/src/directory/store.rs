//! What makes a folder a store: a file that says which one. Without it, an empty mount point whose server is away would
//! be taken for an empty store, and backups would be written beside it.
use std::{fmt, fs::File, path::Path, str::FromStr};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    folder::{Folder, read_at, settle, size, stat, write_at},
    list::is_ours,
    trouble::{Outcome, Trouble},
};
use crate::{ErrorKind, layout::FORMAT_VERSION};

/// The one folder in a store that everything of ours lies in.
const FOLDER: &str = "holdfast";
/// Says which store it is.
const MARKER: &str = ".store.json";
/// Work in progress.
const WORK: &str = ".work";
/// Largest marker that is read, in bytes.
const MAX_MARKER: u64 = 4096;

/// Which store a folder is: a random UUID that was made with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(Uuid);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for StoreId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// `.store.json`.
#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
    id: StoreId,
}

/// What must be in a folder for it to be taken as a store.
#[derive(Clone, Debug)]
pub(super) enum Expect {
    /// This store.
    Store(StoreId),
    /// Any store; an empty folder becomes one.
    AnyFolder,
    /// Any store; an empty folder becomes one if something is mounted there.
    AnyMount,
}

/// An open store.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) root: Folder,
    /// Absent where none can be written and somebody lost the file.
    pub(super) id: Option<StoreId>,
}

impl Store {
    /// Opens the store in a folder.
    pub(super) fn open(path: &Path, expect: &Expect) -> Outcome<Self> {
        let root = match Folder::open(path) {
            Err(trouble) if trouble.kind() == ErrorKind::NotFound => {
                return Err(not_mounted("there is no such folder".to_owned()));
            }
            settled => settled?,
        };
        let found = read_marker(&root)?;
        match (expect, found) {
            (Expect::Store(wanted), Some(found)) if *wanted != found => Err(not_mounted(format!(
                "the folder holds the store {found}, expected is {wanted}"
            ))),
            (Expect::Store(wanted), None) => Err(not_mounted(format!(
                "the folder does not hold the store {wanted}, nor any other"
            ))),
            (_, Some(id)) => Ok(Self { root, id: Some(id) }),
            (_, None) if has_content(&root)? => match make_marker(&root) {
                Ok(id) => Ok(Self { root, id: Some(id) }),
                // It can be read all the same.
                Err(trouble) if trouble.kind() == ErrorKind::Denied => Ok(Self { root, id: None }),
                Err(trouble) => Err(trouble),
            },
            (Expect::AnyMount, None) if !is_mount_point(&root, path)? => Err(not_mounted(
                "the folder is empty, and nothing is mounted there".to_owned(),
            )),
            (_, None) => {
                let id = make_marker(&root)?;
                Ok(Self { root, id: Some(id) })
            }
        }
    }
}

fn not_mounted(why: String) -> Trouble {
    Trouble::new(ErrorKind::NotMounted, why)
}

/// A folder for work in progress, if there is one.
pub(super) fn find_work(root: &Folder, kind: &str) -> Outcome<Option<Folder>> {
    match root
        .folder(FOLDER)
        .and_then(|ours| ours.folder(WORK)?.folder(kind))
    {
        Err(trouble) if trouble.is_absence() => Ok(None),
        settled => settled.map(Some),
    }
}

/// A folder for work in progress.
pub(super) fn work(root: &Folder, kind: &str) -> Outcome<Folder> {
    if let Some(there) = find_work(root, kind)? {
        return Ok(there);
    }
    let ours = root.make_folder(FOLDER)?;
    let work = ours.make_folder(WORK)?;
    let made = work.make_folder(kind)?;
    work.sync()?;
    ours.sync()?;
    Ok(made)
}

/// Whether the marker is still the one that it was.
pub(super) fn check(root: &Folder, id: Option<&StoreId>) -> Outcome<()> {
    match (read_marker(root)?, id) {
        (found, Some(id)) if found.as_ref() != Some(id) => Err(not_mounted(format!(
            "the folder does not hold the store {id} any more"
        ))),
        _ => Ok(()),
    }
}

fn read_marker(root: &Folder) -> Outcome<Option<StoreId>> {
    let read = root.folder(FOLDER).and_then(|ours| ours.read(MARKER));
    let file = match read {
        Err(trouble) if trouble.kind() == ErrorKind::NotFound => return Ok(None),
        settled => settled?,
    };
    let bytes = read_whole(&file, MAX_MARKER)?;
    let marker: Marker = serde_json::from_slice(&bytes).map_err(|error| {
        let why = format!("holdfast/{MARKER} is damaged: {error}");
        Trouble::new(ErrorKind::NotMounted, why)
    })?;
    if marker.format > FORMAT_VERSION {
        let why = format!(
            "holdfast/{MARKER} has format version {}, this program reads up to {FORMAT_VERSION}",
            marker.format
        );
        return Err(Trouble::new(ErrorKind::Other, why));
    }
    Ok(Some(marker.id))
}

/// All bytes of a file that should be small.
pub(super) fn read_whole(file: &File, max: u64) -> Outcome<Vec<u8>> {
    let size = size(&stat(file)?);
    if size > max {
        let why = format!("it has {size} bytes, more than {max}");
        return Err(Trouble::new(ErrorKind::TooLarge, why));
    }
    let mut bytes = vec![0; usize::try_from(size).expect("a size in memory")];
    read_at(file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Makes a new store, or finds the one that a rival made first.
fn make_marker(root: &Folder) -> Outcome<StoreId> {
    let id = StoreId(Uuid::new_v4());
    let marker = Marker {
        format: FORMAT_VERSION,
        id: id.clone(),
    };
    let bytes = serde_json::to_vec(&marker).expect("a number and a text serialise");
    let new = work(root, "new")?;
    root.sync()?;
    let name = Uuid::new_v4().to_string();
    let file = new.create(&name)?;
    write_at(&file, &bytes, 0)?;
    settle(&file)?;
    let ours = root.folder(FOLDER)?;
    let published = new.publish(&name, &ours, MARKER);
    new.remove(&name)?;
    ours.sync()?;
    match published {
        Ok(()) => Ok(id),
        Err(trouble) if trouble.kind() == ErrorKind::Exists => {
            read_marker(root)?.ok_or_else(|| not_mounted(format!("holdfast/{MARKER} came and went")))
        }
        Err(trouble) => Err(trouble),
    }
}

fn has_content(root: &Folder) -> Outcome<bool> {
    match root.folder(FOLDER) {
        Ok(ours) => Ok(!ours.names(is_ours)?.is_empty()),
        Err(trouble) if trouble.kind() == ErrorKind::NotFound => Ok(false),
        Err(trouble) => Err(trouble),
    }
}

/// Whether something is mounted at this very folder.
fn is_mount_point(root: &Folder, path: &Path) -> Outcome<bool> {
    let found = rustix::fs::statx(root.fd(), "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    if let Ok(found) = found
        && found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // Kernels before 5.8: another device than that of the folder above.
    let above = Folder::open(&path.join(".."))?;
    let device = |folder: &Folder| rustix::fs::fstat(folder.fd()).map(|stat| stat.st_dev);
    Ok(device(root)? != device(&above)?)
}
