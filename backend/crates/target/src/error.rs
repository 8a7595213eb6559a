//! What goes wrong with a store, told so that a person knows what to do.
use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure it is: what a condition's reason and a test are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorKind {
    /// The store does not know the access key, or the secret key does not fit it.
    WrongCredentials,
    /// There is no such bucket.
    BucketMissing,
    /// No answer: name not resolved, connection refused, time ran out, or the store says it is out of order.
    Unreachable,
    /// The certificate of the store is not signed by an authority that we trust, or is not for this name.
    UntrustedCertificate,
    /// The store or its quota is full.
    Full,
    /// There is no such object or upload.
    NotFound,
    /// An object of this name is there already.
    Exists,
    /// The object is not the one that was expected: another entity tag, or shorter.
    Changed,
    /// The store asks to slow down, longer than we had patience.
    Throttled,
    /// More bytes or entries than the caller allows, or than the store takes.
    TooLarge,
    /// The credentials are known but may not do this.
    Denied,
    /// The connection cannot be used as it is written: URL, region, bucket or certificate.
    Invalid,
    /// Object lock keeps it until a date.
    Locked,
    /// The store has no such call; there is another way.
    Unsupported,
    /// The folder is not the store that it was, or none: usually because nothing is mounted there.
    NotMounted,
    /// The answer is none that an S3 store gives: too large, or a list that does not get on.
    Protocol,
    /// Anything else; the message holds what the store said.
    Other,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unreachable | Self::Throttled)
    }

    fn advice(self) -> &'static str {
        match self {
            Self::WrongCredentials => "check accessKey and secretKey of the target's credential secret",
            Self::BucketMissing => "create the bucket, or correct bucketName and region of the target",
            Self::Unreachable => {
                "check the target's url or volume, the network policies on the way and that the store is running"
            }
            Self::UntrustedCertificate => "give the target the certificate of the authority that signed it",
            Self::Full => "free space on the store or raise its quota",
            Self::NotFound => "it may have been removed on the store; verify the point",
            Self::Exists => "another writer was here; nothing was overwritten",
            Self::Changed => "the object is not the one that was written; verify the point",
            Self::Throttled => "lower the number of concurrent transfers to this target",
            Self::TooLarge => "the object is not one of ours, or it is damaged",
            Self::Denied => {
                "allow these credentials to read, write, list and delete under holdfast/ in this bucket or folder, and to ask for the bucket's versioning and object lock"
            }
            Self::Invalid => "correct the target's url, region, bucketName or certificate",
            Self::Locked => "nobody can delete it before that date",
            Self::NotMounted => {
                "mount the volume of the target; a folder that lost its holdfast/.store.json gets it back by a copy of that file"
            }
            Self::Unsupported => "nothing is lost, the work is done in another way",
            Self::Protocol => "check that the target's url is that of an S3 store",
            Self::Other => "the message above is what the store said",
        }
    }
}

/// Longest text of an error, in characters: what a store says goes into conditions, Events and logs.
const MAX_WHY: usize = 1024;

/// One line of bounded length: a store must neither flood a status nor forge a line of the log.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().take(MAX_WHY).map(plain).collect();
    if text.chars().nth(MAX_WHY).is_some() {
        line.push('…');
    }
    line
}

/// A call to a store that failed for good: what, where, why, and what to do about it.
#[derive(Clone)]
pub struct TargetError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    object: String,
    place: String,
    why: String,
    transient: bool,
}

impl TargetError {
    /// `operation` is a verb ("read"), `object` a key or prefix (may be empty), `place` the bucket and endpoint.
    pub fn new(
        kind: ErrorKind,
        operation: &'static str,
        object: impl fmt::Display,
        place: &str,
        why: impl AsRef<str>,
    ) -> Self {
        let (object, place, why) = (object.to_string(), place.to_owned(), one_line(why.as_ref()));
        Self(Box::new(Inner {
            kind,
            operation,
            object,
            place,
            why,
            transient: kind.is_retryable(),
        }))
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        self.0.transient
    }

    /// Marks a failure as passing or lasting, against what its kind says (a store answers 500 for both).
    pub(crate) fn transient(mut self, transient: bool) -> Self {
        self.0.transient = transient;
        self
    }

    /// What the store or the network said, without place and advice.
    pub fn why(&self) -> &str {
        &self.0.why
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            operation,
            object,
            place,
            why,
            ..
        } = &*self.0;
        write!(f, "cannot {operation} ")?;
        if !object.is_empty() {
            write!(f, "{object} in ")?;
        }
        write!(f, "{place}: {why}; {}", kind.advice())
    }
}

impl fmt::Debug for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TargetError({:?}: {self})", self.0.kind)
    }
}

impl std::error::Error for TargetError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_is_one_short_line() {
        let flood = format!("first\nsecond\u{1b}[0m{}", "ä".repeat(1 << 20));
        let error = TargetError::new(ErrorKind::Other, "read", "holdfast/a", "bucket b", flood);
        assert_eq!(error.why().chars().count(), MAX_WHY + 1);
        assert!(
            error.why().starts_with("first second [0mää"),
            "{}",
            &error.why()[..40]
        );
        assert!(!error.to_string().contains(char::is_control));
    }
}
