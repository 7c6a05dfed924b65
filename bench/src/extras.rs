//! What is no comparison of rates: start, size, memory under large bodies, slow clients.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::bars::Bar;
use crate::client::Traffic;
use crate::contender::{Backend, Contender, Started, Surroundings};
use crate::load::{self, Until};
use crate::process::Process;
use crate::summary::Spread;
use crate::workload::Scale;

const MIB: f64 = 1024.0 * 1024.0;
/// Clients that send one byte a second.
const SLOW_CLIENTS: usize = 2000;
/// Until what changed shows in the load.
const SETTLE: Until = Until::Time(Duration::from_secs(1));
/// Before slow clients come: how long a load goes on until the memory is looked at again, how often at the most,
/// and how little it grows, twice in succession, once the caches are full.
const CACHE_STRETCH: Duration = Duration::from_secs(4);
const MAX_STRETCHES: usize = 30;
const FULL_CACHE_GROWS_MIB: f64 = 1.0;
/// Bodies in flight at once while the memory is looked at, and how long each is.
const LARGE_BODIES: u64 = 64;
const LARGE_BYTES: u64 = 256 * 1024 * 1024;

/// Memory that grows by less than this between the two ends of the soak is flat.
const FLAT_MIB: f64 = 8.0;

/// What was found; `None`: not looked at.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Extras {
    /// From the start of the process on an existing database to the answer to its first upload.
    pub(crate) start_to_upload_ms: Option<Spread>,
    /// The program without symbols.
    pub(crate) binary_mb: Option<f64>,
    pub(crate) large_bodies: Option<LargeBodies>,
    pub(crate) slow_clients: Option<SlowClients>,
}

/// Memory under many large bodies at once, once and again and again.
#[derive(Debug, Serialize)]
pub(crate) struct LargeBodies {
    pub(crate) idle_mib: f64,
    pub(crate) peak_mib: f64,
    /// How long the bodies went on coming.
    pub(crate) soak_seconds: f64,
    /// The median of the samples of the soak's second fifth: by then everything is warm.
    pub(crate) early_mib: f64,
    /// The median of its last fifth.
    pub(crate) late_mib: f64,
}

/// What clients that send one byte a second cost the others.
#[derive(Debug, Serialize)]
pub(crate) struct SlowClients {
    pub(crate) throughput_before: Spread,
    pub(crate) throughput_beside: Spread,
    /// The share of its throughput that each round lost, with both halves a few seconds apart.
    pub(crate) lost: Spread,
    /// At the first round's beginning.
    pub(crate) memory_before_mib: f64,
    /// How much more each round had with them than just before them: the load itself goes on filling
    /// the database's page cache from round to round.
    pub(crate) more_mib: Spread,
}

/// What `--only` calls them.
pub(crate) const NAMES: [&str; 3] = ["start", "large-bodies", "slow-clients"];

impl Extras {
    /// Looks at those that are wanted.
    pub(crate) async fn measure(
        surroundings: &Surroundings,
        scale: Scale,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut extras = Self::default();
        if wanted("start") {
            extras.binary_mb = binary_mb(&surroundings.hapax);
            extras.start_to_upload_ms = start_to_upload(surroundings, scale).await?;
        }
        if wanted("large-bodies") {
            extras.large_bodies = Some(large_bodies(surroundings, scale).await?);
        }
        if wanted("slow-clients") {
            extras.slow_clients = Some(slow_clients(surroundings, scale).await?);
        }
        Ok(extras)
    }

