//! Who changed what. The same lines go to standard output, so that losing the database loses no audit.

use jiff::Timestamp;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use crate::entity::audit;
use crate::{Database, Error, Result};

/// One write that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAuditEntry {
    /// When the request came.
    pub at: Timestamp,
    /// The request's id, as in its answer and in the log.
    pub request_id: String,
    /// The session, if there was one.
    pub session: Option<Uuid>,
    /// The user, as far as known.
    pub user: String,
    /// Address of the peer.
    pub remote: String,
    /// HTTP method.
    pub method: String,
    /// Route with placeholders.
    pub route: String,
    /// What was acted on, such as `backups/team-a/nightly`.
    pub subject: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// The error's code and message, empty when there was none.
    pub outcome: String,
}

/// An entry as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Grows with every entry.
    pub id: i64,
    /// The entry.
    pub entry: NewAuditEntry,
}

impl Database {
    /// Adds an entry.
    pub async fn insert_audit(&self, new: NewAuditEntry) -> Result<()> {
        let model = audit::ActiveModel {
            id: NotSet,
            at: Set(new.at.as_millisecond()),
            request_id: Set(new.request_id),
            session_id: Set(new.session),
            user_name: Set(new.user),
            remote: Set(new.remote),
            method: Set(new.method),
            route: Set(new.route),
            subject: Set(new.subject),
            status: Set(i32::from(new.status)),
            outcome: Set(new.outcome),
        };
        model.insert(self.connection()).await?;
        Ok(())
    }

    /// The newest entries, newest first.
    pub async fn newest_audit(&self, limit: u64) -> Result<Vec<AuditEntry>> {
        let rows = audit::Entity::find()
            .order_by_desc(audit::Column::Id)
            .limit(limit)
            .all(self.connection())
            .await?;
        rows.into_iter().map(entry).collect()
    }

    /// Removes entries older than `before` and returns how many.
    pub async fn sweep_audit(&self, before: Timestamp) -> Result<u64> {
        let old = audit::Column::At.lt(before.as_millisecond());
        Ok(audit::Entity::delete_many()
            .filter(old)
            .exec(self.connection())
            .await?
            .rows_affected)
    }
}

fn entry(row: audit::Model) -> Result<AuditEntry> {
    let damaged = |what: &str| Error::Damaged {
        table: "audit",
        id: row.id.to_string(),
        what: what.to_owned(),
    };
    Ok(AuditEntry {
        id: row.id,
        entry: NewAuditEntry {
            at: Timestamp::from_millisecond(row.at).map_err(|_| damaged("at is no time"))?,
            status: u16::try_from(row.status).map_err(|_| damaged("status is no HTTP status"))?,
            request_id: row.request_id,
            session: row.session_id,
            user: row.user_name,
            remote: row.remote,
            method: row.method,
            route: row.route,
            subject: row.subject,
            outcome: row.outcome,
        },
    })
}
