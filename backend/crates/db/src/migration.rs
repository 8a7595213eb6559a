//! The schema's history. A migration that was released never changes; a new one is added at the end.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, integer, string, string_len, text, uuid, uuid_null};

pub(crate) struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(SessionsAndAudit)]
    }
}

#[derive(DeriveIden)]
enum Session {
    Table,
    Id,
    TokenHash,
    UserInfo,
    Method,
    CreatedAt,
    UsedAt,
    ExpiresAt,
}

#[derive(DeriveIden)]
enum Audit {
    Table,
    Id,
    At,
    RequestId,
    SessionId,
    UserName,
    Remote,
    Method,
    Route,
    Subject,
    Status,
    Outcome,
}

struct SessionsAndAudit;

impl MigrationName for SessionsAndAudit {
    fn name(&self) -> &str {
        "m0001_sessions_and_audit"
    }
}

#[async_trait::async_trait]
#[allow(
    elided_lifetimes_in_paths,
    reason = "async_trait must see the trait's own signature"
)]
impl MigrationTrait for SessionsAndAudit {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let session = Table::create()
            .table(Session::Table)
            .col(uuid(Session::Id).primary_key())
            .col(string_len(Session::TokenHash, 64).unique_key())
            .col(text(Session::UserInfo))
            .col(string_len(Session::Method, 32))
            .col(big_integer(Session::CreatedAt))
            .col(big_integer(Session::UsedAt))
            .col(big_integer(Session::ExpiresAt))
            .to_owned();
        manager.create_table(session).await?;
        let audit = Table::create()
            .table(Audit::Table)
            .col(big_integer(Audit::Id).auto_increment().primary_key())
            .col(big_integer(Audit::At))
            .col(string(Audit::RequestId))
            .col(uuid_null(Audit::SessionId))
            .col(text(Audit::UserName))
            .col(string(Audit::Remote))
            .col(string_len(Audit::Method, 16))
            .col(string(Audit::Route))
            .col(text(Audit::Subject))
            .col(integer(Audit::Status))
            .col(text(Audit::Outcome))
            .to_owned();
        manager.create_table(audit).await?;
        let by_time = Index::create()
            .name("audit_at")
            .table(Audit::Table)
            .col(Audit::At)
            .to_owned();
        manager.create_index(by_time).await
    }
}
