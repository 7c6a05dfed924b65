//! Indexes after what the statements use: each one costs every upload, and the two that held random
//! values per image cost it most.
//!
//! - Which contents a tenant has is asked of the originals and their references, so that no image
//!   needs its hash in an index.
//! - Deleted images have an index of their own, beside that of the live ones: an upload no longer
//!   writes one that holds both.
//! - The small indexes of rows in transit carry the scope, so that counting reads nothing else.

use sea_orm_migration::prelude::*;

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
            "DROP INDEX images_content",
            "DROP INDEX images_all",
            "CREATE INDEX images_deleted
                ON images (tenant, created_at, id) WHERE deleted_at IS NOT NULL",
            "DROP INDEX original_images_pending",
            "CREATE INDEX original_images_pending
                ON original_images (lease_until, scope) WHERE state = 'pending'",
            "DROP INDEX original_images_deleting",
            "CREATE INDEX original_images_deleting
                ON original_images (next_try, scope) WHERE state = 'deleting'",
        ];
        run(manager, statements.map(String::from)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let statements = [
            "DROP INDEX original_images_deleting",
            "CREATE INDEX original_images_deleting
                ON original_images (next_try) WHERE state = 'deleting'",
            "DROP INDEX original_images_pending",
            "CREATE INDEX original_images_pending
                ON original_images (lease_until) WHERE state = 'pending'",
            "DROP INDEX images_deleted",
            "CREATE INDEX images_all ON images (tenant, created_at, id)",
            "CREATE INDEX images_content
                ON images (tenant, content_hash) WHERE deleted_at IS NULL",
        ];
        run(manager, statements.map(String::from)).await
    }
}
