//! Where tests reach into a running server: to stop it between two steps, to fail one of its calls,
//! to kill it there, or to leave a rule of the protocol out and see which test notices.
//!
//! Without the cargo feature `seams`, which no release has, nothing of it is compiled: points are
//! empty, [`Connection`] and [`Transaction`] are the ledger's own types, every rule is in force.
//!
//! With it, and with `HAPAX_SEAMS` naming a Unix socket, the process asks there before it goes on;
//! `control` tells the conversation.

#[cfg(feature = "seams")]
pub(crate) mod broken;
#[cfg(feature = "seams")]
mod control;
#[cfg(feature = "seams")]
mod database;
mod rules;
#[cfg(feature = "seams")]
mod store;

#[cfg(feature = "seams")]
pub(crate) use control::reach;
#[cfg(feature = "seams")]
pub(crate) use database::{Connection, Transaction};
pub(crate) use rules::{Rule, enforced};
#[cfg(feature = "seams")]
pub(crate) use store::tap_store;

/// A place between two steps where a test may hold or kill the process. In the order in which an
/// original passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// A body is complete and hashed; nothing is known of its content. Detail: the digest.
    BodyHashed,
    /// The content was looked for and not found. Detail: the digest.
    ContentMissing,
    /// The `pending` rows are committed; no byte is sent. Detail: the key.
    IntentCommitted,
    /// One PUT was answered well. Detail: the key.
    ObjectWritten,
    /// An operation waits for the next batch. Detail: what it is.
    OperationQueued,
    /// A batch has looked at its rows and locked them; nothing is written. Detail: operations.
    BatchLooked,
    /// A batch has written; COMMIT comes next. Detail: operations.
    BatchWritten,
    /// A batch is committed; nobody was answered. Detail: operations.
    BatchCommitted,
    /// A background actor begins a round. Detail: the type of its work, like `…::LeaseReaper`.
    RoundBegins,
    /// A reaper is about to lock unreferenced rows; what it saw of them may be old. Detail: rows at
    /// most.
    UnreferencedSought,
    /// A reaper has locked unreferenced rows; it has not claimed them. Detail: rows.
    UnreferencedLocked,
    /// A reaper's claim is committed; no object is deleted. Detail: rows.
    UnreferencedClaimed,
    /// A reaper holds `deleting` rows; no object is deleted. Detail: rows.
    CondemnedTaken,
    /// The objects are deleted; their rows are there. Detail: rows.
    ObjectsDeleted,
    /// The scrub has a page of the store's listing; no row was read. Detail: objects.
    ObjectsListed,
    /// A damaged original was seen; the row was not marked. Detail: the key.
    DamageSeen,
}

#[cfg(not(feature = "seams"))]
mod absent {
    use std::future::{Ready, ready};
    use std::sync::Arc;

    use super::Point;
    use crate::store::BlobStore;

    pub(crate) use crate::ledger::{Pool as Connection, PoolTransaction as Transaction};

    /// Nobody is told.
    #[inline(always)]
    pub(crate) fn reach<D>(_: Point, _: impl FnOnce() -> D) -> Ready<()> {
        ready(())
    }

    #[inline(always)]
    pub(crate) fn tap_store(store: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
        store
    }

    #[inline(always)]
    pub(crate) fn tap_pool(pool: Connection) -> Connection {
        pool
    }
}

#[cfg(not(feature = "seams"))]
pub(crate) use absent::{Connection, Transaction, reach, tap_pool, tap_store};
#[cfg(feature = "seams")]
pub(crate) use database::tap_pool;
