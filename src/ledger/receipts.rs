//! Receipts of webhooks that have served their time.

use std::time::Duration;

use entity::webhook_events::{Column, Entity};
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, ExprTrait, LockBehavior, LockType, Order, Query};

use super::{Ledger, LedgerError, clock};

impl Ledger {
    /// Removes receipts older than `retention`, the oldest first, at most `limit`; how many.
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn prune_receipts(
        &self,
        retention: Duration,
        limit: u64,
    ) -> Result<u64, LedgerError> {
        let cutoff = clock::before_now(self.backend, retention);
        let old = Query::select()
            .columns([Column::Source, Column::EventId])
            .from(Entity)
            .and_where(Expr::col(Column::ReceivedAt).lt(cutoff))
            .order_by(Column::ReceivedAt, Order::Asc)
            .limit(limit)
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .take();
        let key = Expr::tuple([Expr::col(Column::Source), Expr::col(Column::EventId)]);
        let delete = Query::delete()
            .from_table(Entity)
            .and_where(key.in_subquery(old))
            .take();
        Ok(self.writer.execute(&delete).await?.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::EntityTrait;

    use super::*;
    use crate::ledger::testing;

    #[tokio::test]
    async fn only_old_receipts_go_and_the_oldest_first() {
        let (ledger, _folder) = testing::ledger().await;
        for (id, days) in [("new", 0), ("young", 29), ("old", 31), ("oldest", 400)] {
            let age = Duration::from_secs(days * 24 * 60 * 60);
            let insert = Query::insert()
                .into_table(Entity)
                .columns([
                    Column::Source,
                    Column::EventId,
                    Column::ReceivedAt,
                    Column::Result,
                ])
                .values_panic([
                    Expr::val("tenant"),
                    Expr::val(id),
                    clock::before_now(ledger.backend, age),
                    Expr::val("{}"),
                ])
                .take();
            ledger.writer.execute(&insert).await.expect("a receipt");
        }
        let month = Duration::from_secs(30 * 24 * 60 * 60);
        assert_eq!(ledger.prune_receipts(month, 1).await.expect("works"), 1);
        let left = Entity::find().all(&ledger.reader).await.expect("rows");
        assert!(left.iter().all(|receipt| receipt.event_id != "oldest"));
        assert_eq!(ledger.prune_receipts(month, 10).await.expect("works"), 1);
        assert_eq!(ledger.prune_receipts(month, 10).await.expect("works"), 0);
        let left = Entity::find().all(&ledger.reader).await.expect("rows");
        assert_eq!(left.len(), 2);
    }
}
