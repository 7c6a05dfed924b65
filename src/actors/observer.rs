//! `Observer`: keeps the gauges of the originals' states, of the reapers' backlog and of the
//! verification true.
//!
//! Role: what an operator's alarms look at. Invariant: it only reads.

use std::time::Duration;

use async_trait::async_trait;

use super::background::{Round, Work};
use crate::ledger::verify::passes::PassKind;
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::METRICS;
use crate::verify::{Progress, VerifySummary};

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
        match self.look().await {
            Ok(()) => Round::Done,
            Err(error) => {
                tracing::warn!(%error, "could not count originals");
                Round::Failed
            }
        }
    }
}

impl Observer {
    async fn look(&self) -> Result<(), LedgerError> {
        let seen = self.ledger.observe_originals(self.grace_period).await?;
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
        let originals = seen.pending + seen.stored + seen.deleting;
        self.look_at_verification(u64::try_from(originals).unwrap_or_default())
            .await
    }

    /// What the verification of any node, or `hapax verify`, has found lately.
    async fn look_at_verification(&self, originals: u64) -> Result<(), LedgerError> {
        let background = self.ledger.pass_state(PassKind::Background).await?;
        let command = self.ledger.pass_state(PassKind::Command).await?;
        let progress: Option<Progress> = background.progress.and_then(understood);
        METRICS
            .verify_progress
            .set(progress.map_or(0.0, |progress| progress.ratio(originals)));
        let completed = [background.completed, command.completed];
        let last = completed.into_iter().flatten().max_by_key(|(at, _)| *at);
        let Some((at, result)) = last else {
            return Ok(());
        };
        METRICS
            .verify_last_pass
            .set(at.timestamp_millis() as f64 / 1000.0);
        if let Some(VerifySummary {
            missing,
            strays,
            wrong_counts,
            unreadable,
            ..
        }) = understood(result)
        {
            for (gauge, found) in [
                (&METRICS.blob_missing, missing),
                (&METRICS.stray_objects, strays),
                (&METRICS.refcount_mismatch, wrong_counts),
                (&METRICS.verify_unreadable, unreadable),
            ] {
                gauge.set(i64::try_from(found).unwrap_or(i64::MAX));
            }
        }
        Ok(())
    }
}

/// What another version kept may say other things: then it says nothing.
fn understood<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> Option<T> {
    serde_json::from_value(json).ok()
}
