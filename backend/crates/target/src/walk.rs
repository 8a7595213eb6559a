//! Lists of more than one page: a store decides how many there are, so they end here.
use std::time::Duration;

use tokio::time::timeout;

use crate::{ErrorKind, ListRequest, Listing, ObjectMeta, Prefix, Target, TargetError};

/// Most pages in a row that hold nothing of ours. Some stores give a few where much was deleted.
pub const MAX_EMPTY_PAGES: usize = 1000;
/// Longest time that one list may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Gives every page of a list to `each`, the first one by `request`.
///
/// # Errors
/// [`ErrorKind::TooLarge`] for more than `max` entries (objects and folders), [`ErrorKind::Protocol`] for a store that
/// gives one page twice in a row or [`MAX_EMPTY_PAGES`], [`ErrorKind::Unreachable`] when it takes longer than ten
/// minutes, and those of [`Target::list`].
pub async fn each_page(
    target: &dyn Target,
    request: ListRequest,
    max: usize,
    each: impl FnMut(Listing) + Send,
) -> Result<(), TargetError> {
    let prefix = request.prefix.clone();
    let late = |_| {
        let why = format!("the whole list takes longer than {} s", LIMIT.as_secs());
        error(target, &prefix, ErrorKind::Unreachable, &why)
    };
    timeout(LIMIT, walk(target, request, max, each))
        .await
        .map_err(late)?
}

async fn walk(
    target: &dyn Target,
    mut request: ListRequest,
    max: usize,
    mut each: impl FnMut(Listing) + Send,
) -> Result<(), TargetError> {
    let (mut entries, mut empty) = (0usize, 0);
    loop {
        let mut page = target.list(&request).await?;
        let brought = page.objects.len() + page.prefixes.len();
        entries = entries.saturating_add(brought);
        if entries > max {
            let why = format!("there are more than {max} entries");
            return Err(error(target, &request.prefix, ErrorKind::TooLarge, &why));
        }
        empty = if brought == 0 { empty + 1 } else { 0 };
        let next = page.next.take();
        each(page);
        let why = match next {
            None => return Ok(()),
            Some(next) if request.after.as_ref() == Some(&next) => {
                "the store gives the same page again and again".to_owned()
            }
            Some(_) if empty >= MAX_EMPTY_PAGES => {
                format!("the store has given {empty} pages of nothing and does not end")
            }
            Some(next) => {
                request.after = Some(next);
                continue;
            }
        };
        return Err(error(target, &request.prefix, ErrorKind::Protocol, &why));
    }
}

fn error(target: &dyn Target, prefix: &Prefix, kind: ErrorKind, why: &str) -> TargetError {
    TargetError::new(kind, "list", prefix, &target.describe(), why)
}

/// All objects of a list, at most `max`; one more is a [`ErrorKind::TooLarge`] error. See [`each_page`].
pub async fn list_all(
    target: &dyn Target,
    prefix: &Prefix,
    max: usize,
) -> Result<Vec<ObjectMeta>, TargetError> {
    let mut objects = Vec::new();
    let request = ListRequest::all(prefix.clone());
    each_page(target, request, max, |page| objects.extend(page.objects)).await?;
    Ok(objects)
}
