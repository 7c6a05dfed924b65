//! Counts beside the images they count.
//!
//! A slice is one statement, and so one snapshot: a change between two looks cannot be taken for a
//! mismatch. A difference counts as one only when it is still there under the row's lock.

use entity::{OriginalId, images, original_images, original_images::OriginalState};
use sea_orm::sea_query::{Expr, ExprTrait, Func, Order, Query, SelectStatement};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter,
    QuerySelect,
};

use crate::ledger::usage::UsageChanges;
use crate::ledger::{Ledger, LedgerError, clock};

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

/// The rows of one statement: those with an id after the last slice's, up to `through`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountSlice {
    /// The last row.
    pub through: OriginalId,
    /// How many rows there are.
    pub rows: u64,
}

/// A count that is not the number of images, seen under the row's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Miscount {
    /// What the row said.
    pub reference_count: i64,
    /// Images that point at it.
    pub live_images: i64,
    /// Only a `stored` row can say how many images point at it.
    pub state: OriginalState,
    /// The row says it now.
    pub repaired: bool,
}

impl Ledger {
    /// The next rows to count, ascending by id: up to `max_rows`, fewer where they say that they
    /// have many images; never more than `max_images` of them besides the first row's. So one
    /// statement stays far below the database's statement time-out.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn next_count_slice(
        &self,
        after: Option<OriginalId>,
        max_rows: u64,
        max_images: i64,
    ) -> Result<Option<CountSlice>, LedgerError> {
        let mut select = Query::select()
            .columns([
                original_images::Column::Id,
                original_images::Column::ReferenceCount,
            ])
            .from(original_images::Entity)
            .order_by(original_images::Column::Id, Order::Asc)
            .limit(max_rows)
            .to_owned();
        if let Some(after) = after {
            select.and_where(Expr::col(original_images::Column::Id).gt(after));
        }
        let mut slice = None;
        let mut images = 0_i64;
        for row in self.primary().query_all(&select).await? {
            let (id, count): (OriginalId, i64) =
                (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            images = images.saturating_add(count);
            match &mut slice {
                None => {
                    slice = Some(CountSlice {
                        through: id,
                        rows: 1,
                    });
                }
                Some(_) if images > max_images => break,
                Some(slice) => {
                    slice.through = id;
                    slice.rows += 1;
                }
            }
        }
        Ok(slice)
    }

    /// The rows of a slice whose count is not the number of images that point at them.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn miscounted_originals(
        &self,
        after: Option<OriginalId>,
        through: OriginalId,
    ) -> Result<Vec<CountedOriginal>, LedgerError> {
        let mut select = select_counted();
        select.and_where(original_id().lte(through));
        if let Some(after) = after {
            select.and_where(original_id().gt(after));
        }
        let select = Query::select()
            .expr(Expr::col(sea_orm::sea_query::Asterisk))
            .from_subquery(select, "counted")
            .and_where(Expr::col("reference_count").ne(Expr::col("live_images")))
            .order_by("id", Order::Asc)
            .to_owned();
        let statement = self.backend.build(&select);
        let rows = CountedOriginal::find_by_statement(statement)
            .all(self.primary())
            .await?;
        Ok(rows)
    }

    /// Looks at one count again, under the row's lock: every change of references takes that lock
    /// first, so none can slip in between. With `repair` the count of a `stored` row becomes the number
    /// of images. `None` when the row is right, or gone.
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn recount_original(
        &self,
        id: OriginalId,
        repair: bool,
    ) -> Result<Option<Miscount>, LedgerError> {
        let transaction = self.begin().await?;
        let row = original_images::Entity::find()
            .filter(original_images::Column::Id.eq(id))
            .lock_exclusive()
            .one(&transaction)
            .await?;
        let Some(row) = row else {
            transaction.rollback().await?;
            return Ok(None);
        };
        // A second statement: on PostgreSQL it sees what committed before the lock was granted.
        let live = images::Entity::find()
            .filter(images::Column::OriginalImageId.eq(id))
            .count(&transaction)
            .await?;
        let live_images = i64::try_from(live).unwrap_or(i64::MAX);
        if row.reference_count == live_images {
            transaction.rollback().await?;
            return Ok(None);
        }
        let repaired = repair && row.state == OriginalState::Stored;
        if repaired {
            self.set_count(&transaction, id, live_images).await?;
            let mut usage = UsageChanges::default();
            usage.recounted(&row.scope, row.reference_count, live_images);
            usage.write(&transaction, self.backend).await?;
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        Ok(Some(Miscount {
            reference_count: row.reference_count,
            live_images,
            state: row.state,
            repaired,
        }))
    }

    async fn set_count(
        &self,
        transaction: &impl ConnectionTrait,
        id: OriginalId,
        count: i64,
    ) -> Result<(), LedgerError> {
        let zero_since = match count {
            0 => clock::now(self.backend),
            _ => Expr::value(sea_orm::Value::ChronoDateTimeUtc(None)),
        };
        original_images::Entity::update_many()
            .col_expr(original_images::Column::ReferenceCount, Expr::value(count))
            .col_expr(original_images::Column::ZeroSince, zero_since)
            .col_expr(original_images::Column::UpdatedAt, clock::now(self.backend))
            .filter(original_images::Column::Id.eq(id))
            .filter(original_images::Column::State.eq(OriginalState::Stored))
            .exec(transaction)
            .await?;
        Ok(())
    }
}

fn original_id() -> Expr {
    Expr::col((original_images::Entity, original_images::Column::Id))
}

/// Count and truth side by side.
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ledger::testing;

    #[tokio::test]
    async fn a_slice_ends_before_it_has_too_many_images() {
        let (ledger, _folder) = testing::ledger().await;
        let none = ledger.next_count_slice(None, 10, 10).await.expect("asked");
        assert_eq!(none, None);
        for (number, count) in [(1, 3), (2, 0), (3, 9), (4, 1), (5, 100), (6, 1)] {
            let zero_since = match count {
                0 => "'2026-01-01T00:00:00.000+00:00'",
                _ => "NULL",
            };
            let sql = format!(
                "INSERT INTO original_images (id, scope, content_hash, file_size, s3_key, state,
                    reference_count, put_deadline, stored_at, zero_since)
                 VALUES (x'{number:032x}', '', x'{number:064x}', 1, 'k{number}', 'stored', {count},
                    '2026-01-01T00:00:00.000+00:00', '2026-01-01T00:00:00.000+00:00', {zero_since})"
            );
            ledger.writer.execute_unprepared(&sql).await.expect(&sql);
        }
        let (mut after, mut slices) = (None, Vec::new());
        while let Some(slice) = ledger.next_count_slice(after, 3, 10).await.expect("asked") {
            slices.push((slice.through.0.as_u128(), slice.rows));
            after = Some(slice.through);
        }
        // Three rows at most, ten images at most, and a row that has more stands alone.
        assert_eq!(slices, [(2, 2), (4, 2), (5, 1), (6, 1)]);
        let wrong = ledger
            .miscounted_originals(None, OriginalId(Uuid::from_u128(4)))
            .await
            .expect("asked");
        let wrong: Vec<_> = wrong.iter().map(|row| row.id.0.as_u128()).collect();
        assert_eq!(wrong, [1, 3, 4]);
    }
}
