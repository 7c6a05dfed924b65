//! Where statements go: a pool of connections, or the one connection that writes to an SQLite file.
//!
//! A pool takes a connection back in a task of its own, which asks it whether it is alive, before it gives
//! it to the next. Where one writer runs a transaction after the other, these are waits for others
//! between any two of them: on SQLite a third of a group commit's time, on PostgreSQL a round trip, and the
//! next transaction on another connection, whose process is the colder one. So connections that write stay
//! out of their pool between transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sea_orm::metric::Info;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    ExecResult, QueryResult, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::script;
use super::spare::{Spare, Spares};

/// How long a caller waits for a connection before the database counts as not available.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A pool; a cheap clone.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pool: DatabaseConnection,
    kept: Kept,
}

/// Where connections that write are between their transactions.
#[derive(Debug, Clone)]
enum Kept {
    /// In the pool.
    InPool,
    /// Here is the pool's only one.
    Only(OnlyOne),
    /// Here are some of them.
    Some(Arc<Spares>),
}

/// SeaORM lends a connection for longer than a statement only as a transaction: that is what is kept. But
/// for its first, `BEGIN` and `COMMIT` are statements of ours on it. Empty while the connection is at work,
/// and after it was given back to the pool, which any end but a clean one does: the pool looks whether it
/// is still sound.
type OnlyOne = Arc<Mutex<Option<DatabaseTransaction>>>;

/// What begins a transaction of the one writer. It takes the write lock at once: a transaction that reads
/// first and writes later could be refused half-way.
pub(super) const BEGIN_WRITING: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

/// A transaction. Dropped, it is rolled back.
#[derive(Debug)]
pub(crate) struct PoolTransaction {
    /// The kept connection's `BEGIN` is still to be sent: with the first query, not before it.
    begins: AtomicBool,
    /// Dropped before `home`: whoever has the next turn finds it on its way to the pool.
    connection: DatabaseTransaction,
    home: Home,
}

/// Where a transaction's connection goes after a clean end.
#[derive(Debug)]
enum Home {
    Pool,
    /// The place it is kept in, locked.
    Only(OwnedMutexGuard<Option<DatabaseTransaction>>),
    /// Beside others, if it has not been out of its pool for too long.
    Some(Arc<Spares>, Instant),
}

impl Pool {
    /// Connections that anybody takes.
    pub(super) fn shared(pool: DatabaseConnection) -> Self {
        let kept = Kept::InPool;
        Self { pool, kept }
    }

    /// Connections that anybody takes, of which no more than `spares` stay out of the pool between
    /// transactions that write.
    pub(super) fn with_spares(pool: DatabaseConnection, spares: usize) -> Self {
        let kept = Kept::Some(Arc::new(Spares::new(spares)));
        Self { pool, kept }
    }

    /// A pool of one connection, through which all writes to an SQLite file go.
    pub(super) fn one_writer(pool: DatabaseConnection) -> Self {
        let kept = Kept::Only(OnlyOne::default());
        Self { pool, kept }
    }

    /// Begins a transaction that writes.
    pub(crate) async fn begin_writing(&self) -> Result<PoolTransaction, DbErr> {
        match &self.kept {
            Kept::InPool => self.begin_from_pool(Home::Pool).await,
            Kept::Only(only) => {
                let mut home = turn(only).await?;
                match home.take() {
                    Some(connection) => Ok(PoolTransaction {
                        begins: AtomicBool::new(true),
                        connection,
                        home: Home::Only(home),
                    }),
                    None => self.begin_from_pool(Home::Only(home)).await,
                }
            }
            Kept::Some(spares) => match spares.begin().await {
                Some(Spare { connection, since }) => Ok(PoolTransaction {
                    begins: AtomicBool::new(false),
                    connection,
                    home: Home::Some(Arc::clone(spares), since),
                }),
                None => {
                    let home = Home::Some(Arc::clone(spares), Instant::now());
                    self.begin_from_pool(home).await
                }
            },
        }
    }

    async fn begin_from_pool(&self, home: Home) -> Result<PoolTransaction, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        Ok(PoolTransaction {
            begins: AtomicBool::new(false),
            connection: self.pool.begin_with_options(options).await?,
            home,
        })
    }

    /// Begins a transaction that only reads.
    pub(crate) async fn begin_reading(&self) -> Result<PoolTransaction, DbErr> {
        Ok(PoolTransaction {
            begins: AtomicBool::new(false),
            connection: self.pool.begin().await?,
            home: Home::Pool,
        })
    }

    /// The pool itself, with an only connection in it, for whom nothing but SeaORM's own type will do.
    pub(crate) async fn whole(&self) -> &DatabaseConnection {
        if let Kept::Only(only) = &self.kept {
            drop(only.lock().await.take());
        }
        &self.pool
    }

    pub(crate) fn set_metric_callback(
        &mut self,
        callback: impl Fn(&Info<'_>) + Send + Sync + 'static,
    ) {
        self.pool.set_metric_callback(callback);
    }

    /// Closes all connections, after what is running has ended.
    pub(crate) async fn close(self) -> Result<(), DbErr> {
        self.whole().await;
        if let Kept::Some(spares) = &self.kept {
            spares.close().await;
        }
        self.pool.close().await
    }
}

