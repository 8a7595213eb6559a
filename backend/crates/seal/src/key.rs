//! Data keys, what they are called, and where a reader finds them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom as _, SystemRandom};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{NameError, OtherPlan, SealError};

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
#[derive(Clone, PartialEq, Eq)]
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

    /// The plan it belongs to, `<cluster>/<plan>`.
    #[must_use]
    pub fn plan(&self) -> &str {
        &self.text[..self.text.len() - self.key.as_str().len() - 1]
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

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The data key of one backup: 32 random bytes under which everything is sealed that the backup stores.
///
/// It is zeroed when dropped and shown only by [`to_hex`](Self::to_hex).
pub struct DataKey {
    location: Location,
    secret: SecretBox<[u8; 32]>,
}

impl DataKey {
    /// A new random key for the backup at this location.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    #[must_use]
    pub fn generate(location: Location) -> Self {
        let secret = SecretBox::init_with_mut(|bytes: &mut [u8; 32]| random(bytes));
        Self { location, secret }
    }

    /// A key from its 64 hexadecimal digits: how it reaches a process that seals, through a Secret.
    ///
    /// # Errors
    /// [`SealError::DataKey`]: the text is something else.
    pub fn from_hex(location: Location, text: &str) -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, bytes.as_mut()).map_err(|_| SealError::DataKey)?;
        let secret = SecretBox::init_with_mut(|secret: &mut [u8; 32]| *secret = *bytes);
        Ok(Self { location, secret })
    }

    /// The key as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> SecretString {
        SecretString::from(hex::encode(self.expose()))
    }

    /// What it is called.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.location.key
    }

    /// The backup it was made for.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.secret.expose_secret()
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DataKey")
            .field(&self.location)
            .finish_non_exhaustive()
    }
}

/// The data keys of one plan that a reader has.
///
/// Never of two plans: whoever owns a plan can seal a document for any place, under a data key of his own. A reader that
/// looked for the key by its name alone would take it for authentic.
#[derive(Debug, Default)]
pub struct KeyRing(BTreeMap<KeyId, DataKey>);

impl KeyRing {
    /// A ring with these keys.
    ///
    /// # Errors
    /// [`OtherPlan`].
    pub fn of(keys: impl IntoIterator<Item = DataKey>) -> Result<Self, OtherPlan> {
        let mut ring = Self::default();
        for key in keys {
            ring.insert(key)?;
        }
        Ok(ring)
    }

    /// Adds a key; one of the same backup is replaced. The first one says which plan it is.
    ///
    /// # Errors
    /// [`OtherPlan`]: the ring stays as it was.
    pub fn insert(&mut self, key: DataKey) -> Result<(), OtherPlan> {
        match self.0.values().next() {
            Some(first) if first.location.plan() != key.location.plan() => Err(OtherPlan {
                plan: first.location.plan().to_owned(),
                location: key.location,
            }),
            _ => {
                self.0.insert(key.id().clone(), key);
                Ok(())
            }
        }
    }

    /// The ring as JSON **with the keys in clear**, an object that has the hexadecimal key for each location: for the
    /// Secret that a process mounts which seals and opens. Nothing else writes it out.
    #[must_use]
    pub fn expose_json(&self) -> serde_json::Value {
        let keys = self.0.values().map(|key| {
            let text = key.to_hex().expose_secret().to_owned();
            (key.location().to_string(), serde_json::Value::String(text))
        });
        serde_json::Value::Object(keys.collect())
    }

    /// Reads what [`expose_json`](Self::expose_json) wrote.
    ///
    /// # Errors
    /// [`SealError::DataKey`] for anything else.
    pub fn from_json(text: &[u8]) -> Result<Self, SealError> {
        let keys: BTreeMap<String, String> = serde_json::from_slice(text).map_err(|_| SealError::DataKey)?;
        let keys = keys.into_iter().map(|(location, key)| {
            let location = location.parse().map_err(|_| SealError::DataKey)?;
            DataKey::from_hex(location, &Zeroizing::new(key))
        });
        let keys: Result<Vec<DataKey>, SealError> = keys.collect();
        Self::of(keys?).map_err(|_| SealError::DataKey)
    }

    /// The key of this name, if it is there.
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<&DataKey> {
        self.0.get(id)
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
        assert_eq!(location.plan(), "c-1/p-2");
        assert_eq!(location.to_string(), "c-1/p-2/b-3");
    }

    #[test]
    fn data_key_is_random_and_not_shown() {
        let location: Location = "c/p/b-3".parse().unwrap();
        let [one, two] = [0, 1].map(|_| DataKey::generate(location.clone()));
        assert_ne!(one.expose(), two.expose());
        assert_ne!(one.expose(), &[0; 32]);
        let text = one.to_hex();
        assert_eq!(format!("{one:?}"), "DataKey(c/p/b-3, ..)");
        let again = DataKey::from_hex(location.clone(), text.expose_secret()).unwrap();
        assert_eq!(again.expose(), one.expose());
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(65), &"0".repeat(66)] {
            assert_eq!(
                DataKey::from_hex(location.clone(), bad).unwrap_err(),
                SealError::DataKey
            );
        }
    }

    #[test]
    fn a_ring_holds_the_keys_of_one_plan() {
        let key = |location: &str| DataKey::generate(location.parse().unwrap());
        let mut ring = KeyRing::of([key("c/p/b-1"), key("c/p/b-2")]).unwrap();
        for other in ["c/q/b-3", "d/p/b-3", "c/p-2/b-1"] {
            let refused = ring.insert(key(other)).unwrap_err();
            assert_eq!(refused.plan, "c/p");
            assert_eq!(refused.location.as_str(), other);
        }
        assert!(ring.get(&"b-3".parse().unwrap()).is_none());
        // The same name in another plan does not replace ours.
        let ours = ring.get(&"b-1".parse().unwrap()).unwrap();
        assert_eq!(ours.location().plan(), "c/p");
        assert!(ring.insert(key("c/p/b-3")).is_ok());
    }
}
