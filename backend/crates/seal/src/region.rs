//! Regions: streams of bytes under a key of their own, sealed segment by segment.
//!
//! A segment is bound to its region twice, by the key and by the associated data, and to its place in it by the nonce
//! and again by the associated data.

use std::fmt;
use std::str::FromStr;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use serde::{Deserialize, Serialize};

use crate::error::NameError;
use crate::key::{DataKey, random};

/// Bytes of plaintext in a segment; only the last one of a region may have fewer.
pub const SEGMENT: usize = 64 * 1024;

/// Bytes a sealed segment is longer than its plaintext.
pub const TAG: usize = 16;

/// Bytes of a whole segment when sealed.
pub const SEALED_SEGMENT: usize = SEGMENT + TAG;

/// A region has at most so many segments: its 4 PiB, tags included, are a number that every JSON reader sees exactly.
pub(crate) const MAX_SEGMENTS: u64 = 1 << 36;

/// Begins the info of every region key; what follows is the context.
const INFO: &[u8] = b"holdfast region 1\n";

/// Names a region and salts its key: 16 random bytes, in text 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegionId([u8; Self::LEN]);

impl RegionId {
    /// Bytes of one.
    pub const LEN: usize = 16;

    /// A new one. Only writers make them: who seals under an id that exists would use nonces twice.
    pub(crate) fn generate() -> Self {
        let mut bytes = [0; Self::LEN];
        random(&mut bytes);
        Self(bytes)
    }

    pub(crate) const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl FromStr for RegionId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut bytes = [0; Self::LEN];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if !text.bytes().any(|b| b.is_ascii_uppercase()) => Ok(Self(bytes)),
            _ => Err(NameError::new(
                "region id",
                text,
                "32 lower-case hexadecimal digits",
            )),
        }
    }
}

impl TryFrom<String> for RegionId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<RegionId> for String {
    fn from(id: RegionId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Number of a segment in its region, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentIndex(pub u64);

impl fmt::Display for SegmentIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A segment does not match its tag.
pub(crate) struct Mismatch;

/// The key of one region.
#[derive(Debug)]
pub(crate) struct RegionKey {
    id: RegionId,
    key: LessSafeKey,
}

impl RegionKey {
    /// The key of this region. `context` is what the region is bound to besides; bytes that may be copied into other
    /// objects have none.
    pub(crate) fn derive(data_key: &DataKey, id: RegionId, context: &[u8]) -> Self {
        let secret = Salt::new(HKDF_SHA256, id.as_bytes()).extract(data_key.expose());
        let info = [INFO, context];
        let key = secret
            .expand(&info, &AES_256_GCM)
            .expect("32 bytes are less than HKDF-SHA256 can give");
        Self {
            id,
            key: LessSafeKey::new(UnboundKey::from(key)),
        }
    }

    pub(crate) fn id(&self) -> RegionId {
        self.id
    }

    /// Seals in place. `buffer` holds the plaintext and behind it [`TAG`] bytes of room.
    ///
    /// Whoever calls this must never use an index twice: [`RegionWriter`](crate::RegionWriter) and documents do.
    pub(crate) fn seal(&self, index: SegmentIndex, last: bool, buffer: &mut [u8]) {
        let plain = buffer.len() - TAG;
        let (plain, room) = buffer.split_at_mut(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(index, last), self.aad(index, last), plain)
            .expect("a segment is shorter than what AES-GCM can seal");
        room.copy_from_slice(tag.as_ref());
    }

    /// Opens in place; the plaintext is returned. On a mismatch nothing of the buffer's content is of use.
    pub(crate) fn open<'b>(
        &self,
        index: SegmentIndex,
        last: bool,
        buffer: &'b mut [u8],
    ) -> Result<&'b mut [u8], Mismatch> {
        self.key
            .open_in_place(nonce(index, last), self.aad(index, last), buffer)
            .map_err(|_| Mismatch)
    }

    fn aad(&self, index: SegmentIndex, last: bool) -> Aad<[u8; RegionId::LEN + 9]> {
        let mut bytes = [0; RegionId::LEN + 9];
        bytes[..RegionId::LEN].copy_from_slice(self.id.as_bytes());
        bytes[RegionId::LEN..].copy_from_slice(&place(index, last));
        Aad::from(bytes)
    }
}

/// Where in its region a segment lies: `be64(index) ‖ last`.
fn place(index: SegmentIndex, last: bool) -> [u8; 9] {
    let mut bytes = [0; 9];
    bytes[..8].copy_from_slice(&index.0.to_be_bytes());
    bytes[8] = u8::from(last);
    bytes
}

/// Three zero bytes and the place.
fn nonce(index: SegmentIndex, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 9..].copy_from_slice(&place(index, last));
    Nonce::assume_unique_for_key(bytes)
}
