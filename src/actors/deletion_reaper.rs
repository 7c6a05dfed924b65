//! `DeletionReaper`: objects of `deleting` rows are deleted, then the rows.
//!
//! Role: the only caller of the store's DELETE in a running server. Invariants: it holds no
//! transaction while it waits for the store (rule R16); a key that cannot be deleted backs off and
//! never stands in the way of another (schedule poison-key); it deletes nothing in a store that is
//! not this database's (schedule wrong-bucket).

use std::time::Duration;

use async_trait::async_trait;

use super::background::{Round, Work};
use crate::ledger::LedgerError;
use crate::reap::{Purger, StoreIdentity};
use crate::store::MAX_DELETE_KEYS;

/// How long taken rows are this reaper's: longer than a DELETE call and its retries take.
const HOLD: Duration = Duration::from_secs(120);

/// Deletes what is condemned.
#[derive(Debug)]
pub struct DeletionReaper {
    /// Deletes objects and rows.
    pub purger: Purger,
    /// Whether this is the store to reap in.
    pub identity: StoreIdentity,
}

impl DeletionReaper {
    async fn work_off(&self) -> Result<Round, LedgerError> {
        let rows = self
            .purger
            .ledger
            .take_condemned(MAX_DELETE_KEYS as u64, HOLD)
            .await?;
        if rows.is_empty() {
            return Ok(Round::Done);
        }
        if !self.identity.allows_reaping().await {
            for row in &rows {
                let why = "the object store does not belong to this database";
                self.purger
                    .ledger
                    .postpone_condemned(row.id, HOLD, why)
                    .await?;
            }
            return Ok(Round::Failed);
        }
        let full = rows.len() >= MAX_DELETE_KEYS;
        let mut failed = 0;
        let mut rows = rows.into_iter().peekable();
        // PostgreSQL may hand out a few rows more than asked for; one call to the store may not.
        while rows.peek().is_some() {
            let report = self
                .purger
                .purge(rows.by_ref().take(MAX_DELETE_KEYS).collect())
                .await?;
            failed += report.failed.len();
            tracing::debug!(
                removed = report.removed.len(),
                awaiting_deadline = report.awaiting_deadline,
                failed = report.failed.len(),
                "worked off condemned originals"
            );
        }
        Ok(match (full, failed) {
            (true, _) => Round::More,
            (false, 0) => Round::Done,
            (false, _) => Round::Failed,
        })
    }
}

#[async_trait]
impl Work for DeletionReaper {
    async fn round(&self) -> Round {
        self.work_off().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not work off condemned originals");
            Round::Failed
        })
    }
}
