//! A count changes with each upload and deletion, so no index may name it, in its condition either:
//! PostgreSQL then writes a new entry into every index of the row, and cannot put the new version beside the
//! old one. What is unreferenced is told as well by `zero_since`, which a constraint ties to the count and
//! which changes with the first and the last reference only.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let statements = [
            "DROP INDEX original_images_unreferenced",
            "CREATE INDEX original_images_unreferenced
                ON original_images (zero_since) WHERE state = 'stored' AND zero_since IS NOT NULL",
        ];
        run(manager, statements.map(String::from)).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            // Room for versions beside each other, in pages that are written from now on.
            let room = "ALTER TABLE original_images SET (fillfactor = 80)";
            run(manager, [room.to_owned()]).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let statements = [
            "DROP INDEX original_images_unreferenced",
            "CREATE INDEX original_images_unreferenced
                ON original_images (zero_since) WHERE state = 'stored' AND reference_count = 0",
        ];
        run(manager, statements.map(String::from)).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            let as_before = "ALTER TABLE original_images RESET (fillfactor)";
            run(manager, [as_before.to_owned()]).await?;
        }
        Ok(())
    }
}
