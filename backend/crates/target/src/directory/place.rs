//! Where keys lie: the folders on the way, made, made durable and removed.
use super::{
    folder::{Folder, same, stat},
    trouble::{Outcome, Trouble},
};
use crate::{ErrorKind, Key};

use std::fs::File;

/// How often a folder may be removed under us before we give up: each time somebody else got on.
const TRIES: u32 = 100;

/// The folders from the root to a key's file, which may or may not be there.
#[derive(Debug)]
pub(super) struct Place<'a> {
    folders: Vec<Folder>,
    pub(super) name: &'a str,
}

impl<'a> Place<'a> {
    /// Opens the folders of a key; one that is missing is a `NOENT` error.
    pub(super) fn of(root: &Folder, key: &'a Key) -> Outcome<Self> {
        Self::walk(root, key, Folder::folder)
    }

    fn walk(root: &Folder, key: &'a Key, step: impl Fn(&Folder, &str) -> Outcome<Folder>) -> Outcome<Self> {
        let (path, name) = key.as_str().rsplit_once('/').unwrap_or_default();
        let mut folders: Vec<Folder> = Vec::new();
        for part in path.split('/') {
            let next = step(folders.last().unwrap_or(root), part)?;
            folders.push(next);
        }
        Ok(Self { folders, name })
    }

    /// The folder of the file.
    pub(super) fn parent(&self) -> &Folder {
        self.folders
            .last()
            .expect("a key has a slash, so at least one folder")
    }

    /// Makes the file's name durable, and those of all folders on the way: a rival may have made them a moment ago.
    /// (One that is gone was empty, so what was in it had been removed; then the one above says so durably.)
    fn sync(&self) -> Outcome<()> {
        for folder in self.folders.iter().rev() {
            match folder.sync() {
                Err(trouble) if trouble.is_absence() => {}
                settled => settled?,
            }
        }
        Ok(())
    }
}

/// Gives a finished file the name of a key; whether the object of this name is now that very file. Never overwrites.
pub(super) fn publish(root: &Folder, from: &Folder, name: &str, file: &File, key: &Key) -> Outcome<bool> {
    let mine = stat(file)?;
    for _ in 0..TRIES {
        let place = match Place::walk(root, key, Folder::make_folder) {
            // Somebody removed a folder because it was empty.
            Err(trouble) if trouble.is_absence() => continue,
            settled => settled?,
        };
        match from.publish(name, place.parent(), place.name) {
            // So did he after it was opened. (An NFS server may say that the handle is stale: then all begins anew.)
            Err(trouble) if trouble.is_absence() => continue,
            Err(trouble) if trouble.kind() == ErrorKind::Exists => {
                // Where the answer to a link gets lost, an NFS client asks again and is told this.
                let ours = same(&place.parent().stat(place.name)?, &mine);
                place.sync()?;
                return Ok(ours);
            }
            settled => settled?,
        }
        place.sync()?;
        return Ok(true);
    }
    let why = "its folder, or the file itself, is removed again and again";
    Err(Trouble::new(ErrorKind::Unreachable, why))
}

/// Removes the file of a key, if there is one, and makes that durable.
pub(super) fn remove(root: &Folder, key: &Key) -> Outcome<()> {
    let place = match Place::of(root, key) {
        Err(trouble) if trouble.is_absence() => return Ok(()),
        settled => settled?,
    };
    place.parent().remove(place.name)?;
    place.sync()
}

/// Removes the folders of a key that are empty now, from below. A creator that comes in between finds its folder gone
/// and makes it again; one that was here first keeps it, because the system removes only what is empty.
pub(super) fn prune(root: &Folder, key: &Key) {
    let Ok(Place { folders, .. }) = Place::of(root, key) else {
        return;
    };
    let path = key.as_str().rsplit_once('/').unwrap_or_default().0;
    let names: Vec<&str> = path.split('/').collect();
    // The first folder is that of the store, and stays.
    for depth in (1..folders.len()).rev() {
        // An empty folder does no harm, and most are not.
        if folders[depth - 1].remove_folder(names[depth]).is_err() {
            return;
        }
    }
}

/// Makes durable that a key's file has its name.
pub(super) fn sync(root: &Folder, key: &Key) -> Outcome<()> {
    Place::of(root, key)?.sync()
}
