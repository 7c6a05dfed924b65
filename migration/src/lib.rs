//! Hapax's schema changes, up and down, on SQLite and PostgreSQL.
//!
//! Raw SQL where the builder has no words: partial indexes, `CHECK`s over several columns and
//! SQLite's `STRICT` tables are what makes a bug an error instead of a loss (rule R5). Migrations
//! never import `entity`: an old migration must keep its meaning when the entities move on.

pub use sea_orm_migration::migrator::MigrationStatus;
pub use sea_orm_migration::prelude::*;

mod dialect;
mod m20261123_000001_create_originals_and_images;
mod m20261123_000002_create_webhook_events;
mod m20261123_000003_create_store_meta;
mod m20261123_000004_create_api_keys;
mod m20261123_000005_index_webhook_events_by_age;
mod m20261123_000006_create_usage_counters;
mod m20261123_000007_rebuild_indexes;
mod m20261123_000008_create_verify_passes;
mod m20261125_000009_count_beside_indexes;

/// Every migration, oldest first.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_create_originals_and_images::Migration),
            Box::new(m20261123_000002_create_webhook_events::Migration),
            Box::new(m20261123_000003_create_store_meta::Migration),
            Box::new(m20261123_000004_create_api_keys::Migration),
            Box::new(m20261123_000005_index_webhook_events_by_age::Migration),
            Box::new(m20261123_000006_create_usage_counters::Migration),
            Box::new(m20261123_000007_rebuild_indexes::Migration),
            Box::new(m20261123_000008_create_verify_passes::Migration),
            Box::new(m20261125_000009_count_beside_indexes::Migration),
        ]
    }
}
