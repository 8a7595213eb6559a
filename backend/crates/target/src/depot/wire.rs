//! What goes over the wire, and how long and how large it may be.
use std::{ops::Range, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ErrorKind, Key, ListRequest, Part, PartNumber, Pin, Prefix, StoreId, TargetError, Upload,
    directory::{CHANGE, LONG, LOOK, bound},
};

/// Where calls go.
pub(super) const PATH: &str = "/call";
/// Where the kubelet asks whether the process is alive.
pub(super) const HEALTH: &str = "/healthz";
/// Largest JSON document of a call or an answer, in bytes: ten thousand parts, or a page of a list, are less.
pub(super) const MAX_DOCUMENT: usize = 8 << 20;
/// Largest object that goes through a depot, in bytes: the largest file of objects, and what encryption adds.
pub(super) const MAX_BODY: usize = 160 << 20;
/// Most names in one removal.
pub(super) const MAX_NAMES: usize = 1000;
/// What the way and the queue of the depot may take beside the call itself.
const WAY: Duration = Duration::from_secs(30);

/// What is asked, and in which store.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The store that must be there; absent only in [`Call::Adopt`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) store: Option<StoreId>,
    pub(super) call: Call,
}

/// A method of [`crate::Target`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Call {
    /// Says which store the folder holds; an empty one that something is mounted on becomes one.
    Adopt,
    Put {
        key: Key,
    },
    PutNew {
        key: Key,
        again: bool,
    },
    Get {
        key: Key,
        max: u64,
    },
    GetRange {
        key: Key,
        range: Range<u64>,
        pin: Option<Pin>,
    },
    Head {
        key: Key,
    },
    List {
        request: ListRequest,
    },
    Delete {
        keys: Vec<Key>,
    },
    BeginUpload {
        key: Key,
    },
    UploadPart {
        upload: Upload,
        number: PartNumber,
        offset: u64,
    },
    CopyPart {
        upload: Upload,
        number: PartNumber,
        offset: u64,
        source: Key,
        range: Range<u64>,
        pin: Pin,
    },
    ListParts {
        upload: Upload,
    },
    CompleteUpload {
        upload: Upload,
        parts: Vec<Part>,
        again: bool,
    },
    AbortUpload {
        upload: Upload,
    },
    ListUploads {
        prefix: Prefix,
    },
    Probe,
}

impl Call {
    /// The verb of an error, as [`crate::DirectoryTarget`] has it.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Adopt => "open",
            Self::Put { .. } => "write",
            Self::PutNew { .. } => "create",
            Self::Get { .. } | Self::GetRange { .. } => "read",
            Self::Head { .. } => "look up",
            Self::List { .. } => "list",
            Self::Delete { .. } => "delete",
            Self::BeginUpload { .. } => "begin an upload of",
            Self::UploadPart { .. } => "upload a part of",
            Self::CopyPart { .. } => "copy a part of",
            Self::ListParts { .. } => "list the parts of",
            Self::CompleteUpload { .. } => "finish the upload of",
            Self::AbortUpload { .. } => "drop the upload of",
            Self::ListUploads { .. } => "list the uploads of",
            Self::Probe => "probe",
        }
    }

    /// Which object an error is about; empty where it is about many or none.
    pub(super) fn object(&self) -> &str {
        match self {
            Self::Adopt | Self::Probe | Self::Delete { .. } => "",
            Self::Put { key }
            | Self::PutNew { key, .. }
            | Self::Get { key, .. }
            | Self::GetRange { key, .. }
            | Self::Head { key }
            | Self::BeginUpload { key } => key.as_str(),
            Self::List { request } => request.prefix.as_str(),
            Self::CopyPart { source, .. } => source.as_str(),
            Self::UploadPart { upload, .. }
            | Self::ListParts { upload }
            | Self::CompleteUpload { upload, .. }
            | Self::AbortUpload { upload } => upload.key.as_str(),
            Self::ListUploads { prefix } => prefix.as_str(),
        }
    }

    /// Most bytes of an object in the answer.
    pub(super) fn answer_max(&self) -> u64 {
        match self {
            Self::Get { max, .. } => *max,
            Self::GetRange { range, .. } => range.end.saturating_sub(range.start),
            _ => 0,
        }
    }

    /// How long the client waits for the answer: longer than the folder itself takes, retries included.
    pub(super) fn deadline(&self, body: usize) -> Duration {
        let bytes = (body as u64).saturating_add(self.answer_max().min(MAX_BODY as u64));
        let work = match self {
            Self::Head { .. }
            | Self::Get { .. }
            | Self::GetRange { .. }
            | Self::ListParts { .. }
            | Self::Adopt
            | Self::Probe => LOOK,
            Self::Put { .. }
            | Self::PutNew { .. }
            | Self::List { .. }
            | Self::BeginUpload { .. }
            | Self::UploadPart { .. }
            | Self::AbortUpload { .. }
            | Self::ListUploads { .. } => CHANGE,
            Self::Delete { .. } | Self::CopyPart { .. } | Self::CompleteUpload { .. } => LONG,
        };
        bound(work, bytes) + WAY
    }
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer<T> {
    Ok(T),
    Failed(Problem),
}

