//! `ReceiptReaper`: removes receipts of webhooks that are older than any repetition.
//!
//! Role: without it the table of receipts grows for ever. Invariant: a receipt lives for at least
//! `webhooks.deletions.retention`; what comes after that is a delivery of its own, and deleting is
//! idempotent (invariant I6), so that it has no second effect, either.

use std::time::Duration;

use async_trait::async_trait;

use super::background::{Round, Work};
use crate::ledger::Ledger;

/// Rows of one statement: it holds SQLite's write lock for a moment only.
const BATCH: u64 = 500;

/// Looks for old receipts.
#[derive(Debug)]
pub struct ReceiptReaper {
    /// Where they are.
    pub ledger: Ledger,
    /// How long each is kept.
    pub retention: Duration,
}

impl ReceiptReaper {
    /// Nothing here is urgent.
    pub const INTERVAL: Duration = Duration::from_secs(10 * 60);
}

#[async_trait]
impl Work for ReceiptReaper {
    async fn round(&self) -> Round {
        match self.ledger.prune_receipts(self.retention, BATCH).await {
            Ok(BATCH) => Round::More,
            Ok(_) => Round::Done,
            Err(error) => {
                tracing::warn!(%error, "could not remove old webhook receipts");
                Round::Failed
            }
        }
    }
}
