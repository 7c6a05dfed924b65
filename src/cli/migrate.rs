//! `hapax migrate up|down|status`

use clap::Subcommand;

use super::error::CliError;
use super::{Outcome, output};
use crate::config::Config;
use crate::ledger::Ledger;

#[derive(Debug, Clone, Subcommand)]
pub(super) enum Direction {
    /// Apply every migration that is to come
    Up,
    /// Undo the newest migrations; the tables they made go with all their rows
    Down {
        /// How many
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        steps: u32,
    },
    /// Show which migrations are applied
    Status,
}

pub(super) async fn run(direction: Direction, config: &Config) -> Result<Outcome, CliError> {
    let ledger = Ledger::connect(&config.database).await?;
    match direction {
        Direction::Up => ledger.migrate_up(&config.database).await?,
        Direction::Down { steps } => ledger.migrate_down(&config.database, steps).await?,
        Direction::Status => {}
    }
    for (name, applied) in ledger.migration_status().await? {
        let state = if applied { "applied" } else { "pending" };
        output::say(&format!("{state}  {name}"))?;
    }
    Ok(Outcome::Done)
}
