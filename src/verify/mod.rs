//! Rows against objects both ways, counts against images, and the
//! counters of `/v1/stats` against both; beside a running server.
//!
//! The order is what makes it safe to run at any time (rule R12): a page of the store is LISTed first
//! and its rows are SELECTed after. A row is committed before its object's first byte is sent
//! (rule R2), so an object that was listed had a row; if the row is not there, either it went since with its
//! object, or the object is a stray: a second look tells. A row whose object was not listed may be
//! newer than the listing: a second look tells that too. A look that fails is never "missing".
//!
//! Memory is constant: one page of objects, one page of rows, at most four pieces of objects that
//! are hashed. Work is done in steps; what is known after a step is a [`Progress`] that can be kept,
//! and gone on with by another process. A step that is broken off is as if it had not begun: the next
//! one repeats it.

mod counts;
mod merge;
mod objects;
mod pace;
mod progress;
mod reading;
mod report;
mod run;
mod sample;
mod strays;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, LedgerError};
use crate::metrics::METRICS;
use crate::reap::{IdentityError, StoreIdentity, StoreMatch};
use crate::store::{BlobStore, StoreError};

pub use pace::Pace;
pub use progress::{Cursor, Progress};
pub use report::{Finding, Observer, OriginalKey, VerifySummary, word_of};
pub use run::{Ended, Keeper, run};
pub use sample::{Sample, Share};

/// Why a verification did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store could not be listed, or its id not be read.
    #[error("the object store is not available: {0}")]
    Store(#[from] StoreError),
    /// The listing cannot be merged with the rows.
    #[error("the object store's listing cannot be relied on: {0}")]
    Listing(&'static str),
}

impl From<IdentityError> for VerifyError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Ledger(error) => Self::Ledger(error),
            IdentityError::Store(error) => Self::Store(error),
        }
    }
}

/// What is done about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mending {
    /// Nothing.
    ReportOnly,
    /// A stored original whose object was asked for and is missing or wrong is marked, as a read of
    /// its content would do.
    MarkDamaged,
    /// Besides: counts are set right, marks of sound objects are taken back, strays are handed to the
    /// reaper.
    Repair,
}

/// How much is done at once, and about what is found.
#[derive(Debug)]
pub struct VerifyOptions {
    /// What is done about a finding.
    pub mending: Mending,
    /// For strays that are handed to the reaper: after this long no PUT for their key can land.
    pub put_deadline: Duration,
    /// Whether usage counters are compared: one statement that reads both tables from end to end.
    pub usage: bool,
    /// Objects that are read at once.
    pub reads_in_flight: usize,
    /// A step that has read this many bytes ends, so that its progress can be kept.
    pub bytes_per_step: u64,
    /// How fast objects are read, in bytes a second.
    pub read_pace: Pace,
}

/// Does one step after the other.
#[derive(Debug)]
pub struct Verifier {
    ledger: Ledger,
    store: Arc<dyn BlobStore>,
    identity: StoreIdentity,
    options: VerifyOptions,
    stop: CancellationToken,
}

impl Verifier {
    /// A verifier of one database and its store. When `stop` is cancelled, a step breaks off.
    pub fn new(
        ledger: Ledger,
        store: Arc<dyn BlobStore>,
        identity: StoreIdentity,
        options: VerifyOptions,
        stop: CancellationToken,
    ) -> Self {
        Self {
            ledger,
            store,
            identity,
            options,
            stop,
        }
    }

    /// What ends a step early.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Looks at the next page or slice; where that leads. `None` when it was broken off: what was
    /// found was told, and will be told again.
    ///
    /// # Errors
    /// The database, or a listing, failed: the step can be repeated.
    pub async fn step(
        &self,
        progress: &Progress,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Progress>, VerifyError> {
        let mut step = Step {
            verifier: self,
            observer,
            progress: progress.clone(),
        };
        let done = match progress.cursor.clone() {
            Cursor::Objects { .. } | Cursor::Bytes { .. } if !step.store_is_ours().await? => {
                step.progress.cursor = Cursor::Counts { after: None };
                StepEnd::Done
            }
            Cursor::Objects { after } => step.compare_objects(after).await?,
            Cursor::Bytes { after } => step.read_objects(after).await?,
            Cursor::Counts { after } => step.compare_counts(after).await?,
            Cursor::Usage => step.compare_usage().await?,
            Cursor::Done => StepEnd::Done,
        };
        step.observer.progressed(&step.progress);
        Ok(match done {
            StepEnd::Done => Some(step.progress),
            StepEnd::BrokenOff => None,
        })
    }
}

/// Whether a step did what it had to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepEnd {
    Done,
    BrokenOff,
}

/// One step on its way.
struct Step<'a> {
    verifier: &'a Verifier,
    observer: &'a mut (dyn Observer + Send),
    /// As it will be after the step.
    progress: Progress,
}

impl Step<'_> {
    fn report(&mut self, finding: &Finding) {
        self.progress.summary.note(finding);
        METRICS
            .verify_findings
            .with_label_values(&[finding.problem()])
            .inc();
        match finding {
            Finding::MissingObject { .. }
            | Finding::WrongSize { .. }
            | Finding::WrongBytes { .. } => METRICS.missing_objects.inc(),
            Finding::WrongCount { .. } => METRICS.refcount_mismatches.inc(),
            _ => {}
        }
        self.observer.found(finding);
    }

    /// Whether database and store carry the same id. A database that never served has none yet, and
    /// then no stray is believed.
    async fn store_is_ours(&mut self) -> Result<bool, VerifyError> {
        match self.verifier.identity.check().await? {
            StoreMatch::Ours => Ok(true),
            StoreMatch::NotOurs {
                expected: None,
                found: None,
            } => {
                self.progress.strays_are_doubted = true;
                Ok(true)
            }
            StoreMatch::NotOurs { expected, found } => {
                self.report(&Finding::StoreMismatch {
                    database: expected,
                    store: found,
                });
                Ok(false)
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.verifier.stop.is_cancelled()
    }

    fn may_repair(&self) -> bool {
        self.verifier.options.mending == Mending::Repair
    }
}

#[cfg(test)]
mod tests;
