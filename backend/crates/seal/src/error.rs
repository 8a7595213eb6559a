//! Everything that can go wrong, by what was asked for. No message holds a secret.

use thiserror::Error;

use crate::identity::Recipient;
use crate::key::{KeyId, Location};
use crate::region::{RegionId, SEGMENT, SegmentIndex};

/// A text that is not the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{value:?} is not a valid {what}: expected {expected}")]
pub struct NameError {
    what: &'static str,
    value: String,
    expected: &'static str,
}

impl NameError {
    pub(crate) fn new(what: &'static str, value: &str, expected: &'static str) -> Self {
        // A hostile name must not flood a status field.
        let value = value.chars().take(128).collect();
        Self {
            what,
            value,
            expected,
        }
    }
}

/// A caller broke the contract of a writer. None of these depends on data read from outside.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The buffer has not the length its segment was announced with.
    #[error("a buffer of {found} bytes was given for a sealed segment of {expected}")]
    Length {
        /// Bytes of the sealed segment.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The last segment of a region holds 1 byte to 64 KiB.
    #[error("the last segment of a region cannot hold {0} bytes, only 1 to {SEGMENT}")]
    LastSegment(usize),
    /// The region has as many segments as a layout can express.
    #[error("the region is full at 4 PiB; go on in a new one")]
    RegionFull,
    /// A document is bound to the key of its object, so there has to be one.
    #[error("a document cannot be bound to a key of {0} bytes, only to one of 1 to 1024")]
    Context(usize),
    /// A data key is 64 hexadecimal digits in text.
    #[error("the text is not a data key (64 hexadecimal digits)")]
    DataKey,
}

/// A layout that describes no object, or was asked for what it cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// More slices than a reader is willing to hold.
    #[error("the layout has more than {limit} slices; merge such an object by reading and sealing it anew")]
    TooManySlices {
        /// Most that is accepted.
        limit: usize,
    },
    /// A slice holds at least one byte.
    #[error("slice {slice} of the layout is empty")]
    EmptySlice {
        /// Position in the layout, from 0.
        slice: usize,
    },
    /// Only the end of a region may be shorter than a segment.
    #[error("slice {slice} of the layout has {plain} bytes and does not end its region: no whole segments")]
    PartialSegment {
        /// Position in the layout, from 0.
        slice: usize,
        /// Its bytes.
        plain: u64,
    },
    /// Sums must stay below 2^53, so that every JSON reader sees them exactly.
    #[error(
        "slice {slice} of the layout reaches beyond what a region (2^36 segments) or an object (2^53 bytes) can hold"
    )]
    TooLarge {
        /// Position in the layout, from 0.
        slice: usize,
    },
    /// The range is not inside the object.
    #[error("the range {start}..{end} is not inside the object's {len} bytes")]
    OutOfRange {
        /// First byte.
        start: u64,
        /// Behind the last byte.
        end: u64,
        /// Bytes of the object's plaintext.
        len: u64,
    },
    /// The store can only copy whole segments.
    #[error("cannot cut at byte {offset}: the segment there reaches from {before} to {after}")]
    Misaligned {
        /// Where the cut was asked for.
        offset: u64,
        /// Boundary before it.
        before: u64,
        /// Boundary behind it.
        after: u64,
    },
}

/// A data key was put to those of another plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the data key of {location} does not belong to the plan {plan} that is read")]
pub struct OtherPlan {
    /// The plan that is read, `<cluster>/<plan>`.
    pub plan: String,
    /// The backup of the key.
    pub location: Location,
}

