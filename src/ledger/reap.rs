//! What the reapers ask of the database: take rows nobody else is taking (`SKIP LOCKED`), decide by
//! one conditional statement, let go before anything slow happens (rules R4, R11, R16).

use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::original_images::{Column, Entity, Model, OriginalState};
use entity::{OriginalId, images};
use sea_orm::sea_query::{Expr, ExprTrait, LockBehavior, LockType, Query, SelectStatement};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, Order, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Select,
};

use super::literal::{is_unreferenced, state_is};
use super::usage::UsageChanges;
use super::{Ledger, LedgerError, clock};
use crate::seams::{Point, Rule, enforced, reach};

/// A `deleting` row in the hands of one reaper.
#[derive(Debug, Clone, FromQueryResult)]
pub struct CondemnedOriginal {
    /// The row.
    pub id: OriginalId,
    /// The object.
    pub s3_key: String,
    /// Length in bytes.
    pub file_size: i64,
    /// When the last PUT for the key can have landed.
    pub put_deadline: DateTime<Utc>,
    /// Whether that was before now: only then does a DELETE prove the object gone (rule R8).
    pub past_put_deadline: bool,
    /// How often it was tried before.
    pub attempts: i32,
}

/// Stored originals that nobody references, and those that only seem so.
#[derive(Debug, Default)]
pub struct ClaimedOriginals {
    /// Now `deleting`.
    pub claimed: Vec<Model>,
    /// Count 0, but an image points there: left alone. A bug, or somebody else's hand in the tables.
    pub miscounted: Vec<OriginalId>,
}

impl Ledger {
    /// `pending` rows whose lease ran out become `deleting`; how many.
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn condemn_expired(&self, limit: u64) -> Result<u64, LedgerError> {
        let now = || clock::now(self.backend);
        let mut expired = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(state_is(OriginalState::Pending))
            .filter(Expr::col((Entity, Column::LeaseUntil)).lt(now()))
            .order_by_asc(Column::LeaseUntil)
            .limit(limit)
            .into_query();
        lock_what_is_free(&mut expired);
        let condemned = Entity::update_many()
            .col_expr(Column::State, Expr::val(OriginalState::Deleting))
            .col_expr(Column::NextTry, now())
            .col_expr(Column::UpdatedAt, now())
            .col_expr(Column::LastError, Expr::val("the writer's lease ran out"))
            .filter(Column::Id.in_subquery(expired))
            .filter(state_is(OriginalState::Pending))
            .exec(&self.writer)
            .await?;
        Ok(condemned.rows_affected)
    }

