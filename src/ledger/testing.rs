//! A migrated database of a test's own.

use sea_orm::{ConnectOptions, Database};
use tempfile::TempDir;

use super::Ledger;

/// A fresh SQLite file; it goes with the folder.
pub(crate) async fn ledger() -> (Ledger, TempDir) {
    use migration::MigratorTrait;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite://{}/test.db?mode=rwc", folder.path().display());
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    let database = Database::connect(options).await.expect("a database");
    migration::Migrator::up(&database, None)
        .await
        .expect("every migration");
    let ledger = Ledger {
        writer: database.clone().into(),
        backend: database.get_database_backend(),
        reader: database.into(),
    };
    (ledger, folder)
}
