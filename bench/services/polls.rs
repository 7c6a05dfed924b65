//! What Hapax asks its database by itself, timed: the reapers' polls and the gauges, as often as told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use entity::ImageId;
use hapax::config::DatabaseConfig;
use hapax::http::cursor;
use hapax::ledger::{Ledger, ListCursor};
use serde_json::json;
use uuid::Uuid;

use super::bulk::FIRST_SECOND;

/// The reapers' own limit.
const LIMIT: u64 = 1000;
const HOLD: Duration = Duration::from_secs(120);

/// Milliseconds of every poll, by its name, as one line of JSON; and a list cursor that stands in the
/// middle of the loaded images.
pub(super) async fn time(url: &str, originals: u64, rounds: usize) -> Result<()> {
    let config = DatabaseConfig {
        url: url.to_owned(),
        ..DatabaseConfig::default()
    };
    let ledger = Ledger::connect(&config).await?;
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        let mut timed = |name, began: Instant| {
            let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
            times.entry(name).or_default().push(milliseconds);
        };
        let began = Instant::now();
        ledger.condemn_expired(LIMIT).await?;
        timed("clean-up poll: expired leases", began);
        let began = Instant::now();
        ledger.list_unreferenced(Duration::ZERO, LIMIT).await?;
        timed("clean-up poll: unreferenced originals", began);
        let began = Instant::now();
        ledger.take_condemned(LIMIT, HOLD).await?;
        timed("clean-up poll: originals to delete", began);
        let began = Instant::now();
        ledger.observe_originals(Duration::ZERO).await?;
        timed("gauges", began);
    }
    ledger.close().await;
    let middle = i64::try_from(FIRST_SECOND + originals * 3 / 2)?;
    let deep = ListCursor {
        created_at: chrono::DateTime::from_timestamp(middle, 0).unwrap_or_default(),
        id: ImageId(Uuid::nil()),
    };
    println!(
        "{}",
        json!({ "milliseconds": times, "deep_cursor": cursor::encode(&deep) })
    );
    Ok(())
}
