//! Bringing the schema up and down, one node at a time.

use migration::{MigrationStatus, Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};

use super::connect::connect_postgres;
use super::{Ledger, LedgerError};
use crate::config::DatabaseConfig;

/// PostgreSQL's advisory lock that a migrating node holds: "hapax" in ASCII.
const MIGRATION_LOCK: i64 = 0x68_61_70_61_78;

impl Ledger {
    /// Applies what is missing. Several nodes may call this at once: one works, the others wait.
    ///
    /// # Errors
    /// The database is not available, or a migration failed and was rolled back.
    pub async fn migrate_up(&self, config: &DatabaseConfig) -> Result<(), LedgerError> {
        let connection = self.lock_migrations(config).await?;
        let outcome = Migrator::up(&connection, None).await;
        #[cfg(feature = "seams")]
        crate::seams::broken::drop_constraints(&connection).await?;
        self.unlock_migrations(connection).await;
        Ok(outcome?)
    }

    /// Takes the newest `steps` migrations back.
    ///
    /// # Errors
    /// As [`Ledger::migrate_up`].
    pub async fn migrate_down(
        &self,
        config: &DatabaseConfig,
        steps: u32,
    ) -> Result<(), LedgerError> {
        let connection = self.lock_migrations(config).await?;
        let outcome = Migrator::down(&connection, Some(steps)).await;
        self.unlock_migrations(connection).await;
        Ok(outcome?)
    }

    /// Each migration's name and whether it is applied, oldest first. Changes nothing.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn migration_status(&self) -> Result<Vec<(String, bool)>, LedgerError> {
        let migrations =
            Migrator::get_migration_with_status_read_only(self.reader.whole().await).await?;
        Ok(migrations
            .iter()
            .map(|migration| {
                let applied = migration.status() == MigrationStatus::Applied;
                (migration.name().to_owned(), applied)
            })
            .collect())
    }

    /// A connection of its own that holds the migration lock for as long as it lives. SQLite's one
    /// writer is lock enough.
    async fn lock_migrations(
        &self,
        config: &DatabaseConfig,
    ) -> Result<DatabaseConnection, LedgerError> {
        if self.backend != DbBackend::Postgres {
            return Ok(self.writer.whole().await.clone());
        }
        let patient = DatabaseConfig {
            statement_timeout: std::time::Duration::ZERO,
            lock_timeout: std::time::Duration::ZERO,
            ..config.clone()
        };
        let connection = connect_postgres(&patient, 1).await?;
        connection
            .execute_unprepared(&format!("SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            .await?;
        Ok(connection)
    }

    async fn unlock_migrations(&self, connection: DatabaseConnection) {
        if self.backend == DbBackend::Postgres {
            // Closing the session gives the lock back; if that fails the server notices by itself.
            let _ = connection.close().await;
        }
    }
}
