//! `store_meta`: which object store this database belongs to.

use sea_orm::entity::prelude::*;

/// The single row that ties the database to its store.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "store_meta")]
pub struct Model {
    /// Random, written once; the store holds an object with the same id. Nothing is reaped or
    /// scrubbed while the two differ.
    #[sea_orm(primary_key, auto_increment = false)]
    pub store_id: Uuid,
}

/// The row stands alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
