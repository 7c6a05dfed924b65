//! What each tenant has, counted as it changes. Existing rows are counted here, once.

use sea_orm_migration::prelude::*;

use crate::dialect::{Dialect, run};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let Dialect {
            bigint,
            int,
            counter_table_options,
            ..
        } = Dialect::of(manager)?;
        let create = format!(
            "CREATE TABLE usage_counters (
                owner text NOT NULL,
                slot {int} NOT NULL,
                images {bigint} NOT NULL DEFAULT 0,
                logical_bytes {bigint} NOT NULL DEFAULT 0,
                originals {bigint} NOT NULL DEFAULT 0,
                stored_bytes {bigint} NOT NULL DEFAULT 0,
                orphaned {bigint} NOT NULL DEFAULT 0,
                repairs {bigint} NOT NULL DEFAULT 0,
                PRIMARY KEY (owner, slot)
            ) {counter_table_options}"
        );
        let count_images = "INSERT INTO usage_counters (owner, slot, images, logical_bytes)
             SELECT tenant, 0, count(*), CAST(coalesce(sum(file_size), 0) AS bigint)
             FROM images WHERE deleted_at IS NULL GROUP BY tenant";
        let count_originals =
            "INSERT INTO usage_counters (owner, slot, originals, stored_bytes, orphaned)
             SELECT scope, 0, count(*), CAST(coalesce(sum(file_size), 0) AS bigint),
                 count(*) FILTER (WHERE reference_count = 0)
             FROM original_images WHERE state = 'stored' GROUP BY scope
             ON CONFLICT (owner, slot) DO UPDATE SET originals = excluded.originals,
                 stored_bytes = excluded.stored_bytes, orphaned = excluded.orphaned";
        run(
            manager,
            [create, count_images.to_owned(), count_originals.to_owned()],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, ["DROP TABLE usage_counters".to_owned()]).await
    }
}
