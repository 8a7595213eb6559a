//! One page of a list, believed only as far as it is what was asked for.
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::{attempts::seconds, explain::Call};
use crate::{ETag, ErrorKind, ListRequest, Listing, MAX_LIST, ObjectMeta, Prefix, TargetError};

/// Longest continuation token, in bytes: it goes into the address of the next request, and holds a name or two.
const MAX_TOKEN: usize = 8 << 10;

/// Reads the answer to `request`.
///
/// # Errors
/// [`ErrorKind::Protocol`] where a list that went on would leave something out, never end, or hold what lies elsewhere.
pub(super) fn read(
    call: Call<'_>,
    request: &ListRequest,
    output: &ListObjectsV2Output,
) -> Result<Listing, TargetError> {
    let wrong = |why: &str| Err(call.error(ErrorKind::Protocol, why));
    let (contents, folders) = (output.contents(), output.common_prefixes());
    let names = contents.iter().filter_map(|object| object.key());
    let names = names.chain(folders.iter().filter_map(|folder| folder.prefix()));
    check(call, &request.prefix, contents.len() + folders.len(), names)?;
    let next = match (
        output.is_truncated().unwrap_or_default(),
        output.next_continuation_token(),
    ) {
        (false, _) => None,
        (true, None) => return wrong("the store says that there is more, but not where"),
        (true, Some(token)) if token.len() > MAX_TOKEN => {
            return wrong("the store names the next page by too long a token");
        }
        (true, Some(token)) if request.after.as_deref() == Some(token) => {
            return wrong("the store gives the same page again and again");
        }
        (true, Some(token)) => Some(token.to_owned()),
    };
    let objects = contents.iter().filter_map(|object| {
        Some(ObjectMeta {
            key: object.key()?.parse().ok()?,
            size: u64::try_from(object.size()?).ok()?,
            etag: ETag::new(object.e_tag().unwrap_or_default()),
            version: None,
            modified: seconds(object.last_modified()),
        })
    });
    let prefixes = folders.iter().filter_map(|folder| folder.prefix()?.parse().ok());
    Ok(Listing {
        objects: objects.collect(),
        prefixes: prefixes.collect(),
        next,
    })
}

/// Refuses a page with more entries than can be, or with names that lie elsewhere.
pub(super) fn check<'a>(
    call: Call<'_>,
    prefix: &Prefix,
    entries: usize,
    mut names: impl Iterator<Item = &'a str>,
) -> Result<(), TargetError> {
    let wrong = |why: &str| Err(call.error(ErrorKind::Protocol, why));
    if entries > MAX_LIST as usize {
        return wrong("the store lists more on one page than was asked for");
    }
    if names.any(|name| !name.starts_with(prefix.as_str())) {
        return wrong("the store lists what lies elsewhere");
    }
    Ok(())
}
