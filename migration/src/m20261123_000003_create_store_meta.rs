//! Ties the database to its object store, so that nothing is reaped in somebody else's.

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
            int,
            table_options,
            ..
        } = Dialect::of(manager)?;
        run(
            manager,
            [format!(
                "CREATE TABLE store_meta (
                    store_id {uuid} NOT NULL PRIMARY KEY,
                    single {int} NOT NULL DEFAULT 1 UNIQUE CHECK (single = 1)
                ) {table_options}"
            )],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, ["DROP TABLE store_meta".to_owned()]).await
    }
}
