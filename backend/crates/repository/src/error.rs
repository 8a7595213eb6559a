//! Why a repository cannot be read or changed.

use holdfast_seal::{KeyId, OpenError, UnwrapError, WrapError};
use holdfast_target::layout::{DocumentError, ImageId, Location, VolumeHome};
use holdfast_target::{ErrorKind, Key, TargetError};
use jiff::Timestamp;

/// A call that failed: what, where, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The store failed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A document cannot be used.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A sealed document does not open.
    #[error("{document} cannot be opened: {source}")]
    Sealed {
        /// Its key on the target.
        document: String,
        /// Why.
        source: OpenError,
    },
    /// A wrapped key does not open.
    #[error("the data key {key} cannot be unwrapped: {source}")]
    Unwrap {
        /// Key of the object on the target.
        key: String,
        /// Why.
        source: UnwrapError,
    },
    /// A data key cannot be wrapped.
    #[error("the data key cannot be wrapped: {0}")]
    Wrap(#[from] WrapError),
    /// There is no wrapped key of this name, in any generation.
    #[error(
        "the wrapped key of backup {key} is not on the target: without it nothing of that backup can be opened"
    )]
    KeyGone {
        /// Which data key.
        key: KeyId,
    },
    /// A key is needed and none was given.
    #[error("{document} is encrypted: give the plan's key or the recovery key")]
    NeedsKey {
        /// Its key on the target.
        document: String,
    },
    /// A key was given, and what should be sealed under it lies in clear: somebody may have put it there.
    #[error(
        "{document} is not encrypted, though a key was given to open it: restore it without a key if that is right"
    )]
    NotSealed {
        /// Its key on the target.
        document: String,
    },
    /// A document would be larger than a reader takes.
    #[error("{what} would have {size} bytes, more than the {max} that a reader takes")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// Its bytes.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// There are more images than are looked at.
    #[error("the plan has more than {max} images; delete points of it")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// An image lies on one that is not there.
    #[error("image {image} has lost an image below it in {home}: take a full backup")]
    Broken {
        /// The image.
        image: ImageId,
        /// Its volume.
        home: VolumeHome,
    },
    /// An object cannot be locked.
    #[error("{key} has no version, so it cannot be locked: switch versions and object lock of the bucket on")]
    NoVersion {
        /// Its key on the target.
        key: Key,
    },
    /// A point says that it is locked, and is not.
    #[error(
        "{location} says that it is locked until {until}, but its objects file is not: this program did not write it so"
    )]
    NotLocked {
        /// The point.
        location: Location,
        /// What it says.
        until: Timestamp,
    },
    /// Others are always faster.
    #[error("others keep writing the chain {home}; is the same cluster's operator running twice?")]
    Rivals {
        /// The volume.
        home: VolumeHome,
    },
    /// A defect of this program.
    #[error("internal error: {0}")]
    Internal(String),
}

impl RepositoryError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Target(error) => error.is_retryable(),
            Self::Rivals { .. } => true,
            _ => false,
        }
    }

    /// Whether a key is missing or wrong.
    pub fn is_key(&self) -> bool {
        match self {
            Self::Sealed { source, .. } => matches!(source, OpenError::NoKey(_)),
            Self::Unwrap { source, .. } => matches!(source, UnwrapError::WrongKey | UnwrapError::Forged(_)),
            Self::KeyGone { .. } | Self::NeedsKey { .. } => true,
            _ => false,
        }
    }

    /// Whether what lies on the target is not what was written there.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Document(error) => !matches!(error, DocumentError::Newer { .. }),
            Self::Sealed { .. } | Self::Unwrap { .. } => !self.is_key(),
            Self::NotSealed { .. } => true,
            Self::Target(error) => matches!(error.kind(), ErrorKind::Changed | ErrorKind::TooLarge),
            _ => false,
        }
    }

    pub(crate) fn sealed(document: impl std::fmt::Display, source: OpenError) -> Self {
        Self::Sealed {
            document: document.to_string(),
            source,
        }
    }
}

/// Refuses what a reader would refuse, before it is written.
pub(crate) fn check_size(what: &'static str, size: usize, max: u64) -> Result<(), RepositoryError> {
    let size = size as u64;
    if size <= max {
        return Ok(());
    }
    Err(RepositoryError::TooLarge { what, size, max })
}
