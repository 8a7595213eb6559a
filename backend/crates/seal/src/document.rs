//! Small objects that say themselves how they are sealed: which data key, which region.
//!
//! The region key is bound to the object's key on the target, so a document that was moved or exchanged does not open.

use std::str;

use crate::error::{OpenError, SealError};
use crate::key::{DataKey, KeyId, KeyRing};
use crate::region::{Mismatch, RegionId, RegionKey, SEALED_SEGMENT, SEGMENT, SegmentIndex, TAG};

const MAGIC: &[u8; 8] = b"HFSEAL1\n";

/// Bytes of the longest head: with so many (or the whole object) [`peek`] can say which key it needs.
pub const MAX_DOCUMENT_HEAD: usize = MAGIC.len() + 1 + KeyId::MAX + RegionId::LEN;

/// The longest key that an object may have, as in S3.
const MAX_CONTEXT: usize = 1024;

/// Seals a small object. `context` is its full key on the target.
///
/// # Errors
/// [`SealError::Context`].
///
/// # Panics
/// When the operating system gives no random bytes.
pub fn seal_document(key: &DataKey, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    if !(1..=MAX_CONTEXT).contains(&context.len()) {
        return Err(SealError::Context(context.len()));
    }
    Ok(seal_with(key, RegionId::generate(), context, plain))
}

/// Test vectors need an id that is not random; nobody else may choose one.
pub(crate) fn seal_with(key: &DataKey, id: RegionId, context: &str, plain: &[u8]) -> Vec<u8> {
    let region = RegionKey::derive(key, id, context.as_bytes());
    let name = key.id().as_str().as_bytes();
    let segments = plain.len().div_ceil(SEGMENT).max(1);
    let mut sealed = Vec::with_capacity(MAX_DOCUMENT_HEAD + plain.len() + segments * TAG);
    sealed.extend_from_slice(MAGIC);
    sealed.push(u8::try_from(name.len()).expect("the name of a data key has at most 64 bytes"));
    sealed.extend_from_slice(name);
    sealed.extend_from_slice(id.as_bytes());
    for index in 0..segments {
        let from = index * SEGMENT;
        let start = sealed.len();
        sealed.extend_from_slice(&plain[from..plain.len().min(from + SEGMENT)]);
        sealed.extend_from_slice(&[0; TAG]);
        let last = index + 1 == segments;
        region.seal(SegmentIndex(index as u64), last, &mut sealed[start..]);
    }
    sealed
}

/// Which data key a sealed document needs, from its begin.
///
/// # Errors
/// [`OpenError::NotSealed`], [`OpenError::Version`], [`OpenError::Head`], [`OpenError::Truncated`].
pub fn peek(head: &[u8]) -> Result<KeyId, OpenError> {
    parse(head).map(|head| head.key)
}

struct Head<'d> {
    key: KeyId,
    region: RegionId,
    body: &'d [u8],
}

fn parse(document: &[u8]) -> Result<Head<'_>, OpenError> {
    let rest = match document.strip_prefix(MAGIC) {
        Some(rest) => rest,
        None => return Err(not_ours(document)),
    };
    let truncated = |expected: usize| OpenError::Truncated {
        expected: expected as u64,
        found: document.len() as u64,
    };
    let at_least = MAGIC.len() + 1 + 1 + RegionId::LEN;
    let (&len, rest) = rest.split_first().ok_or_else(|| truncated(at_least))?;
    let len = usize::from(len);
    if rest.len() < len + RegionId::LEN {
        return Err(truncated(MAGIC.len() + 1 + len + RegionId::LEN));
    }
    let (name, rest) = rest.split_at(len);
    let (region, body) = rest.split_first_chunk().expect("the length was compared above");
    let key = String::from_utf8_lossy(name).parse().map_err(OpenError::Head)?;
    Ok(Head {
        key,
        region: RegionId::from_bytes(*region),
        body,
    })
}

/// Why bytes that do not begin with our magic are refused.
fn not_ours(document: &[u8]) -> OpenError {
    let begins = &document[..document.len().min(MAGIC.len())];
    if begins.len() < MAGIC.len() && MAGIC.starts_with(begins) {
        return OpenError::Truncated {
            expected: MAGIC.len() as u64,
            found: begins.len() as u64,
        };
    }
    match begins {
        [family @ .., version, b'\n'] if *family == MAGIC[..6] && version.is_ascii_graphic() => {
            OpenError::Version(char::from(*version))
        }
        _ => OpenError::NotSealed,
    }
}

/// Opens a sealed document that lies at the key `context` and has at most `max` bytes of plaintext.
///
/// # Errors
/// [`OpenError`]: nothing of the plaintext is returned unless all of it is authentic.
pub fn open_document(context: &str, document: &[u8], ring: &KeyRing, max: u64) -> Result<Vec<u8>, OpenError> {
    let head = parse(document)?;
    let segments = head.body.len().div_ceil(SEALED_SEGMENT).max(1);
    // Behind so many whole segments comes at least the tag of another one.
    let truncated = |segments: usize| OpenError::Truncated {
        expected: (document.len() - head.body.len() + segments * SEALED_SEGMENT + TAG) as u64,
        found: document.len() as u64,
    };
    let plain = head
        .body
        .len()
        .checked_sub(segments * TAG)
        .ok_or_else(|| truncated(segments - 1))?;
    if plain as u64 > max {
        return Err(OpenError::TooLarge {
            found: plain as u64,
            limit: max,
        });
    }
    let data_key = ring
        .get(&head.key)
        .ok_or_else(|| OpenError::NoKey(head.key.clone()))?;
    let region = RegionKey::derive(data_key, head.region, context.as_bytes());
    let mut out = Vec::with_capacity(plain + TAG);
    for (index, sealed) in head.body.chunks(SEALED_SEGMENT).enumerate() {
        let (start, segment) = (out.len(), SegmentIndex(index as u64));
        let last = index + 1 == segments;
        out.extend_from_slice(sealed);
        if let Err(Mismatch) = region.open(segment, last, &mut out[start..]) {
            // A document that lost whole segments ends with one that was not sealed as the last.
            if last && region.open(segment, false, &mut sealed.to_vec()).is_ok() {
                return Err(truncated(segments));
            }
            return Err(OpenError::Damaged {
                region: head.region,
                segment,
                offset: start as u64,
            });
        }
        out.truncate(out.len() - TAG);
    }
    Ok(out)
}
