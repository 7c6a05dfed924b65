//! The command line: one file per subcommand.
//!
//! Exit codes: 0 done, 1 found or failed, 2 used wrongly. What a command prints goes to stdout, its logs
//! and complaints to stderr, and a reader that goes away (`| head`) is not an error.

mod cleanup;
mod error;
mod keys;
mod migrate;
mod output;
mod setup;
mod stats;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::logging;
use error::CliError;

/// Takes uploads over HTTP, stores every distinct original exactly once, and removes it with its
/// last reference.
#[derive(Debug, Parser)]
#[command(name = "hapax", version, disable_help_subcommand = true)]
struct CommandLine {
    /// Settings to read; without it ./config.toml, if there is one. Environment variables
    /// (HAPAX__SECTION__KEY) win over the file.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGINT or SIGTERM
    Serve,
    /// Change the database's schema by hand (`serve` does it by itself)
    Migrate {
        #[command(subcommand)]
        direction: migrate::Direction,
    },
    /// Remove originals that nothing refers to any more
    Cleanup(cleanup::Arguments),
    /// Compare rows with objects, and reference counts with images; beside a running server
    Verify(verify::Arguments),
    /// Print counts and sums
    Stats(stats::Arguments),
    /// Make, list and take back API keys
    Keys {
        #[command(subcommand)]
        action: keys::Action,
    },
}

/// What a command that did its work has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Done,
    /// It found something wrong, or could not do all of it.
    Found,
}

/// Runs one command to its end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => {
            // Help and version go to stdout, all else to stderr; a closed pipe is nobody's concern.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = Config::load(line.config.as_deref())
        .map_err(CliError::from)
        .and_then(|config| {
            logging::start(&config.log);
            actix_rt::System::new().block_on(Box::pin(line.command.run(config)))
        });
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::FAILURE,
        Err(error) => {
            output::complain(&format!("error: {error}"));
            if let Some(hint) = error.hint() {
                output::complain(&format!("hint: {hint}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

impl Command {
    async fn run(self, config: Config) -> Result<Outcome, CliError> {
        match self {
            Self::Serve => match crate::app::serve(config).await {
                Ok(()) => Ok(Outcome::Done),
                Err(error) => Err(CliError::Failed(error.to_string())),
            },
            Self::Migrate { direction } => migrate::run(direction, &config).await,
            Self::Cleanup(arguments) => cleanup::run(arguments, &config).await,
            Self::Verify(arguments) => verify::run(arguments, &config).await,
            Self::Stats(arguments) => stats::run(arguments, &config).await,
            Self::Keys { action } => keys::run(action, &config).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_documentation_parses() {
        for line in [
            "serve",
            "serve --config config.toml",
            "--config config.toml serve",
            "migrate up",
            "migrate down",
            "migrate down --steps 5",
            "migrate status",
            "cleanup",
            "cleanup --older-than 24h --limit 100 --dry-run",
            "cleanup --older-than 0s --json",
            "verify --deep --repair --json",
            "verify --deep --sample 0.5% --seed 7 --rate 1000 --resume",
            "verify --deep --read-rate 20MiB",
            "stats --tenant acme --json",
            "keys create --tenant acme --scope read --scope write",
            "keys create --tenant acme --scope admin --name ci --expires-in 90d --json",
            "keys list --json",
            "keys revoke 019aaf2e-0000-7000-8000-000000000001",
        ] {
            let words = std::iter::once("hapax").chain(line.split(' '));
            assert!(CommandLine::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_use_is_refused() {
        for line in [
            "",
            "serv",
            "cleanup --limit 0",
            "cleanup --older-than soon",
            "keys create --tenant acme",
            "keys create --scope read",
            "keys create --tenant a/b --scope read",
            "keys create --tenant acme --scope root",
            "keys create --tenant acme --scope read --expires-in 0s",
            "keys revoke 7",
            "migrate down --steps 0",
            "verify --sample 1%",
            "verify --deep --sample 0%",
            "verify --deep --seed 7",
            "verify --deep --read-rate 0",
            "verify --read-rate 1MiB",
            "verify --rate 0",
        ] {
            let words = std::iter::once("hapax").chain(line.split_whitespace());
            let error = CommandLine::try_parse_from(words).expect_err(line);
            assert!(error.use_stderr(), "{line}");
        }
    }
}
