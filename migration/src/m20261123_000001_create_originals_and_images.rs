//! The two tables of the protocol. A table `images` of an older application is set aside under
//! another name, and its rows that have a URL of their own become legacy images.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, Statement};

use crate::dialect::{Dialect, run};

/// Where an older application's table is kept, untouched; `down` puts it back.
const SET_ASIDE: &str = "images_before_hapax";

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let dialect = Dialect::of(manager)?;
        let older_table = manager.has_table("images").await?;
        if older_table {
            run(
                manager,
                [format!("ALTER TABLE images RENAME TO {SET_ASIDE}")],
            )
            .await?;
        }
        run(manager, create_original_images(dialect)).await?;
        run(manager, create_images(dialect)).await?;
        if older_table {
            adopt_legacy_images(manager, dialect).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            ["DROP TABLE images", "DROP TABLE original_images"].map(String::from),
        )
        .await?;
        if manager.has_table(SET_ASIDE).await? {
            run(
                manager,
                [format!("ALTER TABLE {SET_ASIDE} RENAME TO images")],
            )
            .await?;
        }
        Ok(())
    }
}

fn create_original_images(dialect: &Dialect) -> Vec<String> {
    let Dialect {
        uuid,
        bytes,
        time,
        key_text,
        bigint,
        int,
        octets,
        now,
        table_options,
        ..
    } = dialect;
    vec![
        format!(
            "CREATE TABLE original_images (
                id uuid_ NOT NULL PRIMARY KEY,
                scope text NOT NULL,
                content_hash {bytes} NOT NULL CHECK ({octets}(content_hash) = 32),
                file_size {bigint} NOT NULL CHECK (file_size >= 0),
                s3_key {key_text} NOT NULL UNIQUE,
                mime_type text,
                width {int},
                height {int},
                state text NOT NULL CHECK (state IN ('pending', 'stored', 'deleting')),
                reference_count {bigint} NOT NULL DEFAULT 0 CHECK (reference_count >= 0),
                lease_token uuid_,
                lease_until {time},
                put_deadline {time} NOT NULL,
                zero_since {time},
                damaged_at {time},
                attempts {int} NOT NULL DEFAULT 0,
                next_try {time} NOT NULL DEFAULT {now},
                last_error text,
                created_at {time} NOT NULL DEFAULT {now},
                updated_at {time} NOT NULL DEFAULT {now},
                stored_at {time},
                CHECK (state = 'stored' OR reference_count = 0),
                CHECK (state <> 'stored' OR stored_at IS NOT NULL),
                CHECK (state <> 'stored' OR (reference_count = 0) = (zero_since IS NOT NULL)),
                CHECK (state <> 'pending' OR (lease_token IS NOT NULL AND lease_until IS NOT NULL))
            ) {table_options}"
        )
        .replace("uuid_", uuid),
        // Invariant I5, and the index that every upload resolves its content with.
        "CREATE UNIQUE INDEX original_images_stored_content
            ON original_images (scope, content_hash, file_size) WHERE state = 'stored'"
            .to_owned(),
        // One small index for each reaper: it holds only rows that reaper may take.
        "CREATE INDEX original_images_pending
            ON original_images (lease_until) WHERE state = 'pending'"
            .to_owned(),
        "CREATE INDEX original_images_unreferenced
            ON original_images (zero_since) WHERE state = 'stored' AND reference_count = 0"
            .to_owned(),
        "CREATE INDEX original_images_deleting
            ON original_images (next_try) WHERE state = 'deleting'"
            .to_owned(),
    ]
}

fn create_images(dialect: &Dialect) -> Vec<String> {
    let Dialect {
        uuid,
        bytes,
        time,
        json,
        bool,
        bigint,
        octets,
        now,
        falsehood,
        table_options,
        ..
    } = dialect;
    let legacy = match dialect.bool {
        "boolean" => "legacy",
        _ => "legacy = 1",
    };
    vec![
        format!(
            "CREATE TABLE images (
                id uuid_ NOT NULL PRIMARY KEY,
                tenant text NOT NULL DEFAULT 'default',
                original_image_id uuid_ REFERENCES original_images (id) ON DELETE RESTRICT,
                was_original_id uuid_,
                content_hash {bytes} CHECK ({octets}(content_hash) = 32),
                file_size {bigint} CHECK (file_size >= 0),
                original_url text,
                legacy {bool} NOT NULL DEFAULT {falsehood},
                filename text,
                mime_type text,
                metadata {json},
                deduplicated {bool} NOT NULL DEFAULT {falsehood},
                created_at {time} NOT NULL DEFAULT {now},
                deleted_at {time},
                CHECK (deleted_at IS NULL OR original_image_id IS NULL),
                CHECK (deleted_at IS NOT NULL OR {legacy} OR original_image_id IS NOT NULL),
                CHECK (NOT ({legacy}) OR (original_url IS NOT NULL AND original_image_id IS NULL)),
                CHECK ({legacy} OR (content_hash IS NOT NULL AND file_size IS NOT NULL))
            ) {table_options}"
        )
        .replace("uuid_", uuid),
        "CREATE INDEX images_original
            ON images (original_image_id, tenant) WHERE original_image_id IS NOT NULL"
            .to_owned(),
        "CREATE INDEX images_live
            ON images (tenant, created_at, id) WHERE deleted_at IS NULL"
            .to_owned(),
        "CREATE INDEX images_all ON images (tenant, created_at, id)".to_owned(),
        "CREATE INDEX images_content
            ON images (tenant, content_hash) WHERE deleted_at IS NULL"
            .to_owned(),
    ]
}

