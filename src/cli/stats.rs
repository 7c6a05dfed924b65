//! `hapax stats`: the numbers of `GET /v1/stats`.

use clap::Args;

use super::error::CliError;
use super::{Outcome, output, setup};
use crate::config::Config;
use crate::service::Stats;
use crate::upload::TenantId;

#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    /// Only what this tenant has; without it, everything
    #[arg(long, value_parser = super::keys::parse_tenant)]
    tenant: Option<TenantId>,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> Result<Outcome, CliError> {
    let ledger = setup::ledger(config).await?;
    let stats = ledger
        .stats(arguments.tenant.as_ref().map(TenantId::as_str))
        .await?;
    match arguments.json {
        true => output::say_json(&stats)?,
        false => lines(&stats)
            .iter()
            .try_for_each(|line| output::say(line))?,
    }
    Ok(Outcome::Done)
}

fn lines(stats: &Stats) -> Vec<String> {
    let bytes = |bytes| format!("{bytes} ({})", output::readable_bytes(bytes));
    let rows = [
        ("images", stats.images.to_string()),
        ("originals", stats.originals.to_string()),
        ("logical_bytes", bytes(stats.logical_bytes)),
        ("stored_bytes", bytes(stats.stored_bytes)),
        ("saved_bytes", bytes(stats.saved_bytes)),
        ("dedup_ratio", format!("{:.3}", stats.dedup_ratio)),
        ("pending", stats.pending.to_string()),
        ("deleting", stats.deleting.to_string()),
        ("orphaned", stats.orphaned.to_string()),
    ];
    output::columns(&rows.map(|(name, value)| vec![name.to_owned(), value]))
}
