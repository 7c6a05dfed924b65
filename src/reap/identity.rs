//! Is this the store that this database belongs to? Reapers and scrub refuse to run when it is not
//! (schedule wrong-bucket): in somebody else's bucket every object looks like a stray.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use uuid::Uuid;

use crate::ledger::{Ledger, LedgerError};
use crate::metrics::METRICS;
use crate::seams::{Rule, enforced};
use crate::store::{BlobStore, StoreError};

/// How long a match is believed: a bucket does not change under a running process often, and every
/// look costs a request.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// What the two ids say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMatch {
    /// The same id on both sides.
    Ours,
    /// The store has another id, or none though the database knows one.
    NotOurs {
        /// What the database expects.
        expected: Option<Uuid>,
        /// What the store has.
        found: Option<Uuid>,
    },
}

/// Neither side could say.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The database did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Compares the ids, and remembers a match for a while. A cheap clone.
#[derive(Debug, Clone)]
pub struct StoreIdentity {
    ledger: Ledger,
    store: Arc<dyn BlobStore>,
    matched_at: Arc<Mutex<Option<Instant>>>,
}

impl StoreIdentity {
    /// The identity of one database and one store.
    pub fn new(ledger: Ledger, store: Arc<dyn BlobStore>) -> Self {
        Self {
            ledger,
            store,
            matched_at: Arc::default(),
        }
    }

    /// Ties a new database to a new store; looks at what is there otherwise. A store that has an id
    /// belongs to another database, and a database that has one to another store: neither is
    /// overwritten.
    ///
    /// # Errors
    /// Either side did not answer.
    pub async fn ensure(&self) -> Result<StoreMatch, IdentityError> {
        let expected = self.ledger.find_store_id().await?;
        let found = self.store.read_store_id().await?;
        match (expected, found) {
            (None, None) => {
                let chosen = self.ledger.ensure_store_id(Uuid::new_v4()).await?;
                self.store.write_store_id(chosen).await?;
                Ok(self.judge(Some(chosen), Some(chosen)).await)
            }
            // An earlier start wrote the row and died before the object.
            (Some(expected), None) if self.ledger.is_unused().await? => {
                self.store.write_store_id(expected).await?;
                Ok(self.judge(Some(expected), Some(expected)).await)
            }
            (expected, found) => Ok(self.judge(expected, found).await),
        }
    }

    /// Whether the store is this database's.
    ///
    /// # Errors
    /// Either side did not answer, which is no reason to believe anything.
    pub async fn check(&self) -> Result<StoreMatch, IdentityError> {
        if self
            .matched_at
            .lock()
            .await
            .is_some_and(|at| at.elapsed() < BELIEVED_FOR)
        {
            return Ok(StoreMatch::Ours);
        }
        let expected = self.ledger.find_store_id().await?;
        let found = self.store.read_store_id().await?;
        Ok(self.judge(expected, found).await)
    }

    /// Whether both sides answered, and with the same id.
    pub async fn is_ours(&self) -> bool {
        matches!(self.check().await, Ok(StoreMatch::Ours))
    }

    /// As [`StoreIdentity::check`], for somebody who reaps: a mismatch or an error is logged, and is
    /// a no.
    pub async fn allows_reaping(&self) -> bool {
        match self.check().await {
            Ok(StoreMatch::Ours) => true,
            Ok(StoreMatch::NotOurs { expected, found }) => {
                tracing::error!(
                    ?expected,
                    ?found,
                    "the object store does not belong to this database: nothing is reaped"
                );
                false
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell whose object store this is: nothing is reaped");
                false
            }
        }
    }

    /// See [`crate::seams::broken::delete_unclaimed`].
    #[cfg(feature = "seams")]
    pub(crate) async fn delete_unclaimed(&self, ledger: &Ledger, grace_period: Duration) {
        crate::seams::broken::delete_unclaimed(ledger, self.store.as_ref(), grace_period).await;
    }

    async fn judge(&self, expected: Option<Uuid>, found: Option<Uuid>) -> StoreMatch {
        let ours = (expected.is_some() && expected == found) || !enforced(Rule::OwnStoreOnly);
        METRICS.store_mismatch.set(if ours { 0.0 } else { 1.0 });
        *self.matched_at.lock().await = ours.then(Instant::now);
        if ours {
            StoreMatch::Ours
        } else {
            StoreMatch::NotOurs { expected, found }
        }
    }
}
