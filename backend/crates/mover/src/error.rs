//! How a job ends when it does not succeed.
use std::path::PathBuf;

use holdfast_qcow2::{ChainError, ClusterIndex, CodecError, IndexError, MemberError, ReadError, WriteError};
use holdfast_seal::OpenError;
use holdfast_target::{ErrorKind, TargetError};
use serde::{Deserialize, Serialize};

/// How an object is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// It has fewer bytes than were written.
    Truncated,
    /// It is there, but it is not the object that was written, or not all its bytes are.
    Altered,
    /// It is what was written, but does not fit to what it belongs to.
    Unfitting,
}

/// Why a volume was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    /// The store failed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// What lies on the target is not what was written there.
    #[error("{key} is damaged: {what}")]
    Damaged {
        /// In which way.
        damage: Damage,
        /// Key of the object.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A cluster of an image is not what its index says.
    #[error("{key} is damaged: cluster {cluster} (volume byte {offset}) {what}")]
    DamagedCluster {
        /// Key of the image, or of the index where no image holds the cluster.
        key: String,
        /// Number of the cluster in its shard.
        cluster: ClusterIndex,
        /// Where it starts on the volume.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// An object is sealed under a key that the job was not given. Nothing was written.
    #[error("{key} cannot be opened: {why}")]
    NoKey {
        /// Key of the object on the target.
        key: String,
        /// Which data key is missing.
        why: String,
    },
    /// The chain does not fit this volume: a full backup is needed, an incremental one is impossible.
    #[error("the chain cannot be continued ({0}); a full backup is needed")]
    NeedsFull(String),
    /// No image can be made of this run.
    #[error("the images cannot be merged: {0}")]
    CannotMerge(String),
    /// The device cannot hold the image. Nothing was written.
    #[error("{} has {found} bytes, the image needs {needed}; nothing was written", device.display())]
    DeviceTooSmall {
        /// The device.
        device: PathBuf,
        /// Its bytes.
        found: u64,
        /// Bytes of the image.
        needed: u64,
    },
    /// The device failed.
    #[error("{what} of {} failed at byte {offset}: {source}", device.display())]
    Device {
        /// The device.
        device: PathBuf,
        /// "reading", "writing" and the like.
        what: &'static str,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The job contradicts itself.
    #[error("the job is invalid: {0}")]
    Job(String),
    /// The token was cancelled. What the job had begun on the target was removed.
    #[error("cancelled")]
    Cancelled,
    /// A defect of this program.
    #[error("internal error: {0}")]
    Internal(String),
}

impl MoverError {
    /// One word for a condition; words of the target's errors are those of [`ErrorKind`].
    pub fn reason(&self) -> String {
        match self {
            Self::Target(error) => format!("{:?}", error.kind()),
            Self::Damaged { .. } | Self::DamagedCluster { .. } => "Damaged".to_owned(),
            Self::NoKey { .. } => "KeyMissing".to_owned(),
            Self::NeedsFull(_) => "NeedsFull".to_owned(),
            Self::CannotMerge(_) => "CannotMerge".to_owned(),
            Self::DeviceTooSmall { .. } => "DeviceTooSmall".to_owned(),
            Self::Device { .. } => "DeviceFailed".to_owned(),
            Self::Job(_) => "InvalidJob".to_owned(),
            Self::Cancelled => "Cancelled".to_owned(),
            Self::Internal(_) => "InternalError".to_owned(),
        }
    }

    /// Whether another attempt may help without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Target(error) => error.is_retryable(),
            Self::Device { .. } | Self::Internal(_) => true,
            _ => false,
        }
    }

    /// An object whose bytes are not those that were written.
    pub(crate) fn damaged(key: impl std::fmt::Display, what: impl Into<String>) -> Self {
        Self::damaged_by(Damage::Altered, key, what)
    }

    pub(crate) fn damaged_by(damage: Damage, key: impl std::fmt::Display, what: impl Into<String>) -> Self {
        Self::Damaged {
            damage,
            key: key.to_string(),
            what: what.into(),
        }
    }

    /// A failed read of an object that is bound by size and entity tag: a change of either means damage.
    pub(crate) fn bound(key: impl std::fmt::Display, error: TargetError) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::damaged_by(Damage::Missing, key, "it is missing"),
            ErrorKind::Changed => Self::damaged(
                key,
                format!("it is not the object that was written: {}", error.why()),
            ),
            _ => Self::Target(error),
        }
    }

    /// A sealed object that does not open.
    pub(crate) fn sealed(key: impl std::fmt::Display, error: OpenError) -> Self {
        match error {
            OpenError::NoKey(_) => Self::NoKey {
                key: key.to_string(),
                why: error.to_string(),
            },
            other => Self::damaged(key, other.to_string()),
        }
    }

    /// An error of the index format in the object `key`; I/O errors carry what [`crate::remote`] put into them.
    pub(crate) fn index(key: impl std::fmt::Display, error: IndexError) -> Self {
        match error {
            IndexError::Io { source, .. } => Self::from_io(key, source),
            other => Self::damaged(key, other.to_string()),
        }
    }

    /// An error of the image format in the object `key`.
    pub(crate) fn image(key: impl std::fmt::Display, error: ReadError) -> Self {
        match error {
            ReadError::Io { source, .. } => Self::from_io(key, source),
            other => Self::damaged(key, other.to_string()),
        }
    }

    /// The same for one of several objects.
    pub(crate) fn index_member<K: std::fmt::Display>(keys: &[K], error: MemberError<IndexError>) -> Self {
        Self::index(&keys[error.member], error.source)
    }

    /// The same for one of several objects.
    pub(crate) fn image_member<K: std::fmt::Display>(keys: &[K], error: MemberError<ReadError>) -> Self {
        Self::image(&keys[error.member], error.source)
    }

    /// Objects that do not lie upon each other although their records say so.
    pub(crate) fn chain<K: std::fmt::Display>(keys: &[K], error: &ChainError) -> Self {
        let member = match *error {
            ChainError::Empty => 0,
            ChainError::ClusterSize { member, .. }
            | ChainError::Shrinks { member, .. }
            | ChainError::Order { member, .. } => member,
        };
        match keys.get(member) {
            Some(key) => Self::damaged_by(Damage::Unfitting, key, error.to_string()),
            None => Self::Job(error.to_string()),
        }
    }

    /// A failed read of the object `key` through [`crate::remote`].
    pub(crate) fn from_io(key: impl std::fmt::Display, source: std::io::Error) -> Self {
        // What a read of ours answers when its token is cancelled.
        if source.kind() == std::io::ErrorKind::Interrupted {
            return Self::Cancelled;
        }
        match source.downcast::<TargetError>() {
            Ok(error) => Self::bound(key, error),
            Err(other) => match other.downcast::<OpenError>() {
                Ok(error) => Self::sealed(key, error),
                Err(other) => Self::damaged(key, other.to_string()),
            },
        }
    }
}

/// Writers only fail when they are used wrongly.
impl From<WriteError> for MoverError {
    fn from(error: WriteError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// Compressing only fails when zstd cannot allocate.
impl From<CodecError> for MoverError {
    fn from(error: CodecError) -> Self {
        Self::Internal(error.to_string())
    }
}
