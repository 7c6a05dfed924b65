//! What `verify` asks and repairs: rows in the order of their keys, counts beside the images they
//! count, and single rows once more.
//!
//! Everything here reads from the primary (rule R12).

use chrono::{DateTime, Utc};
use entity::{ContentDigest, OriginalId, images, original_images, original_images::OriginalState};
use sea_orm::sea_query::{Expr, ExprTrait, Func, Order, Query, SelectStatement};
use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter, QuerySelect,
};

use super::usage::UsageChanges;
use super::{Ledger, LedgerError, clock};
use crate::seams::Connection;
#[cfg(feature = "seams")]
use crate::seams::broken;

/// An original as a comparison with its object needs it.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct KeyedOriginal {
    /// The generation.
    pub id: OriginalId,
    /// Where its object should be.
    pub s3_key: String,
    /// Only a `stored` row must have its object.
    pub state: OriginalState,
    /// SHA-256 of the bytes.
    pub content_hash: ContentDigest,
    /// Length in bytes.
    pub file_size: i64,
    /// Known to be missing or wrong since then.
    pub damaged_at: Option<DateTime<Utc>>,
}

/// A reference count beside the truth, both of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromQueryResult)]
pub struct CountedOriginal {
    /// The generation.
    pub id: OriginalId,
    /// What the row says.
    pub reference_count: i64,
    /// Images that point at it.
    pub live_images: i64,
}

/// What became of a row whose count was to be set right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recount {
    /// The row says what the images say.
    Settled {
        /// The count now.
        reference_count: i64,
    },
    /// Images point at a row that is not `stored`: no count can say that; a person has to look.
    Impossible,
    /// The row is gone.
    Gone,
}

