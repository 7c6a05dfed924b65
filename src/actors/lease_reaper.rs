//! `LeaseReaper`: `pending` rows whose writer let the lease run out become `deleting`.
//!
//! Role: cleans up after a crash between intent and commit (schedule seed-crash-after-put).
//! Invariant: it never asks whether the writer is alive. A writer that comes back finds its row
//! gone from `pending` and starts over (rules R7, R8).

use actix::Recipient;
use async_trait::async_trait;

use super::background::{Nudge, Round, Work};
use crate::ledger::Ledger;

/// Rows in one statement.
const BATCH: u64 = 1000;

/// Looks for leases that ran out.
#[derive(Debug)]
pub struct LeaseReaper {
    /// Where the rows are.
    pub ledger: Ledger,
    /// Who deletes the objects.
    pub deletions: Recipient<Nudge>,
}

#[async_trait]
impl Work for LeaseReaper {
    async fn round(&self) -> Round {
        match self.ledger.condemn_expired(BATCH).await {
            Ok(0) => Round::Done,
            Ok(condemned) => {
                tracing::info!(condemned, "gave up writes whose lease ran out");
                self.deletions.do_send(Nudge);
                if condemned < BATCH {
                    Round::Done
                } else {
                    Round::More
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not look for leases that ran out");
                Round::Failed
            }
        }
    }
}
