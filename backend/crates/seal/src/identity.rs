//! The keys that wrap data keys: age's X25519 identities and recipients, as `age-keygen` writes them.

use std::fmt;
use std::str::FromStr;

use age::x25519;
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::SystemRandom;
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::KeyTextError;

const PRIVATE_PREFIX: &str = "AGE-SECRET-KEY-1";
const PUBLIC_PREFIX: &str = "age1";

/// What a data key is wrapped for: the public half of a [`PlanKey`] or [`RecoveryKey`], in text `age1…`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Recipient(x25519::Recipient);

impl Recipient {
    pub(crate) fn age(&self) -> &x25519::Recipient {
        &self.0
    }
}

impl FromStr for Recipient {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let text = text.trim();
        if has_prefix(text, PRIVATE_PREFIX) {
            return Err(KeyTextError::PrivateKey);
        }
        let recipient = x25519::Recipient::from_str(text).map_err(KeyTextError::Recipient)?;
        let (_, point) =
            bech32::decode(text).map_err(|_| KeyTextError::Recipient("invalid Bech32 encoding"))?;
        // With a point of small order every exchange yields zero: no secret at all, and age would panic.
        let ours = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())
            .expect("the operating system provides random bytes");
        agree_ephemeral(ours, &UnparsedPublicKey::new(&X25519, point), |_| ())
            .map_err(|_| KeyTextError::WeakRecipient)?;
        Ok(Self(recipient))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An identity and its canonical text. Both are zeroed when dropped.
#[derive(Clone)]
struct Identity {
    age: x25519::Identity,
    text: SecretString,
}

impl Identity {
    fn generate() -> Self {
        Self::of(x25519::Identity::generate())
    }

    fn of(age: x25519::Identity) -> Self {
        let text = age.to_string();
        Self { age, text }
    }

    /// Takes the file that `age-keygen` writes: empty lines and comments around one key.
    fn parse(text: &str) -> Result<Self, KeyTextError> {
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or(KeyTextError::NoIdentity)?;
        if lines.next().is_some() {
            return Err(KeyTextError::SeveralIdentities);
        }
        if has_prefix(line, PUBLIC_PREFIX) {
            return Err(KeyTextError::PublicKey);
        }
        x25519::Identity::from_str(line)
            .map(Self::of)
            .map_err(KeyTextError::Identity)
    }
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|begins| begins.eq_ignore_ascii_case(prefix))
}

/// Both kinds of key behave alike; that they are two types keeps one from being used as the other.
macro_rules! private_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Identity);

        impl $name {
            /// A new random key.
            ///
            /// # Panics
            /// When the operating system gives no random bytes.
            #[must_use]
            pub fn generate() -> Self {
                Self(Identity::generate())
            }

            /// The key in this text, which may have empty lines and comments as `age-keygen` writes them.
            ///
            /// # Errors
            /// [`KeyTextError`]; the message does not repeat the text.
            pub fn parse(text: &str) -> Result<Self, KeyTextError> {
                Identity::parse(text).map(Self)
            }

            /// The key as the line `AGE-SECRET-KEY-1…`.
            #[must_use]
            pub fn to_text(&self) -> SecretString {
                self.0.text.clone()
            }

            /// Its public half.
            #[must_use]
            pub fn recipient(&self) -> Recipient {
                Recipient(self.0.age.to_public())
            }

            pub(crate) fn age(&self) -> &x25519::Identity {
                &self.0.age
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name))
                    .field(&self.recipient())
                    .finish_non_exhaustive()
            }
        }
    };
}

private_key! {
    /// The key of a plan, kept in a Secret: it wraps and unwraps the data keys of the plan's backups and proves where
    /// they come from.
    PlanKey
}

private_key! {
    /// The installation's recovery key, kept outside of every cluster. Clusters know its [`Recipient`].
    RecoveryKey
}

impl PlanKey {
    /// The 74 characters `AGE-SECRET-KEY-1…`, upper case, from which the proof key is derived.
    pub(crate) fn proof_secret(&self) -> &[u8] {
        self.0.text.expose_secret().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_age_keygen_writes_them() {
        let key = PlanKey::generate();
        let (text, public) = (key.to_text(), key.recipient().to_string());
        let line = text.expose_secret();
        assert!(
            line.starts_with(PRIVATE_PREFIX) && line.len() == 74,
            "{}",
            line.len()
        );
        assert!(public.starts_with(PUBLIC_PREFIX) && public.len() == 62);
        assert_eq!(format!("{key:?}"), format!("PlanKey({public}, ..)"));
        let lower = line.to_lowercase();
        let file = format!("# created: 2026-01-01\n# public key: {public}\n{line}\r\n\n");
        for text in [line, file.as_str(), lower.as_str()] {
            let again = PlanKey::parse(text).unwrap();
            assert_eq!(again.to_text().expose_secret(), line);
            assert_eq!(again.recipient(), key.recipient());
        }
        assert_eq!(
            format!(" {public}\n").parse::<Recipient>().unwrap(),
            key.recipient()
        );
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_reason() {
        let key = RecoveryKey::generate();
        let (text, public) = (key.to_text(), key.recipient().to_string());
        let line = text.expose_secret();
        let refused = |text: &str| RecoveryKey::parse(text).unwrap_err();
        assert_eq!(refused("# nothing\n\n"), KeyTextError::NoIdentity);
        assert_eq!(
            refused(&format!("{line}\n{line}")),
            KeyTextError::SeveralIdentities
        );
        assert_eq!(refused(&public), KeyTextError::PublicKey);
        assert!(matches!(
            refused(&line[..73]),
            KeyTextError::Identity("invalid Bech32 encoding")
        ));
        assert!(matches!(refused("hunter2"), KeyTextError::Identity(_)));
        let refused = |text: &str| text.parse::<Recipient>().unwrap_err();
        assert_eq!(refused(line), KeyTextError::PrivateKey);
        assert_eq!(refused(&line.to_lowercase()), KeyTextError::PrivateKey);
        assert!(matches!(refused(&public[..61]), KeyTextError::Recipient(_)));
        assert!(matches!(refused("ssh-ed25519 AAAA"), KeyTextError::Recipient(_)));
    }

    /// The points of small order on Curve25519, among them zero and one.
    #[test]
    fn weak_points_are_refused() {
        let points = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for point in points {
            let text = bech32::encode::<bech32::Bech32>(
                bech32::Hrp::parse("age").unwrap(),
                &hex::decode(point).unwrap(),
            )
            .unwrap();
            assert_eq!(
                text.parse::<Recipient>().unwrap_err(),
                KeyTextError::WeakRecipient,
                "{point}"
            );
        }
    }
}
