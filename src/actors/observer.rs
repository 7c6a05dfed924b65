//! `Observer`: keeps the gauges of the originals' states and of the reapers' backlog true.
//!
//! Role: what an operator's alarms look at. Invariant: it only reads.

use std::time::Duration;

use async_trait::async_trait;

use super::background::{Round, Work};
use crate::ledger::Ledger;
use crate::metrics::METRICS;

/// Counts originals by state.
#[derive(Debug)]
pub struct Observer {
    /// Where the rows are.
    pub ledger: Ledger,
    /// How long an original with count 0 is kept: younger ones are no backlog.
    pub grace_period: Duration,
}

impl Observer {
    /// A gauge is scraped every 15 to 60 seconds.
    pub const INTERVAL: Duration = Duration::from_secs(30);
}

#[async_trait]
impl Work for Observer {
    async fn round(&self) -> Round {
        let seen = match self.ledger.observe_originals(self.grace_period).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(%error, "could not count originals");
                return Round::Failed;
            }
        };
        for (state, count) in [
            ("pending", seen.pending),
            ("stored", seen.stored),
            ("deleting", seen.deleting),
            ("unreferenced", seen.unreferenced),
        ] {
            METRICS.originals.with_label_values(&[state]).set(count);
        }
        for (state, oldest) in [
            ("pending", seen.oldest_pending),
            ("unreferenced", seen.oldest_unreferenced),
            ("deleting", seen.oldest_deleting),
        ] {
            METRICS
                .reaper_oldest
                .with_label_values(&[state])
                .set(oldest.as_secs_f64());
        }
        Round::Done
    }
}
