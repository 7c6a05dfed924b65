//! Rounds: every server in turn, the order turned by one each time, so that a slow minute of the
//! machine hits them all.

use anyhow::{Context, Result};
use serde::Serialize;
use tempfile::TempDir;

use crate::contender::{Backend, Contender, Counters, Started, Surroundings, empty, find_registry};
use crate::load::{self, Until};
use crate::process::own_cpu_seconds;
use crate::workload::{Scale, Workload};

/// One server in one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    /// Units of work a second.
    pub(crate) throughput: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU seconds of the server process for 1000 requests.
    pub(crate) cpu_s_per_1000: f64,
    /// Share of one core that the load generator took.
    pub(crate) load_generator_cpu: f64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Calls of the object store for a request.
    pub(crate) store_calls: Option<f64>,
    /// Group commits for a request.
    pub(crate) batches: Option<f64>,
    /// Database transactions for a request.
    pub(crate) transactions: Option<f64>,
}

/// One server in all rounds of a workload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    pub(crate) rounds: Vec<Round>,
    /// The most resident memory of the process, in MiB.
    pub(crate) peak_rss_mib: f64,
}

/// A workload's line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) workload: Workload,
    pub(crate) measured: Vec<Measured>,
}

/// Measures one workload with the contenders that are there. What is left of their data folders comes to
/// `emptied`, to be removed when nothing is measured any more.
pub(crate) async fn measure(
    surroundings: &Surroundings,
    workload: &Workload,
    contenders: &[Contender],
    scale: Scale,
    emptied: &mut Vec<TempDir>,
) -> Result<Line> {
    let mut started = Vec::new();
    for contender in contenders {
        let mut one = surroundings
            .start(*contender, workload.backend)
            .await
            .with_context(|| format!("{} does not start", contender.name()))?;
        let bytes = workload.file_bytes(scale);
        one.connect(workload.connections(scale), workload.traffic, bytes)
            .await?;
        started.push((one, Vec::new()));
    }
    for round in 0..scale.rounds {
        let count = started.len();
        for turn in 0..count {
            let (one, rounds) = &mut started[(round + turn) % count];
            let name = one.contender.name();
            let measured = run_round(surroundings, workload, one, scale).await;
            rounds.push(measured.with_context(|| format!("{name} in {}", workload.name))?);
        }
    }
    let mut line = Line {
        workload: workload.clone(),
        measured: Vec::new(),
    };
    for (one, rounds) in started {
        let peak_rss_mib = one.process.peak_memory()? as f64 / (1024.0 * 1024.0);
        line.measured.push(Measured {
            contender: one.contender,
            rounds,
            peak_rss_mib,
        });
        let folder = one.stop().await?;
        empty(folder.path())?;
        emptied.push(folder);
    }
    Ok(line)
}

async fn run_round(
    surroundings: &Surroundings,
    workload: &Workload,
    started: &mut Started,
    scale: Scale,
) -> Result<Round> {
    let until = workload.until(started.contender, scale);
    load::prepare(&mut started.clients, until).await?;
    if let Some(warm_up) = workload.warm_up(scale) {
        load::drive(&mut started.clients, warm_up).await;
    }
    let before = surroundings.counters(started, scale).await?;
    let (server, own) = (started.process.cpu_seconds()?, own_cpu_seconds());
    let observed = load::drive(&mut started.clients, until).await;
    let server = started.process.cpu_seconds()? - server;
    let own = own_cpu_seconds() - own;
    let after = surroundings.counters(started, scale).await?;
    // A bulk deletion counts by its references, its calls and transactions too.
    let work = match until {
        Until::Requests(_) => observed.units,
        Until::Time(_) => observed.requests,
    }
    .max(1) as f64;
    let per_request = |count: fn(&Counters) -> Option<f64>| {
        Some((count(&after)? - count(&before)?).max(0.0) / work)
    };
    Ok(Round {
        throughput: observed.throughput(),
        p50_ms: observed.percentile(0.5),
        p99_ms: observed.percentile(0.99),
        cpu_s_per_1000: server * 1000.0 / work,
        load_generator_cpu: own / observed.seconds.max(0.001),
        requests: observed.requests,
        errors: observed.errors,
        first_error: observed.first_error,
        store_calls: per_request(|counters| counters.store_calls),
        batches: per_request(|counters| counters.batches),
        transactions: per_request(|counters| counters.commits),
    })
}

/// Which contenders of a workload can be started here.
pub(crate) fn available(surroundings: &Surroundings, workload: &Workload) -> Vec<Contender> {
    if workload.backend == Backend::PostgresS3 && surroundings.cluster.is_none() {
        return Vec::new();
    }
    let there = |contender: &&Contender| match contender {
        Contender::DockerRegistry => find_registry().is_some(),
        // It may be missing where nothing was to be built.
        Contender::Naive => surroundings.services.is_file(),
        _ => true,
    };
    workload.contenders.iter().filter(there).copied().collect()
}
