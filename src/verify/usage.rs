//! Usage counters beside what they count.

use super::{Cursor, Step, StepEnd, VerifyError};

impl Step<'_> {
    /// A difference is no problem of anybody's bytes: the counters are only what `/v1/stats` adds up.
    /// So it is told apart from the findings.
    pub(super) async fn compare_usage(&mut self) -> Result<StepEnd, VerifyError> {
        self.progress.cursor = Cursor::Done;
        if !self.verifier.options.usage {
            return Ok(StepEnd::Done);
        }
        let ledger = &self.verifier.ledger;
        for difference in ledger.check_usage().await? {
            if self.is_stopped() {
                return Ok(StepEnd::BrokenOff);
            }
            let repaired = self.may_repair() && ledger.repair_usage(&difference).await?;
            self.progress.summary.wrong_usage += u64::from(!repaired);
            self.observer.usage_differs(&difference, repaired);
        }
        Ok(StepEnd::Done)
    }
}
