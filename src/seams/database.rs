//! The ledger's pool and transaction, each of whose calls a test may fail.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::metric::Info;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr,
    SqlxError, Statement,
};

use super::control::{Verdict, ask_about};
use crate::ledger::{Pool, PoolTransaction};

/// A pool.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Pool);

/// A transaction of that pool.
#[derive(Debug)]
pub(crate) struct Transaction(PoolTransaction);

/// Makes a pool one whose calls a test may fail.
pub(crate) fn tap_pool(pool: Pool) -> Connection {
    Connection(pool)
}

impl Connection {
    pub(crate) async fn begin_writing(&self) -> Result<Transaction, DbErr> {
        let verdict = ask("begin", "").await;
        let begun = verdict.carry_out(self.0.begin_writing(), lost);
        begun.await.map(Transaction)
    }

    pub(crate) async fn begin_reading(&self) -> Result<Transaction, DbErr> {
        let verdict = ask("begin", "").await;
        let begun = verdict.carry_out(self.0.begin_reading(), lost);
        begun.await.map(Transaction)
    }

    /// What is done there is out of a test's reach.
    pub(crate) async fn whole(&self) -> &DatabaseConnection {
        self.0.whole().await
    }

    pub(crate) fn set_metric_callback(
        &mut self,
        callback: impl Fn(&Info<'_>) + Send + Sync + 'static,
    ) {
        self.0.set_metric_callback(callback);
    }

    pub(crate) async fn close(self) -> Result<(), DbErr> {
        self.0.close().await
    }
}

impl Transaction {
    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        let verdict = ask("commit", "").await;
        verdict.carry_out(self.0.commit(), lost).await
    }

    pub(crate) async fn rollback(self) -> Result<(), DbErr> {
        let verdict = ask("rollback", "").await;
        verdict.carry_out(self.0.rollback(), lost).await
    }
}

async fn ask(call: &str, sql: &str) -> Verdict {
    ask_about("database", call, || sql.to_owned()).await
}

/// As a connection that broke: whether the call had its effect, nobody knows.
fn lost() -> DbErr {
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    DbErr::Conn(RuntimeErr::SqlxError(Arc::new(SqlxError::Io(broken))))
}

macro_rules! tapped {
    ($type:ty) => {
        #[async_trait]
        impl ConnectionTrait for $type {
            fn get_database_backend(&self) -> DbBackend {
                self.0.get_database_backend()
            }

            async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
                let verdict = ask("statement", &statement.sql).await;
                verdict.carry_out(self.0.execute_raw(statement), lost).await
            }

            async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
                let verdict = ask("statement", sql).await;
                verdict
                    .carry_out(self.0.execute_unprepared(sql), lost)
                    .await
            }

            async fn query_one_raw(
                &self,
                statement: Statement,
            ) -> Result<Option<QueryResult>, DbErr> {
                let verdict = ask("statement", &statement.sql).await;
                verdict
                    .carry_out(self.0.query_one_raw(statement), lost)
                    .await
            }

            async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
                let verdict = ask("statement", &statement.sql).await;
                verdict
                    .carry_out(self.0.query_all_raw(statement), lost)
                    .await
            }
        }
    };
}

tapped!(Connection);
tapped!(Transaction);
