//! The only code that builds queries: the protocol's transactions as named functions.
//!
//! The ledger knows no actor and no object store. Its rules: every transition is one conditional
//! statement whose affected rows are checked (R4); only the database's clock is compared (R7); no
//! transaction is held across anything but the database (R16), and no `timeout` or `select!` wraps a
//! database future: the server's own time-outs end a statement.

pub mod batch;
pub mod clock;
mod connect;
mod error;
mod images;
pub mod keys;
mod literal;
mod migrate;
mod originals;
pub mod pending;
mod pool;
pub mod reap;
mod receipts;
mod script;
mod spare;
mod stats;
mod store_meta;
#[cfg(test)]
pub(crate) mod testing;
mod text;
pub mod usage;
pub mod usage_check;
pub mod verify;

use sea_orm::{DbBackend, Statement};

pub use connect::PLANNER;
pub(crate) use connect::sqlite_file;
pub use error::LedgerError;
pub use images::{ImageWithOriginal, ListCursor};
pub use originals::OriginalView;
pub(crate) use pool::{Pool, PoolTransaction};
pub use stats::{OriginalsObservation, Stats};

use crate::seams::{Connection, Transaction};

/// Both pools of one database; a cheap clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Every write goes here. On SQLite this pool holds the one writer.
    pub(crate) writer: Connection,
    /// Reads that decide nothing.
    pub(crate) reader: Connection,
    pub(crate) backend: DbBackend,
}

impl Ledger {
    /// Which database this is.
    pub fn backend(&self) -> DbBackend {
        self.backend
    }

    /// Tells `observe` of every statement that this ledger, and each of its clones from now on, runs,
    /// with its values, after it was run; not of `BEGIN` and `COMMIT`. For whoever must see what the
    /// database is asked: the statements' plans are checked by it.
    pub fn observe_statements(&mut self, observe: impl Fn(&Statement) + Send + Sync + 'static) {
        let observe = std::sync::Arc::new(observe);
        for pool in [&mut self.writer, &mut self.reader] {
            let observe = std::sync::Arc::clone(&observe);
            pool.set_metric_callback(move |info| {
                let statements = script::parts(info.statement);
                let asked = statements
                    .iter()
                    .filter(|one| one.sql != pool::BEGIN_WRITING);
                asked.for_each(|statement| observe(statement));
            });
        }
    }

    /// Begins a write transaction.
    pub(crate) async fn begin(&self) -> Result<Transaction, LedgerError> {
        Ok(self.writer.begin_writing().await?)
    }

    /// Begins a transaction that only reads: statements that one snapshot or one setting holds
    /// together.
    pub(crate) async fn begin_reading(&self) -> Result<Transaction, LedgerError> {
        Ok(self.reader.begin_reading().await?)
    }
}