    /// The bars that these figures are for.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let bar = |what: &str, bar, measured: Option<(String, bool)>| {
            let (measured, met) = measured.unzip();
            Bar {
                what: what.to_owned(),
                bar,
                measured,
                met,
            }
        };
        vec![
            bar(
                "resident memory, 64 concurrent 256 MiB bodies",
                "≤ 128 MiB above idle, and flat",
                self.large_bodies.as_ref().map(|memory| {
                    let more = memory.peak_mib - memory.idle_mib;
                    let growth = memory.late_mib - memory.early_mib;
                    let text = format!(
                        "{more:.0} MiB above {:.0} MiB; {growth:+.1} MiB over {:.0} s",
                        memory.idle_mib, memory.soak_seconds
                    );
                    (text, more <= 128.0 && growth <= FLAT_MIB)
                }),
            ),
            bar(
                "2000 connections trickling 1 byte a second",
                "others lose < 10 %; ≤ 64 MiB more memory",
                self.slow_clients.as_ref().map(|slow| {
                    let [median, min, max] =
                        [slow.lost.median, slow.lost.min, slow.lost.max].map(|lost| lost * 100.0);
                    let more = slow.more_mib;
                    let text = format!(
                        "{median:.1} % less ({min:.1}–{max:.1}), {:.0} MiB more ({:.0}–{:.0})",
                        more.median, more.min, more.max
                    );
                    (text, median < 10.0 && more.max <= 64.0)
                }),
            ),
            bar(
                "start-up to first upload, existing database",
                "≤ 300 ms",
                self.start_to_upload_ms.map(|time| {
                    let Spread { median, min, max } = time;
                    (
                        format!("{median:.0} ms ({min:.0}–{max:.0})"),
                        median <= 300.0,
                    )
                }),
            ),
            bar(
                "release binary, stripped",
                "≤ 60 MB",
                self.binary_mb
                    .map(|size| (format!("{size:.1} MB"), size <= 60.0)),
            ),
        ]
    }
}

/// As the release profile strips it, also where this build kept its symbols for a profiler.
fn binary_mb(program: &Path) -> Option<f64> {
    let stripped = tempfile::NamedTempFile::new().ok()?;
    let done = std::process::Command::new("strip")
        .arg("-o")
        .args([stripped.path(), program])
        .status()
        .is_ok_and(|status| status.success());
    let measured = if done { stripped.path() } else { program };
    Some(std::fs::metadata(measured).ok()?.len() as f64 / 1e6)
}

async fn start_to_upload(surroundings: &Surroundings, scale: Scale) -> Result<Option<Spread>> {
    let folder = tempfile::tempdir_in(&surroundings.data)?;
    let mut times = Vec::new();
    // The first start makes the database and is not counted.
    for _ in 0..=scale.rounds {
        let began = Instant::now();
        let (process, mut client) = surroundings.start_hapax_in(folder.path()).await?;
        client.step().await?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        drop(client);
        process.stop().await?;
    }
    Ok(Spread::of(times.into_iter().skip(1)))
}

async fn large_bodies(surroundings: &Surroundings, scale: Scale) -> Result<LargeBodies> {
    let (bodies, bytes) = match scale.smoke {
        true => (4, LARGE_BYTES / 16),
        false => (LARGE_BODIES, LARGE_BYTES),
    };
    let mut hapax = surroundings
        .start(Contender::Hapax, Backend::SqliteLocal)
        .await?;
    hapax.connect(bodies, Traffic::Duplicate, bytes).await?;
    // Nothing was sent yet but by the start-up probe: this is the idle process.
    let idle_mib = hapax.process.memory()? as f64 / MIB;
    let mut samples = Vec::new();
    let began = Instant::now();
    while samples.is_empty() || began.elapsed().as_secs_f64() < scale.soak_seconds {
        let bodies = load::drive(&mut hapax.clients, Until::Requests(1));
        let observed = sample_beside(bodies, &hapax.process, &mut samples).await?;
        anyhow::ensure!(
            observed.errors == 0,
            "large bodies: {:?}",
            observed.first_error
        );
    }
    let soak_seconds = began.elapsed().as_secs_f64();
    let peak_mib = hapax.process.peak_memory()? as f64 / MIB;
    hapax.stop().await?;
    let fifth = samples.len().div_ceil(5);
    let middle = |part: &[f64]| Spread::of(part.iter().copied()).map_or(0.0, |part| part.median);
    let from = fifth.min(samples.len() - 1);
    Ok(LargeBodies {
        idle_mib,
        peak_mib,
        soak_seconds,
        early_mib: middle(&samples[from..(from + fifth).min(samples.len())]),
        late_mib: middle(&samples[samples.len() - fifth..]),
    })
}

