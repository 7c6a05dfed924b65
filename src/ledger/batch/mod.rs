//! Group commit: up to a batch of operations in one transaction.
//!
//! A batch **looks** at the rows its operations name and locks the originals among them, ascending;
//! **plans** in memory what each operation does, in their order; **writes** that in a handful of
//! multi-row statements, each of whose affected rows must be the planned number; commits. Whoever
//! changed a row between look and lock is seen as a wrong number: nothing is kept, and the batch is
//! run again on what is there now (rule R4).
//!
//! Every operation is idempotent by its own key, so that a batch whose COMMIT was not answered is
//! simply run again (rule R10).

mod look;
mod operation;
mod plan;
mod write;

use std::time::Duration;

pub use operation::{
    AcquireReference, CommitUpload, ContentClaim, NewImage, Operation, Outcome, ReleaseImages,
};

use super::{Ledger, LedgerError};
use crate::seams::{Point, Rule, Transaction, enforced, reach};
use plan::Refusal;

/// How often a batch may have been run before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Never: image ids that were drawn at random cannot exist yet.
    First,
    /// The outcome of an earlier run is unknown, or it met changed rows.
    Again,
}

impl Ledger {
    /// Runs a batch in one transaction; one outcome per operation, in their order, and nothing is
    /// known to anybody before COMMIT returned (rule R15).
    ///
    /// # Errors
    /// - [`LedgerError::Contended`]: rows changed meanwhile; run it again.
    /// - [`LedgerError::Unavailable`]: it may have committed; run it again with [`Run::Again`].
    /// - [`LedgerError::Inconsistent`]: one of the operations cannot be; run them one by one.
    pub async fn apply_batch(
        &self,
        operations: &[Operation],
        run: Run,
        grace_period: Duration,
    ) -> Result<Vec<Outcome>, LedgerError> {
        let mut transaction = self.begin().await?;
        let seen = look::look(&transaction, self.backend, operations, run).await?;
        reach(Point::BatchLooked, || operations.len()).await;
        let mut plan = match plan::plan(operations, seen, grace_period) {
            Ok(plan) => plan,
            Err(Refusal::Changed) => return Err(LedgerError::Contended),
            Err(Refusal::BelowZero(original)) => {
                return Err(look::why_below_zero(&transaction, original).await?);
            }
        };
        write::write_originals(&transaction, self.backend, &plan).await?;
        if !enforced(Rule::CountWithImage) {
            transaction = self.next_after(transaction).await?;
        }
        write::write_images(&transaction, self.backend, &plan).await?;
        if !enforced(Rule::ReceiptWithEffect) {
            transaction = self.next_after(transaction).await?;
        }
        write::insert_receipts(&transaction, self.backend, &plan).await?;
        write::count_own_references(&transaction, operations, &mut plan).await?;
        plan.usage.write(&transaction, self.backend).await?;
        reach(Point::BatchWritten, || operations.len()).await;
        let commit = transaction.commit();
        if enforced(Rule::AnswerAfterCommit) {
            commit.await?;
        } else {
            tokio::spawn(commit);
        }
        reach(Point::BatchCommitted, || operations.len()).await;
        Ok(plan.outcomes)
    }

    /// Commits half of a batch: only where a rule is left out.
    async fn next_after(&self, half: Transaction) -> Result<Transaction, LedgerError> {
        half.commit().await?;
        self.begin().await
    }
}

/// A list for `IN (…)` with its last value repeated until their number is a power of two: a database
/// keeps the plan of a statement by its text, and so a handful of texts serves every batch.
fn padded<T: Clone>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    let length = values.len().next_power_of_two();
    if let Some(last) = values.last().cloned() {
        values.resize(length, last);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_padded_with_what_is_in_them() {
        assert_eq!(padded([7; 0]), [0; 0]);
        assert_eq!(padded([1]), [1]);
        assert_eq!(padded([1, 2, 3]), [1, 2, 3, 3]);
        assert_eq!(padded(0..128).len(), 128);
        assert_eq!(padded(0..129).len(), 256);
    }
}
