//! Rows against objects both ways, counts against images; beside a running server.
//!
//! The order is what makes it safe to run at any time (rule R12): a page of the store is LISTed first
//! and its rows are SELECTed after. A row is committed before its object's first byte is sent
//! (rule R2), so an object that was listed had a row; if the row is not there, either it went since with its
//! object, or the object is a stray: a second look tells. A row whose object was not listed may be
//! newer than the listing: a second look tells that too. A look that fails is never "missing".
//!
//! Memory is constant: one page of objects, one page of rows.

mod check;
mod merge;
mod report;

use std::sync::Arc;

use entity::OriginalId;

use crate::ledger::verify::{CountedOriginal, Recount};
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::METRICS;
use crate::seams::{Point, Rule, enforced, reach};
use crate::store::{BlobStore, ListedBlob, StoreError};

use merge::{Pairing, pair};
pub use report::{Finding, Observer, OriginalKey, VerifyOptions, VerifySummary};

/// Rows in one page.
const ROWS_PER_PAGE: u64 = 1000;
/// Rows in one slice of the counts: each costs a probe of the images' index, and the statement must
/// stay far below the database's statement time-out.
const COUNTS_PER_SLICE: u64 = 500;
/// Strays of one page that may be deleted, whatever the page's size (rule R12).
const STRAYS_ALWAYS_ALLOWED: usize = 100;

/// Why a verification did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store could not be listed, or its id not be read.
    #[error("the object store is not available: {0}")]
    Store(#[from] StoreError),
}

/// Looks at everything once.
///
/// # Errors
/// The database, or a listing, failed: what was found until then was told, the rest is unknown.
pub async fn verify(
    ledger: &Ledger,
    store: &Arc<dyn BlobStore>,
    options: VerifyOptions,
    observer: &mut (dyn Observer + Send),
) -> Result<VerifySummary, VerifyError> {
    let mut verification = Verification {
        ledger,
        store,
        options,
        observer,
        summary: VerifySummary::default(),
        may_delete_strays: options.repair,
    };
    if verification.store_is_ours().await? {
        verification.compare_objects().await?;
    }
    verification.compare_counts().await?;
    Ok(verification.summary)
}

struct Verification<'a> {
    ledger: &'a Ledger,
    store: &'a Arc<dyn BlobStore>,
    options: VerifyOptions,
    observer: &'a mut (dyn Observer + Send),
    summary: VerifySummary,
    may_delete_strays: bool,
}

impl Verification<'_> {
    fn report(&mut self, finding: &Finding) {
        self.summary.problems += 1;
        self.summary.repaired += u64::from(finding.is_repaired());
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
    /// then nothing may be deleted.
    async fn store_is_ours(&mut self) -> Result<bool, VerifyError> {
        let database = self.ledger.find_store_id().await?;
        let store = self.store.read_store_id().await?;
        self.may_delete_strays &= database.is_some();
        if database == store {
            return Ok(true);
        }
        self.report(&Finding::StoreMismatch { database, store });
        Ok(false)
    }

    async fn compare_objects(&mut self) -> Result<(), VerifyError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list(after.as_deref()).await?;
            reach(Point::ObjectsListed, || page.blobs.len()).await;
            self.summary.objects += page.blobs.len() as u64;
            self.compare_page(after.as_deref(), page.next.as_deref(), &page.blobs)
                .await?;
            self.observer.progressed(&self.summary);
            // A listing that does not move on would go on for ever.
            match page.next {
                Some(next) if after.as_ref().is_none_or(|after| next > *after) => {
                    after = Some(next);
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Compares the objects of one page with all rows in its range of keys, `after` < key <= `through`.
    async fn compare_page(
        &mut self,
        after: Option<&str>,
        through: Option<&str>,
        mut blobs: &[ListedBlob],
    ) -> Result<(), VerifyError> {
        let page_size = blobs.len();
        let mut strays = Vec::new();
        let mut after = after.map(str::to_owned);
        loop {
            let rows = self
                .ledger
                .originals_by_key(after.as_deref(), through, ROWS_PER_PAGE)
                .await?;
            self.summary.rows += rows.len() as u64;
            let more = rows.len() as u64 == ROWS_PER_PAGE;
            let last_key = rows.last().map(|row| row.s3_key.clone());
            // With more rows to come, only the objects up to the last row are in the same range.
            let in_range = match (&last_key, more) {
                (Some(last), true) => blobs.partition_point(|blob| blob.key <= *last),
                _ => blobs.len(),
            };
            let (here, rest) = blobs.split_at(in_range);
            let mut matched = Vec::new();
            for pairing in pair(here, &rows) {
                match pairing {
                    Pairing::Matched(row) => matched.push(row),
                    Pairing::WrongSize(row) | Pairing::RowAlone(row) => {
                        self.look_again_at_row(row).await?;
                    }
                    Pairing::ObjectAlone(blob) => strays.extend(self.confirm_stray(blob).await?),
                    Pairing::InTransit => {}
                }
            }
            self.check_matched(&matched).await?;
            blobs = rest;
            if !more {
                break;
            }
            after = last_key;
        }
        self.settle_strays(strays, page_size).await
    }

    async fn compare_counts(&mut self) -> Result<(), VerifyError> {
        let mut after: Option<OriginalId> = None;
        loop {
            let slice = self
                .ledger
                .counted_originals(after, COUNTS_PER_SLICE)
                .await?;
            self.summary.counts += slice.len() as u64;
            for row in &slice {
                if row.reference_count != row.live_images {
                    self.look_again_at_count(row.id).await?;
                }
            }
            self.observer.progressed(&self.summary);
            match slice.last() {
                Some(last) if slice.len() as u64 == COUNTS_PER_SLICE => after = Some(last.id),
                _ => return Ok(()),
            }
        }
    }

    async fn look_again_at_count(&mut self, id: OriginalId) -> Result<(), VerifyError> {
        let Some(CountedOriginal {
            id,
            reference_count,
            live_images,
        }) = self.ledger.counted_original(id).await?
        else {
            return Ok(());
        };
        if reference_count == live_images {
            return Ok(());
        }
        let repaired =
            self.options.repair && self.ledger.recount_original(id).await? != Recount::Impossible;
        self.report(&Finding::WrongCount {
            original_id: id,
            reference_count,
            live_images,
            repaired,
        });
        Ok(())
    }
}

/// The most strays of a page of `page_size` objects that are believed to be strays.
fn believable_strays(page_size: usize) -> usize {
    if !enforced(Rule::StrayLimit) {
        return usize::MAX;
    }
    STRAYS_ALWAYS_ALLOWED.max(page_size / 100)
}

#[cfg(test)]
mod tests;
