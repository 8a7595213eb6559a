//! The server's database: sessions and audit, on SQLite or PostgreSQL.
//!
//! Room rules: only what may be lost without losing a backup enters here; truth lives in custom resources and on the
//! targets. It knows nothing of HTTP and Kubernetes and holds no credential: of a session's cookie only a hash.
//!
//! SQLite serves one server replica, PostgreSQL several. Times are stored as milliseconds since the epoch in UTC, which
//! both engines compare alike.

mod audit;
mod entity;
mod migration;
mod session;

use std::path::Path;
use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database as SeaDatabase, DatabaseConnection, DbErr};
use sea_orm_migration::MigratorTrait;

pub use audit::{AuditEntry, NewAuditEntry};
pub use session::{NewSession, SessionRecord, TokenHash, UserInfo};

/// Any number that no other program on the same PostgreSQL database uses: "holdfast" in ASCII.
const MIGRATION_LOCK: i64 = 0x686f_6c64_6661_7374;

/// How long a request waits for a free connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is of no engine that we know.
    #[error("the database address must start with sqlite: or postgres:, this one does not")]
    UnknownEngine,
    /// The folder of the SQLite file cannot be made.
    #[error("cannot create the folder of the database file {path}")]
    Folder {
        /// Path of the file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The engine said no.
    #[error("the database failed")]
    Engine(#[from] DbErr),
    /// A row holds what this program never writes.
    #[error("row {id} of table {table} is damaged: {what}")]
    Damaged {
        /// Table.
        table: &'static str,
        /// Primary key.
        id: String,
        /// What is wrong.
        what: String,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A connected database with the newest schema. Cheap to clone, safe from many threads.
#[derive(Clone, Debug)]
pub struct Database {
    connection: DatabaseConnection,
}

impl Database {
    /// Connects and brings the schema up to date. `url` is `sqlite:///path/file.db` (created with its folder when
    /// absent) or `postgres://user:password@host/name`.
    ///
    /// # Errors
    /// [`Error::UnknownEngine`], [`Error::Folder`], or [`Error::Engine`] when the engine cannot be reached or refuses
    /// the migrations.
    pub async fn open(url: &str) -> Result<Self> {
        if url.starts_with("sqlite:") {
            open_sqlite(url).await
        } else {
            open_postgres(url).await
        }
    }

    /// Whether the engine answers.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.connection.ping().await?)
    }

    pub(crate) fn connection(&self) -> &DatabaseConnection {
        &self.connection
    }
}

async fn open_sqlite(url: &str) -> Result<Database> {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let path = path.split('?').next().unwrap_or(path);
    if let Some(folder) = Path::new(path).parent() {
        std::fs::create_dir_all(folder).map_err(|source| Error::Folder {
            path: path.to_owned(),
            source,
        })?;
    }
    let mut options = options(url);
    // One connection is one writer: SQLite has no more than one at a time, and a queue in front of it beats its lock.
    options.max_connections(1).map_sqlx_sqlite_opts(|sqlite| {
        sqlite
            .create_if_missing(true)
            .busy_timeout(ACQUIRE_TIMEOUT)
            .pragma("journal_mode", "WAL")
    });
    let connection = SeaDatabase::connect(options).await?;
    migration::Migrator::up(&connection, None).await?;
    Ok(Database { connection })
}

async fn open_postgres(url: &str) -> Result<Database> {
    if !url.starts_with("postgres:") && !url.starts_with("postgresql:") {
        return Err(Error::UnknownEngine);
    }
    // Replicas start together; the lock belongs to this one connection and goes with it.
    let mut single = options(url);
    single.max_connections(1);
    let migrating = SeaDatabase::connect(single).await?;
    migrating
        .execute_unprepared(&format!("SELECT pg_advisory_lock({MIGRATION_LOCK})"))
        .await?;
    migration::Migrator::up(&migrating, None).await?;
    migrating.close().await?;

    let mut pool = options(url);
    pool.max_connections(10);
    Ok(Database {
        connection: SeaDatabase::connect(pool).await?,
    })
}

fn options(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_timeout(ACQUIRE_TIMEOUT)
        .sqlx_logging(false);
    options
}
