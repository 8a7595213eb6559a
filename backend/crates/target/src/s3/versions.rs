//! Buckets with versions. A name of ours is written once, so of the versions of a name the oldest is ours and counts;
//! what lies over it, newer versions and delete markers, is what somebody else did, and hides nothing from us.
use aws_sdk_s3::{
    operation::list_object_versions::ListObjectVersionsOutput,
    types::{DeleteMarkerEntry, ObjectVersion},
};
use serde::{Deserialize, Serialize};

use super::{Call, S3Target, SHORT, attempts::seconds, page};
use crate::{
    ETag, ErrorKind, Key, ListRequest, Listing, MAX_LIST, ObjectMeta, Pin, Prefix, TargetError, Version,
};

/// Most pages of versions of one name that are read.
const MAX_PAGES: u32 = 100;

/// Where the next page of a list begins: behind which name on which page of the store.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Next {
    key: Option<String>,
    version: Option<String>,
    /// The object at the end of the page before, which may have older versions on this one.
    pending: Option<Entry>,
    /// What was given of this page already ends here.
    given: Option<String>,
}

/// A version as it travels from one page to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    key: Key,
    size: u64,
    etag: ETag,
    version: Version,
    modified: i64,
}

impl Entry {
    fn read(version: &ObjectVersion) -> Option<Self> {
        Some(Self {
            key: version.key()?.parse().ok()?,
            size: u64::try_from(version.size()?).ok()?,
            etag: ETag::new(version.e_tag().unwrap_or_default()),
            version: Version::new(version.version_id()?),
            modified: seconds(version.last_modified()),
        })
    }

    fn meta(self) -> ObjectMeta {
        ObjectMeta {
            key: self.key,
            size: self.size,
            etag: self.etag,
            version: Some(self.version),
            modified: self.modified,
        }
    }
}

/// Everything a name stands for.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// Newest first.
    pub(super) objects: Vec<ObjectMeta>,
    pub(super) markers: Vec<Version>,
}

impl S3Target {
    async fn version_page(
        &self,
        call: Call<'_>,
        prefix: &str,
        folders: bool,
        (key, version): (Option<String>, Option<String>),
    ) -> Result<ListObjectVersionsOutput, TargetError> {
        let (key, version) = (&key, &version);
        self.retry(call, SHORT, |_| async move {
            let sent = self
                .client
                .list_object_versions()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_delimiter(folders.then(|| "/".to_owned()))
                .set_key_marker(key.clone())
                .set_version_id_marker(version.clone())
                .max_keys(MAX_LIST.cast_signed())
                .send();
            sent.await.map_err(|error| call.explain(&error))
        })
        .await
    }

    /// All versions of one name.
    pub(super) async fn versions_of(&self, call: Call<'_>, key: &Key) -> Result<Versions, TargetError> {
        let mut found = Versions::default();
        let mut marker = (None, None);
        for _ in 0..MAX_PAGES {
            let asked = marker.clone();
            let output = self.version_page(call, key.as_str(), false, asked).await?;
            let ours = |name: Option<&str>| name == Some(key.as_str());
            let objects = output.versions().iter().filter(|version| ours(version.key()));
            found
                .objects
                .extend(objects.filter_map(Entry::read).map(Entry::meta));
            let markers = output.delete_markers().iter().filter(|marker| ours(marker.key()));
            found.markers.extend(
                markers
                    .filter_map(DeleteMarkerEntry::version_id)
                    .map(Version::new),
            );
            let next = output.next_key_marker();
            // Names follow that begin with this one: all versions of this one are known.
            if !output.is_truncated().unwrap_or_default() || next.is_some_and(|next| next > key.as_str()) {
                return Ok(found);
            }
            let next = (
                next.map(str::to_owned),
                output.next_version_id_marker().map(str::to_owned),
            );
            if next.0.is_none() || next == marker {
                return Err(call.error(ErrorKind::Protocol, "the list of its versions does not get on"));
            }
            marker = next;
        }
        let why = format!("there are more than {MAX_PAGES} pages of versions of it");
        Err(call.error(ErrorKind::Protocol, why))
    }

    /// The version of a name that counts.
    pub(super) async fn oldest(&self, call: Call<'_>, key: &Key) -> Result<ObjectMeta, TargetError> {
        let mut found = self.versions_of(call, key).await?;
        found
            .objects
            .pop()
            .ok_or_else(|| call.error(ErrorKind::NotFound, "there is no version of it"))
    }

    /// Binds a pin that names no version, because it was written before the bucket had them, to the oldest one with its
    /// entity tag.
    pub(super) async fn pin_version(&self, call: Call<'_>, key: &Key, pin: &Pin) -> Result<Pin, TargetError> {
        let found = self.versions_of(call, key).await?;
        if found.objects.is_empty() {
            return Err(call.error(ErrorKind::NotFound, "there is no version of it"));
        }
        let mut oldest_first = found.objects.into_iter().rev();
        let meta = oldest_first.find(|meta| meta.etag == pin.etag);
        let changed = || call.error(ErrorKind::Changed, "none of its versions has this ETag");
        Ok(meta.ok_or_else(changed)?.pin())
    }

