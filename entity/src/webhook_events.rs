//! `webhook_events`: receipts of deletion webhooks. One id, one effect (invariant I7).

use sea_orm::entity::prelude::*;

/// The receipt of one webhook delivery.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "webhook_events")]
pub struct Model {
    /// The tenant on whose behalf the event was taken.
    #[sea_orm(primary_key, auto_increment = false)]
    pub source: String,
    /// The sender's `webhook-id`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_id: String,
    /// When the event took effect.
    pub received_at: DateTimeUtc,
    /// The answer that was given, repeated to every later delivery of the same id.
    pub result: Json,
}

/// Receipts point at nothing: they outlive the images they deleted.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
