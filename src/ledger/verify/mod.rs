//! What `verify` asks and repairs: rows in the order of their keys, and single rows once more;
//! [`counts`], the counts beside the images they count; [`passes`], how far a verification is.
//!
//! Everything here reads from the primary (rule R12).

pub mod counts;
pub mod passes;

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::{ContentDigest, OriginalId, original_images, original_images::OriginalState};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Order, Query, SelectStatement};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, FromQueryResult, PaginatorTrait,
    QueryFilter,
};
use uuid::Uuid;

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

/// An object that no row knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrayObject {
    /// Where it is.
    pub s3_key: String,
    /// The digest that its key names.
    pub content_hash: ContentDigest,
    /// Its length in bytes.
    pub file_size: i64,
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

    /// Gives strays a `deleting` row each, so that the reaper deletes them as it deletes everything
    /// else; the keys of those that got one.
    ///
    /// The insert is the last look: a key that has a row by now, in whatever state, is no stray and
    /// is left alone. From then on the key belongs to a terminal row (rule R6), and the row stays
    /// until a DELETE that began after `put_deadline` (rule R8): a stray may be the trace of a writer
    /// whose row was lost, by a restored backup for instance.
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn condemn_strays(
        &self,
        strays: &[StrayObject],
        put_deadline: Duration,
    ) -> Result<HashSet<String>, LedgerError> {
        use original_images::Column;
        if strays.is_empty() {
            return Ok(HashSet::new());
        }
        let mut insert = Query::insert();
        insert.into_table(original_images::Entity).columns([
            Column::Id,
            Column::Scope,
            Column::ContentHash,
            Column::FileSize,
            Column::S3Key,
            Column::State,
            Column::PutDeadline,
            Column::LastError,
        ]);
        for stray in strays {
            insert.values_panic([
                // Not the generation that the key names: after a heal, that row has another key.
                Expr::val(OriginalId(Uuid::new_v4())),
                Expr::val(""),
                Expr::val(stray.content_hash),
                Expr::val(stray.file_size),
                Expr::val(stray.s3_key.as_str()),
                Expr::val(OriginalState::Deleting),
                clock::from_now(self.backend, put_deadline),
                Expr::val("verify found an object without a row"),
            ]);
        }
        insert
            .on_conflict(OnConflict::new().do_nothing().to_owned())
            .returning(Query::returning().column(Column::S3Key));
        let rows = self.writer.query_all(&insert).await?;
        let keys: Result<_, sea_orm::DbErr> =
            rows.iter().map(|row| row.try_get_by_index(0)).collect();
        Ok(keys?)
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
