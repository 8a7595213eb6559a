//! Sessions: a random cookie in the browser, its hash in the database.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_db::{Database, NewSession, SessionRecord, TokenHash, UserInfo};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// No session lives longer, whatever its credential says.
pub const MAX_AGE: SignedDuration = SignedDuration::from_hours(12);
/// A session that is not used for so long is over.
pub const IDLE: SignedDuration = SignedDuration::from_hours(1);
/// Use is noted at most so often, so that reading does not mean writing.
const TOUCH: SignedDuration = SignedDuration::from_mins(1);

/// Value of a session's cookie: 256 random bits. Only the browser keeps it.
#[derive(Clone)]
pub struct Cookie(String);

impl Cookie {
    fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The value to send to the browser.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Why a session did not start or was not found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] holdfast_db::Error),
    /// The operating system gives no random numbers.
    #[error("no random numbers")]
    Random(#[from] getrandom::Error),
}

/// The sessions there are. Every method takes the time of the request, so that ends can be tested.
#[derive(Clone, Debug)]
pub struct Sessions {
    database: Database,
}

impl Sessions {
    /// Sessions in this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Starts a session that ends with the credential and after [`MAX_AGE`] at the latest.
    pub async fn start(
        &self,
        user: UserInfo,
        method: &str,
        credential_ends: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(Cookie, SessionRecord), Error> {
        let latest = now
            .saturating_add(MAX_AGE)
            .expect("a signed duration always adds");
        let cookie = Cookie::random()?;
        let session = NewSession {
            token_hash: hash(cookie.expose()),
            user,
            method: method.to_owned(),
            created_at: now,
            expires_at: credential_ends.map_or(latest, |end| end.min(latest)),
        };
        Ok((cookie, self.database.insert_session(session).await?))
    }

    /// The session of this cookie, if it lives.
    pub async fn find(&self, cookie: &str, now: Timestamp) -> Result<Option<SessionRecord>, Error> {
        let found = self.database.find_session(&hash(cookie), now, IDLE).await?;
        if let Some(session) = &found
            && now.duration_since(session.used_at) > TOUCH
        {
            self.database.touch_session(session.id, now).await?;
        }
        Ok(found)
    }

    /// Whether a session lives. Asking is no use of it.
    pub async fn lives(&self, id: Uuid, now: Timestamp) -> Result<bool, Error> {
        Ok(self.database.session_lives(id, now, IDLE).await?)
    }

    /// Ends a session now.
    pub async fn end(&self, session: &SessionRecord) -> Result<(), Error> {
        Ok(self.database.delete_session(session.id).await?)
    }

    /// Removes sessions that are over and returns how many.
    pub async fn sweep(&self, now: Timestamp) -> Result<u64, Error> {
        Ok(self.database.sweep_sessions(now, IDLE).await?)
    }
}

/// A plain hash is enough: there is nothing to guess in 256 random bits.
fn hash(cookie: &str) -> TokenHash {
    TokenHash(hex::encode(Sha256::digest(cookie)))
}
