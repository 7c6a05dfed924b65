//! Objects without a row: a second look, the circuit breaker, and the way to the reaper.

use super::report::Finding;
use super::{Step, VerifyError};
use crate::ledger::verify::StrayObject;
use crate::seams::{Rule, enforced};
use crate::store::{ListedBlob, StorageKey};

/// Strays of one page that may be handed over, whatever the page's size (rule R12).
pub(super) const STRAYS_ALWAYS_BELIEVED: usize = 100;

impl Step<'_> {
    /// An object without a row: asks for the row again, then for the object.
    pub(super) async fn confirm_stray(
        &mut self,
        blob: &ListedBlob,
    ) -> Result<Option<ListedBlob>, VerifyError> {
        if !enforced(Rule::LookAgain) {
            return Ok(Some(blob.clone()));
        }
        self.progress.summary.second_looks += 1;
        let row = self.verifier.ledger.original_of_key(&blob.key).await?;
        if row.is_some() {
            return Ok(None);
        }
        match self.verifier.store.stat(&blob.key).await {
            Ok(size) => Ok(Some(ListedBlob {
                size,
                ..blob.clone()
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => {
                self.report_unreadable(&blob.key, &error);
                Ok(None)
            }
        }
    }

    /// Reports the strays of one page, and hands them to the reaper if that is asked for and
    /// believable.
    pub(super) async fn settle_strays(
        &mut self,
        strays: &[ListedBlob],
        page_size: usize,
    ) -> Result<(), VerifyError> {
        let limit = believable_strays(page_size);
        if strays.len() > limit && !self.progress.strays_are_doubted {
            self.progress.strays_are_doubted = true;
            self.report(&Finding::TooManyStrays {
                strays: strays.len(),
                limit,
            });
        }
        let condemned = match self.may_repair() && !self.progress.strays_are_doubted {
            true => {
                let objects: Vec<_> = strays.iter().filter_map(as_object).collect();
                let put_deadline = self.verifier.options.put_deadline;
                let ledger = &self.verifier.ledger;
                ledger.condemn_strays(&objects, put_deadline).await?
            }
            false => Default::default(),
        };
        for stray in strays {
            self.report(&Finding::Stray {
                key: stray.key.clone(),
                size: stray.size,
                repaired: condemned.contains(&stray.key),
            });
        }
        Ok(())
    }
}

/// What a row needs to know. A listing holds only keys that name a digest.
fn as_object(blob: &ListedBlob) -> Option<StrayObject> {
    Some(StrayObject {
        s3_key: blob.key.clone(),
        content_hash: StorageKey::digest_named_by(&blob.key)?,
        file_size: i64::try_from(blob.size).ok()?,
    })
}

/// The most strays of a page of `page_size` objects that are believed to be strays.
fn believable_strays(page_size: usize) -> usize {
    if !enforced(Rule::StrayLimit) {
        return usize::MAX;
    }
    STRAYS_ALWAYS_BELIEVED.max(page_size / 100)
}