    /// Stored originals that nobody has referenced for `unreferenced_for`, the longest first:
    /// exactly the rows that [`Ledger::claim_unreferenced`] would look at.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn list_unreferenced(
        &self,
        unreferenced_for: Duration,
        limit: u64,
    ) -> Result<Vec<Model>, LedgerError> {
        Ok(self
            .unreferenced(unreferenced_for, limit)
            .all(&self.reader)
            .await?)
    }

    /// Stored originals that nobody has referenced for `unreferenced_for` become `deleting`, and
    /// are left to the caller until `next_try` is over.
    ///
    /// Two statements, because PostgreSQL re-checks only the row it locked, not what it was joined
    /// with: an image that was attached between the first statement's snapshot and its lock is seen
    /// by the second (schedule epq-trap).
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn claim_unreferenced(
        &self,
        unreferenced_for: Duration,
        limit: u64,
        next_try: Duration,
    ) -> Result<ClaimedOriginals, LedgerError> {
        reach(Point::UnreferencedSought, || limit).await;
        let transaction = self.begin().await?;
        let mut due = self.unreferenced(unreferenced_for, limit);
        if enforced(Rule::ClaimUnderLock) {
            lock_what_is_free(QuerySelect::query(&mut due));
        }
        let candidates: Vec<OriginalId> = due
            .all(&transaction)
            .await?
            .into_iter()
            .map(|row| row.id)
            .collect();
        if candidates.is_empty() {
            transaction.rollback().await?;
            return Ok(ClaimedOriginals::default());
        }
        reach(Point::UnreferencedLocked, || candidates.len()).await;
        let references = Query::select()
            .expr(Expr::val(1))
            .from(images::Entity)
            .and_where(
                Expr::col((images::Entity, images::Column::OriginalImageId))
                    .equals((Entity, Column::Id)),
            )
            .take();
        let mut claim = Entity::update_many()
            .col_expr(Column::State, Expr::val(OriginalState::Deleting))
            .col_expr(Column::NextTry, clock::from_now(self.backend, next_try))
            .col_expr(Column::UpdatedAt, clock::now(self.backend))
            .filter(Column::Id.is_in(candidates.iter().copied()));
        if enforced(Rule::ClaimUnderLock) {
            claim = claim
                .filter(state_is(OriginalState::Stored))
                .filter(is_unreferenced());
        }
        if enforced(Rule::ClaimLooksAgain) {
            claim = claim.filter(Expr::exists(references).not());
        }
        let claimed = claim.exec_with_returning(&transaction).await?;
        let mut usage = UsageChanges::default();
        for row in &claimed {
            usage.original_claimed(&row.scope, row.file_size);
        }
        let mut miscounted = candidates;
        miscounted.retain(|id| !claimed.iter().any(|row| row.id == *id));
        if !miscounted.is_empty() {
            // To the back of the queue: they must not keep others from being claimed (rule R11).
            Entity::update_many()
                .col_expr(Column::ZeroSince, clock::now(self.backend))
                .filter(Column::Id.is_in(miscounted.iter().copied()))
                .filter(is_unreferenced())
                .exec(&transaction)
                .await?;
        }
        usage.write(&transaction, self.backend).await?;
        transaction.commit().await?;
        reach(Point::UnreferencedClaimed, || claimed.len()).await;
        Ok(ClaimedOriginals {
            claimed,
            miscounted,
        })
    }

    /// Takes up to `limit` `deleting` rows whose time has come; they are left to the caller for
    /// `hold`, so that a reaper that dies loses nothing and no two ask the store for the same.
    ///
    /// # Errors
    /// The database did not answer; what was taken comes up again after `hold`.
    pub async fn take_condemned(
        &self,
        limit: u64,
        hold: Duration,
    ) -> Result<Vec<CondemnedOriginal>, LedgerError> {
        let now = || clock::now(self.backend);
        let mut due = Query::select()
            .column(Column::Id)
            .from(Entity)
            .and_where(state_is(OriginalState::Deleting))
            .and_where(Expr::col(Column::NextTry).lte(now()))
            .order_by(Column::NextTry, Order::Asc)
            .limit(limit)
            .take();
        lock_what_is_free(&mut due);
        let take = Query::update()
            .table(Entity)
            .value(Column::NextTry, clock::from_now(self.backend, hold))
            .value(Column::Attempts, Expr::col(Column::Attempts).add(1))
            .and_where(Expr::col(Column::Id).in_subquery(due))
            .and_where(state_is(OriginalState::Deleting))
            .returning(Query::returning().exprs([
                Expr::col(Column::Id),
                Expr::col(Column::S3Key),
                Expr::col(Column::FileSize),
                Expr::col(Column::PutDeadline),
                Expr::col(Column::Attempts),
                Expr::col(Column::PutDeadline).lte(now()),
            ]))
            .take();
        self.writer
            .query_all(&take)
            .await?
            .iter()
            .map(|row| {
                Ok(CondemnedOriginal {
                    id: row.try_get_by_index(0)?,
                    s3_key: row.try_get_by_index(1)?,
                    file_size: row.try_get_by_index(2)?,
                    put_deadline: row.try_get_by_index(3)?,
                    attempts: row.try_get_by_index(4)?,
                    past_put_deadline: row.try_get_by_index(5)?,
                })
            })
            .collect::<Result<_, sea_orm::DbErr>>()
            .map_err(LedgerError::from)
    }

    /// Removes rows whose object is proven gone (rule R8); how many.
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn remove_condemned(&self, ids: &[OriginalId]) -> Result<u64, LedgerError> {
        let removed = Entity::delete_many()
            .filter(Column::Id.is_in(ids.iter().copied()))
            .filter(state_is(OriginalState::Deleting))
            .exec(&self.writer)
            .await?;
        Ok(removed.rows_affected)
    }

    /// Rows whose object a DELETE has removed, but which may still see a late PUT: they come up
    /// again after their `put_deadline`.
    ///
    /// # Errors
    /// The database did not answer; they come up again sooner.
    pub async fn await_put_deadline(&self, ids: &[OriginalId]) -> Result<(), LedgerError> {
        Entity::update_many()
            .col_expr(Column::NextTry, Expr::col(Column::PutDeadline))
            .filter(Column::Id.is_in(ids.iter().copied()))
            .filter(state_is(OriginalState::Deleting))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Puts a row off after a failed DELETE.
    ///
    /// # Errors
    /// The database did not answer; it comes up again sooner.
    pub async fn postpone_condemned(
        &self,
        id: OriginalId,
        delay: Duration,
        why: &str,
    ) -> Result<(), LedgerError> {
        Entity::update_many()
            .col_expr(Column::NextTry, clock::from_now(self.backend, delay))
            .col_expr(Column::LastError, Expr::val(why))
            .filter(Column::Id.eq(id))
            .filter(state_is(OriginalState::Deleting))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    fn unreferenced(&self, unreferenced_for: Duration, limit: u64) -> Select<Entity> {
        let kept_for = match enforced(Rule::GracePeriod) {
            true => unreferenced_for,
            false => Duration::ZERO,
        };
        let cut_off = clock::before_now(self.backend, kept_for);
        Entity::find()
            .filter(
                Condition::all()
                    .add(state_is(OriginalState::Stored))
                    .add(is_unreferenced())
                    .add(Expr::col((Entity, Column::ZeroSince)).lte(cut_off)),
            )
            .order_by_asc(Column::ZeroSince)
            .limit(limit)
    }
}

/// A row in somebody else's hands is left to them; the others are not kept waiting by it.
fn lock_what_is_free(select: &mut SelectStatement) {
    if enforced(Rule::SkipLocked) {
        select.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    } else {
        select.lock(LockType::Update);
    }
}