/// Looks at the memory of the process twice a second while something goes on, and when it ended.
async fn sample_beside<T>(
    work: impl Future<Output = T>,
    process: &Process,
    samples: &mut Vec<f64>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.tick().await;
    loop {
        let done = tokio::select! {
            done = &mut work => Some(done),
            _ = tick.tick() => None,
        };
        samples.push(process.memory()? as f64 / MIB);
        if let Some(done) = done {
            return Ok(done);
        }
    }
}

async fn slow_clients(surroundings: &Surroundings, scale: Scale) -> Result<SlowClients> {
    let mut hapax = surroundings
        .start(Contender::Hapax, Backend::SqliteLocal)
        .await?;
    hapax.connect(32, Traffic::Duplicate, 100 * 1024).await?;
    let until = Until::Time(Duration::from_secs_f64(scale.seconds * 2.0));
    load::prepare(&mut hapax.clients, until).await?;
    load::drive(&mut hapax.clients, until).await;
    if !scale.smoke {
        fill_caches(&mut hapax).await?;
    }
    let memory_before_mib = memory(&hapax)?;
    let (mut before, mut beside, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    let mut more_mib = Vec::new();
    for _ in 0..scale.rounds {
        let alone = load::drive(&mut hapax.clients, until).await.throughput();
        let memory_alone = memory(&hapax)?;
        let trickling = tokio::task::spawn_local(trickle(connect_slowly(&hapax.process).await?));
        load::drive(&mut hapax.clients, SETTLE).await;
        let disturbed = load::drive(&mut hapax.clients, until).await.throughput();
        more_mib.push(memory(&hapax)? - memory_alone);
        // Closes their connections.
        trickling.abort();
        load::drive(&mut hapax.clients, SETTLE).await;
        before.push(alone);
        beside.push(disturbed);
        lost.push(1.0 - disturbed / alone);
    }
    hapax.stop().await?;
    let spread = |of: Vec<f64>| Spread::of(of).context("no round");
    Ok(SlowClients {
        throughput_before: spread(before)?,
        throughput_beside: spread(beside)?,
        lost: spread(lost)?,
        memory_before_mib,
        more_mib: spread(more_mib)?,
    })
}

/// SQLite's cache fills with the database, whoever else is connected: a load until it is full.
async fn fill_caches(hapax: &mut Started) -> Result<()> {
    let (mut most, mut flat) = (memory(hapax)?, 0);
    for _ in 0..MAX_STRETCHES {
        load::drive(&mut hapax.clients, Until::Time(CACHE_STRETCH)).await;
        let now = memory(hapax)?;
        flat = match now - most < FULL_CACHE_GROWS_MIB {
            true => flat + 1,
            false => 0,
        };
        most = most.max(now);
        if flat == 2 {
            break;
        }
    }
    Ok(())
}

/// What a server has in memory, in MiB.
fn memory(of: &Started) -> Result<f64> {
    Ok(of.process.memory()? as f64 / MIB)
}

/// Begins uploads that will take a day.
async fn connect_slowly(process: &Process) -> Result<Vec<TcpStream>> {
    let address = process.address;
    let head = format!(
        "POST /v1/images HTTP/1.1\r\nHost: {address}\r\nContent-Type: image/jpeg\r\n\
         Content-Length: 100000\r\n\r\n"
    );
    let mut slow = Vec::new();
    for _ in 0..SLOW_CLIENTS {
        let mut stream = TcpStream::connect(address).await.context("a slow client")?;
        stream.write_all(head.as_bytes()).await?;
        slow.push(stream);
    }
    Ok(slow)
}

/// One byte a second on each, without an end.
async fn trickle(mut slow: Vec<TcpStream>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        for stream in &mut slow {
            // One that was closed on is no longer slow.
            let _ = stream.write_all(&[0xff]).await;
        }
    }
}
