//! Lists of a tree of folders, in the order of keys, page by page.
use super::{
    folder::{Folder, etag, size},
    trouble::Outcome,
};
use crate::{Key, ListRequest, Listing, MAX_LIST, ObjectMeta, Prefix};

/// Whether a name can be part of a key. What begins with a dot is work in progress, or a server's own.
pub(super) fn is_ours(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !name.starts_with('.') && name.bytes().all(plain)
}

/// One page.
pub(super) fn list(root: &Folder, request: &ListRequest) -> Outcome<Listing> {
    let mut page = Page {
        prefix: request.prefix.as_str(),
        after: request.after.as_deref(),
        folders: request.folders,
        room: request.limit.clamp(1, MAX_LIST),
        last: None,
        listing: Listing::default(),
    };
    page.visit(root, "")?;
    Ok(page.listing)
}

struct Page<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    folders: bool,
    room: u32,
    /// The entry that went onto the page last.
    last: Option<String>,
    listing: Listing,
}

impl Page<'_> {
    /// Goes through a folder whose files have keys that begin with `base`; whether there is room for more.
    fn visit(&mut self, folder: &Folder, base: &str) -> Outcome<bool> {
        // A folder sorts by what the keys below begin with, slash included.
        let mut entries: Vec<(String, bool)> = folder
            .names(is_ours)?
            .into_iter()
            .map(|name| match name.is_folder {
                true => (format!("{base}{}/", name.text), true),
                false => (format!("{base}{}", name.text), false),
            })
            .filter(|(text, is_folder)| self.may_hold(text, *is_folder))
            .collect();
        entries.sort_unstable();
        for (text, is_folder) in entries {
            let goes_on = match is_folder {
                true => self.enter(folder, base, &text)?,
                false => self.file(folder, base, &text)?,
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether this entry, or anything below it, belongs onto this page or a later one.
    fn may_hold(&self, text: &str, is_folder: bool) -> bool {
        let below_prefix = text.starts_with(self.prefix);
        let leads_to_prefix = is_folder && self.prefix.starts_with(text);
        let behind = self.after.is_none_or(|after| {
            let inside = is_folder && after.starts_with(text) && !self.is_folded(text);
            text > after || inside
        });
        (below_prefix || leads_to_prefix) && behind
    }

    /// Whether the folder is an entry of its own.
    fn is_folded(&self, text: &str) -> bool {
        self.folders && text.len() > self.prefix.len() && text.starts_with(self.prefix)
    }

    fn enter(&mut self, folder: &Folder, base: &str, text: &str) -> Outcome<bool> {
        let name = text[base.len()..].trim_end_matches('/');
        let below = match folder.folder(name) {
            // It went meanwhile.
            Err(trouble) if trouble.is_absence() => return Ok(true),
            settled => settled?,
        };
        if !self.is_folded(text) {
            return match self.visit(&below, text) {
                Err(trouble) if trouble.is_absence() => Ok(true),
                settled => settled,
            };
        }
        let Ok(prefix) = text.parse::<Prefix>() else {
            return Ok(true);
        };
        if !holds_anything(&below)? {
            return Ok(true);
        }
        if !self.has_room() {
            return Ok(false);
        }
        self.listing.prefixes.push(prefix);
        self.took(text);
        Ok(true)
    }

    fn file(&mut self, folder: &Folder, base: &str, text: &str) -> Outcome<bool> {
        let Ok(key) = text.parse::<Key>() else {
            return Ok(true);
        };
        let stat = match folder.stat(&text[base.len()..]) {
            Err(trouble) if trouble.is_absence() => return Ok(true),
            settled => settled?,
        };
        if !self.has_room() {
            return Ok(false);
        }
        self.listing.objects.push(ObjectMeta {
            key,
            size: size(&stat),
            etag: etag(&stat),
            version: None,
            modified: stat.st_mtime,
        });
        self.took(text);
        Ok(true)
    }

    /// Whether another entry fits; where none does, the next page begins behind the last one.
    fn has_room(&mut self) -> bool {
        if self.room == 0 {
            self.listing.next = self.last.take();
        }
        self.room > 0
    }

    fn took(&mut self, text: &str) {
        self.room -= 1;
        self.last = Some(text.to_owned());
    }
}

/// Whether there is any object below: an empty folder is none in a store of objects.
fn holds_anything(folder: &Folder) -> Outcome<bool> {
    let names = match folder.names(is_ours) {
        Err(trouble) if trouble.is_absence() => return Ok(false),
        settled => settled?,
    };
    if names.iter().any(|name| !name.is_folder) {
        return Ok(true);
    }
    for name in names {
        match folder.folder(&name.text) {
            Ok(below) if holds_anything(&below)? => return Ok(true),
            Ok(_) => {}
            Err(trouble) if trouble.is_absence() => {}
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(false)
}
