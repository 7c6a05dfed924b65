//! The ordered listing beside the ordered rows, and second looks at what differs.

use entity::original_images::OriginalState;

use super::merge::{Pairing, pair};
use super::report::{Finding, OriginalKey};
use super::{Cursor, Mending, Step, StepEnd, Verifier, VerifyError};
use crate::ledger::verify::KeyedOriginal;
use crate::seams::{Point, reach};
use crate::store::{BlobPage, ListedBlob, StoreError};

/// Rows in one page.
pub(super) const ROWS_PER_PAGE: u64 = 1000;

impl Step<'_> {
    /// LISTs one page, then SELECTs the rows in its range of keys.
    pub(super) async fn compare_objects(
        &mut self,
        after: Option<String>,
    ) -> Result<StepEnd, VerifyError> {
        let page = self.verifier.store.list(after.as_deref()).await?;
        reach(Point::ObjectsListed, || page.blobs.len()).await;
        check_order(after.as_deref(), &page)?;
        self.progress.summary.objects += page.blobs.len() as u64;
        let end = self
            .compare_page(after, page.next.as_deref(), &page.blobs)
            .await?;
        self.progress.cursor = match page.next {
            Some(next) => Cursor::Objects { after: Some(next) },
            None => self.progress.after_objects(),
        };
        Ok(end)
    }

    /// Compares the objects of one page with all rows in its range of keys, `after` < key <= `through`.
    async fn compare_page(
        &mut self,
        mut after: Option<String>,
        through: Option<&str>,
        mut blobs: &[ListedBlob],
    ) -> Result<StepEnd, VerifyError> {
        let page_size = blobs.len();
        let mut strays = Vec::new();
        loop {
            let rows = self
                .verifier
                .ledger
                .originals_by_key(after.as_deref(), through, ROWS_PER_PAGE)
                .await?;
            self.progress.summary.rows += rows.len() as u64;
            let more = rows.len() as u64 == ROWS_PER_PAGE;
            let last_key = rows.last().map(|row| row.s3_key.clone());
            // With more rows to come, only the objects up to the last row are in the same range.
            let in_range = match (&last_key, more) {
                (Some(last), true) => blobs.partition_point(|blob| blob.key <= *last),
                _ => blobs.len(),
            };
            let (here, rest) = blobs.split_at(in_range);
            for pairing in pair(here, &rows) {
                if self.is_stopped() {
                    return Ok(StepEnd::BrokenOff);
                }
                match pairing {
                    Pairing::Matched(row) => self.tell_known_damage(row),
                    Pairing::WrongSize(row) | Pairing::RowAlone(row) => {
                        self.look_again_at_row(row).await?;
                    }
                    Pairing::ObjectAlone(blob) => strays.extend(self.confirm_stray(blob).await?),
                    Pairing::InTransit => {}
                }
            }
            blobs = rest;
            if !more {
                break;
            }
            after = last_key;
        }
        self.settle_strays(&strays, page_size).await?;
        Ok(StepEnd::Done)
    }

    /// A row whose object was not listed, or with another size: asks the store for the object, and
    /// then the row again. In this order: as long as the row is `stored` under the same key, its
    /// object must be there, so it had to be when the store was asked.
    async fn look_again_at_row(&mut self, row: &KeyedOriginal) -> Result<(), VerifyError> {
        self.progress.summary.second_looks += 1;
        let size = self.verifier.store.stat(&row.s3_key).await;
        if !self.verifier.still_stored(row).await? {
            return Ok(());
        }
        match size {
            Ok(size) if i64::try_from(size) == Ok(row.file_size) => self.tell_known_damage(row),
            Ok(actual) => self.report_wrong_size(row, actual).await?,
            Err(error) if error.is_not_found() => self.report_missing(row).await?,
            Err(error) => self.report_unreadable(&row.s3_key, &error),
        }
        Ok(())
    }

    /// An object of the right size under a row that is marked. One that is to be read is told of when
    /// it was: its bytes may prove sound.
    fn tell_known_damage(&mut self, row: &KeyedOriginal) {
        let will_be_read = self
            .progress
            .deep
            .is_some_and(|sample| sample.contains(row.id));
        if row.damaged_at.is_some() && !will_be_read {
            self.report(&Finding::KnownDamage {
                original: named(row),
                repaired: false,
            });
        }
    }

    pub(super) async fn report_missing(&mut self, row: &KeyedOriginal) -> Result<(), VerifyError> {
        let repaired = self.verifier.mark_damaged(row).await?;
        self.report(&Finding::MissingObject {
            original: named(row),
            repaired,
        });
        Ok(())
    }

    pub(super) async fn report_wrong_size(
        &mut self,
        row: &KeyedOriginal,
        actual: u64,
    ) -> Result<(), VerifyError> {
        let repaired = self.verifier.mark_damaged(row).await?;
        self.report(&Finding::WrongSize {
            original: named(row),
            expected: row.file_size,
            actual,
            repaired,
        });
        Ok(())
    }

    pub(super) fn report_unreadable(&mut self, key: &str, error: &StoreError) {
        self.report(&Finding::Unreadable {
            key: key.to_owned(),
            error: error.to_string(),
        });
    }
}

