//! The closed loop: every connection sends its next request when it has the answer to the last.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::client::Client;

/// A client that fails this often in one round gives up: the server is broken.
const MAX_ERRORS: u64 = 20;

/// When a round ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// After this time; what is under way is still awaited.
    Time(Duration),
    /// After so many requests of each connection.
    Requests(u64),
}

/// What happened in one round.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// Wall-clock time in seconds, to the last answer that counts.
    pub(crate) seconds: f64,
    /// Units of work answered within the time.
    pub(crate) units: u64,
    /// Requests answered at all: what the server's CPU time is divided by.
    pub(crate) requests: u64,
    /// Answers that were not what they should be, and broken connections.
    pub(crate) errors: u64,
    /// What the first of them was.
    pub(crate) first_error: Option<String>,
    /// Of every request answered, in microseconds, ascending.
    pub(crate) latencies: Vec<u32>,
}

impl Observed {
    /// Units of work a second.
    pub(crate) fn throughput(&self) -> f64 {
        if self.seconds > 0.0 {
            self.units as f64 / self.seconds
        } else {
            0.0
        }
    }

    /// A latency in milliseconds; `share` of all are shorter.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = ((last as f64) * share).round() as usize;
        self.latencies
            .get(at)
            .map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }
}

/// Readies every client for a round.
pub(crate) async fn prepare(clients: &mut [Client], until: Until) -> Result<()> {
    let requests = match until {
        Until::Requests(requests) => Some(requests),
        Until::Time(_) => None,
    };
    // The first alone: what they all share is then there, and is not made by all at once.
    let mut pending = clients.iter_mut();
    if let Some(first) = pending.next() {
        first
            .prepare(requests)
            .await
            .context("cannot prepare the load")?;
    }
    let mut rest: FuturesUnordered<_> = pending.map(|client| client.prepare(requests)).collect();
    while let Some(done) = rest.next().await {
        done.context("cannot prepare the load")?;
    }
    drop(rest);
    // Whoever was ready first has waited for the last: its server may have closed on it.
    for client in clients {
        client.reconnect().await?;
    }
    Ok(())
}

/// Runs all clients at once.
pub(crate) async fn drive(clients: &mut [Client], until: Until) -> Observed {
    let began = Instant::now();
    let mut running: FuturesUnordered<_> = clients
        .iter_mut()
        .map(|client| run(client, began, until))
        .collect();
    let mut total = Observed::default();
    while let Some(one) = running.next().await {
        total.units += one.units;
        total.requests += one.requests;
        total.errors += one.errors;
        total.first_error = total.first_error.or(one.first_error);
        total.latencies.extend(one.latencies);
    }
    total.seconds = match until {
        Until::Time(time) => time.as_secs_f64(),
        Until::Requests(_) => began.elapsed().as_secs_f64(),
    };
    total.latencies.sort_unstable();
    total
}

async fn run(client: &mut Client, began: Instant, until: Until) -> Observed {
    let mut observed = Observed::default();
    loop {
        let more = match until {
            Until::Time(time) => began.elapsed() < time,
            Until::Requests(requests) => observed.requests + observed.errors < requests,
        };
        if !more || observed.errors >= MAX_ERRORS {
            return observed;
        }
        let sent = Instant::now();
        match client.step().await {
            Ok(units) => {
                observed.requests += 1;
                if !matches!(until, Until::Time(time) if began.elapsed() > time) {
                    observed.units += units;
                }
                let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
                observed.latencies.push(micros);
            }
            Err(error) => {
                observed.errors += 1;
                observed
                    .first_error
                    .get_or_insert_with(|| format!("{error:#}"));
                if client.reconnect().await.is_err() {
                    return observed;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_latencies() {
        let observed = Observed {
            latencies: (1..=1000).collect(),
            ..Observed::default()
        };
        assert!((observed.percentile(0.5) - 0.5).abs() < 0.002);
        assert!((observed.percentile(0.99) - 0.99).abs() < 0.002);
        assert_eq!(Observed::default().percentile(0.5), 0.0);
    }
}
