//! Data keys, what they are called, and where a reader finds them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom as _, SystemRandom};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{NameError, SealError};

/// Fills a buffer with random bytes of the operating system.
///
/// # Panics
/// When the operating system has none to give. Nothing can be sealed on such a machine, and nothing must.
pub(crate) fn random(buffer: &mut [u8]) {
    SystemRandom::new()
        .fill(buffer)
        .expect("the operating system provides random bytes");
}

/// Which data key: the UID of the backup it was made for, 1 to 64 of `a-z`, `0-9`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

impl KeyId {
    /// The longest one, in bytes.
    pub const MAX: usize = 64;

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=Self::MAX).contains(&text.len()) && text.bytes().all(valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::new(
                "name of a data key",
                text,
                "1 to 64 characters of a-z, 0-9 and -",
            ))
        }
    }
}

impl TryFrom<String> for KeyId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a backup lies, `<cluster>/<plan>/<backup>`, each part as a [`KeyId`]: what a wrapped key is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    text: String,
    key: KeyId,
}

impl Location {
    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The data key of that backup.
    #[must_use]
    pub fn key_id(&self) -> &KeyId {
        &self.key
    }
}

impl FromStr for Location {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Result<Vec<KeyId>, NameError> = text.splitn(4, '/').map(KeyId::from_str).collect();
        match parts.as_deref() {
            Ok([_, _, key]) => Ok(Self {
                text: text.to_owned(),
                key: key.clone(),
            }),
            _ => Err(NameError::new("location", text, "<cluster>/<plan>/<backup>")),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The data key of one backup: 32 random bytes under which everything is sealed that the backup stores.
///
/// It is zeroed when dropped and shown only by [`to_hex`](Self::to_hex).
pub struct DataKey {
    id: KeyId,
    secret: SecretBox<[u8; 32]>,
}

impl DataKey {
    /// A new random key for the backup with this UID.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    #[must_use]
    pub fn generate(id: KeyId) -> Self {
        let secret = SecretBox::init_with_mut(|bytes: &mut [u8; 32]| random(bytes));
        Self { id, secret }
    }

    /// A key from its 64 hexadecimal digits: how it reaches a process that seals, through a Secret.
    ///
    /// # Errors
    /// [`SealError::DataKey`]: the text is something else.
    pub fn from_hex(id: KeyId, text: &str) -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, bytes.as_mut()).map_err(|_| SealError::DataKey)?;
        let secret = SecretBox::init_with_mut(|secret: &mut [u8; 32]| *secret = *bytes);
        Ok(Self { id, secret })
    }

    /// The key as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> SecretString {
        SecretString::from(hex::encode(self.expose()))
    }

    /// What it is called.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.secret.expose_secret()
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DataKey").field(&self.id).finish_non_exhaustive()
    }
}

/// The data keys a reader has.
#[derive(Debug, Default)]
pub struct KeyRing(BTreeMap<KeyId, DataKey>);

impl KeyRing {
    /// Adds a key; one of the same name is replaced.
    pub fn insert(&mut self, key: DataKey) {
        self.0.insert(key.id.clone(), key);
    }

    /// The key of this name, if it is there.
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<&DataKey> {
        self.0.get(id)
    }
}

impl FromIterator<DataKey> for KeyRing {
    fn from_iter<I: IntoIterator<Item = DataKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (key.id.clone(), key)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_say() {
        for bad in ["", "A", "a/b", "ä", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
        let longest = "a".repeat(64);
        assert_eq!(longest.parse::<KeyId>().unwrap().as_str(), longest);
        for bad in ["", "a/b", "a/b/", "/a/b", "a/b/c/d", "a/B/c", "a//c"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
        let location: Location = "c-1/p-2/b-3".parse().unwrap();
        assert_eq!(location.key_id().as_str(), "b-3");
        assert_eq!(location.to_string(), "c-1/p-2/b-3");
    }

    #[test]
    fn data_key_is_random_and_not_shown() {
        let id: KeyId = "b-3".parse().unwrap();
        let (one, two) = (DataKey::generate(id.clone()), DataKey::generate(id.clone()));
        assert_ne!(one.expose(), two.expose());
        assert_ne!(one.expose(), &[0; 32]);
        let text = one.to_hex();
        assert_eq!(format!("{one:?}"), "DataKey(KeyId(\"b-3\"), ..)");
        let again = DataKey::from_hex(id.clone(), text.expose_secret()).unwrap();
        assert_eq!(again.expose(), one.expose());
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(65), &"0".repeat(66)] {
            assert_eq!(
                DataKey::from_hex(id.clone(), bad).unwrap_err(),
                SealError::DataKey
            );
        }
    }
}
