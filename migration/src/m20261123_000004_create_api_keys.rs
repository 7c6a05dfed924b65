//! API keys, by the SHA-256 of their secret.

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
            bytes,
            time,
            octets,
            now,
            table_options,
            ..
        } = Dialect::of(manager)?;
        run(
            manager,
            [format!(
                "CREATE TABLE api_keys (
                    id {uuid} NOT NULL PRIMARY KEY,
                    tenant text NOT NULL CHECK (tenant <> ''),
                    name text NOT NULL,
                    key_hash {bytes} NOT NULL UNIQUE CHECK ({octets}(key_hash) = 32),
                    scopes text NOT NULL,
                    created_at {time} NOT NULL DEFAULT {now},
                    expires_at {time},
                    revoked_at {time}
                ) {table_options}"
            )],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, ["DROP TABLE api_keys".to_owned()]).await
    }
}
