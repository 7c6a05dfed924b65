//! The column types of one schema spelled for two databases.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend};

/// Column types and clauses that differ between PostgreSQL and SQLite.
pub(crate) struct Dialect {
    pub(crate) uuid: &'static str,
    pub(crate) bytes: &'static str,
    pub(crate) time: &'static str,
    /// A text that sorts by its bytes: object keys must sort as every store lists them.
    pub(crate) key_text: &'static str,
    pub(crate) json: &'static str,
    pub(crate) bool: &'static str,
    pub(crate) bigint: &'static str,
    pub(crate) int: &'static str,
    pub(crate) truth: &'static str,
    pub(crate) falsehood: &'static str,
    /// The function that gives a byte string's length.
    pub(crate) octets: &'static str,
    /// The current time, in the one format this column type is ever written in: SQLite has no time
    /// type, and texts compare rightly only when they all look the same.
    pub(crate) now: &'static str,
    /// What follows a table's closing parenthesis.
    pub(crate) table_options: &'static str,
    /// The same, of a small table whose rows change all the time: room for new versions beside the
    /// old, or no second tree for the key.
    pub(crate) counter_table_options: &'static str,
}

const POSTGRES: Dialect = Dialect {
    uuid: "uuid",
    bytes: "bytea",
    time: "timestamptz",
    key_text: "text COLLATE \"C\"",
    json: "jsonb",
    bool: "boolean",
    bigint: "bigint",
    int: "integer",
    truth: "true",
    falsehood: "false",
    octets: "octet_length",
    now: "now()",
    table_options: "",
    counter_table_options: "WITH (fillfactor = 50)",
};

const SQLITE: Dialect = Dialect {
    uuid: "blob",
    bytes: "blob",
    time: "text",
    key_text: "text",
    json: "text",
    bool: "integer",
    bigint: "integer",
    int: "integer",
    truth: "1",
    falsehood: "0",
    octets: "length",
    now: "(strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))",
    table_options: "STRICT",
    counter_table_options: "STRICT, WITHOUT ROWID",
};

impl Dialect {
    /// The dialect of the database behind `manager`; MySQL is refused.
    pub(crate) fn of(manager: &SchemaManager<'_>) -> Result<&'static Self, DbErr> {
        match manager.get_database_backend() {
            DbBackend::Postgres => Ok(&POSTGRES),
            DbBackend::Sqlite => Ok(&SQLITE),
            other => Err(DbErr::Migration(format!(
                "{other:?} is not supported: use SQLite or PostgreSQL"
            ))),
        }
    }
}

/// Runs statements one after the other.
pub(crate) async fn run(
    manager: &SchemaManager<'_>,
    statements: impl IntoIterator<Item = String>,
) -> Result<(), DbErr> {
    for statement in statements {
        manager
            .get_connection()
            .execute_unprepared(&statement)
            .await?;
    }
    Ok(())
}