    /// Whether a version that was just made is the one that counts. A delete marker makes a taken name look free: then
    /// ours is in nobody's way, and is removed again where the bucket lets it go.
    pub(super) async fn came_first(
        &self,
        call: Call<'_>,
        key: &Key,
        version: &Version,
    ) -> Result<bool, TargetError> {
        let oldest = self.oldest(call, key).await?;
        if oldest.version.as_ref() == Some(version) {
            return Ok(true);
        }
        if let Err(error) = self.delete_version(call, key, Some(version)).await {
            tracing::warn!(%error, "a version that does not count stays on the target");
        }
        Ok(false)
    }

    /// One page: of each name its oldest version. The store's pages are read whole, since one that ends inside the
    /// versions of a name, or gives one version again, must bring us further all the same.
    pub(super) async fn list_versions(
        &self,
        call: Call<'_>,
        request: &ListRequest,
    ) -> Result<Listing, TargetError> {
        let wrong = |why: &str| call.error(ErrorKind::Protocol, why);
        let begin: Next = match &request.after {
            Some(after) => serde_json::from_str(after).map_err(|_| wrong("this is no page of this list"))?,
            None => Next::default(),
        };
        let markers = (begin.key.clone(), begin.version.clone());
        let output = self
            .version_page(call, request.prefix.as_str(), request.folders, markers)
            .await?;
        check_page(call, request, &output)?;
        let mut oldest: Vec<Entry> = begin.pending.clone().into_iter().collect();
        for entry in output.versions().iter().filter_map(Entry::read) {
            match oldest.last_mut() {
                // Newest first: what follows under the same name is older.
                Some(last) if last.key == entry.key => *last = entry,
                _ => oldest.push(entry),
            }
        }
        let mut following = None;
        if output.is_truncated().unwrap_or_default() {
            let key = output
                .next_key_marker()
                .filter(|key| !key.is_empty())
                .map(str::to_owned);
            let version = output
                .next_version_id_marker()
                .filter(|version| !version.is_empty());
            let version = version.map(str::to_owned);
            if key.is_none() || (&key, &version) == (&begin.key, &begin.version) {
                return Err(wrong("the store gives the same page again and again"));
            }
            following = Some(Next {
                pending: oldest.pop_if(|last| Some(last.key.as_str()) == key.as_deref()),
                key,
                version,
                given: None,
            });
        }
        let folders = output.common_prefixes().iter();
        let folders = folders.filter_map(|folder| folder.prefix()?.parse().ok());
        Ok(page_of(
            oldest,
            folders.collect(),
            request.limit,
            begin,
            following,
        ))
    }

    /// Removes all that a name stands for, the version that counts last, so that none but it can count meanwhile.
    pub(super) async fn delete_versions(&self, call: Call<'_>, key: &Key) -> Result<(), TargetError> {
        let found = self.versions_of(call, key).await?;
        for marker in &found.markers {
            self.delete_version(call, key, Some(marker)).await?;
        }
        let mut outcome = Ok(());
        for version in found.objects.iter().filter_map(|meta| meta.version.as_ref()) {
            if let Err(error) = self.delete_version(call, key, Some(version)).await {
                outcome = Err(self.explain_lock(call, key, version, error).await);
            }
        }
        outcome
    }

    /// A refused deletion, with the date until which it is locked where that is the reason.
    async fn explain_lock(
        &self,
        call: Call<'_>,
        key: &Key,
        version: &Version,
        error: TargetError,
    ) -> TargetError {
        if !matches!(error.kind(), ErrorKind::Denied | ErrorKind::Other) {
            return error;
        }
        match self.retention(call, key, version).await {
            Ok(Some((_, until))) if until > jiff::Timestamp::now() => {
                call.error(ErrorKind::Locked, format!("it is locked until {until}"))
            }
            _ => error,
        }
    }
}

/// As much of a page of the store as was asked for, behind what was given already.
fn page_of(
    objects: Vec<Entry>,
    folders: Vec<Prefix>,
    limit: u32,
    begin: Next,
    following: Option<Next>,
) -> Listing {
    let mut entries: Vec<(String, Result<Entry, Prefix>)> = Vec::new();
    entries.extend(
        objects
            .into_iter()
            .map(|entry| (entry.key.to_string(), Ok(entry))),
    );
    entries.extend(
        folders
            .into_iter()
            .map(|folder| (folder.to_string(), Err(folder))),
    );
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    entries.retain(|(name, _)| begin.given.as_ref().is_none_or(|given| name > given));
    let limit = limit.clamp(1, MAX_LIST) as usize;
    let next = match entries.len() > limit {
        true => {
            entries.truncate(limit);
            let given = entries.last().map(|(name, _)| name.clone());
            Some(Next { given, ..begin })
        }
        false => following,
    };
    let mut listing = Listing {
        next: next.map(|next| serde_json::to_string(&next).expect("texts and numbers serialise")),
        ..Listing::default()
    };
    for (_, entry) in entries {
        match entry {
            Ok(object) => listing.objects.push(object.meta()),
            Err(folder) => listing.prefixes.push(folder),
        }
    }
    listing
}

/// Refuses a page that holds what was not asked for.
fn check_page(
    call: Call<'_>,
    request: &ListRequest,
    output: &ListObjectVersionsOutput,
) -> Result<(), TargetError> {
    let (versions, markers) = (output.versions(), output.delete_markers());
    let folders = output.common_prefixes();
    let names = versions.iter().filter_map(ObjectVersion::key);
    let names = names.chain(markers.iter().filter_map(DeleteMarkerEntry::key));
    let names = names.chain(folders.iter().filter_map(|folder| folder.prefix()));
    let entries = versions.len() + markers.len() + folders.len();
    page::check(call, &request.prefix, entries, names)
}
