//! How far a verification is: one row per kind, so that it goes on after an interruption, and so
//! that one node at a time works on the background's.
//!
//! What `progress` and `result` say is the verification's own business; here they are JSON.

use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::verify_passes::{Column, Entity, Model};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, Value};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::ledger::{Ledger, LedgerError, clock};

/// Who verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassKind {
    /// The trickle in `serve`.
    Background,
    /// `hapax verify`.
    Command,
}

impl PassKind {
    fn name(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::Command => "command",
        }
    }
}

/// A pass in the hands of one process, until somebody else takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct TakenPass {
    /// Which one.
    pub kind: PassKind,
    /// Proves that it was not taken since.
    pub claim: Uuid,
    /// Complete passes before it.
    pub passes: i64,
    /// What was kept of it; `None`: it begins.
    pub progress: Option<Json>,
}

/// Where one kind of verification is.
#[derive(Debug, Clone, PartialEq)]
pub struct PassState {
    /// What was kept of the pass that is under way.
    pub progress: Option<Json>,
    /// Until when nobody goes on with it.
    pub not_before: DateTime<Utc>,
    /// The end and the figures of the last complete one.
    pub completed: Option<(DateTime<Utc>, Json)>,
}

impl Ledger {
    /// Takes the command's pass, whoever has it: an operator decides by hand.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn take_command_pass(&self) -> Result<TakenPass, LedgerError> {
        let claim = Uuid::new_v4();
        let taken = Entity::update_many()
            .col_expr(Column::Claim, Expr::val(claim))
            .filter(Column::Name.eq(PassKind::Command.name()))
            .exec_with_returning(&self.writer)
            .await?;
        taken
            .into_iter()
            .next()
            .map(|row| row_taken(PassKind::Command, claim, row))
            .ok_or_else(|| LedgerError::Inconsistent("verify_passes lost a row".to_owned()))
    }

    /// Takes the background's pass for one step of at most `hold`, if it is time: nobody has it, and
    /// either it is under way, or the last one began at least `interval` ago. `None` otherwise.
    ///
    /// # Errors
    /// The database did not answer; what was taken comes up again after `hold`.
    pub async fn take_background_pass(
        &self,
        hold: Duration,
        interval: Duration,
    ) -> Result<Option<TakenPass>, LedgerError> {
        let claim = Uuid::new_v4();
        let now = || clock::now(self.backend);
        let take = || {
            Entity::update_many()
                .col_expr(Column::Claim, Expr::val(claim))
                .col_expr(Column::NotBefore, clock::from_now(self.backend, hold))
                .filter(Column::Name.eq(PassKind::Background.name()))
                .filter(Expr::col(Column::NotBefore).lte(now()))
        };
        let mut taken = take()
            .filter(Column::Progress.is_not_null())
            .exec_with_returning(&self.writer)
            .await?;
        if taken.is_empty() {
            let due = Expr::col(Column::StartedAt)
                .lte(clock::before_now(self.backend, interval))
                .or(Expr::col(Column::StartedAt).is_null());
            taken = take()
                .col_expr(Column::StartedAt, now())
                .filter(Column::Progress.is_null())
                .filter(due)
                .exec_with_returning(&self.writer)
                .await?;
        }
        let row = taken.into_iter().next();
        Ok(row.map(|row| row_taken(PassKind::Background, claim, row)))
    }

    /// Keeps where a pass is; it may be gone on with after `pause`. Whether it was still the caller's.
    ///
    /// # Errors
    /// The database did not answer: the pass goes on where it was kept before.
    pub async fn keep_pass(
        &self,
        taken: &TakenPass,
        progress: &Json,
        pause: Duration,
    ) -> Result<bool, LedgerError> {
        let kept = Entity::update_many()
            .col_expr(Column::Progress, Expr::val(progress.clone()))
            .col_expr(Column::NotBefore, clock::from_now(self.backend, pause))
            .filter(Column::Name.eq(taken.kind.name()))
            .filter(Column::Claim.eq(taken.claim))
            .exec(&self.writer)
            .await?;
        Ok(kept.rows_affected == 1)
    }

    /// Ends a pass that came to its end. Whether it was still the caller's.
    ///
    /// # Errors
    /// The database did not answer: the pass goes on where it was kept before.
    pub async fn complete_pass(
        &self,
        taken: &TakenPass,
        result: &Json,
    ) -> Result<bool, LedgerError> {
        let now = || clock::now(self.backend);
        let completed = Entity::update_many()
            .col_expr(Column::Progress, Expr::val(Value::Json(None)))
            .col_expr(Column::Result, Expr::val(result.clone()))
            .col_expr(Column::CompletedAt, now())
            .col_expr(Column::NotBefore, now())
            .col_expr(Column::Passes, Expr::col(Column::Passes).add(1))
            .filter(Column::Name.eq(taken.kind.name()))
            .filter(Column::Claim.eq(taken.claim))
            .exec(&self.writer)
            .await?;
        Ok(completed.rows_affected == 1)
    }

    /// Where one kind of verification is, for whoever only looks.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn pass_state(&self, kind: PassKind) -> Result<PassState, LedgerError> {
        let row = Entity::find_by_id(kind.name()).one(&self.reader).await?;
        let row =
            row.ok_or_else(|| LedgerError::Inconsistent("verify_passes lost a row".to_owned()))?;
        Ok(PassState {
            progress: row.progress,
            not_before: row.not_before,
            completed: row.completed_at.zip(row.result),
        })
    }
}