/// Copies the older application's rows that have an `original_url`; the columns that both tables
/// know come along.
async fn adopt_legacy_images(manager: &SchemaManager<'_>, dialect: &Dialect) -> Result<(), DbErr> {
    let columns = columns_of_set_aside(manager).await?;
    let backend = manager.get_database_backend();
    let Some((_, id_type)) = columns.iter().find(|(name, _)| name == "id") else {
        return Err(cannot_adopt("it has no column `id`"));
    };
    if !columns.iter().any(|(name, _)| name == "original_url") {
        return Err(cannot_adopt("it has no column `original_url`"));
    }
    let (mut names, mut values) = (
        vec!["id", "legacy"],
        vec![id_expression(backend, id_type)?, dialect.truth.to_owned()],
    );
    for (name, _) in &columns {
        let value = match (name.as_str(), backend) {
            (name @ ("tenant" | "original_url" | "filename" | "mime_type"), _) => {
                names.push(name);
                format!("CAST({name} AS text)")
            }
            ("file_size", _) => {
                names.push("file_size");
                "file_size".to_owned()
            }
            (name @ ("created_at" | "deleted_at"), backend) => {
                names.push(name);
                time_expression(backend, name)
            }
            ("metadata", backend) => {
                names.push("metadata");
                match backend {
                    DbBackend::Postgres => "metadata::jsonb".to_owned(),
                    _ => "json(metadata)".to_owned(),
                }
            }
            _ => continue,
        };
        values.push(value);
    }
    run(
        manager,
        [format!(
            "INSERT INTO images ({}) SELECT {} FROM {SET_ASIDE} WHERE original_url IS NOT NULL",
            names.join(", "),
            values.join(", "),
        )],
    )
    .await
}

fn cannot_adopt(why: &str) -> DbErr {
    DbErr::Migration(format!(
        "the table `images` of an older application cannot be taken over: {why}; rename it, then migrate again"
    ))
}

/// UUIDs keep their value, however they were stored; a number n becomes the UUID whose lower 64
/// bits are n.
fn id_expression(backend: DbBackend, id_type: &str) -> Result<String, DbErr> {
    let id_type = id_type.to_lowercase();
    let integer = id_type.contains("int") || id_type.contains("serial");
    let text = ["char", "text", "uuid"].iter().any(|t| id_type.contains(t));
    Ok(match backend {
        DbBackend::Postgres if integer => "lpad(to_hex(id), 32, '0')::uuid".to_owned(),
        DbBackend::Postgres if text => "id::uuid".to_owned(),
        DbBackend::Sqlite if integer => "unhex(printf('%032x', id))".to_owned(),
        DbBackend::Sqlite => {
            "CASE typeof(id) WHEN 'blob' THEN id ELSE unhex(id, '-') END".to_owned()
        }
        _ => return Err(cannot_adopt(&format!("its `id` is of type {id_type}"))),
    })
}

fn time_expression(backend: DbBackend, column: &str) -> String {
    let converted = match backend {
        DbBackend::Postgres => format!("{column}::timestamptz"),
        _ => format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', {column})"),
    };
    if column == "created_at" {
        let now = match backend {
            DbBackend::Postgres => "now()",
            _ => "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')",
        };
        return format!("coalesce({converted}, {now})");
    }
    converted
}

/// Name and declared type of each column of the table that was set aside.
async fn columns_of_set_aside(manager: &SchemaManager<'_>) -> Result<Vec<(String, String)>, DbErr> {
    let backend = manager.get_database_backend();
    let query = match backend {
        DbBackend::Postgres => format!(
            "SELECT column_name::text AS name, data_type::text AS type FROM information_schema.columns
             WHERE table_name = '{SET_ASIDE}' AND table_schema = current_schema()"
        ),
        _ => format!("SELECT name, type FROM pragma_table_info('{SET_ASIDE}')"),
    };
    manager
        .get_connection()
        .query_all_raw(Statement::from_string(backend, query))
        .await?
        .iter()
        .map(|row| Ok((row.try_get("", "name")?, row.try_get("", "type")?)))
        .collect()
}
