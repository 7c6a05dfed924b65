//! One step after the other, at a pace, with a memory.

use std::time::{Duration, Instant};

use super::{Observer, Pace, Progress, Verifier, VerifyError, VerifySummary};
use crate::ledger::verify::passes::TakenPass;
use crate::ledger::{Ledger, LedgerError};

/// How often the progress of a verification is kept: what a SIGKILL makes it repeat.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// How a verification ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was looked at.
    Complete(VerifySummary),
    /// It was stopped; what was kept says where.
    Interrupted(VerifySummary),
}

/// Keeps the progress of a pass in the database.
#[derive(Debug)]
pub struct Keeper {
    ledger: Ledger,
    taken: TakenPass,
    kept_at: Instant,
    /// Another verification took the pass: its progress is not overwritten.
    lost: bool,
}

impl Keeper {
    /// For a pass that was taken.
    pub fn new(ledger: Ledger, taken: TakenPass) -> Self {
        Self {
            ledger,
            taken,
            kept_at: Instant::now(),
            lost: false,
        }
    }

    async fn keep(&mut self, progress: &Progress) -> Result<(), LedgerError> {
        if self.lost {
            return Ok(());
        }
        let progress = as_json(progress)?;
        let kept = self
            .ledger
            .keep_pass(&self.taken, &progress, Duration::ZERO)
            .await?;
        self.note(kept);
        Ok(())
    }

    async fn complete(&mut self, summary: &VerifySummary) -> Result<(), LedgerError> {
        if self.lost {
            return Ok(());
        }
        let kept = self
            .ledger
            .complete_pass(&self.taken, &as_json(summary)?)
            .await?;
        self.note(kept);
        Ok(())
    }

    fn note(&mut self, kept: bool) {
        self.kept_at = Instant::now();
        if !kept {
            self.lost = true;
            tracing::warn!(
                "another verification has begun: where this one is, is not kept any more"
            );
        }
    }
}

/// Goes on from `progress` to the end, or until the verifier is stopped.
///
/// # Errors
/// The database, or a listing, failed: what was found until then was told, the rest is unknown. Where
/// it was is kept, if that was still possible.
pub async fn run(
    verifier: &Verifier,
    mut progress: Progress,
    pace: &Pace,
    keeper: &mut Keeper,
    observer: &mut (dyn Observer + Send),
) -> Result<Ended, VerifyError> {
    // From the beginning on: a run that is killed before its first step leaves no older one's.
    keeper.keep(&progress).await?;
    while !progress.is_complete() {
        let next = match verifier.step(&progress, observer).await {
            Ok(next) => next,
            Err(error) => {
                if let Err(unkept) = keeper.keep(&progress).await {
                    tracing::warn!(error = %unkept, "where the verification is could not be kept");
                }
                return Err(error);
            }
        };
        let Some(next) = next else {
            keeper.keep(&progress).await?;
            return Ok(Ended::Interrupted(progress.summary));
        };
        let units = next.units_since(&progress);
        progress = next;
        pace.pay(units, verifier.stop()).await;
        if verifier.stop().is_cancelled() && !progress.is_complete() {
            keeper.keep(&progress).await?;
            return Ok(Ended::Interrupted(progress.summary));
        }
        if keeper.kept_at.elapsed() >= KEEP_EVERY {
            keeper.keep(&progress).await?;
        }
    }
    keeper.complete(&progress.summary).await?;
    Ok(Ended::Complete(progress.summary))
}

fn as_json(value: &impl serde::Serialize) -> Result<serde_json::Value, LedgerError> {
    serde_json::to_value(value).map_err(|error| LedgerError::Inconsistent(error.to_string()))
}
