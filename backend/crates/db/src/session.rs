//! Sessions.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Condition;
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::entity::session;
use crate::{Database, Error, Result};

/// Hash of a session's cookie, hexadecimal. The cookie itself never comes here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenHash(pub String);

/// A person as the cluster described them at sign-in. All of it is impersonated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// User name.
    pub name: String,
    /// UID, if the authenticator gave one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Extra attributes, which may narrow what the person may do.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A session to be stored.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Hash of the cookie.
    pub token_hash: TokenHash,
    /// Who every request acts as.
    pub user: UserInfo,
    /// How the person signed in.
    pub method: String,
    /// Now.
    pub created_at: Timestamp,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
}

/// A session as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Identifies the session in the audit.
    pub id: Uuid,
    /// Who every request acts as.
    pub user: UserInfo,
    /// How the person signed in.
    pub method: String,
    /// When it was last used, with the precision of [`Database::touch_session`]'s callers.
    pub used_at: Timestamp,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
}

impl Database {
    /// Stores a new session.
    pub async fn insert_session(&self, new: NewSession) -> Result<SessionRecord> {
        let model = session::ActiveModel {
            id: Set(Uuid::new_v4()),
            token_hash: Set(new.token_hash.0),
            user_info: Set(serde_json::to_string(&new.user).expect("strings always serialize")),
            method: Set(new.method),
            created_at: Set(new.created_at.as_millisecond()),
            used_at: Set(new.created_at.as_millisecond()),
            expires_at: Set(new.expires_at.as_millisecond()),
        };
        record(model.insert(self.connection()).await?)
    }

    /// The session with this cookie that is neither past its end nor idle for longer than `idle` at `now`.
    pub async fn find_session(
        &self,
        hash: &TokenHash,
        now: Timestamp,
        idle: SignedDuration,
    ) -> Result<Option<SessionRecord>> {
        let found = session::Entity::find()
            .filter(session::Column::TokenHash.eq(&hash.0))
            .filter(session::Column::ExpiresAt.gt(now.as_millisecond()))
            .filter(session::Column::UsedAt.gt((now - idle).as_millisecond()))
            .one(self.connection())
            .await?;
        found.map(record).transpose()
    }

    /// Whether the session with this id is neither past its end nor idle for longer than `idle` at `now`.
    pub async fn session_lives(&self, id: Uuid, now: Timestamp, idle: SignedDuration) -> Result<bool> {
        let found = session::Entity::find_by_id(id)
            .filter(session::Column::ExpiresAt.gt(now.as_millisecond()))
            .filter(session::Column::UsedAt.gt((now - idle).as_millisecond()))
            .one(self.connection())
            .await?;
        Ok(found.is_some())
    }

    /// Notes that the session was used.
    pub async fn touch_session(&self, id: Uuid, now: Timestamp) -> Result<()> {
        session::Entity::update_many()
            .col_expr(session::Column::UsedAt, now.as_millisecond().into())
            .filter(session::Column::Id.eq(id))
            .exec(self.connection())
            .await?;
        Ok(())
    }

    /// Ends a session. Ending it twice is no error.
    pub async fn delete_session(&self, id: Uuid) -> Result<()> {
        session::Entity::delete_by_id(id).exec(self.connection()).await?;
        Ok(())
    }

    /// Removes sessions that are over and returns how many.
    pub async fn sweep_sessions(&self, now: Timestamp, idle: SignedDuration) -> Result<u64> {
        let over = Condition::any()
            .add(session::Column::ExpiresAt.lte(now.as_millisecond()))
            .add(session::Column::UsedAt.lte((now - idle).as_millisecond()));
        Ok(session::Entity::delete_many()
            .filter(over)
            .exec(self.connection())
            .await?
            .rows_affected)
    }

    /// Number of sessions, over ones included until they are swept.
    pub async fn count_sessions(&self) -> Result<u64> {
        Ok(session::Entity::find().count(self.connection()).await?)
    }
}

fn record(row: session::Model) -> Result<SessionRecord> {
    let damaged = |what: String| Error::Damaged {
        table: "session",
        id: row.id.to_string(),
        what,
    };
    Ok(SessionRecord {
        user: serde_json::from_str(&row.user_info).map_err(|e| damaged(format!("user_info: {e}")))?,
        used_at: Timestamp::from_millisecond(row.used_at).map_err(|e| damaged(format!("used_at: {e}")))?,
        expires_at: Timestamp::from_millisecond(row.expires_at)
            .map_err(|e| damaged(format!("expires_at: {e}")))?,
        id: row.id,
        method: row.method,
    })
}
