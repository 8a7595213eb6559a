//! What a call does in the folder.
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    server::Done,
    wire::{Call, MAX_BODY},
};
use crate::{DirectoryTarget, ErrorKind, Object, Target, TargetError};

/// Does it. `reserve` gives memory for the bytes of an answer before they are read.
pub(super) async fn perform<F>(
    store: &DirectoryTarget,
    call: &Call,
    body: Bytes,
    reserve: impl Fn(u64) -> F,
) -> Result<Done, TargetError>
where
    F: Future<Output = Option<Option<OwnedSemaphorePermit>>>,
{
    let reserved = async |bytes: u64| {
        let why = "the depot has too much to do at once";
        let busy = || failure(store, call, ErrorKind::Throttled, why);
        reserve(bytes).await.ok_or_else(busy)
    };
    match call {
        Call::Get { key, max } => {
            let size = store.head(key).await?.size;
            let max = (*max).min(MAX_BODY as u64);
            let permit = reserved(size.min(max)).await?;
            let Object { meta, body } = store.get(key, max).await?;
            Ok(Done {
                answer: json(&meta),
                body,
                permit,
            })
        }
        Call::GetRange { key, range, pin } => {
            let bytes = range.end.saturating_sub(range.start);
            if bytes > MAX_BODY as u64 {
                let why = "a depot gives at most 160 MiB at once";
                return Err(failure(store, call, ErrorKind::TooLarge, why));
            }
            let permit = reserved(bytes).await?;
            let body = store.get_range(key, range.clone(), pin.as_ref()).await?;
            Ok(Done {
                answer: Value::Null,
                body,
                permit,
            })
        }
        other => Ok(Done {
            answer: small(store, other, body).await?,
            body: Bytes::new(),
            permit: None,
        }),
    }
}

/// A call whose answer is a document.
async fn small(store: &DirectoryTarget, call: &Call, body: Bytes) -> Result<Value, TargetError> {
    Ok(match call {
        Call::Adopt => match store.id() {
            Some(id) => json(&id),
            None => {
                let why = "the folder does not say which store it is, and nothing can be written there";
                return Err(failure(store, call, ErrorKind::Denied, why));
            }
        },
        Call::Put { key } => json(&store.put(key, body).await?),
        Call::PutNew { key, again } => json(&store.create_new(key, body, *again).await?),
        Call::Head { key } => json(&store.head(key).await?),
        Call::List { request } => json(&store.list(request).await?),
        Call::Delete { keys } => json(&store.delete(keys).await?),
        Call::BeginUpload { key } => json(&store.begin_upload(key).await?),
        Call::UploadPart {
            upload,
            number,
            offset,
        } => json(&store.upload_part(upload, *number, *offset, body).await?),
        Call::CopyPart {
            upload,
            number,
            offset,
            source,
            range,
            pin,
        } => json(
            &store
                .copy_part(upload, *number, *offset, source, range.clone(), pin)
                .await?,
        ),
        Call::ListParts { upload } => json(&store.list_parts(upload).await?),
        Call::CompleteUpload { upload, parts, again } => json(&store.finish(upload, parts, *again).await?),
        Call::AbortUpload { upload } => json(&store.abort_upload(upload).await?),
        Call::ListUploads { prefix } => json(&store.list_uploads(prefix).await?),
        Call::Probe => json(&store.probe().await?.took),
        Call::Get { .. } | Call::GetRange { .. } => unreachable!("answered with an object's bytes"),
    })
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("names, numbers and texts serialise")
}

fn failure(store: &DirectoryTarget, call: &Call, kind: ErrorKind, why: &str) -> TargetError {
    TargetError::new(kind, call.verb(), call.object(), &store.describe(), why)
}
