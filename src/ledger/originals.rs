//! Reading originals, and marking one whose object was found missing or wrong.

use entity::original_images::{Column, Entity, Model, OriginalState};
use entity::{ContentDigest, OriginalId};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::literal::state_is;
use super::{Ledger, LedgerError, clock};
use crate::seams::{Point, reach};

/// An original as one tenant sees it.
#[derive(Debug)]
pub struct OriginalView {
    /// The row.
    pub original: Model,
    /// The tenant's own references.
    pub reference_count: i64,
}

impl Ledger {
    /// The stored original of a content.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn find_stored_original(
        &self,
        scope: &str,
        digest: ContentDigest,
    ) -> Result<Option<Model>, LedgerError> {
        Ok(Entity::find()
            .filter(Column::Scope.eq(scope))
            .filter(Column::ContentHash.eq(digest))
            .filter(state_is(OriginalState::Stored))
            .one(&self.reader)
            .await?)
    }

    /// Notes that a stored original's object is missing or wrong under `s3_key`; the next upload of
    /// its bytes heals it. Whether a row was marked: not when it was healed or left meanwhile.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn mark_damaged(&self, id: OriginalId, s3_key: &str) -> Result<bool, LedgerError> {
        reach(Point::DamageSeen, || s3_key).await;
        let now = clock::now(self.backend);
        let marked = Entity::update_many()
            .col_expr(Column::DamagedAt, now.clone())
            .col_expr(Column::UpdatedAt, now)
            .col_expr(
                Column::LastError,
                Expr::val("the object is missing or wrong"),
            )
            .filter(Column::Id.eq(id))
            .filter(Column::S3Key.eq(s3_key))
            .filter(state_is(OriginalState::Stored))
            .filter(Column::DamagedAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(marked.rows_affected == 1)
    }
}
