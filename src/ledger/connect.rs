//! Opening the database: pools, and the settings the protocol relies on.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sea_orm::sqlx::Connection;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr};

use super::pool::{ACQUIRE_TIMEOUT, Pool};
use super::{Ledger, LedgerError};
use crate::config::DatabaseConfig;
use crate::seams::tap_pool;

/// A connection that was used so recently is taken to be alive. Shorter than a database needs to restart:
/// then whoever comes after it meets no connection of the time before.
pub(super) const TRUSTED_IDLE_TIME: Duration = Duration::from_secs(1);
/// Of so many connections, one may stay with those who write between their transactions.
const CONNECTIONS_PER_SPARE: u32 = 4;
/// A transaction that holds locks and says nothing for this long is a lost client.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// How PostgreSQL plans our statements: once, and as for large tables.
///
/// A connection keeps the plan of each statement. One that was made while the tables were new and small
/// reads them from end to end, and is kept while they grow, until the next ANALYZE: for a minute or more, in
/// which each upload reads all rows. Every statement finds its rows by an index, so no other way is thought of.
///
/// What is switched off counts as enormously expensive where there is no other way, as in a table without an
/// index that fits; no statement is to be compiled for that. And a plan for any LIMIT is one for a tenth of the
/// table: no page is to start workers for that.
pub const PLANNER: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
];

impl Ledger {
    /// Opens both pools. Creates an SQLite file that is not there, and the folder it is in.
    ///
    /// # Errors
    /// The database cannot be reached, or the URL is no SQLite or PostgreSQL URL.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, LedgerError> {
        if config.url.starts_with("sqlite:") {
            return Self::connect_sqlite(config).await;
        }
        let pool = connect_postgres(config, config.max_connections).await?;
        let spares = (config.max_connections / CONNECTIONS_PER_SPARE) as usize;
        let pool = Pool::with_spares(pool, spares);
        Ok(Self {
            writer: tap_pool(pool.clone()),
            reader: tap_pool(pool),
            backend: DbBackend::Postgres,
        })
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), LedgerError> {
        self.reader.execute_unprepared("SELECT 1").await?;
        Ok(())
    }

    /// Closes both pools, after what is running has ended.
    pub async fn close(self) {
        // A pool that is already closed is what we want.
        let _ = self.writer.close().await;
        let _ = self.reader.close().await;
    }

    async fn connect_sqlite(config: &DatabaseConfig) -> Result<Self, LedgerError> {
        let in_memory = sqlite_file(&config.url).is_none();
        if let Some(folder) = sqlite_file(&config.url).as_deref().and_then(Path::parent) {
            std::fs::create_dir_all(folder).map_err(|error| {
                LedgerError::Unavailable(DbErr::Custom(format!("{}: {error}", folder.display())))
            })?;
        }
        let one = open_sqlite(config, 1, false).await?;
        let (writer, reader) = if in_memory {
            // Such a database belongs to its one connection.
            let both = Pool::shared(one);
            (both.clone(), both)
        } else {
            let readers = open_sqlite(config, config.max_connections, true).await?;
            (Pool::one_writer(one), Pool::shared(readers))
        };
        Ok(Self {
            writer: tap_pool(writer),
            reader: tap_pool(reader),
            backend: DbBackend::Sqlite,
        })
    }
}

/// The file behind an SQLite URL; `None` for a database in memory.
pub(crate) fn sqlite_file(url: &str) -> Option<PathBuf> {
    let options = SqliteConnectOptions::from_str(url).ok()?;
    let file = options.get_filename();
    (!url.contains(":memory:") && !url.contains("mode=memory")).then(|| file.to_owned())
}

async fn open_sqlite(
    config: &DatabaseConfig,
    connections: u32,
    read_only: bool,
) -> Result<DatabaseConnection, DbErr> {
    let busy_timeout = config.lock_timeout;
    let mut options = pool_options(config, connections);
    options.map_sqlx_sqlite_opts(move |sqlite: SqliteConnectOptions| {
        sqlite
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: a commit is on disk before it is answered, also after a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(busy_timeout)
            // 16 MiB instead of 4: a page that changes with every batch is then copied from the log into
            // the database once for thousands of uploads, not for hundreds.
            .pragma("wal_autocheckpoint", "4000")
            // Statement journals of multi-row writes would otherwise be files, made anew each time.
            .pragma("temp_store", "MEMORY")
            .pragma("query_only", if read_only { "ON" } else { "OFF" })
            // In KiB: the writer goes down the trees of all indexes again and again, and upwards of a few
            // million rows their inner pages do not fit into SQLite's own 2 MiB.
            .pragma("cache_size", if read_only { "-2000" } else { "-65536" })
    });
    // SQLite ends a transaction by itself when the disk is full or fails, also at COMMIT; the driver then
    // still counts it as open, and would make savepoints of all later transactions, which nothing ever
    // commits. Such a connection is closed and another one opened (rule R15).
    options.map_sqlx_sqlite_before_acquire(|connection, _| {
        Box::pin(async move { Ok(!connection.is_in_transaction()) })
    });
    Database::connect(options).await
}

/// The pool of one PostgreSQL database. The server ends what takes too long: a future of ours that
/// is dropped half-way would leave the connection in a state nobody knows (rule R16).
pub(super) async fn connect_postgres(
    config: &DatabaseConfig,
    connections: u32,
) -> Result<DatabaseConnection, DbErr> {
    let settings = [
        ("statement_timeout", config.statement_timeout),
        ("lock_timeout", config.lock_timeout),
        (
            "idle_in_transaction_session_timeout",
            IDLE_IN_TRANSACTION_TIMEOUT,
        ),
    ]
    .map(|(name, limit)| (name, limit.as_millis().to_string()));
    let planner = PLANNER.map(|(name, value)| (name, value.to_owned()));
    let mut options = pool_options(config, connections);
    options.map_sqlx_postgres_opts(move |postgres: PgConnectOptions| {
        postgres
            .application_name("hapax")
            .options(settings.clone())
            .options(planner.clone())
    });
    Database::connect(options).await
}

fn pool_options(config: &DatabaseConfig, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(config.url.clone());
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire_if_idle_for(TRUSTED_IDLE_TIME)
        .sqlx_logging(false);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a full disk does to a transaction, by hand: it is gone, and the driver does not know. The next
    /// one must be committed all the same.
    #[tokio::test]
    async fn a_connection_that_lost_its_transaction_is_not_used_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = DatabaseConfig {
            url: format!("sqlite://{}/test.db", folder.path().display()),
            ..DatabaseConfig::default()
        };
        let ledger = Ledger::connect(&config).await.expect("a new file");
        let create = "CREATE TABLE t (n integer) STRICT";
        let created = ledger.writer.execute_unprepared(create).await;
        created.expect("a table");
        for end in ["ROLLBACK", "ROLLBACK; BEGIN"] {
            let transaction = ledger.begin().await.expect("begins");
            let ended = transaction.execute_unprepared(end).await;
            ended.expect("SQLite takes it");
            // Whether it says so depends on what the driver made of it; it must not matter later.
            let _ = transaction.commit().await;
        }
        let transaction = ledger.begin().await.expect("begins");
        let insert = "INSERT INTO t VALUES (1)";
        transaction.execute_unprepared(insert).await.expect("a row");
        transaction.commit().await.expect("commits");
        // Another connection sees it, so it is committed.
        let sql = sea_orm::Statement::from_string(DbBackend::Sqlite, "SELECT n FROM t");
        let rows = ledger.reader.query_all_raw(sql).await.expect("reads");
        assert_eq!(rows.len(), 1);
    }
}