impl Ledger {
    /// Up to `limit` originals, ascending by key in byte order, with `after` < key <= `through`.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn originals_by_key(
        &self,
        after: Option<&str>,
        through: Option<&str>,
        limit: u64,
    ) -> Result<Vec<KeyedOriginal>, LedgerError> {
        #[cfg(feature = "seams")]
        if let Some(rows) = broken::rows_before(after, through) {
            return Ok(rows);
        }
        let key = || self.key_in_byte_order();
        let mut select = select_keyed();
        if let Some(after) = after {
            select.and_where(key().gt(after));
        }
        if let Some(through) = through {
            select.and_where(key().lte(through));
        }
        select.order_by_expr(key(), Order::Asc).limit(limit);
        let statement = self.backend.build(&select);
        let rows = KeyedOriginal::find_by_statement(statement)
            .all(self.primary())
            .await?;
        Ok(rows)
    }

    /// The original that owns a key, in whatever state.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn original_of_key(
        &self,
        s3_key: &str,
    ) -> Result<Option<KeyedOriginal>, LedgerError> {
        #[cfg(feature = "seams")]
        if let Some(rows) = broken::rows_before(None, Some(s3_key)) {
            return Ok(rows.into_iter().find(|row| row.s3_key == s3_key));
        }
        let mut select = select_keyed();
        select.and_where(Expr::col(original_images::Column::S3Key).eq(s3_key));
        let statement = self.backend.build(&select);
        let row = KeyedOriginal::find_by_statement(statement)
            .one(self.primary())
            .await?;
        Ok(row)
    }

    /// How many originals there are, in any state.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn count_originals(&self) -> Result<u64, LedgerError> {
        Ok(original_images::Entity::find().count(&self.reader).await?)
    }

    /// Up to `limit` originals after `after`, ascending by id, each with the images that point at it.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn counted_originals(
        &self,
        after: Option<OriginalId>,
        limit: u64,
    ) -> Result<Vec<CountedOriginal>, LedgerError> {
        let mut select = select_counted();
        if let Some(after) = after {
            select.and_where(original_id().gt(after));
        }
        select
            .order_by(
                (original_images::Entity, original_images::Column::Id),
                Order::Asc,
            )
            .limit(limit);
        let statement = self.backend.build(&select);
        let rows = CountedOriginal::find_by_statement(statement)
            .all(self.primary())
            .await?;
        Ok(rows)
    }

    /// One original with the images that point at it, in one statement.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn counted_original(
        &self,
        id: OriginalId,
    ) -> Result<Option<CountedOriginal>, LedgerError> {
        let mut select = select_counted();
        select.and_where(original_id().eq(id));
        let statement = self.backend.build(&select);
        let row = CountedOriginal::find_by_statement(statement)
            .one(self.primary())
            .await?;
        Ok(row)
    }

    /// Sets a count to the number of images that point at the row. The count is taken under the row's
    /// lock: every change of references takes that lock first, so none can slip in between.
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn recount_original(&self, id: OriginalId) -> Result<Recount, LedgerError> {
        let transaction = self.begin().await?;
        let row = original_images::Entity::find()
            .filter(original_images::Column::Id.eq(id))
            .lock_exclusive()
            .one(&transaction)
            .await?;
        let Some(row) = row else {
            return Ok(Recount::Gone);
        };
        // A second statement: on PostgreSQL it sees what committed before the lock was granted.
        let live = images::Entity::find()
            .filter(images::Column::OriginalImageId.eq(id))
            .count(&transaction)
            .await?;
        let live = i64::try_from(live).unwrap_or(i64::MAX);
        if row.reference_count == live {
            return Ok(Recount::Settled {
                reference_count: live,
            });
        }
        if row.state != OriginalState::Stored {
            return Ok(Recount::Impossible);
        }
        let zero_since = match live {
            0 => clock::now(self.backend),
            _ => Expr::value(sea_orm::Value::ChronoDateTimeUtc(None)),
        };
        original_images::Entity::update_many()
            .col_expr(original_images::Column::ReferenceCount, Expr::value(live))
            .col_expr(original_images::Column::ZeroSince, zero_since)
            .col_expr(original_images::Column::UpdatedAt, clock::now(self.backend))
            .filter(original_images::Column::Id.eq(id))
            .exec(&transaction)
            .await?;
        let mut usage = UsageChanges::default();
        usage.recounted(&row.scope, row.reference_count, live);
        usage.write(&transaction, self.backend).await?;
        transaction.commit().await?;
        Ok(Recount::Settled {
            reference_count: live,
        })
    }

    /// Takes back what [`Ledger::mark_damaged`] noted, for an object whose bytes were read and found
    /// right; whether the row still was as it was seen.
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn clear_damage(&self, id: OriginalId, s3_key: &str) -> Result<bool, LedgerError> {
        let no_time = Expr::value(sea_orm::Value::ChronoDateTimeUtc(None));
        let no_error = Expr::value(sea_orm::Value::String(None));
        let cleared = original_images::Entity::update_many()
            .col_expr(original_images::Column::DamagedAt, no_time)
            .col_expr(original_images::Column::LastError, no_error)
            .col_expr(original_images::Column::UpdatedAt, clock::now(self.backend))
            .filter(original_images::Column::Id.eq(id))
            .filter(original_images::Column::State.eq(OriginalState::Stored))
            .filter(original_images::Column::S3Key.eq(s3_key))
            .exec(&self.writer)
            .await?;
        Ok(cleared.rows_affected == 1)
    }

    /// Where a read sees every commit. SQLite's readers do, and its one writer has better things to do.
    fn primary(&self) -> &Connection {
        match self.backend {
            DbBackend::Sqlite => &self.reader,
            _ => &self.writer,
        }
    }

    /// The key as bytes sort, which is how every store lists: a PostgreSQL database's own collation
    /// may sort otherwise.
    fn key_in_byte_order(&self) -> Expr {
        match self.backend {
            DbBackend::Postgres => Expr::cust("\"s3_key\" COLLATE \"C\""),
            _ => Expr::col(original_images::Column::S3Key),
        }
    }
}

fn select_keyed() -> SelectStatement {
    Query::select()
        .columns([
            original_images::Column::Id,
            original_images::Column::S3Key,
            original_images::Column::State,
            original_images::Column::ContentHash,
            original_images::Column::FileSize,
            original_images::Column::DamagedAt,
        ])
        .from(original_images::Entity)
        .to_owned()
}

fn original_id() -> Expr {
    Expr::col((original_images::Entity, original_images::Column::Id))
}

/// Count and truth side by side: one statement is one snapshot, so that a change between two looks
/// cannot be taken for a mismatch.
fn select_counted() -> SelectStatement {
    let live = Query::select()
        .expr(Func::count(Expr::col((images::Entity, images::Column::Id))))
        .from(images::Entity)
        .and_where(
            Expr::col((images::Entity, images::Column::OriginalImageId))
                .equals((original_images::Entity, original_images::Column::Id)),
        )
        .to_owned();
    Query::select()
        .column((original_images::Entity, original_images::Column::Id))
        .column((
            original_images::Entity,
            original_images::Column::ReferenceCount,
        ))
        .expr_as(Expr::from(live), "live_images")
        .from(original_images::Entity)
        .to_owned()
}