impl Verifier {
    /// Whether the row still promises this object.
    pub(super) async fn still_stored(&self, row: &KeyedOriginal) -> Result<bool, VerifyError> {
        let now = self.ledger.original_of_key(&row.s3_key).await?;
        Ok(now.is_some_and(|now| now.id == row.id && now.state == OriginalState::Stored))
    }

    /// Whether the row is marked now, by this or by an earlier look.
    pub(super) async fn mark_damaged(&self, row: &KeyedOriginal) -> Result<bool, VerifyError> {
        if self.options.mending == Mending::ReportOnly {
            return Ok(false);
        }
        let marked = self.ledger.mark_damaged(row.id, &row.s3_key).await?;
        Ok(marked || row.damaged_at.is_some())
    }
}

/// The merge relies on a listing that ascends and goes on: one that does neither would make strays
/// of everything, or never end.
fn check_order(after: Option<&str>, page: &BlobPage) -> Result<(), VerifyError> {
    let keys = || page.blobs.iter().map(|blob| blob.key.as_str());
    if !after.into_iter().chain(keys()).is_sorted_by(|a, b| a < b) {
        return Err(VerifyError::Listing("its keys do not ascend"));
    }
    let last = keys().next_back().or(after);
    match (page.next.as_deref(), last) {
        (Some(next), Some(last)) if next < last => {
            Err(VerifyError::Listing("it goes on before its own end"))
        }
        (Some(next), _) if after.is_some_and(|after| next <= after) => {
            Err(VerifyError::Listing("it does not go on"))
        }
        _ => Ok(()),
    }
}

pub(super) fn named(row: &KeyedOriginal) -> OriginalKey {
    OriginalKey {
        id: row.id,
        key: row.s3_key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_listing_that_cannot_be_merged_is_refused() {
        let page = |keys: &[&str], next: Option<&str>| BlobPage {
            blobs: keys
                .iter()
                .map(|key| ListedBlob {
                    key: (*key).to_owned(),
                    size: 0,
                    modified_at: DateTime::UNIX_EPOCH,
                })
                .collect(),
            next: next.map(str::to_owned),
        };
        for (after, keys, next) in [
            (None, &[][..], None),
            (None, &["a", "b"], Some("b")),
            (Some("a"), &["b", "c"], Some("d")),
            // A page of foreign objects only.
            (Some("a"), &[], Some("b")),
        ] {
            assert!(check_order(after, &page(keys, next)).is_ok(), "{keys:?}");
        }
        for (after, keys, next) in [
            (None, &["b", "a"][..], None),
            (None, &["a", "a"], None),
            (Some("b"), &["b"], None),
            (Some("b"), &["a"], None),
            (Some("b"), &[], Some("b")),
            (None, &["a", "b"], Some("a")),
        ] {
            assert!(check_order(after, &page(keys, next)).is_err(), "{keys:?}");
        }
    }
}