/// A [`TargetError`] without what the client knows better: verb, object and place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Problem {
    kind: ErrorKind,
    why: String,
    transient: bool,
}

impl Problem {
    pub(super) fn of(error: &TargetError) -> Self {
        Self {
            kind: error.kind(),
            why: error.why().to_owned(),
            transient: error.is_retryable(),
        }
    }

    pub(super) fn told(self, call: &Call, place: &str) -> TargetError {
        let Self { kind, why, transient } = self;
        TargetError::new(kind, call.verb(), call.object(), place, why).transient(transient)
    }
}

/// The document with its length before it; the object's bytes follow.
pub(super) fn head<T: Serialize>(document: &T) -> Result<Bytes, String> {
    let document = serde_json::to_vec(document).map_err(|error| error.to_string())?;
    if document.len() > MAX_DOCUMENT {
        return Err(format!("a document of {} bytes", document.len()));
    }
    let length = u32::try_from(document.len()).expect("a document is at most 8 MiB");
    let mut bytes = BytesMut::with_capacity(4 + document.len());
    bytes.put_u32(length);
    bytes.extend_from_slice(&document);
    Ok(bytes.freeze())
}

/// Takes a document and the object's bytes apart.
pub(super) fn split<T: DeserializeOwned>(mut bytes: Bytes) -> Result<(T, Bytes), String> {
    let wrong = || "it is none that a depot gives or takes".to_owned();
    let length = take(&mut bytes, 4).ok_or_else(wrong)?;
    let length: [u8; 4] = length[..].try_into().map_err(|_| wrong())?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_DOCUMENT {
        return Err(wrong());
    }
    let document = take(&mut bytes, length).ok_or_else(wrong)?;
    let document = serde_json::from_slice(&document).map_err(|error| error.to_string())?;
    Ok((document, bytes))
}

/// The first `length` bytes, if there are so many.
fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_apart_as_it_was_put_together_and_a_cut_one_is_refused() {
        let key: Key = "holdfast/a".parse().unwrap();
        let call = Request {
            store: None,
            call: Call::PutNew { key, again: true },
        };
        let mut bytes = head(&call).unwrap().to_vec();
        bytes.extend_from_slice(b"body");
        let whole = Bytes::from(bytes);
        let (read, body): (Request, Bytes) = split(whole.clone()).unwrap();
        assert!(matches!(read.call, Call::PutNew { again: true, .. }));
        assert_eq!(&body[..], b"body");
        for end in 0..whole.len() - 4 {
            assert!(split::<Request>(whole.slice(..end)).is_err(), "{end}");
        }
        let huge = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, b'{', b'}']);
        assert!(split::<Request>(huge).is_err());
    }

    #[test]
    fn an_error_keeps_its_kind_and_whether_it_passes() {
        let before = TargetError::new(ErrorKind::Other, "x", "", "p", "disk on fire").transient(true);
        let text = serde_json::to_string(&Problem::of(&before)).unwrap();
        let problem: Problem = serde_json::from_str(&text).unwrap();
        let key = "holdfast/a".parse().unwrap();
        let after = problem.told(&Call::Head { key }, "claim c");
        assert_eq!((after.kind(), after.is_retryable()), (ErrorKind::Other, true));
        assert!(
            after
                .to_string()
                .starts_with("cannot look up holdfast/a in claim c: disk on fire")
        );
    }
}
