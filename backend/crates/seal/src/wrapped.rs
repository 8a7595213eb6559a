//! Wrapped keys: the data key of a backup as an age file for the plan's key and the recovery keys.
//!
//! Everybody who knows the recipients can make such a file, so whoever can write to the target could bring a backup of
//! his own, key and all. Therefore the file holds a proof that only the plan's key can make and check.

use std::io::{self, Read as _, Write as _};
use std::iter;

use age::{DecryptError, Decryptor, Encryptor, x25519};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{RewrapError, UnwrapError, WrapError};
use crate::identity::{PlanKey, Recipient, RecoveryKey};
use crate::key::{DataKey, Location};

/// A wrapped key has at most so many bytes.
pub const MAX_WRAPPED: usize = 16 * 1024;

/// What is inside has fewer bytes; ours has about 400.
const MAX_CONTENT: usize = 4 * 1024;

const MAX_RECOVERY: usize = 16;
const FORMAT: u64 = 1;
const AGE_MAGIC: &[u8] = b"age-encryption.org/v1\n";
const PROOF_INFO: &[u8] = b"holdfast plan proof 1\n";
const PROOF_PREFIX: &[u8] = b"holdfast key 1\n";

/// What is inside of the age file: one line of JSON.
#[derive(Serialize, Deserialize)]
struct Content<'c> {
    format: u64,
    #[serde(rename = "for")]
    location: &'c str,
    key: &'c str,
    proof: &'c str,
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

/// Wraps a data key for its plan and for the recovery keys.
///
/// # Errors
/// [`WrapError`].
///
/// # Panics
/// When the operating system gives no random bytes.
pub fn wrap(key: &DataKey, plan: &PlanKey, recovery: &[Recipient]) -> Result<Vec<u8>, WrapError> {
    if recovery.is_empty() {
        return Err(WrapError::NoRecovery);
    }
    if recovery.len() > MAX_RECOVERY {
        return Err(WrapError::TooManyRecipients(recovery.len()));
    }
    let recipients: Vec<Recipient> = iter::once(plan.recipient())
        .chain(recovery.iter().cloned())
        .collect();
    for (at, recipient) in recipients.iter().enumerate() {
        if recipients[..at].contains(recipient) {
            return Err(WrapError::Duplicate(recipient.clone()));
        }
    }
    let content = content(key, plan);
    Ok(encrypt(&recipients, &content).expect("writing to memory for recipients of one kind does not fail"))
}

/// The line inside. All buffers that hold the key are zeroed.
pub(crate) fn content(key: &DataKey, plan: &PlanKey) -> Zeroizing<Vec<u8>> {
    let proof = hmac::sign(&proof_key(plan), &proof_message(key));
    // Room for all of it, so that no copy stays behind in a buffer that was outgrown.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_CONTENT));
    let hex_key = key.to_hex();
    let content = Content {
        format: FORMAT,
        location: key.location().as_str(),
        key: hex_key.expose_secret(),
        proof: &hex::encode(proof),
    };
    serde_json::to_writer(&mut *line, &content).expect("a struct of texts can be written as JSON");
    line.push(b'\n');
    line
}

