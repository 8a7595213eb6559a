//! What a file system refuses, as the kinds of [`ErrorKind`].
use std::io;

use rustix::io::Errno;

use crate::{ErrorKind, TargetError};

/// A step on the file system that failed; becomes a [`TargetError`] once it is known what was being done.
#[derive(Debug)]
pub(super) struct Trouble {
    errno: Option<Errno>,
    kind: ErrorKind,
    why: String,
    transient: bool,
}

pub(super) type Outcome<T> = Result<T, Trouble>;

impl Trouble {
    pub(super) fn new(kind: ErrorKind, why: impl Into<String>) -> Self {
        Self {
            errno: None,
            kind,
            why: why.into(),
            transient: kind.is_retryable(),
        }
    }

    /// Whether it is this error of the system.
    pub(super) fn is(&self, errno: Errno) -> bool {
        self.errno == Some(errno)
    }

    pub(super) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the name, or a folder on the way to it, is not there (any more). (A stale handle may mean that too, or
    /// that the server forgot everything, so it is none.)
    pub(super) fn is_absence(&self) -> bool {
        self.is(Errno::NOENT)
    }

    pub(super) fn explain(&self, verb: &'static str, object: &str, place: &str) -> TargetError {
        TargetError::new(self.kind, verb, object, place, &self.why).transient(self.transient)
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        use ErrorKind as K;
        let (kind, transient) = match errno {
            Errno::NOENT => (K::NotFound, false),
            Errno::EXIST => (K::Exists, false),
            Errno::NOSPC | Errno::DQUOT => (K::Full, false),
            Errno::FBIG => (K::TooLarge, false),
            Errno::ROFS | Errno::ACCESS | Errno::PERM => (K::Denied, false),
            // What a server or a disk that is away for a while brings about.
            Errno::STALE
            | Errno::IO
            | Errno::REMOTEIO
            | Errno::TIMEDOUT
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::CONNREFUSED
            | Errno::CONNRESET
            | Errno::NOTCONN
            | Errno::SHUTDOWN
            | Errno::NXIO
            | Errno::NODEV => (K::Unreachable, true),
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => (K::Other, true),
            _ => (K::Other, false),
        };
        let why = match errno {
            Errno::LOOP | Errno::NOTDIR => {
                "a symbolic link, or a file where a folder should be, is in the way; links are not followed"
                    .to_owned()
            }
            _ => errno.to_string(),
        };
        Self {
            errno: Some(errno),
            kind,
            why,
            transient,
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::new(ErrorKind::Changed, "it became shorter while it was read")
            }
            None => Self::new(ErrorKind::Other, error.to_string()),
        }
    }
}
