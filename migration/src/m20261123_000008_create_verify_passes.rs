//! Where a verification is: it goes on there after an interruption, and one node at a time has it.

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
            uuid,
            time,
            json,
            bigint,
            now,
            table_options,
            ..
        } = Dialect::of(manager)?;
        run(
            manager,
            [
                format!(
                    "CREATE TABLE verify_passes (
                        name text NOT NULL PRIMARY KEY CHECK (name IN ('background', 'command')),
                        claim {uuid},
                        not_before {time} NOT NULL DEFAULT {now},
                        passes {bigint} NOT NULL DEFAULT 0 CHECK (passes >= 0),
                        progress {json},
                        started_at {time},
                        completed_at {time},
                        result {json},
                        CHECK ((completed_at IS NULL) = (result IS NULL))
                    ) {table_options}"
                ),
                // Both rows from the beginning: whoever takes one only ever updates.
                "INSERT INTO verify_passes (name) VALUES ('background'), ('command')".to_owned(),
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, ["DROP TABLE verify_passes".to_owned()]).await
    }
}
