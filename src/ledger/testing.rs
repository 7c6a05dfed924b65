//! A migrated database of a test's own.

use migration::MigratorTrait;
use tempfile::TempDir;

use super::Ledger;
use crate::config::DatabaseConfig;

/// A fresh SQLite file; it goes with the folder.
pub(crate) async fn ledger() -> (Ledger, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = DatabaseConfig {
        url: format!("sqlite://{}/test.db", folder.path().display()),
        ..DatabaseConfig::default()
    };
    let ledger = Ledger::connect(&config).await.expect("a database");
    migration::Migrator::up(ledger.writer.whole().await, None)
        .await
        .expect("every migration");
    (ledger, folder)
}

/// Rows as statements write them, without anything that counts them.
pub(crate) mod rows {
    use sea_orm::ConnectionTrait;

    use super::Ledger;

    const T: &str = "'2026-01-01T00:00:00.000+00:00'";

    /// Runs one statement.
    pub(crate) async fn sql(ledger: &Ledger, sql: &str) {
        ledger.writer.execute_unprepared(sql).await.expect(sql);
    }

    /// An original of 100 bytes; every time in it has come.
    pub(crate) async fn original(ledger: &Ledger, number: u8, scope: &str, state: &str, count: u8) {
        let zero_since = match (state, count) {
            ("stored", 0) => T,
            _ => "NULL",
        };
        let insert = format!(
            "INSERT INTO original_images (id, scope, content_hash, file_size, s3_key, state,
                reference_count, put_deadline, lease_token, lease_until, stored_at, zero_since, next_try)
             VALUES (x'{number:032x}', '{scope}', x'{number:064x}', 100, 'k{number}', '{state}',
                {count}, {T}, x'{number:032x}', {T}, {T}, {zero_since}, {T})"
        );
        sql(ledger, &insert).await;
    }

    /// An image of an original, live or deleted.
    pub(crate) async fn image(
        ledger: &Ledger,
        number: u8,
        tenant: &str,
        original: u8,
        deleted: bool,
    ) {
        let (original_id, deleted_at) = match deleted {
            true => ("NULL".to_owned(), T),
            false => (format!("x'{original:032x}'"), "NULL"),
        };
        let insert = format!(
            "INSERT INTO images (id, tenant, original_image_id, content_hash, file_size, deleted_at)
             VALUES (x'{number:032x}', '{tenant}', {original_id}, x'{original:064x}', 100, {deleted_at})"
        );
        sql(ledger, &insert).await;
    }

    /// Counts what is there, as `verify --repair` does.
    pub(crate) async fn count(ledger: &Ledger) {
        for difference in ledger.check_usage().await.expect("checked") {
            assert!(ledger.repair_usage(&difference).await.expect("repaired"));
        }
    }
}