fn row_taken(kind: PassKind, claim: Uuid, row: Model) -> TakenPass {
    TakenPass {
        kind,
        claim,
        passes: row.passes,
        progress: row.progress,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ledger::testing;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn one_at_a_time_has_the_background_and_it_goes_on_where_it_was() {
        let (ledger, _folder) = testing::ledger().await;
        let take = |hold| ledger.take_background_pass(hold, LONG);
        let first = take(LONG).await.expect("asked").expect("never begun");
        assert_eq!((first.passes, &first.progress), (0, &None));
        assert_eq!(take(LONG).await.expect("asked"), None, "it is held");
        assert!(
            ledger
                .keep_pass(&first, &json!({"at": 1}), LONG)
                .await
                .expect("kept")
        );
        assert_eq!(take(LONG).await.expect("asked"), None, "it pauses");
        assert!(
            ledger
                .keep_pass(&first, &json!({"at": 2}), Duration::ZERO)
                .await
                .expect("kept")
        );

        // Somebody else goes on; what the first one keeps after that is void.
        let second = take(Duration::ZERO)
            .await
            .expect("asked")
            .expect("its pause is over");
        assert_eq!(second.progress, Some(json!({"at": 2})));
        let kept = ledger.keep_pass(&first, &json!({"at": 9}), LONG).await;
        assert!(!kept.expect("asked"));
        assert!(
            !ledger
                .complete_pass(&first, &json!({}))
                .await
                .expect("asked")
        );

        assert!(
            ledger
                .complete_pass(&second, &json!({"rows": 3}))
                .await
                .expect("asked")
        );
        let state = ledger
            .pass_state(PassKind::Background)
            .await
            .expect("asked");
        assert_eq!(state.progress, None);
        assert_eq!(state.completed.expect("complete").1, json!({"rows": 3}));
        assert_eq!(
            take(LONG).await.expect("asked"),
            None,
            "the next one is not due"
        );
        let next = ledger.take_background_pass(LONG, Duration::ZERO).await;
        let next = next.expect("asked").expect("due");
        assert_eq!((next.passes, next.progress), (1, None));
    }

    #[tokio::test]
    async fn the_command_takes_its_pass_from_whoever_has_it() {
        let (ledger, _folder) = testing::ledger().await;
        let first = ledger.take_command_pass().await.expect("taken");
        assert!(
            ledger
                .keep_pass(&first, &json!({"at": 1}), Duration::ZERO)
                .await
                .expect("kept")
        );
        let second = ledger.take_command_pass().await.expect("taken");
        assert_eq!(second.progress, Some(json!({"at": 1})));
        assert!(
            !ledger
                .complete_pass(&first, &json!({}))
                .await
                .expect("asked")
        );
        assert!(
            ledger
                .complete_pass(&second, &json!({}))
                .await
                .expect("asked")
        );
    }
}