fn encrypt(recipients: &[Recipient], content: &[u8]) -> io::Result<Vec<u8>> {
    let recipients = recipients
        .iter()
        .map(|recipient| recipient.age() as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let mut file = Vec::new();
    let mut writer = encryptor.wrap_output(&mut file)?;
    writer.write_all(content)?;
    writer.finish()?;
    Ok(file)
}

/// Unwraps the data key of the backup at `location` and checks that its plan made it.
///
/// # Errors
/// [`UnwrapError`].
pub fn unwrap_with_plan(bytes: &[u8], location: &Location, plan: &PlanKey) -> Result<DataKey, UnwrapError> {
    let line = decrypt(bytes, plan.age())?;
    let (key, proof) = parse(&line, location)?;
    hmac::verify(&proof_key(plan), &proof_message(&key), &proof)
        .map_err(|_| UnwrapError::Forged(location.clone()))?;
    Ok(key)
}

/// A data key that came out of a file which anybody who knows the recovery key's public half may have made.
#[derive(Debug)]
pub struct Recovered(DataKey);

impl Recovered {
    /// The data key. Whoever calls this has told a person that nothing proves who made the backup: the plan's key was
    /// not at hand.
    #[must_use]
    pub fn accept_unproven_origin(self) -> DataKey {
        self.0
    }
}

/// Unwraps the data key of the backup at `location` without the plan's key.
///
/// # Errors
/// [`UnwrapError`], but never [`UnwrapError::Forged`].
pub fn unwrap_with_recovery(
    bytes: &[u8],
    location: &Location,
    recovery: &RecoveryKey,
) -> Result<Recovered, UnwrapError> {
    let line = decrypt(bytes, recovery.age())?;
    parse(&line, location).map(|(key, _)| Recovered(key))
}

/// Wraps a data key anew, for another key of the plan or other recovery keys. No sealed object changes.
///
/// # Errors
/// [`RewrapError`]; what cannot be proven with the old key is not blessed with a new one.
pub fn rewrap(
    bytes: &[u8],
    location: &Location,
    old: &PlanKey,
    new: &PlanKey,
    recovery: &[Recipient],
) -> Result<Vec<u8>, RewrapError> {
    let key = unwrap_with_plan(bytes, location, old)?;
    Ok(wrap(&key, new, recovery)?)
}

fn decrypt(bytes: &[u8], identity: &x25519::Identity) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
    if bytes.len() > MAX_WRAPPED {
        return Err(UnwrapError::TooLarge {
            found: bytes.len(),
            limit: MAX_WRAPPED,
        });
    }
    if !bytes.starts_with(AGE_MAGIC) {
        return Err(match AGE_MAGIC.starts_with(bytes) {
            true => UnwrapError::Truncated,
            false => UnwrapError::NotWrapped,
        });
    }
    let decryptor = Decryptor::new_buffered(bytes).map_err(refusal)?;
    let reader = decryptor
        .decrypt(iter::once(identity as &dyn age::Identity))
        .map_err(refusal)?;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_CONTENT));
    reader
        .take(MAX_CONTENT as u64)
        .read_to_end(&mut line)
        .map_err(|error| refusal(DecryptError::Io(error)))?;
    if line.len() == MAX_CONTENT {
        return Err(UnwrapError::Damaged("its content is too long"));
    }
    Ok(line)
}

fn refusal(error: DecryptError) -> UnwrapError {
    match error {
        DecryptError::NoMatchingKeys => UnwrapError::WrongKey,
        DecryptError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => UnwrapError::Truncated,
        DecryptError::InvalidHeader | DecryptError::InvalidMac => UnwrapError::Damaged("its header"),
        _ => UnwrapError::Damaged("its content does not match its tag"),
    }
}

/// The data key and its proof, which is not checked here. `line` is of somebody who knew a recipient, so it is read
/// with care: texts with escapes are refused, since they could not be borrowed and would leave copies of the key.
fn parse(line: &[u8], location: &Location) -> Result<(DataKey, [u8; 32]), UnwrapError> {
    let damaged = UnwrapError::Damaged("its content");
    let Version { format } = serde_json::from_slice(line).map_err(|_| damaged.clone())?;
    if format != FORMAT {
        return Err(UnwrapError::Version(format));
    }
    let content: Content<'_> = serde_json::from_slice(line).map_err(|_| damaged.clone())?;
    let found: Location = content.location.parse().map_err(|_| damaged.clone())?;
    if found != *location {
        return Err(UnwrapError::OtherBackup {
            found,
            expected: location.clone(),
        });
    }
    let mut proof = [0; 32];
    hex::decode_to_slice(content.proof, &mut proof).map_err(|_| damaged.clone())?;
    let key = DataKey::from_hex(location.clone(), content.key).map_err(|_| damaged)?;
    Ok((key, proof))
}

fn proof_key(plan: &PlanKey) -> hmac::Key {
    Salt::new(HKDF_SHA256, b"")
        .extract(plan.proof_secret())
        .expand(&[PROOF_INFO], HMAC_SHA256)
        .expect("32 bytes are less than HKDF-SHA256 can give")
        .into()
}

fn proof_message(key: &DataKey) -> Zeroizing<Vec<u8>> {
    let location = key.location().as_str().as_bytes();
    Zeroizing::new([PROOF_PREFIX, location, &[0], key.expose()].concat())
}