/// In the order of asking. No future of the database is waited for here, so this may time out.
async fn turn(only: &OnlyOne) -> Result<OwnedMutexGuard<Option<DatabaseTransaction>>, DbErr> {
    tokio::time::timeout(ACQUIRE_TIMEOUT, Arc::clone(only).lock_owned())
        .await
        .map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))
}

impl PoolTransaction {
    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        self.end(COMMIT).await
    }

    pub(crate) async fn rollback(self) -> Result<(), DbErr> {
        self.end(ROLLBACK).await
    }

    async fn end(self, how: &str) -> Result<(), DbErr> {
        // The connection is dropped first, as in the struct.
        let Self {
            begins,
            mut home,
            connection,
        } = self;
        match &mut home {
            Home::Only(home) => {
                if !begins.into_inner() {
                    connection.execute_unprepared(how).await?;
                }
                **home = Some(connection);
                Ok(())
            }
            Home::Some(spares, since) if spares.has_room_for(*since) => {
                connection.execute_unprepared(how).await?;
                spares.keep(connection, *since);
                Ok(())
            }
            Home::Pool | Home::Some(..) if how == COMMIT => connection.commit().await,
            Home::Pool | Home::Some(..) => connection.rollback().await,
        }
    }
}

impl PoolTransaction {
    /// Sends the `BEGIN` that is still to be sent. Not with a write, which would be told the rows that the
    /// statement before it changed, too.
    async fn begin(&self) -> Result<(), DbErr> {
        if self.begins.swap(false, Ordering::Relaxed) {
            self.connection.execute_unprepared(BEGIN_WRITING).await?;
        }
        Ok(())
    }

    fn begin_with(&self, query: Statement) -> Statement {
        match self.begins.swap(false, Ordering::Relaxed) {
            true => script::preceded(BEGIN_WRITING, query),
            false => query,
        }
    }
}

#[async_trait]
impl ConnectionTrait for PoolTransaction {
    fn get_database_backend(&self) -> DbBackend {
        self.connection.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.begin().await?;
        self.connection.execute_raw(statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.begin().await?;
        self.connection.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let statement = self.begin_with(statement);
        self.connection.query_one_raw(statement).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let statement = self.begin_with(statement);
        self.connection.query_all_raw(statement).await
    }
}

/// One statement: on the one writer, a transaction of its own.
macro_rules! alone {
    ($pool:ident . $call:ident ( $argument:ident )) => {{
        if !matches!($pool.kept, Kept::Only(_)) {
            return $pool.pool.$call($argument).await;
        }
        let transaction = $pool.begin_writing().await?;
        let done = transaction.$call($argument).await?;
        transaction.commit().await?;
        Ok(done)
    }};
}

#[async_trait]
impl ConnectionTrait for Pool {
    fn get_database_backend(&self) -> DbBackend {
        self.pool.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        alone!(self.execute_raw(statement))
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        alone!(self.execute_unprepared(sql))
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        alone!(self.query_one_raw(statement))
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        alone!(self.query_all_raw(statement))
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait, Statement};

    use crate::ledger::{Ledger, testing};

    async fn rows(ledger: &Ledger) -> i64 {
        let count = Statement::from_string(ledger.backend, "SELECT count(*) FROM t");
        let row = ledger.reader.query_one_raw(count).await.expect("reads");
        let row = row.expect("a count is one row");
        row.try_get_by_index(0).expect("a number")
    }

    async fn with_a_table() -> (Ledger, tempfile::TempDir) {
        let (ledger, folder) = testing::ledger().await;
        let create = "CREATE TABLE t (n integer PRIMARY KEY) STRICT";
        testing::rows::sql(&ledger, create).await;
        (ledger, folder)
    }

    #[tokio::test]
    async fn only_what_is_committed_stays() {
        let (ledger, _folder) = with_a_table().await;
        for round in 0..6 {
            let transaction = ledger.begin().await.expect("begins");
            let insert = format!("INSERT INTO t VALUES ({round})");
            let inserted = transaction.execute_unprepared(&insert).await;
            inserted.expect("a row");
            match round % 3 {
                0 => drop(transaction),
                1 => transaction.rollback().await.expect("rolls back"),
                _ => transaction.commit().await.expect("commits"),
            }
        }
        // A statement that is refused leaves the next one a sound connection.
        let again = ledger.writer.execute_unprepared("INSERT INTO t VALUES (2)");
        assert!(again.await.is_err());
        testing::rows::sql(&ledger, "INSERT INTO t VALUES (7)").await;
        assert_eq!(rows(&ledger).await, 3);
    }

    #[tokio::test]
    async fn writers_take_turns_and_the_pool_can_be_had_whole() {
        let (ledger, _folder) = with_a_table().await;
        let writers = (0..40).map(|number| {
            let ledger = ledger.clone();
            async move {
                let insert = format!("INSERT INTO t VALUES ({number})");
                let transaction = ledger.begin().await.expect("begins");
                let inserted = transaction.execute_unprepared(&insert).await;
                inserted.expect("a row");
                transaction.commit().await.expect("commits");
            }
        });
        futures::future::join_all(writers).await;
        let pool = ledger.writer.whole().await;
        let deleted = pool.execute_unprepared("DELETE FROM t WHERE n < 10").await;
        assert_eq!(deleted.expect("deletes").rows_affected(), 10);
        assert_eq!(rows(&ledger).await, 30);
        ledger.close().await;
    }
}
