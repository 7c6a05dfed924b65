//! `OrphanReaper`: `stored` originals that nobody has referenced for the grace period become
//! `deleting`.
//!
//! Role: the only way out of `stored`. Invariants: the claim is one conditional statement under the
//! row's lock, made after a second look at the images (schedule epq-trap); once it is committed the
//! content's next upload is a new generation (rule R6).

use std::time::Duration;

use actix::Recipient;
use async_trait::async_trait;

use super::background::{Nudge, Round, Work};
use crate::ledger::Ledger;
use crate::metrics::METRICS;
use crate::reap::StoreIdentity;

/// Rows in one transaction: as many as one DELETE call to the store takes.
const BATCH: u64 = 1000;

/// Looks for originals without references.
#[derive(Debug)]
pub struct OrphanReaper {
    /// Where the rows are.
    pub ledger: Ledger,
    /// Whether this is the store to reap in.
    pub identity: StoreIdentity,
    /// How long an original with count 0 is kept (rule R9).
    pub grace_period: Duration,
    /// Who deletes the objects.
    pub deletions: Recipient<Nudge>,
}

#[async_trait]
impl Work for OrphanReaper {
    async fn round(&self) -> Round {
        match self.ledger.list_unreferenced(self.grace_period, 1).await {
            Ok(due) if due.is_empty() => return Round::Done,
            Ok(_) if self.identity.allows_reaping().await => {}
            Ok(_) => return Round::Failed,
            Err(error) => {
                tracing::warn!(%error, "could not look for unreferenced originals");
                return Round::Failed;
            }
        }
        #[cfg(feature = "seams")]
        self.identity
            .delete_unclaimed(&self.ledger, self.grace_period)
            .await;
        match self
            .ledger
            .claim_unreferenced(self.grace_period, BATCH, Duration::ZERO)
            .await
        {
            Ok(found) => {
                for id in &found.miscounted {
                    METRICS.refcount_mismatches.inc();
                    tracing::error!(original = %id, "count 0, but an image points here: left alone");
                }
                if !found.claimed.is_empty() {
                    tracing::debug!(
                        claimed = found.claimed.len(),
                        "claimed unreferenced originals"
                    );
                    self.deletions.do_send(Nudge);
                }
                if (found.claimed.len() as u64) < BATCH {
                    Round::Done
                } else {
                    Round::More
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not claim unreferenced originals");
                Round::Failed
            }
        }
    }
}
