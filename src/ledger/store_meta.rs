//! The id that ties this database to its object store.

use entity::{original_images, store_meta};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, EntityTrait, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{Ledger, LedgerError};

impl Ledger {
    /// The store's id, if one was ever chosen.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn find_store_id(&self) -> Result<Option<Uuid>, LedgerError> {
        #[cfg(feature = "seams")]
        crate::seams::broken::remember_rows(self).await;
        let row = store_meta::Entity::find().one(&self.writer).await?;
        Ok(row.map(|row| row.store_id))
    }

    /// Chooses the store's id; when another node was first, its choice. Call it only when
    /// [`Ledger::find_store_id`] found none.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn ensure_store_id(&self, proposal: Uuid) -> Result<Uuid, LedgerError> {
        let inserted = store_meta::Entity::insert(store_meta::ActiveModel {
            store_id: Set(proposal),
        })
        // No column named: the second row of another id is refused by another constraint than
        // the second of the same.
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(&self.writer)
        .await?;
        match inserted {
            1 => Ok(proposal),
            _ => self
                .find_store_id()
                .await?
                .ok_or_else(|| LedgerError::Inconsistent("store_meta lost its row".to_owned())),
        }
    }

    /// Whether no original was ever announced: a database that has seen no upload.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn is_unused(&self) -> Result<bool, LedgerError> {
        let any = original_images::Entity::find()
            .order_by_asc(original_images::Column::Id)
            .limit(1)
            .one(&self.writer)
            .await?;
        Ok(any.is_none())
    }
}