/// Sealed bytes cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The data key is not at hand.
    #[error(
        "there is no data key {0}: unwrap the wrapped key of that backup with its plan's key or a recovery key"
    )]
    NoKey(KeyId),
    /// A segment does not match its tag.
    #[error(
        "segment {segment} of region {region} (plaintext from byte {offset} on) does not match its seal: \
         it was changed, lies in the wrong place, or belongs to another data key; take it from another copy"
    )]
    Damaged {
        /// The region it should belong to.
        region: RegionId,
        /// Its number in the region.
        segment: SegmentIndex,
        /// Where its plaintext begins in the object.
        offset: u64,
    },
    /// There are fewer bytes than there must be.
    #[error("the sealed object or range ends after {found} bytes, {expected} are expected: it was cut off")]
    Truncated {
        /// Bytes that must be there, at least.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// There are more bytes than there can be.
    #[error("{found} sealed bytes were read, {expected} are expected: something was appended")]
    Excess {
        /// Bytes that must be there.
        expected: u64,
        /// Bytes there are, at least.
        found: u64,
    },
    /// The object does not begin as a sealed document.
    #[error("this is not a sealed document")]
    NotSealed,
    /// The object was sealed in a way this version does not know.
    #[error("the document is sealed in version {0:?}, this release reads version 1; use a newer release")]
    Version(char),
    /// The head of a sealed document names no valid key.
    #[error("the head of the sealed document is damaged; take it from another copy")]
    Head(#[source] NameError),
    /// The document is larger than the caller is willing to hold.
    #[error("the document has {found} bytes, more than the {limit} that are read of one")]
    TooLarge {
        /// Bytes of plaintext.
        found: u64,
        /// Most that is accepted.
        limit: u64,
    },
    /// The range is not inside the object.
    #[error(transparent)]
    Range(#[from] LayoutError),
}

/// A text that is not the key it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyTextError {
    /// Only comments and empty lines.
    #[error("there is no key in the text; expected one line AGE-SECRET-KEY-1… as `age-keygen` writes it")]
    NoIdentity,
    /// Which one counts would be a guess.
    #[error("there is more than one key in the text; keep one line AGE-SECRET-KEY-1…")]
    SeveralIdentities,
    /// A public key cannot decrypt.
    #[error("this is a public key (age1…); the private one begins with AGE-SECRET-KEY-1")]
    PublicKey,
    /// The text was mangled.
    #[error("the private key cannot be read ({0}); copy the whole line AGE-SECRET-KEY-1… again")]
    Identity(&'static str),
    /// A private key where a public one belongs: it must not stay there.
    #[error("this is a private key, and belongs in no place where a public one does; give its age1… instead")]
    PrivateKey,
    /// The text was mangled, or is a recipient of another kind.
    #[error("the public key cannot be read ({0}); expected age1… of an X25519 key as `age-keygen` prints it")]
    Recipient(&'static str),
    /// A public key with which everybody could decrypt.
    #[error("the public key is a weak point of its curve: everybody could decrypt; make a new key pair")]
    WeakRecipient,
}

/// A data key cannot be wrapped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WrapError {
    /// Without a second recipient the loss of the plan's key would be the loss of its backups.
    #[error("no recovery key is given; a data key is wrapped for the plan and for at least one recovery key")]
    NoRecovery,
    /// Readers bound the size of a wrapped key.
    #[error("{0} recovery keys are given, at most 16 are possible")]
    TooManyRecipients(usize),
    /// A recovery key that is no second key.
    #[error("the recovery key {0} is given twice or is the plan's own; recovery needs a key of its own")]
    Duplicate(Recipient),
}

/// A wrapped key cannot be unwrapped, or must not be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnwrapError {
    /// The bytes are not an age file, or one of a version that is not known.
    #[error("this is not a wrapped key (no age file of version 1)")]
    NotWrapped,
    /// A wrapped key is small.
    #[error("the wrapped key has {found} bytes, more than the {limit} any has")]
    TooLarge {
        /// Bytes there are.
        found: usize,
        /// Most that is accepted.
        limit: usize,
    },
    /// None of the recipients is this key.
    #[error(
        "the key does not open this wrapped key: it is none of its recipients, or the file's list of them is \
         damaged; use the plan's key of that time or a recovery key"
    )]
    WrongKey,
    /// The bytes end too early.
    #[error("the wrapped key is cut off; take it from another copy")]
    Truncated,
    /// The bytes do not match what the file was made with.
    #[error("the wrapped key is damaged ({0}); take it from another copy")]
    Damaged(&'static str),
    /// The content is of a version that is not known.
    #[error("the wrapped key has format {0}, this release reads 1; use a newer release")]
    Version(u64),
    /// The file was made for another backup.
    #[error("the wrapped key is that of {found}, not of {expected}: it was moved or exchanged")]
    OtherBackup {
        /// The backup it was made for.
        found: Location,
        /// The backup it was read for.
        expected: Location,
    },
    /// Somebody without the plan's key made the file.
    #[error(
        "the wrapped key of {0} was not made by this plan: its proof is wrong. Somebody who can write to the target \
         may have forged the backup; do not use it"
    )]
    Forged(Location),
}

/// A wrapped key cannot be wrapped anew for other recipients.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RewrapError {
    /// The present one cannot be unwrapped.
    #[error(transparent)]
    Unwrap(#[from] UnwrapError),
    /// The new one cannot be made.
    #[error(transparent)]
    Wrap(#[from] WrapError),
}
