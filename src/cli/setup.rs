//! What commands work on: the database and the object store of the configuration.

use std::sync::Arc;

use super::error::CliError;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::store::BlobStore;

/// The database, with the schema of this version.
pub(super) async fn ledger(config: &Config) -> Result<Ledger, CliError> {
    let ledger = Ledger::connect(&config.database).await?;
    match pending_migrations(&ledger).await? {
        (0, _) => Ok(ledger),
        (pending, _) => Err(CliError::NotMigrated { pending }),
    }
}

/// As [`ledger`]; an empty database gets its tables. One that holds an older version's is left to
/// `migrate up`: other nodes may still serve it.
pub(super) async fn ledger_or_new(config: &Config) -> Result<Ledger, CliError> {
    let ledger = Ledger::connect(&config.database).await?;
    match pending_migrations(&ledger).await? {
        (0, _) => {}
        (pending, all) if pending == all => ledger.migrate_up(&config.database).await?,
        (pending, _) => return Err(CliError::NotMigrated { pending }),
    }
    Ok(ledger)
}

/// The object store.
pub(super) async fn store(config: &Config) -> Result<Arc<dyn BlobStore>, CliError> {
    Ok(crate::store::open(&config.storage).await?)
}

/// Migrations to come, and migrations there are.
async fn pending_migrations(ledger: &Ledger) -> Result<(usize, usize), CliError> {
    let all = ledger.migration_status().await?;
    let pending = all.iter().filter(|(_, applied)| !applied).count();
    Ok((pending, all.len()))
}
