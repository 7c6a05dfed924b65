//! `hapax cleanup`: the reapers' work, once, by hand.

use std::time::Duration;

use actix::Actor;
use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::{Outcome, output, setup};
use crate::actors::blob::BlobActor;
use crate::config::Config;
use crate::reap::{self, CleanupReport, ReapedOriginal};

#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    /// Take originals that nothing has referred to for at least this long [default: cleanup.older_than]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Take at most this many [default: cleanup.limit]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: Option<u64>,
    /// Only print what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> Result<Outcome, CliError> {
    let ledger = setup::ledger(config).await?;
    let store = setup::store(config).await?;
    let older_than = arguments.older_than.unwrap_or(config.cleanup.older_than);
    let limit = arguments.limit.unwrap_or(config.cleanup.limit);
    let blobs = BlobActor::new(store.clone(), 1).start();
    let report = reap::cleanup(
        &ledger,
        &store,
        &blobs,
        older_than,
        limit,
        arguments.dry_run,
    )
    .await
    .map_err(|error| CliError::Failed(error.to_string()))?;
    match arguments.json {
        true => output::say_json(&as_json(&report, arguments.dry_run))?,
        false => print(&report, arguments.dry_run)?,
    }
    Ok(match report.failed.is_empty() {
        true => Outcome::Done,
        false => Outcome::Found,
    })
}

fn print(report: &CleanupReport, dry_run: bool) -> Result<(), CliError> {
    let verb = if dry_run { "would delete" } else { "deleted" };
    for original in &report.originals {
        let ReapedOriginal {
            id,
            content_hash,
            file_size,
        } = original;
        output::say(&format!("{verb} {id}  {content_hash}  {file_size} bytes"))?;
    }
    for (key, error) in &report.failed {
        output::say(&format!("failed {key}  {error}"))?;
    }
    let (count, bytes) = match dry_run {
        true => (
            report.originals.len() as u64,
            report
                .originals
                .iter()
                .map(|original| original.file_size)
                .sum(),
        ),
        false => (report.deleted, report.bytes),
    };
    output::say(&format!(
        "{verb} {count} originals, {}",
        output::readable_bytes(bytes)
    ))
}

fn as_json(report: &CleanupReport, dry_run: bool) -> serde_json::Value {
    let failed: Vec<_> = report
        .failed
        .iter()
        .map(|(key, error)| json!({ "key": key, "error": error }))
        .collect();
    json!({
        "dry_run": dry_run,
        "originals": report.originals,
        "deleted": report.deleted,
        "bytes": report.bytes,
        "failed": failed,
    })
}
