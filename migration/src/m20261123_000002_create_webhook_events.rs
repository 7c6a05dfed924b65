//! Receipts of deletion webhooks: one id, one effect.

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
            time,
            json,
            now,
            table_options,
            ..
        } = Dialect::of(manager)?;
        run(
            manager,
            [format!(
                "CREATE TABLE webhook_events (
                    source text NOT NULL,
                    event_id text NOT NULL,
                    received_at {time} NOT NULL DEFAULT {now},
                    result {json} NOT NULL,
                    PRIMARY KEY (source, event_id)
                ) {table_options}"
            )],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, ["DROP TABLE webhook_events".to_owned()]).await
    }
}
