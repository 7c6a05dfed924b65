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

use super::script::Script;
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
        let mut script = Script::new(self.backend);
        write::originals(&mut script, &plan);
        if !enforced(Rule::CountWithImage) {
            script.run(&transaction).await?;
            transaction = self.next_after(transaction).await?;
        }
        write::images(&mut script, &plan);
        if !enforced(Rule::ReceiptWithEffect) {
            script.run(&transaction).await?;
            transaction = self.next_after(transaction).await?;
        }
        write::receipts(&mut script, &plan);
        write::usage(&mut script, &plan);
        script.run(&transaction).await?;
        look::count_own_references(&transaction, operations, &mut plan).await?;
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
