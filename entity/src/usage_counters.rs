//! `usage_counters`: what each tenant has, counted as it changes, so that no question for numbers
//! reads the tables they are about.

use sea_orm::entity::prelude::*;

/// One slot of one owner's counters; an owner's number is the sum over its slots. A single slot says
/// nothing, and may be negative: what one slot counted, another may have counted off.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "usage_counters")]
pub struct Model {
    /// A tenant, and the deduplication scope of the same name; empty for the global scope, which
    /// owns originals and no images.
    #[sea_orm(primary_key, auto_increment = false)]
    pub owner: String,
    /// Which of the slots. Transactions that run at the same time change different ones, so that
    /// none waits for another's commit; -1 belongs to repairs alone.
    #[sea_orm(primary_key, auto_increment = false)]
    pub slot: i32,
    /// Live images of the tenant.
    pub images: i64,
    /// Bytes of the tenant's live images.
    pub logical_bytes: i64,
    /// Stored originals of the scope.
    pub originals: i64,
    /// Bytes of the scope's stored originals.
    pub stored_bytes: i64,
    /// Stored originals of the scope with reference count 0.
    pub orphaned: i64,
    /// How often this slot was changed by a repair: a repair that was measured before another one
    /// must not be applied after it.
    pub repairs: i64,
}

/// The counters point at nothing: an owner is a name, not a row.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
