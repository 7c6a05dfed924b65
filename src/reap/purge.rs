//! `deleting` rows: S3 DELETE first, then the row, and the row only when the DELETE began past its
//! `put_deadline` (rule R8).

use std::time::Duration;

use actix::Addr;

use crate::actors::blob::{BlobActor, DeleteBlobs};
use crate::ledger::reap::CondemnedOriginal;
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::METRICS;
#[cfg(feature = "seams")]
use crate::seams::broken;
use crate::seams::{Point, Rule, enforced, reach};

/// The longest pause between two attempts at a key that cannot be deleted (rule R11).
const MAX_BACKOFF: Duration = Duration::from_secs(60 * 60);

/// What became of a batch of `deleting` rows.
#[derive(Debug, Default)]
pub struct PurgeReport {
    /// Objects and rows gone.
    pub removed: Vec<CondemnedOriginal>,
    /// Objects gone, rows kept until no PUT can land any more.
    pub awaiting_deadline: usize,
    /// Objects that could not be deleted, and why; they are tried again later.
    pub failed: Vec<(CondemnedOriginal, String)>,
}

/// Deletes objects and their rows. A cheap clone.
#[derive(Debug, Clone)]
pub struct Purger {
    /// Where the rows are.
    pub ledger: Ledger,
    /// Who deletes the objects.
    pub blobs: Addr<BlobActor>,
}

impl Purger {
    /// Works off rows that the caller holds (at most [`crate::store::MAX_DELETE_KEYS`]). What fails
    /// at the store is put off and reported; the rows of a call whose outcome is unknown stay.
    ///
    /// # Errors
    /// The database did not answer: the rows come up again, and deleting again is safe.
    pub async fn purge(&self, rows: Vec<CondemnedOriginal>) -> Result<PurgeReport, LedgerError> {
        let mut report = PurgeReport::default();
        reach(Point::CondemnedTaken, || rows.len()).await;
        let keys = rows.iter().map(|row| row.s3_key.clone()).collect();
        #[cfg(feature = "seams")]
        let open = broken::open_transaction(&self.ledger).await;
        let results = match self.blobs.send(DeleteBlobs { keys }).await {
            Ok(results) => results,
            Err(_) => return Err(LedgerError::stopping()),
        };
        #[cfg(feature = "seams")]
        drop(open);
        let results: Vec<Result<(), String>> = match results {
            Ok(results) => results
                .into_iter()
                .map(|result| result.map_err(|error| error.to_string()))
                .collect(),
            Err(error) => vec![Err(error.to_string()); rows.len()],
        };
        reach(Point::ObjectsDeleted, || rows.len()).await;
        let (mut gone, mut early) = (Vec::new(), Vec::new());
        for (row, result) in rows.into_iter().zip(results) {
            match result {
                Ok(()) if row.past_put_deadline || !enforced(Rule::RowOutlivesDeadline) => {
                    gone.push(row);
                }
                Ok(()) => early.push(row.id),
                Err(why) if enforced(Rule::PoisonIsPassed) => report.failed.push((row, why)),
                Err(_) => return Err(LedgerError::Contended),
            }
        }
        if !gone.is_empty() {
            let ids: Vec<_> = gone.iter().map(|row| row.id).collect();
            METRICS
                .reaped
                .inc_by(self.ledger.remove_condemned(&ids).await?);
            report.removed = gone;
        }
        if !early.is_empty() {
            report.awaiting_deadline = early.len();
            self.ledger.await_put_deadline(&early).await?;
        }
        for (row, why) in &report.failed {
            tracing::warn!(
                key = row.s3_key,
                why,
                attempts = row.attempts,
                "could not delete an object"
            );
            self.ledger
                .postpone_condemned(row.id, backoff(row.attempts), why)
                .await?;
        }
        Ok(report)
    }
}

/// 1 s, 2 s, 4 s … up to [`MAX_BACKOFF`].
fn backoff(attempts: i32) -> Duration {
    if !enforced(Rule::BackOff) {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempts.saturating_sub(1))
        .unwrap_or(0)
        .min(12);
    Duration::from_secs(1 << doublings).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_up_to_an_hour() {
        let seconds = [0, 1, 2, 3, 12, 13, 1000, i32::MAX].map(|n| backoff(n).as_secs());
        assert_eq!(seconds, [1, 1, 2, 4, 2048, 3600, 3600, 3600]);
    }
}
