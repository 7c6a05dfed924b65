//! Counts beside images, a slice at a time.

use entity::OriginalId;
use uuid::Uuid;

use super::report::Finding;
use super::{Cursor, Step, StepEnd, VerifyError};

/// Rows in one slice: each costs a probe of the images' index.
const ROWS_PER_SLICE: u64 = 500;
/// Images that one slice's statement counts; a slice of rows with many of them is shorter.
const IMAGES_PER_SLICE: i64 = 200_000;

impl Step<'_> {
    pub(super) async fn compare_counts(
        &mut self,
        after: Option<Uuid>,
    ) -> Result<StepEnd, VerifyError> {
        let ledger = &self.verifier.ledger;
        let after = after.map(OriginalId);
        let slice = ledger
            .next_count_slice(after, ROWS_PER_SLICE, IMAGES_PER_SLICE)
            .await?;
        let Some(slice) = slice else {
            self.progress.cursor = Cursor::Usage;
            return Ok(StepEnd::Done);
        };
        for row in ledger.miscounted_originals(after, slice.through).await? {
            if self.is_stopped() {
                return Ok(StepEnd::BrokenOff);
            }
            self.look_again_at_count(row.id).await?;
        }
        self.progress.summary.counts += slice.rows;
        self.progress.cursor = Cursor::counts_after(slice.through);
        Ok(StepEnd::Done)
    }

    /// A difference counts as one when it is still there under the row's lock.
    async fn look_again_at_count(&mut self, id: OriginalId) -> Result<(), VerifyError> {
        let ledger = &self.verifier.ledger;
        let Some(miscount) = ledger.recount_original(id, self.may_repair()).await? else {
            return Ok(());
        };
        self.report(&Finding::WrongCount {
            original_id: id,
            state: miscount.state,
            reference_count: miscount.reference_count,
            live_images: miscount.live_images,
            repaired: miscount.repaired,
        });
        Ok(())
    }
}
